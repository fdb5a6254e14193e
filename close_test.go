package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// lateCalls is everything that a goroutine may still try after the response
// has ended.
func lateCalls(f *flush.Flusher) map[string]error {
	call := func(_ any, err error) error { return err }
	return map[string]error{
		"Write":            call(f.Write([]byte("late"))),
		"WriteString":      call(f.WriteString(strings.Repeat("late", 10_000))),
		"empty Write":      call(f.Write(nil)),
		"ReadFrom":         call(f.ReadFrom(strings.NewReader("late"))),
		"Flush":            flush.Flush(f, true),
		"Flush async":      flush.Flush(f, false),
		"wrapped Flush":    flush.Flush(harness.Unwrapper{ResponseWriter: f}, true),
		"FlushError":       f.FlushError(),
		"FlushAsync":       f.FlushAsync(),
		"SendHeaders":      f.SendHeaders(),
		"SetWriteDeadline": f.SetWriteDeadline(time.Unix(1, 0)),
		"EnableFullDuplex": f.EnableFullDuplex(),
		"Hijack":           func() error { _, _, err := f.Hijack(); return err }(),
	}
}

// After the end another goroutine gets ErrClosed, or http.ErrNotSupported for
// what the protocol never had, and the next request on the same connection is
// untouched.
func TestLateCallsLeaveTheNextRequestAlone(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		late := make(chan *flush.Flusher, 1)
		park := harness.NewPark(t)
		srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/second" {
				io.WriteString(w, "second ")
				flush.Flush(w, true)
				park.Here()
				io.WriteString(w, "response")
				return
			}
			io.WriteString(w, "first")
			late <- harness.Flusher(w)
		}))
		s := harness.Open(t, srv, "GET", "/first", nil)
		s.ExpectEnd("first")
		f := <-late
		if p == harness.HTTP10 {
			s.Leave()
			s = harness.Open(t, srv, "GET", "/second", nil)
		} else {
			s = s.Again("GET", "/second", nil)
		}
		s.Expect("second ")
		park.Wait()
		for name, err := range lateCalls(f) {
			if !errors.Is(err, flush.ErrClosed) && (p != harness.HTTP2 || name != "Hijack") {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.WriteHeader(500)
		f.Flush()
		f.Header().Set("X-Late", "1")
		f.SetImplicit(flush.Wait)
		f.Abort(errors.New("late"))
		if err := f.Close(); err != nil || f.Err() != nil {
			t.Errorf("Close: %v, %v", err, f.Err())
		}
		if f.Available() != 0 || f.Buffered() != 0 {
			t.Errorf("%d available, %d held", f.Available(), f.Buffered())
		}
		park.Resume()
		s.ExpectEnd("response")
	})
}

// A WriteHeader that comes late fixes nothing: the server is not asked for its headers,
// and Stats goes on to say what was sent.
func TestLateWriteHeaderFixesNothing(t *testing.T) {
	for name, end := range map[string]func(*flush.Flusher){
		"Close": func(f *flush.Flusher) { f.Close() },
		"Abort": func(f *flush.Flusher) { f.Abort(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			end(f)
			before := f.Stats()
			f.Header().Set("X-Late", "1")
			f.WriteHeader(http.StatusTeapot)
			if len(s.Header()) > 0 || f.Stats() != before {
				t.Errorf("headers %v, %+v before and %+v after", s.Header(), before, f.Stats())
			}
		})
	}
}

