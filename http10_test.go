package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// holds lists what a flush says while a response is held for HTTP/1.0.
func holds(t *testing.T, w http.ResponseWriter, holding bool) {
	t.Helper()
	f := flusher(w)
	var want error
	if holding {
		want = flush.ErrBuffering
	}
	for name, err := range map[string]error{
		"Flush(true)": flush.Flush(w, true), "Flush(false)": flush.Flush(w, false),
		"FlushAsync": f.FlushAsync(), "FlushWait": f.FlushWait(t.Context()),
	} {
		if err != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	// Existing handlers take an error for a dead client.
	if err := http.NewResponseController(w).Flush(); err != nil {
		t.Error("FlushError:", err)
	}
	f.Flush()
	if f.Err() != nil || holding && f.HeadersSent() {
		t.Errorf("%v, sent %t", f.Err(), f.HeadersSent())
	}
}

// A response to an HTTP/1.0 request is held for its Content-Length, unless it
// outgrows the limit or cannot or need not be.
func TestHTTP10Buffer(t *testing.T) {
	limit := &flush.Options{HTTP10Buffer: 10}
	for _, test := range []struct {
		name    string
		method  string
		opts    *flush.Options
		first   func(w http.ResponseWriter)
		write   string // in two parts, each flushed
		holds   [3]bool
		length  string
		ends    ending
		wantErr error
	}{
		{"nothing written", "GET", limit, nil, "", [3]bool{true, true, true}, "0", complete, nil},
		{"small", "GET", limit, nil, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
		{"at the limit", "GET", limit, nil, "0123456789", [3]bool{true, true, true}, "10", complete, nil},
		{"outgrown", "GET", limit, nil, "0123456789!", [3]bool{true, true, false}, "", closed, nil},
		{"outgrown at once", "GET", limit, nil, strings.Repeat("x", 30), [3]bool{true, false, false}, "", closed, nil},
		{"off", "GET", nil, nil, "abcdef", [3]bool{}, "", closed, nil},
		{"the profile's", "GET", &flush.Options{SAPI: flush.OpenResty()}, nil, strings.Repeat("x", 1<<20), [3]bool{true, true, true}, "1048576", complete, nil},
		{"beyond the profile's", "GET", &flush.Options{SAPI: flush.OpenResty()}, nil, strings.Repeat("x", 1<<20+1), [3]bool{true, true, false}, "", closed, nil},
		{"never, whatever the profile", "GET", &flush.Options{SAPI: flush.OpenResty(), HTTP10Buffer: -1}, nil, "abcdef", [3]bool{}, "", closed, nil},
		{"own length", "GET", limit, func(w http.ResponseWriter) { w.Header().Set("Content-Length", "6") }, "abcdef", [3]bool{}, "6", complete, nil},
		{"status", "GET", limit, func(w http.ResponseWriter) { w.WriteHeader(404) }, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
		{"SendHeaders", "GET", limit, func(w http.ResponseWriter) { flusher(w).SendHeaders() }, "abcdef", [3]bool{}, "", closed, nil},
		{"HEAD", "HEAD", limit, nil, "abcdef", [3]bool{}, "", complete, nil},
		{"no content", "GET", limit, func(w http.ResponseWriter) { w.WriteHeader(204) }, "", [3]bool{}, "", complete, nil},
		{"not modified", "GET", limit, func(w http.ResponseWriter) { w.WriteHeader(304) }, "", [3]bool{}, "", complete, nil},
		{"asynchronous", "GET", &flush.Options{HTTP10Buffer: 10, Flush: flush.Async}, nil, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
		{"implicit", "GET", &flush.Options{HTTP10Buffer: 10, Implicit: flush.Wait}, nil, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
		{"implicit, outgrown", "GET", &flush.Options{HTTP10Buffer: 10, Implicit: flush.Wait}, nil, strings.Repeat("x", 11), [3]bool{true, true, false}, "", closed, nil},
		{"taken back", "GET", limit, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "6")
			io.WriteString(w, "abc")
			if err := flusher(w).Clean(); err != nil {
				t.Error(err)
			}
		}, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
		{"trailers", "GET", limit, func(w http.ResponseWriter) { w.Header().Set("Trailer", "X-T") }, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
		{"small buffer", "GET", &flush.Options{HTTP10Buffer: 10, BufferSize: -1, MaxPending: 1}, nil, "abcdef", [3]bool{true, true, true}, "6", complete, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				park := newPark(t)
				srv := serveMemory(t, http10, wrapped(test.opts, func(w http.ResponseWriter, _ *http.Request) {
					if test.first != nil {
						test.first(w)
					}
					half := len(test.write) / 2
					for i, part := range []string{"", test.write[:half], test.write[half:]} {
						if n, err := io.WriteString(w, part); n != len(part) || err != nil {
							t.Error(n, err)
						}
						holds(t, w, test.holds[i])
					}
					park.here()
				}), 4<<20)
				s := open(t, srv, test.method, "/", nil)
				park.wait()
				if test.holds[2] {
					s.expectNothing()
				} else {
					s.header()
					if test.method == "GET" {
						s.expect(test.write)
					}
				}
				park.resume()
				h := s.header()
				body, _, end := s.rest()
				if test.holds[2] && body != test.write || h.Get("Content-Length") != test.length || end != test.ends {
					t.Errorf("%q, length %q, %s; want %q, %s", clip([]byte(body)), h.Get("Content-Length"), end, test.length, test.ends)
				}
			})
		})
	}
}

// Later protocols are never held.
func TestHTTP10BufferIsForHTTP10(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		park := newPark(t)
		srv := serveMemory(t, p, wrapped(&flush.Options{HTTP10Buffer: 100}, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "x")
			holds(t, w, p == http10)
			park.here()
		}), 0)
		s := open(t, srv, "GET", "/", nil)
		park.wait()
		if p != http10 {
			s.expect("x")
		}
		park.resume()
		s.rest()
	})
}

// What is held moves with the interval as soon as it is held no longer.
func TestHTTP10BufferInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		park := newPark(t)
		opts := &flush.Options{HTTP10Buffer: 10, FlushInterval: time.Second}
		srv := serveMemory(t, http10, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "held")
			park.here()
			io.WriteString(w, " no longer")
			park.here()
		}), 0)
		s := open(t, srv, "GET", "/", nil)
		park.wait()
		<-time.After(time.Hour)
		s.expectNothing()
		park.resume()
		s.expect("held no longer")
		park.next()
	})
}

// An abort while the response is held sends nothing of it.
func TestHTTP10BufferAbort(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		if p != http10 {
			return
		}
		cause := errors.New("cause")
		closed := make(chan string, 1)
		opts := &flush.Options{HTTP10Buffer: 100, OnClose: func(_ *http.Request, st flush.Stats, err error) { closed <- fmt.Sprint(st.Bytes, st.Lost, err) }}
		srv := serve(t, p, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half")
			flusher(w).Abort(cause)
		}))
		if _, err := open(t, srv, "GET", "/", nil).head(); err == nil {
			t.Error("a response came")
		}
		if got := <-closed; got != "0 4 cause" {
			t.Errorf("OnClose: %s", got)
		}
	})
}
