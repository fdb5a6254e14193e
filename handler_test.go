package flush_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Each way a handler can end other than by returning: what was flushed arrives,
// the client sees the cut, the server logs as it would have, and the panic goes
// on with its own value.
func TestHandlerThatDoesNotReturn(t *testing.T) {
	value := errors.New("own value")
	for _, way := range []struct {
		name string
		end  func(w http.ResponseWriter)
		want any    // what middleware above recovers
		log  string // what the server logs
	}{
		{"panic", func(http.ResponseWriter) { panic(value) }, value, "own value"},
		{"ErrAbortHandler", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, http.ErrAbortHandler, ""},
		{"Abort", func(w http.ResponseWriter) { harness.Flusher(w).Abort(value) }, http.ErrAbortHandler, ""},
		{"Abort twice, then panic", func(w http.ResponseWriter) {
			harness.Flusher(w).Abort(nil)
			harness.Flusher(w).Abort(nil)
			panic(value)
		}, value, "own value"},
		{"Goexit", func(http.ResponseWriter) { runtime.Goexit() }, nil, ""},
		{"panic after a late flush", func(w http.ResponseWriter) { io.WriteString(w, "lost"); flush.Flush(w, false); panic(value) }, value, "own value"},
	} {
		for _, before := range []string{"", "held", "flushed", "asked"} {
			t.Run(way.name+"/"+before, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					ended := make(chan error, 2)
					recovered := make(chan any, 1)
					h := harness.Wrapped(&flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}, func(w http.ResponseWriter, _ *http.Request) {
						io.WriteString(w, before)
						if before == "flushed" || before == "asked" {
							flush.Flush(w, before == "flushed")
							synctest.Wait()
						}
						way.end(w)
					})
					srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						exits := true
						defer func() {
							v := recover()
							recovered <- v
							if v != nil && !exits {
								panic(v)
							}
						}()
						defer func() { exits = false }()
						h.ServeHTTP(w, r)
						t.Error("returned")
					}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					body, _, end := s.Rest()
					wantBody, wantEnd := "", harness.Cut
					if before == "flushed" || before == "asked" {
						if wantBody = before; p == harness.HTTP10 {
							wantEnd = harness.Closed
						}
					}
					if strings.HasPrefix(way.name, "panic after") {
						wantBody, wantEnd = body, end // how far the last flush came is open
					}
					if body != wantBody || end != wantEnd || end == harness.Complete {
						t.Errorf("client got %q, %s, want %q, %s", body, end, wantBody, wantEnd)
					}
					if got := <-recovered; got != way.want {
						t.Errorf("recovered %v, want %v", got, way.want)
					}
					if err := <-ended; err == nil {
						t.Error("OnClose without an error")
					}
					synctest.Wait()
					if len(ended) > 0 {
						t.Error("OnClose was called again")
					}
					if log := srv.Logged(); way.log == "" && log != "" || !strings.Contains(log, way.log) {
						t.Errorf("logged %q", log)
					}
				})
			})
		}
	}
}

// A panic or an abort does not wait for a client that has stopped reading: the
// background work is stopped, joined, and then it goes on.
func TestHandlerPanicStopsTheBackground(t *testing.T) {
	for _, way := range []string{"panic", "Abort", "Goexit", "Abort elsewhere"} {
		t.Run(way, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				clock := harness.NewClock()
				ended := make(chan time.Duration, 1)
				opts := &flush.Options{SendTimeout: time.Hour, MaxPending: harness.Much, OnClose: func(_ *http.Request, st flush.Stats, err error) {
					if st.Bytes+st.Lost > harness.Much || way != "Abort elsewhere" && st.Bytes+st.Lost < harness.Much {
						t.Errorf("%+v", st)
					}
					ended <- clock.Now()
				}}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					if way == "Abort elsewhere" {
						time.AfterFunc(time.Minute, func() { harness.Flusher(w).Abort(nil) })
						w.Write(make([]byte, harness.Much)) // waits for the client
						return
					}
					flush.Flush(w, false)
					w.Write(make([]byte, harness.Much))
					<-time.After(time.Minute)
					switch way {
					case "panic":
						panic(http.ErrAbortHandler)
					case "Goexit":
						runtime.Goexit()
					}
					harness.Flusher(w).Abort(nil)
				}), 1000)
				s := harness.Open(t, srv, "GET", "/", nil)
				most := time.Minute
				if way == "panic" || way == "Goexit" {
					most += time.Second // for what was flushed, if that has not left
				}
				if at := <-ended; at < time.Minute || at > most {
					t.Error("ended after", at)
				}
				if _, _, end := s.Rest(); end == harness.Complete {
					t.Error("the client takes it for complete")
				}
			})
		})
	}
}