// After a failure they get ErrClosed that matches the failure too.
func TestLateCallsAfterFailure(t *testing.T) {
	broken := errors.New("broken")
	f := flush.New(harness.Failing{Plain: harness.NewPlain(), Err: broken}, nil, nil)
	if err := f.FlushWait(t.Context()); !errors.Is(err, broken) || errors.Is(err, flush.ErrClosed) {
		t.Error("flush:", err)
	}
	first := f.Close()
	if !errors.Is(first, flush.ErrClientGone) || !errors.Is(first, broken) {
		t.Error("Close:", first)
	}
	for range 2 {
		if again := f.Close(); again != first {
			t.Errorf("a second Close returns %v, the first %v", again, first)
		}
	}
	for name, err := range lateCalls(f) {
		if name == "Hijack" || name == "EnableFullDuplex" {
			continue // not supported below
		}
		if !errors.Is(err, flush.ErrClosed) || !errors.Is(err, broken) || !errors.Is(err, flush.ErrClientGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The Stats of a response, and OnClose called once with them, for each way of
// ending one.
func TestOnClose(t *testing.T) {
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		opts flush.Options
		h    func(f *flush.Flusher)
		want flush.Stats
		err  error
	}{
		{"return", flush.Options{}, func(f *flush.Flusher) { f.WriteHeader(404); f.WriteString("abc") }, flush.Stats{Status: 404, Bytes: 3, MaxPending: 3}, nil},
		{"nothing", flush.Options{}, func(f *flush.Flusher) {}, flush.Stats{Status: 200}, nil},
		{"flushes", flush.Options{}, func(f *flush.Flusher) {
			for range 3 {
				f.WriteString("ab")
				f.FlushError()
			}
		}, flush.Stats{Status: 200, Bytes: 6, Flushes: 3, Pushes: 3, MaxPending: 2}, nil},
		{"implicit", flush.Options{Implicit: flush.Wait}, func(f *flush.Flusher) { f.WriteString("a"); f.WriteString("b") }, flush.Stats{Status: 200, Bytes: 2, Flushes: 2, Pushes: 2, MaxPending: 1}, nil},
		{"interval", flush.Options{FlushInterval: time.Second}, func(f *flush.Flusher) { f.WriteString("a"); <-time.After(time.Minute) }, flush.Stats{Status: 200, Bytes: 1, Flushes: 1, Pushes: 1, MaxPending: 1}, nil},
		{"refused write", flush.Options{}, func(f *flush.Flusher) { f.WriteHeader(204); f.WriteString("abc") }, flush.Stats{Status: 204}, nil},
		{"Close", flush.Options{}, func(f *flush.Flusher) { f.WriteString("abc"); f.Close() }, flush.Stats{Status: 200, Bytes: 3, MaxPending: 3}, nil},
		{"Abort", flush.Options{}, func(f *flush.Flusher) { f.WriteString("abc"); f.Abort(cause) }, flush.Stats{Lost: 3, MaxPending: 3}, cause},
		{"Abort after a flush", flush.Options{}, func(f *flush.Flusher) {
			f.WriteString("abc")
			f.FlushError()
			f.WriteString("d")
			f.Abort(cause)
		}, flush.Stats{Status: 200, Bytes: 3, Lost: 1, Flushes: 1, Pushes: 1, MaxPending: 3}, cause},
		{"panic", flush.Options{}, func(f *flush.Flusher) { f.WriteString("abc"); panic(http.ErrAbortHandler) }, flush.Stats{Lost: 3, MaxPending: 3}, harness.ErrAny},
		{"Goexit", flush.Options{}, func(f *flush.Flusher) { f.WriteString("abc"); runtime.Goexit() }, flush.Stats{Lost: 3, MaxPending: 3}, harness.ErrAny},
		{"Hijack", flush.Options{}, func(f *flush.Flusher) {
			f.WriteString("abc")
			if conn, _, err := f.Hijack(); err == nil {
				conn.Close()
			}
		}, flush.Stats{Status: 200, Bytes: 3, MaxPending: 3}, nil},
		{"Clean", flush.Options{}, func(f *flush.Flusher) { f.WriteString("half"); f.Clean(); f.WriteString("abc") }, flush.Stats{Status: 200, Bytes: 3, MaxPending: 4}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				type end struct {
					path string
					st   flush.Stats
					err  error
				}
				ended := make(chan end, 2)
				opts := test.opts
				opts.OnClose = func(r *http.Request, st flush.Stats, err error) { ended <- end{r.URL.Path, st, err} }
				srv := harness.ServeMemory(t, p, harness.Wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) { test.h(harness.Flusher(w)) }), 0)
				s := harness.Open(t, srv, "GET", "/path", nil)
				s.Rest()
				got := <-ended
				if got.err != test.err && (test.err != harness.ErrAny || got.err == nil) || got.path != "/path" {
					t.Errorf("got %v for %s, want %v", got.err, got.path, test.err)
				}
				got.st.Began = time.Time{}
				if got.st != test.want {
					t.Errorf("got %+v, want %+v", got.st, test.want)
				}
				synctest.Wait()
				if len(ended) > 0 {
					t.Error("OnClose was called again")
				}
				s.Leave()
			})
		})
	}
}

