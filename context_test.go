package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

type valueKey struct{}

// What the handler's context and flush.Cause say after each way to end, to the
// handler that has just seen it and to those who kept the context.
func TestCause(t *testing.T) {
	own := errors.New("own")
	cancelAbove := func(cause error) func(ctx context.Context) context.Context {
		return func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(cause) })
			return ctx
		}
	}
	wait := func(_ *flush.Flusher, ctx context.Context, _ *harness.Stream) { <-ctx.Done() }
	for _, test := range []struct {
		name  string
		above func(ctx context.Context) context.Context // what stands above NewHandler
		h     func(f *flush.Flusher, ctx context.Context, s *harness.Stream)
		want  error // flush.Cause
		cause error // context.Cause, as bare
		err   error // ctx.Err
	}{
		{"return", nil, func(*flush.Flusher, context.Context, *harness.Stream) {}, flush.ErrClosed, context.Canceled, context.Canceled},
		{"Close", nil, func(f *flush.Flusher, ctx context.Context, _ *harness.Stream) {
			f.Close()
			if ctx.Err() != nil || context.Cause(ctx) != nil {
				t.Error("an early Close ends the context:", context.Cause(ctx))
			}
			if err := flush.Cause(ctx); err != flush.ErrClosed {
				t.Error("not at once:", err)
			}
		}, flush.ErrClosed, context.Canceled, context.Canceled},
		{"Close, then the client leaves", nil, func(f *flush.Flusher, ctx context.Context, s *harness.Stream) {
			f.Close()
			s.Leave()
			<-ctx.Done()
		}, flush.ErrClosed, context.Canceled, context.Canceled},
		{"Abort", nil, func(f *flush.Flusher, _ context.Context, _ *harness.Stream) { f.Abort(own) }, own, context.Canceled, context.Canceled},
		{"client gone", nil, func(_ *flush.Flusher, ctx context.Context, s *harness.Stream) { s.Leave(); <-ctx.Done() }, flush.ErrClientGone, context.Canceled, context.Canceled},
		{"client gone, nobody looks", nil, func(f *flush.Flusher, _ context.Context, s *harness.Stream) {
			s.Leave()
			synctest.Wait()
			f.WriteString("two")
			f.WriteString("small things")
		}, flush.ErrClientGone, context.Canceled, context.Canceled},
		{"timeout", nil, func(f *flush.Flusher, ctx context.Context, _ *harness.Stream) {
			f.Write(make([]byte, harness.Much))
			<-ctx.Done()
		}, flush.ErrTimeout, context.Canceled, context.Canceled},
		{"cancelled above", cancelAbove(nil), wait, flush.ErrClientGone, context.Canceled, context.Canceled},
		{"cause above", cancelAbove(own), wait, own, own, context.Canceled},
		{"deadline above", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			context.AfterFunc(ctx, cancel)
			return ctx
		}, wait, context.DeadlineExceeded, context.DeadlineExceeded, context.DeadlineExceeded},
		{"cause above, then Abort", cancelAbove(own), func(f *flush.Flusher, ctx context.Context, _ *harness.Stream) {
			<-ctx.Done()
			f.Abort(io.ErrNoProgress)
		}, io.ErrNoProgress, own, context.Canceled},
		{"Abort, then a cause above", cancelAbove(own), func(f *flush.Flusher, ctx context.Context, _ *harness.Stream) {
			f.Abort(io.ErrNoProgress)
			<-time.After(time.Minute)
		}, io.ErrNoProgress, context.Canceled, context.Canceled},
		{"ended before", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(own)
			return ctx
		}, wait, own, own, context.Canceled},
		{"ended before, nobody looks", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(own)
			return ctx
		}, func(*flush.Flusher, context.Context, *harness.Stream) {}, own, own, context.Canceled},
	} {
		for _, watched := range []bool{true, false} {
			t.Run(fmt.Sprint(test.name, "/", watched), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					type kept struct{ ctx, derived context.Context }
					ended := make(chan kept, 1)
					atClose := make(chan error, 1)
					opened := make(chan *harness.Stream, 1)
					opts := &flush.Options{SendTimeout: time.Minute, OnClose: func(r *http.Request, _ flush.Stats, _ error) { atClose <- flush.Cause(r.Context()) }}
					h := harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
						derived := context.WithValue(r.Context(), valueKey{}, "derived")
						if watched {
							var cancel context.CancelFunc
							derived, cancel = context.WithCancel(derived)
							context.AfterFunc(r.Context(), cancel)
						}
						defer func() { ended <- kept{r.Context(), derived} }()
						test.h(harness.Flusher(w), r.Context(), <-opened)
						synctest.Wait() // derived contexts end just after
						if r.Context().Err() == nil {
							return
						}
						for _, ctx := range []context.Context{r.Context(), derived} {
							if ctx.Err() != test.err || context.Cause(ctx) != test.cause || !errors.Is(flush.Cause(ctx), test.want) {
								t.Errorf("in the handler: %v, %v, %v", ctx.Err(), context.Cause(ctx), flush.Cause(ctx))
							}
						}
					})
					srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if test.above != nil {
							r = r.WithContext(test.above(r.Context()))
						}
						h.ServeHTTP(w, r)
					}), 1000)
					s := harness.Open(t, srv, "GET", "/", nil)
					opened <- s
					got := <-ended
					synctest.Wait()
					for _, ctx := range []context.Context{got.ctx, got.derived} {
						if ctx.Err() != test.err || context.Cause(ctx) != test.cause || !errors.Is(flush.Cause(ctx), test.want) {
							t.Errorf("kept: %v, %v, %v, want %v, %v, %v", ctx.Err(), context.Cause(ctx), flush.Cause(ctx), test.err, test.cause, test.want)
						}
						if ctx.Value(http.ServerContextKey) == nil {
							t.Error("the values are gone")
						}
						select {
						case <-ctx.Done():
						default:
							t.Error("Done is open")
						}
						later, cancel := context.WithCancel(ctx)
						if later.Err() != test.err || context.Cause(later) != test.cause {
							t.Errorf("derived later: %v, %v", later.Err(), context.Cause(later))
						}
						cancel()
					}
					if err := <-atClose; !errors.Is(err, test.want) {
						t.Errorf("OnClose: %v, want %v", err, test.want)
					}
					s.Leave()
				})
			})
		}
	}
}