// A panicky writer stands for a server's writer that panics or exits.
type panicky struct {
	harness.Flushable
	value any
}

func (p panicky) Flush() {
	if p.value == nil {
		runtime.Goexit()
	}
	panic(p.value)
}

// A panic of the server's writer in the background comes out on the handler's
// goroutine, with its own value, and once.
func TestServerPanicsInTheBackground(t *testing.T) {
	for _, value := range []any{"own", http.ErrAbortHandler, nil} {
		t.Run(fmt.Sprint(value), func(t *testing.T) {
			w := panicky{harness.Flushable{Plain: harness.NewPlain()}, value}
			catch := func(call func()) (v any) {
				defer func() { v = recover() }()
				call()
				return nil
			}
			check := func(v any) {
				t.Helper()
				if value != nil && v != value || value == nil && v == nil {
					t.Errorf("recovered %v", v)
				}
			}
			check(catch(func() {
				harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) { flush.Flush(w, false) }).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			}))
			f := flush.New(w, nil, nil)
			f.FlushAsync()
			check(catch(func() { f.Close() }))
			if v := catch(func() {
				if err := f.Close(); err == nil {
					t.Error("a response that ended in a panic closes without an error")
				}
			}); v != nil {
				t.Error("again:", v)
			}
		})
	}
}

// A handler below another that is wrapped gets the same Flusher. The outer
// options hold; of the inner ones OnStart and OnClose run.
func TestHandlerReusesFlusher(t *testing.T) {
	var calls []string
	options := func(name string, m flush.Mode) *flush.Options {
		return &flush.Options{
			Implicit: m,
			OnStart:  func(f *flush.Flusher, r *http.Request) { calls = append(calls, "start "+name+" "+r.URL.Path) },
			OnClose: func(r *http.Request, st flush.Stats, err error) {
				calls = append(calls, fmt.Sprint("close ", name, " ", r.URL.Path, " ", st.Bytes, err))
			},
		}
	}
	var outer, inner http.ResponseWriter
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outer = w
		http.StripPrefix("/a", harness.Wrapped(options("inner", flush.Off), func(w http.ResponseWriter, _ *http.Request) {
			inner = w
			io.WriteString(w, "x")
		})).ServeHTTP(w, r)
		io.WriteString(w, "y")
	}), options("outer", flush.Wait))
	p := harness.NewPlain()
	h.ServeHTTP(harness.Flushable{Plain: p}, httptest.NewRequest("GET", "/a/b", nil))
	if inner != outer {
		t.Error("another Flusher")
	}
	if want := "200 x flush y flush"; p.String() != want {
		t.Errorf("server saw %q, want %q", p, want)
	}
	want := []string{"start outer /a/b", "start inner /b", "close inner /b 2 <nil>", "close outer /a/b 2 <nil>"}
	if !slices.Equal(calls, want) {
		t.Errorf("got %q, want %q", calls, want)
	}
}

// The owner of a Flusher that a handler was given closes it, not the handler.
func TestHandlerLeavesFlusherToItsOwner(t *testing.T) {
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, nil)
	ended := 0
	h := harness.Wrapped(&flush.Options{OnClose: func(*http.Request, flush.Stats, error) { ended++ }}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") })
	h.ServeHTTP(f, httptest.NewRequest("GET", "/", nil))
	func() {
		defer func() { recover() }()
		flush.NewHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") }), nil).ServeHTTP(f, httptest.NewRequest("GET", "/", nil))
	}()
	if _, err := f.WriteString("y"); err != nil || ended != 0 {
		t.Errorf("%v, OnClose called %d times", err, ended)
	}
	if err := f.Close(); err != nil || ended != 1 || p.String() != "200 xy" {
		t.Errorf("%v, OnClose called %d times, server saw %q", err, ended, p)
	}
}

// Two Flushers with a wrapper between them work as one.
func TestHandlerTwiceAroundWrapper(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		park := harness.NewPark(t)
		inner := harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			for _, wait := range []bool{true, false} {
				io.WriteString(w, "x")
				if err := flush.Flush(w, wait); err != nil {
					t.Error(err)
				}
				park.Here()
			}
		})
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(harness.Unwrapper{ResponseWriter: w}, r) }), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		for range 2 {
			s.Expect("x")
			park.Next()
		}
		s.ExpectEnd("")
	})
}