// Close refuses new Writes and lets a begun one finish; one that cannot finish
// makes the response an aborted one, never short and clean.
func TestCloseDuringWrite(t *testing.T) {
	for _, finishes := range []bool{true, false} {
		t.Run(fmt.Sprint(finishes), func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				clock := harness.NewClock()
				ended := make(chan error, 1)
				opts := &flush.Options{SendTimeout: time.Minute, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
				wrote := make(chan int, 1)
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					flush.Flush(w, false)
					go func() {
						n, err := w.Write(make([]byte, harness.Much))
						if finishes != (n == harness.Much && err == nil) {
							t.Errorf("begun before: %d, %v", n, err)
						}
						wrote <- n
					}()
					synctest.Wait()
					time.AfterFunc(time.Second, func() {
						if n, err := io.WriteString(w, "new"); n != 0 || !errors.Is(err, flush.ErrClosed) {
							t.Errorf("begun after: %d, %v", n, err)
						}
					})
				}), 1000)
				s := harness.Open(t, srv, "GET", "/", nil)
				if finishes {
					clock.Until(time.Minute - 1)
					s.ExpectEnd(string(make([]byte, harness.Much)))
				}
				if err := <-ended; finishes != (err == nil) || !finishes && !errors.Is(err, flush.ErrTimeout) {
					t.Error("OnClose:", err)
				}
				if _, _, end := s.Rest(); !finishes && end == harness.Complete {
					t.Error("short and clean")
				}
				<-wrote
			})
		})
	}
}

// Close from any goroutine, and as often as one likes, is one Close.
func TestCloseFromEverywhere(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		ended := make(chan error, 2)
		opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
		srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, harness.Much))
			for range 4 {
				go harness.Flusher(w).Close()
			}
			if err := harness.Flusher(w).Close(); err != nil {
				t.Error(err)
			}
			if _, err := io.WriteString(w, "late"); !errors.Is(err, flush.ErrClosed) {
				t.Error("the response has not ended:", err)
			}
		}), 0)
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd(string(make([]byte, harness.Much)))
		if err := <-ended; err != nil {
			t.Error("OnClose:", err)
		}
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("OnClose was called again")
		}
	})
}

// New, without a handler around: Close and Abort are the end.
func TestNewAndClose(t *testing.T) {
	rec := httptest.NewRecorder()
	f := flush.New(rec, httptest.NewRequest("GET", "/", nil), nil)
	f.WriteHeader(201)
	f.WriteString("abc")
	if err := f.Close(); err != nil || rec.Code != 201 || rec.Body.String() != "abc" {
		t.Errorf("%v, %d %q", err, rec.Code, rec.Body)
	}
	rec = httptest.NewRecorder()
	f = flush.New(rec, nil, nil)
	f.WriteString("abc")
	f.Abort(nil)
	if err := f.Err(); err == nil || errors.Is(err, flush.ErrClosed) || f.Close() != err {
		t.Errorf("%v, Close %v", err, f.Close())
	}
	if rec.Body.Len() != 0 || f.Stats().Lost != 3 {
		t.Errorf("%q, %+v", rec.Body, f.Stats())
	}
}

