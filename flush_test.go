package flush_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Every way to ask for a flush: everything before it arrives while the handler
// is blocked, and nothing after it.
func TestFlushWhileHandlerIsBlocked(t *testing.T) {
	ways := []struct {
		name  string
		opts  *flush.Options
		flush func(w http.ResponseWriter, r *http.Request) error
	}{
		{"wait", nil, func(w http.ResponseWriter, _ *http.Request) error { return flush.Flush(w, true) }},
		{"ask", nil, func(w http.ResponseWriter, _ *http.Request) error { return flush.Flush(w, false) }},
		{"Flusher", nil, func(w http.ResponseWriter, _ *http.Request) error { w.(http.Flusher).Flush(); return nil }},
		{"async Flusher", &flush.Options{Flush: flush.Async}, func(w http.ResponseWriter, _ *http.Request) error { w.(http.Flusher).Flush(); return nil }},
		{"controller", nil, func(w http.ResponseWriter, _ *http.Request) error { return http.NewResponseController(w).Flush() }},
		{"own context", nil, func(w http.ResponseWriter, r *http.Request) error { return harness.Flusher(w).FlushWait(r.Context()) }},
		{"context", nil, func(w http.ResponseWriter, r *http.Request) error {
			f, _ := flush.FromContext(r.Context())
			return f.FlushAsync()
		}},
		{"other context", nil, func(w http.ResponseWriter, r *http.Request) error { return harness.Flusher(w).FlushWait(t.Context()) }},
		{"implicit", &flush.Options{Implicit: flush.Wait}, func(w http.ResponseWriter, _ *http.Request) error {
			harness.Flusher(w).SetImplicit(flush.Off)
			return nil
		}},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				srv := harness.Serve(t, p, harness.Wrapped(way.opts, func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "before")
					if err := way.flush(w, r); err != nil {
						t.Error(err)
					}
					io.WriteString(w, "after")
					park.Here()
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				for _, c := range "before" {
					s.Expect(string(c))
				}
				park.Wait()
				s.ExpectNothing()
				park.Resume()
				s.ExpectEnd("after")
			})
		})
	}
}

// Sizes around the buffers on the way (ours, net/http's, a frame, a slice): a
// flush leaves no byte behind.
func TestFlushLeavesNothingBehind(t *testing.T) {
	var sizes []int
	for _, n := range []int{512, 2048, 4064, 4096, 8192, 16 << 10, 32 << 10, 64 << 10} {
		sizes = append(sizes, n-1, n, n+1)
	}
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		text := strings.Repeat("0123456789abcde\n", 5<<10)
		for _, wait := range []bool{true, false} {
			for _, piece := range []int{1000, 1 << 20} {
				park := harness.NewPark(t)
				srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
					for _, n := range sizes {
						for from := 0; from < n; from += piece {
							io.WriteString(w, text[from:min(from+piece, n)])
						}
						flush.Flush(w, wait)
						park.Here()
					}
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				for _, n := range sizes {
					s.Expect(text[:n])
					s.ExpectNothing()
					park.Next()
				}
				s.ExpectEnd("")
			}
		}
	})
}

// Flushing before there is any output sends the headers where the profile puts
// them first, with its Content-Type, and nothing at all where it does not.
func TestFlushHeadersOfEachProfile(t *testing.T) {
	for _, sapi := range []flush.SAPI{
		flush.NetHTTP(), flush.Apache2Handler(), flush.CGI(), flush.FastCGI(), flush.FPM(), flush.OpenResty(),
		{Name: "own", ContentType: "text/x-own"}, {Name: "own late", Headers: flush.HeadersWithOutput},
	} {
		t.Run(sapi.Name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{SAPI: sapi, HTTP10Buffer: -1}, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("X-Early", "1")
					if err := flush.Flush(w, true); err != nil {
						t.Error(err)
					}
					w.Header().Set("X-Late", "1")
					if sent := harness.Flusher(w).HeadersSent(); sent != (sapi.Headers == flush.HeadersFirst) {
						t.Error("HeadersSent:", sent)
					}
					park.Here()
					io.WriteString(w, "<html>")
					flush.Flush(w, true)
					park.Here()
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				park.Wait()
				wantType, wantLate := sapi.ContentType, ""
				if sapi.Headers == flush.HeadersFirst {
					s.Header()
				} else {
					s.ExpectNothing()
					wantType, wantLate = "text/html; charset=utf-8", "1" // detected from the first output
				}
				park.Resume()
				h := s.Header()
				if h.Get("X-Early") != "1" || h.Get("X-Late") != wantLate || h.Get("Content-Type") != wantType {
					t.Errorf("got %v, want type %q, late %q", h, wantType, wantLate)
				}
				s.Expect("<html>")
				park.Next()
				s.ExpectEnd("")
			})
		})
	}
}

// An opaque writer can flush, and hides the one below.
type opaque struct{ w http.ResponseWriter }

func (o opaque) Header() http.Header         { return o.w.Header() }
func (o opaque) WriteHeader(code int)        { o.w.WriteHeader(code) }
func (o opaque) Write(p []byte) (int, error) { return o.w.Write(p) }
func (o opaque) Flush()                      { http.NewResponseController(o.w).Flush() }