// The handler has a request of its own, so that the server may go on reading
// its: but the pattern and the multipart form come back, after a panic too, and
// the form's files are removed.
func TestHandlerCarriesRequestBack(t *testing.T) {
	for _, panics := range []bool{false, true} {
		t.Run(fmt.Sprint(panics), func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				var name string
				mux := http.NewServeMux()
				mux.HandleFunc("POST /form", func(w http.ResponseWriter, r *http.Request) {
					if err := r.ParseMultipartForm(1); err != nil {
						t.Error(err)
						return
					}
					f, err := r.MultipartForm.File["file"][0].Open()
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					file, ok := f.(*os.File)
					if !ok {
						t.Errorf("no file: %T", f)
						return
					}
					name = file.Name()
					r.Method, r.Body = "CHANGED", nil
					if panics {
						panic(http.ErrAbortHandler)
					}
				})
				h := flush.NewHandler(mux, nil)
				done := make(chan struct{})
				srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/next" {
						return
					}
					defer close(done)
					defer func() {
						if r.Pattern != "POST /form" || r.MultipartForm == nil || r.Method != "POST" || r.Body == nil {
							t.Errorf("pattern %q, form %v, method %s", r.Pattern, r.MultipartForm, r.Method)
						}
					}()
					h.ServeHTTP(w, r)
				}))
				var b bytes.Buffer
				m := multipart.NewWriter(&b)
				part, _ := m.CreateFormFile("file", "name")
				part.Write(make([]byte, 5000)) // more than is held in memory
				m.Close()
				s := harness.Open(t, srv, "POST", "/form", &b, "Content-Type: "+m.FormDataContentType())
				s.Rest()
				<-done
				if panics {
					return // net/http keeps the files of a handler that panics
				}
				if p != harness.HTTP10 && p != harness.HTTP2 {
					s.Again("GET", "/next", nil).Rest() // by then the first is over
				} else {
					srv.Shutdown(t.Context())
				}
				if _, err := os.Stat(name); !os.IsNotExist(err) {
					t.Errorf("the file is still there: %v", err)
				}
			})
		})
	}
}

func TestNewHandlerNil(t *testing.T) {
	before := http.DefaultServeMux
	defer func() { http.DefaultServeMux = before }()
	http.DefaultServeMux = http.NewServeMux()
	http.HandleFunc("/path", func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := flush.From(w); !ok {
			t.Error("no Flusher")
		}
		w.WriteHeader(418)
	})
	rec := httptest.NewRecorder()
	flush.NewHandler(nil, nil).ServeHTTP(rec, httptest.NewRequest("GET", "/path", nil))
	if rec.Code != 418 {
		t.Error("got", rec.Code)
	}
}

// OnStart runs before the handler, with the writer and request of the handler.
func TestOnStart(t *testing.T) {
	var gotW http.ResponseWriter
	var gotR *http.Request
	h := harness.Wrapped(&flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
		gotW, gotR = f, r
		f.Header().Set("X-Start", "1")
	}}, func(w http.ResponseWriter, r *http.Request) {
		if harness.Flusher(w) != gotW || r != gotR {
			t.Error("OnStart had another writer or request")
		}
	})
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Header().Get("X-Start") != "1" {
		t.Errorf("headers %v", rec.Header())
	}
}

// claims lists what a writer can be asserted to be.
func claims(w http.ResponseWriter) []string {
	var all []string
	add := func(name string, is bool) {
		if is {
			all = append(all, name)
		}
	}
	_, is := w.(http.Flusher)
	add("Flusher", is)
	_, is = w.(interface{ FlushError() error })
	add("FlushError", is)
	_, is = w.(http.Hijacker)
	add("Hijacker", is)
	_, is = w.(http.Pusher)
	add("Pusher", is)
	_, is = w.(io.ReaderFrom)
	add("ReaderFrom", is)
	_, is = w.(io.StringWriter)
	add("StringWriter", is)
	_, is = w.(http.CloseNotifier) //lint:ignore SA1019 asserted in the wild
	add("CloseNotifier", is)
	_, is = w.(interface{ SetReadDeadline(time.Time) error })
	add("SetReadDeadline", is)
	_, is = w.(interface{ SetWriteDeadline(time.Time) error })
	add("SetWriteDeadline", is)
	_, is = w.(interface{ EnableFullDuplex() error })
	add("EnableFullDuplex", is)
	return all
}

// The handler's writer can be asserted to be what the server's can.
func TestWriterClaimsWhatTheServersDoes(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		var got [3][]string
		for i, wrap := range []func(http.Handler) http.Handler{harness.Bare, harness.WrappedBy(nil), func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				harness.WrappedBy(nil)(h).ServeHTTP(harness.Unwrapper{ResponseWriter: w}, r)
			})
		}} {
			srv := harness.Serve(t, p, wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { got[i] = claims(w) })))
			harness.Open(t, srv, "GET", "/", nil).Rest()
		}
		if !slices.Equal(got[1], got[0]) || !slices.Equal(got[2], got[0]) {
			t.Errorf("%q, over a wrapper %q, bare %q", got[1], got[2], got[0])
		}
	})
}

// A writer as frameworks make them: it claims everything, whatever is below.
type claiming struct{ harness.Flushable }