// Where the server has no deadlines the wait of a begun Write ends with an
// error that does not stick: the response is aborted all the same.
func TestCloseDuringWriteWithoutDeadlines(t *testing.T) {
	for _, opens := range []time.Duration{5 * time.Minute, time.Second} {
		t.Run(opens.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := harness.NewClock()
				s := stuck{harness.Flushable{Plain: harness.NewPlain()}, afterFunc(true, opens)}
				finishes := opens < time.Minute
				defer func() {
					if v := recover(); finishes != (v == nil) || v != nil && v != http.ErrAbortHandler || clock.Now() != opens {
						t.Errorf("recovered %v after %v", v, clock.Now())
					}
				}()
				opts := &flush.Options{SendTimeout: time.Minute, MaxPending: 8000, Flush: flush.Async, OnClose: func(_ *http.Request, _ flush.Stats, err error) {
					if finishes != (err == nil) {
						t.Error("OnClose:", err)
					}
				}}
				harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					go func() {
						n, err := w.Write(make([]byte, 10_000))
						if finishes != (n == 10_000 && err == nil) {
							t.Errorf("%d, %v", n, err)
						}
					}()
					synctest.Wait()
				}).ServeHTTP(s, httptest.NewRequest("GET", "/", nil))
			})
		})
	}
}

// Close in a handler completes the response where the protocol lets it: the
// client has the end while the handler goes on. Elsewhere it has all but the end.
func TestCloseInAHandler(t *testing.T) {
	for _, test := range []struct {
		name, method, body string
		h                  func(f *flush.Flusher)
		length             int64
		complete           map[harness.Proto]bool // with the handler blocked
	}{
		{"nothing written", "GET", "", func(*flush.Flusher) {}, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"status only", "GET", "", func(f *flush.Flusher) { f.WriteHeader(404) }, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"short", "GET", "short", func(f *flush.Flusher) { f.WriteString("sh"); f.WriteString("ort") }, 5, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"short, with headers of its own", "GET", "short", func(f *flush.Flusher) { f.Header().Set("X-Own", "1"); f.WriteString("short") }, 5, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"longer than net/http measures", "GET", strings.Repeat("x", 3000), func(f *flush.Flusher) { f.WriteString(strings.Repeat("x", 3000)) }, 3000, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"declared", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteString("decl")
			f.FlushError()
			f.WriteString("ared")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"declared, asynchronous", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteString("decl")
			f.FlushAsync()
			f.WriteString("ared")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"declared, and taken back too late", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteHeader(200)
			f.Header().Del("Content-Length")
			f.WriteString("declared")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"nothing declared, and taken back too late", "GET", "", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "0")
			f.WriteHeader(200)
			f.Header().Del("Content-Length")
		}, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"chunked", "GET", "chunked", func(f *flush.Flusher) { f.WriteString("chun"); f.FlushError(); f.WriteString("ked") }, -1, nil},
		{"buffered", "GET", "BUFFERED", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				return []byte(strings.ToUpper(string(p))), nil
			}})
			f.WriteString("buffered")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"length switched off", "GET", "off", func(f *flush.Flusher) { f.Header()["Content-Length"] = nil; f.WriteString("off") }, -1, nil},
		{"HEAD", "HEAD", "", func(f *flush.Flusher) { f.WriteString("not sent") }, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true, harness.HTTP2: true}},
		{"204", "GET", "", func(f *flush.Flusher) { f.WriteHeader(204) }, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				ended := make(chan error, 1)
				opts := &flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) { ended <- err }}
				srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					test.h(harness.Flusher(w))
					if err := harness.Flusher(w).Close(); err != nil {
						t.Error("Close:", err)
					}
					if err := r.Context().Err(); err != nil && (p != harness.HTTP2 || test.method != "HEAD") {
						t.Error("the context has ended:", err)
					}
					if _, err := io.WriteString(w, "late"); !errors.Is(err, flush.ErrClosed) {
						t.Error("Write after Close:", err)
					}
					park.Here()
				}))
				s := harness.Open(t, srv, test.method, "/", nil)
				park.Wait() // Close does not wait for the client
				if err := <-ended; err != nil {
					t.Error("OnClose:", err)
				}
				resp := s.Response()
				if resp.ContentLength != test.length && saysLength(resp) {
					t.Errorf("Content-Length %d, want %d", resp.ContentLength, test.length)
				}
				if test.complete[p] {
					s.ExpectEnd(test.body)
					park.Resume()
				} else {
					s.Expect(test.body)
					s.ExpectNothing()
					park.Resume()
					s.ExpectEnd("")
				}
				if p == harness.HTTP1 {
					n := s.Again("GET", "/", nil) // waits for the handler's return, and no longer
					park.Next()
					n.Rest()
				}
			})
		})
	}
}