// For a context of no response, or of one that was hijacked, it is
// context.Cause; while the response lives, nil.
func TestCauseOfNoResponse(t *testing.T) {
	own := errors.New("own")
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := flush.Cause(ctx); err != nil {
		t.Error(err)
	}
	cancel(own)
	if err := flush.Cause(ctx); err != own {
		t.Error(err)
	}
	harness.Wrapped(nil, func(_ http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		cancel(own)
		if err := flush.Cause(ctx); err != nil {
			t.Error("the handler's own cancel ends the response:", err)
		}
	}).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

// A handler that panics leaves a context that has not ended well.
func TestCauseAfterPanic(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	var ctx context.Context
	func() {
		defer func() { recover() }()
		harness.Wrapped(nil, func(_ http.ResponseWriter, r *http.Request) { ctx = r.Context(); panic("x") }).ServeHTTP(httptest.NewRecorder(), r)
	}()
	if err := flush.Cause(ctx); err == nil || errors.Is(err, flush.ErrClosed) || context.Cause(ctx) != context.Canceled {
		t.Error("cause:", err, context.Cause(ctx))
	}
}

// A client that leaves: writing fails with ErrClientGone before long, it
// sticks, and everything agrees on it.
func TestClientGone(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		t.Run(mode.String(), func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				ended := make(chan error, 1)
				opts := &flush.Options{Flush: mode, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
				srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					flush.Flush(w, true)
					f := harness.Flusher(w)
					var err error
					for begin := time.Now(); err == nil && time.Since(begin) < harness.Patience(); {
						if _, err = w.Write(make([]byte, 10_000)); err == nil {
							err = f.FlushError()
						}
					}
					for _, err := range []error{err, f.Err(), flush.Flush(w, true), flush.Cause(r.Context())} {
						if !errors.Is(err, flush.ErrClientGone) || errors.Is(err, flush.ErrTimeout) {
							t.Error(err)
						}
					}
					if _, err := w.Write([]byte("x")); !errors.Is(err, flush.ErrClientGone) {
						t.Error("later:", err)
					}
				}), harness.SmallBuffers)
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Header()
				s.Leave()
				if err := <-ended; !errors.Is(err, flush.ErrClientGone) {
					t.Error("OnClose:", err)
				}
			})
		})
	}
}

