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
	"github.com/fa492104/flush/internal/harness"
)

// holds lists what a flush says while a response is held for HTTP/1.0.
func holds(t *testing.T, w http.ResponseWriter, holding bool) {
	t.Helper()
	f := harness.Flusher(w)
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
		ends    harness.Ending
		wantErr error
	}{
		{"nothing written", "GET", limit, nil, "", [3]bool{true, true, true}, "0", harness.Complete, nil},
		{"small", "GET", limit, nil, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
		{"at the limit", "GET", limit, nil, "0123456789", [3]bool{true, true, true}, "10", harness.Complete, nil},
		{"outgrown", "GET", limit, nil, "0123456789!", [3]bool{true, true, false}, "", harness.Closed, nil},
		{"outgrown at once", "GET", limit, nil, strings.Repeat("x", 30), [3]bool{true, false, false}, "", harness.Closed, nil},
		{"off", "GET", nil, nil, "abcdef", [3]bool{}, "", harness.Closed, nil},
		{"the profile's", "GET", &flush.Options{SAPI: flush.OpenResty()}, nil, strings.Repeat("x", 1<<20), [3]bool{true, true, true}, "1048576", harness.Complete, nil},
		{"beyond the profile's", "GET", &flush.Options{SAPI: flush.OpenResty()}, nil, strings.Repeat("x", 1<<20+1), [3]bool{true, true, false}, "", harness.Closed, nil},
		{"never, whatever the profile", "GET", &flush.Options{SAPI: flush.OpenResty(), HTTP10Buffer: -1}, nil, "abcdef", [3]bool{}, "", harness.Closed, nil},
		{"own length", "GET", limit, func(w http.ResponseWriter) { w.Header().Set("Content-Length", "6") }, "abcdef", [3]bool{}, "6", harness.Complete, nil},
		{"status", "GET", limit, func(w http.ResponseWriter) { w.WriteHeader(404) }, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
		{"SendHeaders", "GET", limit, func(w http.ResponseWriter) { harness.Flusher(w).SendHeaders() }, "abcdef", [3]bool{}, "", harness.Closed, nil},
		{"HEAD", "HEAD", limit, nil, "abcdef", [3]bool{}, "", harness.Complete, nil},
		{"no content", "GET", limit, func(w http.ResponseWriter) { w.WriteHeader(204) }, "", [3]bool{}, "", harness.Complete, nil},
		{"not modified", "GET", limit, func(w http.ResponseWriter) { w.WriteHeader(304) }, "", [3]bool{}, "", harness.Complete, nil},
		{"asynchronous", "GET", &flush.Options{HTTP10Buffer: 10, Flush: flush.Async}, nil, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
		{"implicit", "GET", &flush.Options{HTTP10Buffer: 10, Implicit: flush.Wait}, nil, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
		{"implicit, outgrown", "GET", &flush.Options{HTTP10Buffer: 10, Implicit: flush.Wait}, nil, strings.Repeat("x", 11), [3]bool{true, true, false}, "", harness.Closed, nil},
		{"taken back", "GET", limit, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "6")
			io.WriteString(w, "abc")
			if err := harness.Flusher(w).Clean(); err != nil {
				t.Error(err)
			}
		}, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
		{"trailers", "GET", limit, func(w http.ResponseWriter) { w.Header().Set("Trailer", "X-T") }, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
		{"small buffer", "GET", &flush.Options{HTTP10Buffer: 10, BufferSize: -1, MaxPending: 1}, nil, "abcdef", [3]bool{true, true, true}, "6", harness.Complete, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				park := harness.NewPark(t)
				srv := harness.ServeMemory(t, harness.HTTP10, harness.Wrapped(test.opts, func(w http.ResponseWriter, _ *http.Request) {
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
					park.Here()
				}), 4<<20)
				s := harness.Open(t, srv, test.method, "/", nil)
				park.Wait()
				if test.holds[2] {
					s.ExpectNothing()
				} else {
					s.Header()
					if test.method == "GET" {
						s.Expect(test.write)
					}
				}
				park.Resume()
				h := s.Header()
				body, _, end := s.Rest()
				if test.holds[2] && body != test.write || h.Get("Content-Length") != test.length || end != test.ends {
					t.Errorf("%q, length %q, %s; want %q, %s", harness.Clip([]byte(body)), h.Get("Content-Length"), end, test.length, test.ends)
				}
			})
		})
	}
}