// saysLength reports whether resp says how long its body is.
func saysLength(resp *http.Response) bool { return resp.StatusCode != http.StatusNoContent }

// What net/http still holds, and will send with its length once the handler returns,
// an early Close leaves to it where the length is not ours to set.
func TestCloseLeavesTheLengthToTheServer(t *testing.T) {
	for name, test := range map[string]struct {
		opts     flush.Options
		encoding string
		wrap     func(http.ResponseWriter) http.ResponseWriter
	}{
		"it has moved down": {flush.Options{BufferSize: -1}, "", func(w http.ResponseWriter) http.ResponseWriter { return w }},
		"somebody between may compress": {flush.Options{}, "br", func(w http.ResponseWriter) http.ResponseWriter {
			return harness.Unwrapper{ResponseWriter: w}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				own := harness.Wrapped(&test.opts, func(w http.ResponseWriter, _ *http.Request) {
					if test.encoding != "" {
						w.Header().Set("Content-Encoding", test.encoding)
					}
					io.WriteString(w, "short")
					harness.Must(t, harness.Flusher(w).Close())
					park.Here()
				})
				srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { own.ServeHTTP(test.wrap(w), r) }))
				s := harness.Open(t, srv, "GET", "/", nil)
				park.Next()
				if n := s.Response().ContentLength; n != 5 {
					t.Errorf("Content-Length %d", n)
				}
				s.ExpectEnd("short")
			})
		})
	}
}

// A length that the handler has switched off the server does not send either: an early
// Close brings the client what has moved down.
func TestCloseLeavesNoLengthThatIsSwitchedOff(t *testing.T) {
	for name, length := range map[string][]string{"none": nil, "empty": {""}} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				if p == harness.HTTP10 && length != nil {
					return // the server sends it as it is, and no client takes that
				}
				park := harness.NewPark(t)
				srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{BufferSize: -1}, func(w http.ResponseWriter, _ *http.Request) {
					w.Header()["Content-Length"] = length
					io.WriteString(w, "moved down")
					harness.Must(t, harness.Flusher(w).Close())
					park.Here()
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				park.Wait()
				s.Expect("moved down")
				s.ExpectNothing()
				park.Resume()
				s.ExpectEnd("")
			})
		})
	}
}