// A ring unwraps to itself.
type ring struct{ *harness.Plain }

func (r *ring) Unwrap() http.ResponseWriter { return r }

func TestFlushOnAnyWriter(t *testing.T) {
	broken := errors.New("broken")
	over := func(w http.ResponseWriter) *flush.Flusher { return flush.New(w, nil, nil) }
	for _, test := range []struct {
		name string
		make func(p *harness.Plain) http.ResponseWriter
		err  error
		want string // what the server's writer sees
	}{
		{"plain", func(p *harness.Plain) http.ResponseWriter { return harness.Flushable{Plain: p} }, nil, "x flush"},
		{"plain with an error", func(p *harness.Plain) http.ResponseWriter { return harness.Failing{Plain: p, Err: broken} }, broken, "x fail"},
		{"wrapped plain", func(p *harness.Plain) http.ResponseWriter {
			return harness.Unwrapper{ResponseWriter: harness.Unwrapper{ResponseWriter: harness.Flushable{Plain: p}}}
		}, nil, "x flush"},
		{"opaque plain", func(p *harness.Plain) http.ResponseWriter { return opaque{harness.Flushable{Plain: p}} }, nil, "x flush"},
		{"unflushable", func(p *harness.Plain) http.ResponseWriter { return p }, http.ErrNotSupported, "x"},
		{"wrapped unflushable", func(p *harness.Plain) http.ResponseWriter { return harness.Unwrapper{ResponseWriter: p} }, http.ErrNotSupported, "x"},
		{"Flusher", func(p *harness.Plain) http.ResponseWriter { return over(harness.Flushable{Plain: p}) }, nil, "200 x flush"},
		{"Flusher over a wrapper", func(p *harness.Plain) http.ResponseWriter {
			return over(harness.Unwrapper{ResponseWriter: harness.Flushable{Plain: p}})
		}, nil, "200 x flush"},
		{"wrapped Flusher", func(p *harness.Plain) http.ResponseWriter {
			return harness.Unwrapper{ResponseWriter: over(harness.Flushable{Plain: p})}
		}, nil, "200 x flush"},
		{"doubly wrapped Flusher", func(p *harness.Plain) http.ResponseWriter {
			return harness.Unwrapper{ResponseWriter: harness.Unwrapper{ResponseWriter: over(harness.Flushable{Plain: p})}}
		}, nil, "200 x flush"},
		{"opaque Flusher", func(p *harness.Plain) http.ResponseWriter { return opaque{over(harness.Flushable{Plain: p})} }, nil, "200 x flush"},
		{"Flusher over a failing flush", func(p *harness.Plain) http.ResponseWriter { return over(harness.Failing{Plain: p, Err: broken}) }, broken, "200 x fail"},
		{"Flusher over an unflushable writer", func(p *harness.Plain) http.ResponseWriter { return over(p) }, http.ErrNotSupported, "200 x"},
		{"cycle", func(p *harness.Plain) http.ResponseWriter { return &ring{p} }, http.ErrNotSupported, "x"},
		{"Flusher over a cycle", func(p *harness.Plain) http.ResponseWriter { return over(&ring{p}) }, http.ErrNotSupported, "200 x"},
	} {
		for _, wait := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", test.name, wait), func(t *testing.T) {
				p := harness.NewPlain()
				w := test.make(p)
				io.WriteString(w, "x")
				err := flush.Flush(w, wait)
				f, ok := flush.From(w)
				if ok {
					// Asked for in the background, the verdict is the end's to tell.
					if cerr := f.Close(); !wait && err == nil {
						err = cerr
					}
				}
				if !errors.Is(err, test.err) {
					t.Errorf("got %v, want %v", err, test.err)
				}
				if p.String() != test.want {
					t.Errorf("server saw %q, want %q", p, test.want)
				}
			})
		}
	}
	var none *flush.Flusher
	for _, w := range []http.ResponseWriter{nil, none, harness.Unwrapper{ResponseWriter: nil}, harness.Unwrapper{ResponseWriter: none}} {
		if err := flush.Flush(w, true); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("%#v: %v", w, err)
		}
		if f, ok := flush.From(w); f != nil || ok {
			t.Errorf("%#v: From found %v", w, f)
		}
	}
}

// The ways of wrappers in use: some flush what is below them, others leave that
// to their caller.
var compressors = []struct {
	name string
	down func(http.ResponseWriter)
}{
	{"leaves it", nil},
	{"Flusher", func(w http.ResponseWriter) { w.(http.Flusher).Flush() }},
	{"controller", func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }},
}