func (claiming) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }
func (claiming) Push(string, *http.PushOptions) error         { return http.ErrNotSupported }

// Of writers that are not the server's own it claims no more than they do, and
// of those that claim both what suits the protocol.
func TestWriterClaimsNoMore(t *testing.T) {
	for _, test := range []struct {
		name         string
		w            http.ResponseWriter
		major        int
		hijack, push bool
	}{
		{"recorder", httptest.NewRecorder(), 1, false, false},
		{"recorder, HTTP/2", httptest.NewRecorder(), 2, false, false},
		{"claims all", claiming{harness.Flushable{Plain: harness.NewPlain()}}, 1, true, false},
		{"claims all, HTTP/2", claiming{harness.Flushable{Plain: harness.NewPlain()}}, 2, false, true},
		{"pushes", harness.Unwrapper{ResponseWriter: pusher{harness.Flushable{Plain: harness.NewPlain()}}}, 2, false, true},
		{"pushes, HTTP/1", pusher{harness.Flushable{Plain: harness.NewPlain()}}, 1, false, false},
		{"hijacks", harness.Unwrapper{ResponseWriter: refusing{harness.Flushable{Plain: harness.NewPlain()}, nil}}, 1, true, false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.ProtoMajor = test.major
		harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			got := claims(w)
			want := []string{"Flusher", "FlushError", "StringWriter", "CloseNotifier", "SetReadDeadline", "SetWriteDeadline", "EnableFullDuplex"}
			if test.push {
				want = slices.Insert(want, 2, "Pusher")
			}
			if test.hijack {
				want = slices.Insert(want, 2, "Hijacker", "ReaderFrom")
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", test.name, got, want)
			}
		}).ServeHTTP(test.w, r)
	}
	timeout := http.TimeoutHandler(harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		if got := claims(w); slices.Contains(got, "Hijacker") || slices.Contains(got, "Pusher") || slices.Contains(got, "ReaderFrom") {
			t.Errorf("under http.TimeoutHandler: %q", got)
		}
	}), time.Minute, "")
	r := httptest.NewRequest("GET", "/", nil)
	r.ProtoMajor = 2
	timeout.ServeHTTP(httptest.NewRecorder(), r)
}

// All ways lead from the handler's writer to the Flusher, which is one of a kind.
func TestWriterLeadsToTheFlusher(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			if _, ok := w.(*flush.Flusher); ok {
				t.Error("the writer is the Flusher itself, and claims too much")
			}
			f, ok := flush.From(w)
			if !ok || w.(interface{ Unwrap() http.ResponseWriter }).Unwrap() != http.ResponseWriter(f) {
				t.Error("Unwrap and From disagree")
			}
			if g, ok := flush.From(harness.Unwrapper{ResponseWriter: w}); !ok || g != f {
				t.Error("From does not find it below a wrapper")
			}
			if g, ok := flush.FromContext(r.Context()); !ok || g != f {
				t.Error("FromContext found", g)
			}
			if l := flush.Inspect(w).Layers; l[0].Type != "*flush.Flusher" || l[1].Type == "*flush.Flusher" {
				t.Errorf("Inspect sees the face: %v", l)
			}
			io.WriteString(w, "x")
			flush.Flush(w, true)
			if s := f.Stats(); s.Flushes != 1 {
				t.Errorf("flushed %d times", s.Flushes)
			}
		}))
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd("x")
	})
}

// The handler's writer costs no allocation.
func TestWriterAllocatesNothing(t *testing.T) {
	f := flush.New(harness.NewPlain(), nil, nil)
	defer f.Close()
	var w http.ResponseWriter
	if n := testing.AllocsPerRun(100, func() { w = flush.HandlerWriter(f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if g, _ := flush.From(w); g != f {
		t.Error("not the Flusher's")
	}
}

// On a connection that was hijacked other requests may live, with contexts that
// are derived from the one of the request that was: their Flusher is not there.
func TestFromContextAfterHijack(t *testing.T) {
	own := errors.New("own")
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
		inner, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		if _, ok := flush.FromContext(inner); !ok {
			t.Error("not there before")
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if f, ok := flush.FromContext(inner); ok {
			t.Error("still there:", f)
		}
		cancel(own)
		if err := flush.Cause(inner); err != own {
			t.Error("cause:", err)
		}
		// An inner server answers with a writer of its own.
		rec := httptest.NewRecorder()
		harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			if f, ok := flush.FromContext(r.Context()); !ok || f != harness.Flusher(w) {
				t.Error("the inner handler has", f)
			}
			io.WriteString(w, "inner")
		}).ServeHTTP(rec, r)
		fmt.Fprintf(rw, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", rec.Body.Len(), rec.Body)
		rw.Flush()
	}))
	harness.Open(t, srv, "GET", "/", nil).ExpectEnd("inner")
}
