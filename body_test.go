package flush_test

import (
	"crypto/sha256"
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

// An upload that is read while the response streams: the handler gets every
// byte of it or net/http's own error, never a short clean end.
func TestUploadWhileStreaming(t *testing.T) {
	flushes := []struct {
		name string
		opts flush.Options
		do   func(f *flush.Flusher)
	}{
		{"none", flush.Options{}, func(*flush.Flusher) {}},
		{"wait", flush.Options{}, func(f *flush.Flusher) { flush.Flush(f, true) }},
		{"ask", flush.Options{}, func(f *flush.Flusher) { flush.Flush(f, false) }},
		{"implicit", flush.Options{Implicit: flush.Wait}, func(*flush.Flusher) {}},
		{"implicit ask", flush.Options{Implicit: flush.Async}, func(*flush.Flusher) {}},
		{"interval", flush.Options{FlushInterval: time.Nanosecond}, func(*flush.Flusher) { synctest.Wait() }},
		{"headers", flush.Options{}, func(f *flush.Flusher) { f.SendHeaders() }},
		{"every write moves", flush.Options{BufferSize: -1}, func(*flush.Flusher) {}},
		{"background", flush.Options{Flush: flush.Async, BufferSize: -1}, func(*flush.Flusher) {}},
	}
	const size = 400_000 // more than the 256 KB that the server drains
	upload := strings.Repeat("0123456789abcdef", size/16)
	sum := sha256.Sum256([]byte(upload))
	for _, way := range flushes {
		for _, duplex := range []bool{false, true} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%t/%t", way.name, duplex, chunked), func(t *testing.T) {
					bubble(t, func(t *testing.T, p proto) {
						srv := serveMemory(t, p, wrapped(&way.opts, func(w http.ResponseWriter, r *http.Request) {
							f := flusher(w)
							if duplex {
								if err := f.EnableFullDuplex(); err != nil && p != h2 {
									t.Error(err)
								}
							}
							got, n := sha256.New(), 0
							buf := make([]byte, 30_000)
							var err error
							for err == nil {
								var m int
								m, err = r.Body.Read(buf)
								got.Write(buf[:m])
								n += m
								io.WriteString(w, ".")
								way.do(f)
							}
							whole := n == len(upload) && string(got.Sum(nil)) == string(sum[:])
							if err == io.EOF && !whole {
								t.Errorf("a clean end after %d of %d bytes", n, len(upload))
							}
							if mustRead := duplex || p == h2 || !chunked || way.name == "none" || way.name == "interval"; mustRead && err != io.EOF {
								t.Errorf("%v after %d bytes", err, n)
							}
							if !whole && !errors.Is(err, http.ErrBodyReadAfterClose) {
								t.Errorf("%v after %d bytes is not net/http's own error", err, n)
							}
						}), 4<<20)
						var body io.Reader = strings.NewReader(upload)
						if chunked {
							if p == http10 {
								return // HTTP/1.0 has none
							}
							body = struct{ io.Reader }{body}
						}
						s := open(t, srv, "POST", "/", body)
						if got, _, end := s.rest(); strings.Trim(got, ".") != "" || got == "" || end == cut {
							t.Errorf("client got %q, %s", clip([]byte(got)), end)
						}
						s.leave()
						<-time.After(time.Second) // a server that gives up a connection lingers
					})
				})
			}
		}
	}
}

// With New the server sees the reader around its body, as it does that of any
// middleware.
func TestUploadUnderNew(t *testing.T) {
	const size = 400_000
	for _, test := range []struct {
		flushes bool
		line    string
	}{{false, "X-Plain: 1"}, {true, "X-Plain: 1"}, {false, "Expect: 100-continue"}} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				srv := serveMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f := flush.New(w, r, nil)
					defer f.Close()
					if test.flushes {
						flush.Flush(f, true)
					}
					got, err := io.ReadAll(r.Body)
					if err == nil && len(got) != size || err != nil && (!test.flushes || err != http.ErrBodyReadAfterClose) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
					io.WriteString(f, "x")
				}), 4<<20)
				s := open(t, srv, "POST", "/", strings.NewReader(strings.Repeat("u", size)), test.line)
				s.expectEnd("x")
				s.leave()
				<-time.After(time.Second)
			})
		})
	}
}