// A response with trailers, or a Transfer-Encoding, has no length on HTTP/1, so an early
// Close brings the client its body, and only the end and the trailers come with the return.
func TestCloseOfWhatHasNoLengthBringsTheBody(t *testing.T) {
	for name, c := range map[string]struct{ key, value, trailer string }{
		"a trailer":                 {"Trailer", "X-Late", "X-Late"},
		"a trailer with the prefix": {"X-Own", "1", http.TrailerPrefix + "X-Late"},
		"identity":                  {"Transfer-Encoding", "identity", ""},
		"chunked":                   {"Transfer-Encoding", "chunked", ""},
	} {
		for _, size := range []int{0, -1} {
			t.Run(fmt.Sprintf("%s, BufferSize %d", name, size), func(t *testing.T) {
				harness.EachProto(t, func(t *testing.T, p harness.Proto) {
					if p == harness.HTTP2 && c.trailer == "" {
						return // it knows none
					}
					park := harness.NewPark(t)
					srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{BufferSize: size}, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set(c.key, c.value)
						io.WriteString(w, "body")
						if c.trailer != "" {
							w.Header().Set(c.trailer, "1")
						}
						harness.Must(t, harness.Flusher(w).Close())
						park.Here()
					}))
					s := harness.Open(t, srv, "GET", "/", nil)
					park.Wait()
					if measures := p == harness.HTTP2 || p == harness.HTTP10 && c.key == "X-Own"; !measures || size == 0 {
						s.Expect("body") // else the server finds its length all the same
					}
					park.Resume()
					_, trailer, end := s.Rest()
					if end == harness.Cut || c.trailer != "" && p != harness.HTTP10 && trailer.Get("X-Late") != "1" {
						t.Errorf("trailers %v, %s", trailer, end)
					}
				})
			})
		}
	}
}

// So much the server holds by itself, and HTTP/2's twice as much as HTTP/1's.
func TestCloseLeavesTheLengthOfWhatTheServerHolds(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		holds := 2048
		if p == harness.HTTP2 {
			holds = 4096
		}
		for _, size := range []int{holds, holds + 1} {
			park := harness.NewPark(t)
			srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{BufferSize: -1}, func(w http.ResponseWriter, _ *http.Request) {
				for range size {
					w.Write([]byte("x"))
				}
				harness.Must(t, harness.Flusher(w).Close())
				park.Here()
			}))
			s := harness.Open(t, srv, "GET", "/", nil)
			park.Next()
			want := int64(-1)
			if size == holds {
				want = int64(size)
			}
			if n := s.Response().ContentLength; n != want {
				t.Errorf("%d bytes have a Content-Length of %d", size, n)
			}
			s.ExpectEnd(strings.Repeat("x", size))
		}
	})
}

// The Close of NewHandler pushes nothing: a response is as short as without us.
func TestReturnPushesNothing(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) {
			if s.Pushes != 0 || err != nil {
				t.Errorf("%+v, %v", s, err)
			}
		}}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "whole") }))
		s := harness.Open(t, srv, "GET", "/", nil)
		if s.Response().ContentLength != 5 {
			t.Errorf("Content-Length %d", s.Response().ContentLength)
		}
		s.ExpectEnd("whole")
	})
}

// What was flushed before an end that cuts reaches the client first, and then
// the cut: a client that gets no byte takes a kept connection for stale and asks
// again. Abort does the same only while no header is out: see TestEnds.
func TestFlushedBeforeTheCut(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(f *flush.Flusher)
	}{
		{"panic", func(*flush.Flusher) { panic(http.ErrAbortHandler) }},
		{"Goexit", func(*flush.Flusher) { runtime.Goexit() }},
	} {
		for _, ask := range []struct {
			name string
			opts flush.Options
			do   func(w http.ResponseWriter)
		}{
			{"FlushAsync", flush.Options{}, func(w http.ResponseWriter) { flush.Flush(w, false) }},
			{"Async", flush.Options{Flush: flush.Async}, func(w http.ResponseWriter) { w.(http.Flusher).Flush() }},
			{"implicit", flush.Options{Implicit: flush.Async}, func(http.ResponseWriter) {}},
			{"Wait", flush.Options{}, func(w http.ResponseWriter) { flush.Flush(w, true) }},
		} {
			t.Run(end.name+"/"+ask.name, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					told := make(chan error, 1)
					opts := ask.opts
					opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) { told <- err }
					srv := harness.ServeMemory(t, p, harness.Wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) {
						io.WriteString(w, "half of it")
						ask.do(w)
						end.do(harness.Flusher(w))
					}), 0)
					clock := harness.NewClock()
					s := harness.Open(t, srv, "GET", "/", nil)
					body, _, how := s.Rest()
					if body != "half of it" || how == harness.Complete || how == harness.Closed && p != harness.HTTP10 {
						t.Errorf("the client got %q, %v", body, how)
					}
					if err := <-told; err == nil {
						t.Error("OnClose: nil")
					}
					if clock.Now() != 0 {
						t.Error("it took", clock.Now())
					}
				})
			})
		}
	}
}