// With no deadline left there is none to blame when the client leaves.
func TestClientGoneAfterLiftedDeadline(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		ended := make(chan error, 1)
		opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
		srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
			harness.Flusher(w).SetWriteDeadline(time.Time{})
			flush.Flush(w, true)
			<-r.Context().Done()
			if err := flush.Cause(r.Context()); !errors.Is(err, flush.ErrClientGone) {
				t.Error("cause:", err)
			}
			w.Write(make([]byte, harness.Much))
		}), 1000, harness.Configure(func(s *http.Server) { s.WriteTimeout = time.Second }))
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Header()
		<-time.After(time.Minute)
		s.Leave()
		if err := <-ended; !errors.Is(err, flush.ErrClientGone) || errors.Is(err, flush.ErrTimeout) {
			t.Error("OnClose:", err)
		}
	})
}

// A client that half-closes its connection ends the context, and still gets
// everything: the end of the context fails no Write and no Flush.
func TestHalfClosedClientGetsEverything(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10} {
			for _, real := range []bool{true, false} {
				t.Run(fmt.Sprint(mode, p, real), func(t *testing.T) {
					run := func(t *testing.T, serve func(h http.Handler) *harness.Server) {
						s := harness.Open(t, serve(harness.Wrapped(&flush.Options{Flush: mode}, func(w http.ResponseWriter, r *http.Request) {
							io.WriteString(w, "first,")
							flush.Flush(w, true)
							<-r.Context().Done()
							if err := flush.Cause(r.Context()); !errors.Is(err, flush.ErrClientGone) {
								t.Error("cause:", err)
							}
							for i := range 3 {
								if _, err := fmt.Fprint(w, i); err != nil {
									t.Error(err)
								}
								for _, err := range []error{harness.Flusher(w).FlushError(), harness.Flusher(w).FlushWait(r.Context()), harness.Flusher(w).Err()} {
									if err != nil {
										t.Error(err)
									}
								}
							}
						})), "GET", "/", nil)
						s.Expect("first,")
						if c, ok := s.Conn.(*net.TCPConn); ok {
							c.CloseWrite()
						} else {
							s.Conn.(interface{ CloseWrite() error }).CloseWrite()
						}
						s.ExpectEnd("012")
					}
					if real {
						run(t, func(h http.Handler) *harness.Server { return harness.Serve(t, p, h) })
						return
					}
					synctest.Test(t, func(t *testing.T) {
						run(t, func(h http.Handler) *harness.Server { return harness.ServeMemory(t, p, h, 0) })
					})
				})
			}
		}
	}
}

// The server's deadline and values are kept.
func TestContextKeepsDeadlineAndValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(time.Hour)
		h := harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			if d, ok := ctx.Deadline(); !ok || !d.Equal(at) {
				t.Error("deadline:", d, ok)
			}
			derived, cancel := context.WithTimeout(ctx, 2*time.Hour)
			defer cancel()
			if d, _ := derived.Deadline(); !d.Equal(at) {
				t.Error("the derived context's deadline:", d)
			}
			if ctx.Value(valueKey{}) != "value" || ctx.Value(http.ServerContextKey) == nil || ctx.Value(http.LocalAddrContextKey) == nil {
				t.Error("values are missing")
			}
			if f, ok := flush.FromContext(derived); !ok || f != harness.Flusher(w) {
				t.Error("FromContext found", f)
			}
		})
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithDeadline(context.WithValue(r.Context(), valueKey{}, "value"), at)
			defer cancel()
			h.ServeHTTP(w, r.WithContext(ctx))
		}), 0)
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd("")
	})
}

// A countingContext counts who waits for its end.
type countingContext struct {
	context.Context
	waiting atomic.Int32
}

// Value keeps package context from reaching behind.
func (c *countingContext) Value(any) any { return nil }

func (c *countingContext) AfterFunc(f func()) (stop func() bool) {
	c.waiting.Add(1)
	after := context.AfterFunc(c.Context, f)
	return func() bool {
		c.waiting.Add(-1)
		return after()
	}
}

// The server's context is left alone until a handler waits for its own, and
// again once the response has ended, however long the server's lives.
func TestContextWatchesNoLongerThanNeeded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := &countingContext{Context: ctx}
	r := httptest.NewRequestWithContext(server, "GET", "/", nil)
	harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Err() != nil || r.Context().Value(valueKey{}) != nil || server.waiting.Load() != 0 {
			t.Error("watched before anybody waits")
		}
		r.Context().Done()
		if n := server.waiting.Load(); n != 1 {
			t.Error("watched", n, "times")
		}
	}).ServeHTTP(httptest.NewRecorder(), r)
	if n := server.waiting.Load(); n != 0 {
		t.Error("still watched", n, "times")
	}
}