// Later protocols are never held.
func TestHTTP10BufferIsForHTTP10(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{HTTP10Buffer: 100}, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "x")
			holds(t, w, p == harness.HTTP10)
			park.Here()
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		park.Wait()
		if p != harness.HTTP10 {
			s.Expect("x")
		}
		park.Resume()
		s.Rest()
	})
}

// A response that declares its length is not held for one: a flush before its first
// byte sends the headers.
func TestHTTP10BufferKnownLength(t *testing.T) {
	for name, do := range map[string]func(*flush.Flusher) error{
		"FlushAsync": (*flush.Flusher).FlushAsync,
		"FlushWait":  func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, declares := range []bool{true, false} {
				park := harness.NewPark(t)
				srv := harness.Serve(t, harness.HTTP10, harness.Wrapped(&flush.Options{HTTP10Buffer: 100}, func(w http.ResponseWriter, _ *http.Request) {
					var want error = flush.ErrBuffering
					if declares {
						w.Header().Set("Content-Length", "3")
						want = nil
					}
					if err := do(harness.Flusher(w)); err != want {
						t.Errorf("declares %v: %v, want %v", declares, err, want)
					}
					park.Here()
					io.WriteString(w, "abc")
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				park.Wait()
				if declares {
					s.Response()
				}
				park.Resume()
				s.ExpectEnd("abc")
			}
		})
	}
}

// What is held moves with the interval as soon as it is held no longer.
func TestHTTP10BufferInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		park := harness.NewPark(t)
		opts := &flush.Options{HTTP10Buffer: 10, FlushInterval: time.Second}
		srv := harness.ServeMemory(t, harness.HTTP10, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "held")
			park.Here()
			io.WriteString(w, " no longer")
			park.Here()
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		park.Wait()
		<-time.After(time.Hour)
		s.ExpectNothing()
		park.Resume()
		s.Expect("held no longer")
		park.Next()
	})
}

// An abort while the response is held sends nothing of it.
func TestHTTP10BufferAbort(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		if p != harness.HTTP10 {
			return
		}
		cause := errors.New("cause")
		closed := make(chan string, 1)
		opts := &flush.Options{HTTP10Buffer: 100, OnClose: func(_ *http.Request, st flush.Stats, err error) { closed <- fmt.Sprint(st.Bytes, st.Lost, err) }}
		srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half")
			harness.Flusher(w).Abort(cause)
		}))
		if _, err := harness.Open(t, srv, "GET", "/", nil).Head(); err == nil {
			t.Error("a response came")
		}
		if got := <-closed; got != "0 4 cause" {
			t.Errorf("OnClose: %s", got)
		}
	})
}

// A TryWrite ends the holding like a Write, with what outgrows it.
func TestHTTP10BufferOutgrownByTryWrite(t *testing.T) {
	for _, size := range []int{10, 11} {
		synctest.Test(t, func(t *testing.T) {
			park := harness.NewPark(t)
			srv := harness.ServeMemory(t, harness.HTTP10, harness.Wrapped(&flush.Options{HTTP10Buffer: 10, BufferSize: -1}, func(w http.ResponseWriter, _ *http.Request) {
				harness.Must(t, harness.Flusher(w).TryWrite([]byte(harness.Text(size))))
				holds(t, w, size == 10)
				park.Here()
			}), 1000)
			s := harness.Open(t, srv, "GET", "/", nil)
			park.Wait()
			if size == 10 {
				s.ExpectNothing()
			} else {
				s.Expect(harness.Text(size))
			}
			park.Resume()
			if length := s.Response().ContentLength; (length == 10) != (size == 10) {
				t.Errorf("%d bytes: length %d", size, length)
			}
			s.Rest()
		})
	}
}