func TestFlushOuterWrapperFirst(t *testing.T) {
	for _, c := range compressors {
		t.Run(c.name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
					w = &harness.Compressor{ResponseWriter: w, Down: c.down}
					for _, wait := range []bool{true, false} {
						io.WriteString(w, "held above, ")
						if err := flush.Flush(harness.Unwrapper{ResponseWriter: w}, wait); err != nil {
							t.Error(err)
						}
						park.Here()
					}
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				for range 2 {
					s.Expect("held above, ")
					s.ExpectNothing()
					park.Next()
				}
				s.ExpectEnd("")
			})
		})
	}
	broken := errors.New("broken")
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	if err := flush.Flush(&harness.Compressor{ResponseWriter: f, Err: broken}, true); !errors.Is(err, broken) {
		t.Errorf("the wrapper's error became %v", err)
	}
}

// While the wrapper above flushes for a caller who does not wait, nothing it
// does to the Flusher waits for the network; a caller who waits does.
func TestFlushOuterWrapperDoesNotBlock(t *testing.T) {
	for _, c := range compressors {
		for _, wait := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", c.name, wait), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					const size = 200_000 // more than HTTP/2's window and the connection hold
					took := make(chan time.Duration, 1)
					srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{SendTimeout: -1, MaxPending: 2 * size}, func(w http.ResponseWriter, _ *http.Request) {
						w = &harness.Compressor{ResponseWriter: w, Down: c.down}
						w.Write(make([]byte, size))
						begin := time.Now()
						flush.Flush(w, wait)
						took <- time.Since(begin)
					}), 1000)
					s := harness.Open(t, srv, "GET", "/", nil)
					<-time.After(time.Hour) // the client reads only now
					s.Take(size)
					want := time.Duration(0)
					if wait {
						want = time.Hour
					}
					if d := <-took; d != want {
						t.Errorf("took %v, want %v", d, want)
					}
					s.ExpectEnd("")
				})
			})
		}
	}
}

// Behind a writer without Unwrap both forms do what Options.Flush says, and
// FromContext finds the Flusher.
func TestFlushBehindOpaqueWriter(t *testing.T) {
	for _, mode := range []flush.Mode{0, flush.Wait, flush.Async} {
		for _, wait := range []bool{true, false} {
			t.Run(fmt.Sprint(mode, wait), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					const size = 60_000
					took := make(chan time.Duration, 1)
					srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{Flush: mode, SendTimeout: -1, BufferSize: size + 1}, func(w http.ResponseWriter, r *http.Request) {
						if f, ok := flush.FromContext(r.Context()); !ok || f != harness.Flusher(w) {
							t.Error("FromContext found", f)
						}
						w = opaque{w}
						if _, ok := flush.From(w); ok {
							t.Error("From found a Flusher")
						}
						w.Write(make([]byte, size))
						begin := time.Now()
						flush.Flush(w, wait)
						took <- time.Since(begin)
					}), 1000)
					s := harness.Open(t, srv, "GET", "/", nil)
					<-time.After(time.Hour)
					s.Take(size)
					if d := <-took; mode == flush.Async && d != 0 || mode != flush.Async && p != harness.HTTP2 && d != time.Hour {
						t.Errorf("took %v", d)
					}
					s.ExpectEnd("")
				})
			})
		}
	}
}

func TestFromContextElsewhere(t *testing.T) {
	if f, ok := flush.FromContext(t.Context()); f != nil || ok {
		t.Error("found", f)
	}
}

func TestModeString(t *testing.T) {
	got := fmt.Sprint(flush.Mode(0), flush.Off, flush.Async, flush.Wait, flush.Mode(9))
	if want := "default off async wait Mode(9)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Options are copied when given: changing them later changes nothing.
func TestOptionsAreCopied(t *testing.T) {
	opts := &flush.Options{SAPI: flush.Apache2Handler(), Implicit: flush.Wait}
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, opts)
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") }), opts)
	*opts = flush.Options{OnClose: func(*http.Request, flush.Stats, error) { t.Error("OnClose given later was called") }}
	io.WriteString(f, "x")
	f.Close()
	h.ServeHTTP(harness.Flushable{Plain: p}, httptest.NewRequest("GET", "/", nil))
	if want := "200 x flush 200 x flush"; p.String() != want {
		t.Errorf("server saw %q, want %q", p, want)
	}
}

// Every value of every option is valid.
func TestOptionsOfAnyValue(t *testing.T) {
	for _, n := range []int{math.MinInt, -1, 0, 1, 2, math.MaxInt} {
		d := time.Duration(n)
		for _, m := range []flush.Mode{0, flush.Off, flush.Async, flush.Wait, 200} {
			p := harness.NewPlain()
			f := flush.New(harness.Flushable{Plain: p}, nil, &flush.Options{
				Flush: m, Implicit: m, BufferSize: n, MaxPending: n, SendTimeout: d, FlushInterval: d, HTTP10Buffer: n,
			})
			f.WriteString("hello, ")
			f.Flush()
			f.WriteString("world")
			if err := f.Close(); err != nil {
				// A send timeout of a nanosecond may well be over.
				if !errors.Is(err, flush.ErrTimeout) || d <= 0 {
					t.Errorf("%d, %v: %v", n, m, err)
				}
				continue
			}
			got := strings.NewReplacer("200", "", "flush", "", " ", "").Replace(p.String())
			if got != "hello,world" {
				t.Errorf("%d, %v: server saw %q", n, m, p)
			}
		}
	}
}