// A slowly closing connection delays the verdict of a write that has failed:
// net/http ends its context first, then closes, then returns.
type slowlyClosing struct{ net.Conn }

func (c slowlyClosing) Close() error { <-time.After(time.Second); return c.Conn.Close() }

// The context ends with the server's, before the write has returned; that it was
// the deadline is told there already.
func TestCauseBeforeTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := harness.NewClock()
		ended := make(chan struct{})
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: -1}, func(w http.ResponseWriter, r *http.Request) {
			harness.Flusher(w).SetWriteDeadline(time.Now().Add(time.Minute))
			context.AfterFunc(r.Context(), func() {
				defer close(ended)
				if err := flush.Cause(r.Context()); !errors.Is(err, flush.ErrTimeout) || clock.Now() != time.Minute {
					t.Errorf("cause %v after %v", err, clock.Now())
				}
			})
			w.Write(make([]byte, harness.Much))
		}), 1000, harness.WrapConn(func(c net.Conn) net.Conn { return slowlyClosing{c} }))
		s := harness.Open(t, srv, "GET", "/", nil)
		<-ended
		s.Leave()
		<-time.After(time.Minute)
	})
}

// A context that is kept after the end costs hardly more than the server's
// would, whether somebody has waited for it or not; and it keeps its values, its
// cause and the reason.
func TestKeptContextIsSmall(t *testing.T) {
	const n = 2000
	measure := func(t *testing.T, wrap func(http.Handler) http.Handler, watched bool) int {
		kept := make([]context.Context, n)
		var i int
		h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if kept[i] = r.Context(); watched {
				r.Context().Done()
			}
			io.WriteString(w, "x")
		}))
		heap := func() int {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		before := heap()
		for i = range n {
			ctx, cancel := context.WithCancel(context.WithValue(context.Background(), valueKey{}, "value"))
			h.ServeHTTP(harness.NewPlain(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			cancel()
		}
		after := heap()
		for _, ctx := range kept {
			if ctx.Value(valueKey{}) != "value" || ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled {
				t.Fatal("it has lost what it must keep")
			}
			if _, ok := flush.FromContext(ctx); ok {
				t.Fatal("it keeps the Flusher")
			}
		}
		if wrap := flush.Cause(kept[0]); wrap != flush.ErrClosed && wrap != context.Canceled {
			t.Error("the reason is", wrap)
		}
		return (after - before) / n
	}
	for _, watched := range []bool{false, true} {
		var more []int // the heap is everybody's: what others let go meanwhile is in a measure, too
		for range 3 {
			bare, ours := measure(t, harness.Bare, watched), measure(t, harness.WrappedBy(nil), watched)
			t.Logf("watched %t: %d bytes, bare %d", watched, ours, bare)
			more = append(more, ours-bare)
		}
		if slices.Sort(more); more[1] > 256 {
			t.Errorf("watched %t: %d bytes more than the server's", watched, more[1])
		}
	}
}

// OnClose meets a context that has ended, and so does a handler that goes on after
// it has let its response go and closed it.
func TestContextHasEndedInOnClose(t *testing.T) {
	for name, handle := range map[string]func(t *testing.T, f *flush.Flusher, r *http.Request){
		"returns": func(*testing.T, *flush.Flusher, *http.Request) {},
		"detached": func(t *testing.T, f *flush.Flusher, _ *http.Request) {
			harness.Must(t, f.Detach())
			go f.Close()
		},
		"detached and closed": func(t *testing.T, f *flush.Flusher, r *http.Request) {
			harness.Must(t, f.Detach())
			if err := r.Context().Err(); err != nil {
				t.Errorf("before Close: %v", err)
			}
			harness.Must(t, f.Close())
			if err := r.Context().Err(); err != context.Canceled {
				t.Errorf("after Close: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				ended := make(chan error, 1)
				srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{OnClose: func(r *http.Request, _ flush.Stats, _ error) {
					ended <- r.Context().Err()
				}}, func(w http.ResponseWriter, r *http.Request) {
					handle(t, harness.Flusher(w), r)
				}))
				harness.Open(t, srv, "GET", "/", nil).ExpectEnd("")
				if err := harness.Next(t, ended); err != context.Canceled {
					t.Errorf("the context's error is %v", err)
				}
			})
		})
	}
}