// A client that waits for a 100 Continue gets the answer that was flushed
// instead, and need not send its body.
func TestFlushInsteadOfContinue(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "no need")
		if err := flush.Flush(w, true); err != nil {
			t.Error(err)
		}
	}
	for name, h := range map[string]http.Handler{
		"NewHandler": wrapped(nil, handler),
		"New": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f := flush.New(w, r, nil)
			defer f.Close()
			handler(f, r)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				if p == http10 {
					return // has no 100 Continue
				}
				clock := newClock()
				s := open(t, serveMemory(t, p, h, 0), "POST", "/", strings.NewReader("upload"), "Expect: 100-continue")
				s.expectEnd("no need")
				if clock.now() != 0 || len(s.interim) > 0 {
					t.Errorf("after %v, %v", clock.now(), s.interim)
				}
				s.leave()
				<-time.After(time.Second)
			})
		})
	}
}

// Until the request body has been read neither the carrier nor a timer hands
// over the headers; once it has been, what was asked for is done without
// another call.
func TestBodyComesFirst(t *testing.T) {
	for _, way := range []struct {
		name string
		opts flush.Options
		end  func(r *http.Request, f *flush.Flusher)
	}{
		{"read", flush.Options{FlushInterval: time.Second}, func(r *http.Request, _ *flush.Flusher) { io.Copy(io.Discard, r.Body) }},
		{"closed", flush.Options{FlushInterval: time.Second}, func(r *http.Request, _ *flush.Flusher) { r.Body.Close() }},
		{"full duplex", flush.Options{FlushInterval: time.Second}, func(_ *http.Request, f *flush.Flusher) { f.EnableFullDuplex() }},
	} {
		t.Run(way.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				if p == h2 {
					return // reads and writes at the same time
				}
				park := newPark(t)
				srv := serveMemory(t, p, wrapped(&way.opts, func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "asked for")
					<-time.After(time.Hour)
					park.here()
					way.end(r, flusher(w))
					park.here()
				}), 0)
				s := open(t, srv, "POST", "/", strings.NewReader("upload"))
				park.wait()
				s.expectNothing()
				park.resume()
				park.wait()
				s.expect("asked for")
				park.resume()
				s.expectEnd("")
			})
		})
	}
}

// A caller's flush hands the headers over on its own goroutine, as net/http's
// does, and may wait for the upload there: FlushAsync included.
func TestFlushWaitsForTheUpload(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(fmt.Sprint(wait), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := newClock()
				r, w := io.Pipe()
				park := newPark(t)
				srv := serveMemory(t, http1, wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, "x")
					if err := flush.Flush(w, wait); err != nil || clock.now() != 30*time.Second {
						t.Errorf("%v after %v", err, clock.now())
					}
					park.here()
				}), 0)
				s := open(t, srv, "POST", "/", r)
				time.AfterFunc(30*time.Second, func() { io.WriteString(w, "upload"); w.Close() })
				s.expect("x")
				park.next()
				s.expectEnd("")
			})
		})
	}
}

// A request body that the handler leaves alone costs the connection nothing.
func TestBodyUnread(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		if p == http10 {
			return // net/http resets the connection, perhaps before the client has read all
		}
		for _, opts := range []*flush.Options{nil, {Flush: flush.Async}, {Implicit: flush.Async}, {FlushInterval: time.Millisecond}} {
			srv := serve(t, p, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
				for range 10 {
					io.WriteString(w, "x")
					w.(http.Flusher).Flush()
				}
			}))
			s := open(t, srv, "POST", "/", strings.NewReader(strings.Repeat("u", 10_000)))
			s.expectEnd("xxxxxxxxxx")
			s.again("GET", "/", nil).expectEnd("xxxxxxxxxx")
		}
	})
}

// A client may send the body all the same after that answer, and the handler
// gets it whole: the server has drained nothing.
func TestBodyAfterFlushInsteadOfContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		park := newPark(t)
		srv := serveMemory(t, http1, wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			flush.Flush(w, true)
			park.here()
			if got, err := io.ReadAll(r.Body); string(got) != "upload" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}), 0)
		s := open(t, srv, "POST", "/", nil, "Expect: 100-continue", "Transfer-Encoding: chunked")
		s.header()
		io.WriteString(s.conn, "6\r\nupload\r\n0\r\n\r\n")
		park.next()
		s.expectEnd("")
	})
}