// The time for that is bounded: by a second, and by SendTimeout.
func TestFlushedBeforeTheCutIsBounded(t *testing.T) {
	for _, limit := range []time.Duration{200 * time.Millisecond, time.Hour} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				ended := make(chan time.Duration, 1)
				clock := harness.NewClock()
				opts := &flush.Options{Flush: flush.Async, SendTimeout: limit, MaxPending: harness.Much, OnClose: func(*http.Request, flush.Stats, error) {
					ended <- clock.Now()
				}}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					w.Write(make([]byte, harness.Much))
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}), 1000)
				s := harness.Open(t, srv, "GET", "/", nil)
				if at := <-ended; at > min(limit, time.Second) {
					t.Error("ended after", at)
				}
				if _, _, end := s.Rest(); end == harness.Complete {
					t.Error("the client takes it for complete")
				}
			})
		})
	}
}

// An Abort of another goroutine's, while the return of the handler waits for a
// client that does not read, waits for nothing but the call under way: headers are
// out, so the client has seen something. Twin: a panic shows what was flushed.
func TestAbortBehindTheHandlersReturn(t *testing.T) {
	for _, sends := range []time.Duration{200 * time.Millisecond, time.Hour} {
		t.Run(sends.String(), func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				opts := background
				opts.SendTimeout = sends
				o, told := harness.TellClosing(opts)
				got := make(chan *flush.Flusher, 1)
				srv := harness.ServeMemory(t, p, harness.Wrapped(o, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					writeMuch(f)
					f.FlushAsync()
					got <- f
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				f := <-got
				synctest.Wait() // the handler has returned
				clock := harness.NewClock()
				f.Abort(errEnd)
				if took := clock.Now(); took != 0 {
					t.Errorf("Abort took %v", took)
				}
				if c := harness.Next(t, told); !errors.Is(c.Err, errEnd) {
					t.Error("OnClose:", c.Err)
				}
				if body, _, end := s.Rest(); end == harness.Complete || !strings.HasPrefix(muchText, body) {
					t.Errorf("the client got %d bytes, %s", len(body), end)
				}
			})
		})
	}
}

// A handler that closes and goes on, for longer than SendTimeout, does not cost the
// client the end of the response, which the server writes when it returns.
func TestCloseLongBeforeTheReturn(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		for name, before := range map[string]func(http.ResponseWriter){
			"whole":    func(w http.ResponseWriter) { io.WriteString(w, "all") },
			"streamed": func(w http.ResponseWriter) { io.WriteString(w, "a"); flush.Flush(w, true); io.WriteString(w, "ll") },
			"large":    func(w http.ResponseWriter) { io.WriteString(w, harness.Text(10_000)) },
		} {
			over := make(chan struct{})
			srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{SendTimeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
				defer close(over)
				before(w)
				harness.Must(t, harness.Flusher(w).Close())
				time.Sleep(time.Hour)
			}), 0)
			s := harness.Open(t, srv, "GET", "/", nil)
			if body, _, end := s.Rest(); end == harness.Cut {
				t.Errorf("%s: cut after %d bytes", name, len(body))
			}
			<-over
			s.Leave()
			<-time.After(time.Second)
		}
	})
}

// Behind an early Close the time of the server's last bytes begins with the return
// of the handler.
func TestEndBehindAnEarlyCloseIsBounded(t *testing.T) {
	const limit = time.Minute
	for name, early := range map[string]func(*flush.Flusher) error{
		"Close": (*flush.Flusher).Close,
		"none":  func(*flush.Flusher) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				set := make(chan time.Time, 8)
				own := harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					io.WriteString(w, "a")
					harness.Must(t, f.FlushError())
					harness.Must(t, early(f))
					time.Sleep(time.Hour)
				})
				srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					own.ServeHTTP(notedDeadlines{harness.Unwrapper{ResponseWriter: w}, set}, r)
					close(set)
					var last time.Time
					for at := range set {
						last = at
					}
					if left := time.Until(last); left != limit {
						t.Errorf("the server has %v for the end", left)
					}
				}), 0)
				harness.Open(t, srv, "GET", "/", nil).ExpectEnd("a")
			})
		})
	}
}

// notedDeadlines tells of the write deadlines that are set.
type notedDeadlines struct {
	harness.Unwrapper
	set chan<- time.Time
}

func (w notedDeadlines) SetWriteDeadline(t time.Time) error {
	w.set <- t
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(t)
}

// Whoever comes second waits for the end, as nothing touches the server's writer
// afterwards: Close and Abort behind a Close that is stuck.
func TestSecondEndWaitsForTheFirst(t *testing.T) {
	for name, end := range map[string]func(*flush.Flusher) error{
		"Close": (*flush.Flusher).Close,
		"Abort": func(f *flush.Flusher) error { f.Abort(harness.ErrBoom); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t) // no deadlines: its call cannot be ended
				f := flush.New(s, nil, &flush.Options{SendTimeout: -1})
				s.Hold(0)
				io.WriteString(f, "x")
				first := harness.Go(f.Close)
				synctest.Wait()
				second := harness.Go(func() error { return end(f) })
				synctest.Wait()
				if len(first) > 0 || len(second) > 0 {
					t.Errorf("before the server has returned: the first %v, the second %v", len(first) > 0, len(second) > 0)
				}
				s.Release()
				<-first
				harness.Must(t, <-second)
			})
		})
	}
}

// Behind a flush that takes too long at an early Close the server's word counts, where
// its flush has one. Where it has none, it may have met anything.
func TestCloseBelievesAFlushThatTells(t *testing.T) {
	below := harness.Unwrapper{ResponseWriter: harness.NewPlain()} // has the deadlines
	for name, c := range map[string]struct {
		w    http.ResponseWriter
		want error
	}{
		"tells":  {slowlyTelling{below}, nil},
		"silent": {slowlySilent{below}, flush.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer func() {
					if v := recover(); (v != nil) != (c.want != nil) {
						t.Errorf("recovered %v", v)
					}
				}()
				harness.Wrapped(&flush.Options{SendTimeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, "x")
					if err := harness.Flusher(w).Close(); !errors.Is(err, c.want) {
						t.Errorf("Close: %v, want %v", err, c.want)
					}
				}).ServeHTTP(c.w, httptest.NewRequest("GET", "/", nil))
			})
		})
	}
}

// Layers whose flush takes two seconds.
type slowlyTelling struct{ harness.Unwrapper }
type slowlySilent struct{ harness.Unwrapper }

func (slowlyTelling) FlushError() error { time.Sleep(2 * time.Second); return nil }
func (slowlySilent) Flush()             { time.Sleep(2 * time.Second) }

// Close on an output without headers, whose handler goes on, flushes nothing.
func TestCloseOfAnOutputPushesNothing(t *testing.T) {
	for name, sapi := range map[string]flush.SAPI{"output": {Headers: flush.OutputOnly}, "server": flush.OpenResty()} {
		s := harness.NewSink(t)
		harness.Wrapped(&flush.Options{SAPI: sapi, BufferSize: -1}, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "x")
			harness.Must(t, harness.Flusher(w).Close())
			if _, n := s.LastFlush(); (n > 0) != (name == "server") {
				t.Errorf("%s: %d flushes", name, n)
			}
		}).ServeHTTP(harness.DeadlineSink{Sink: s}, httptest.NewRequest("GET", "/", nil))
		if s.Body() != "x" {
			t.Errorf("%s: %q", name, s.Body())
		}
	}
}
