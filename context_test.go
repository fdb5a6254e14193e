package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

type valueKey struct{}

// What context.Cause of the handler's request says after each way to end.
func TestContextCause(t *testing.T) {
	own := errors.New("own")
	for _, test := range []struct {
		name  string
		above func(ctx context.Context) context.Context // what stands above NewHandler
		h     func(f *flush.Flusher, ctx context.Context, s *stream)
		want  error // the cause
		err   error // ctx.Err
	}{
		{"return", nil, func(*flush.Flusher, context.Context, *stream) {}, flush.ErrClosed, context.Canceled},
		{"Close", nil, func(f *flush.Flusher, ctx context.Context, _ *stream) {
			f.Close()
			if context.Cause(ctx) != flush.ErrClosed {
				t.Error("not at once:", context.Cause(ctx))
			}
		}, flush.ErrClosed, context.Canceled},
		{"Abort", nil, func(f *flush.Flusher, _ context.Context, _ *stream) { f.Abort(own) }, own, context.Canceled},
		{"client gone", nil, func(_ *flush.Flusher, ctx context.Context, s *stream) { s.leave(); <-ctx.Done() }, flush.ErrClientGone, context.Canceled},
		{"timeout", nil, func(f *flush.Flusher, ctx context.Context, _ *stream) { f.Write(make([]byte, much)); <-ctx.Done() }, flush.ErrTimeout, context.Canceled},
		{"cancelled above", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx
		}, func(_ *flush.Flusher, ctx context.Context, _ *stream) { <-ctx.Done() }, flush.ErrClientGone, context.Canceled},
		{"cause above", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(own) })
			return ctx
		}, func(_ *flush.Flusher, ctx context.Context, _ *stream) { <-ctx.Done() }, own, context.Canceled},
		{"deadline above", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			context.AfterFunc(ctx, cancel)
			return ctx
		}, func(_ *flush.Flusher, ctx context.Context, _ *stream) { <-ctx.Done() }, context.DeadlineExceeded, context.DeadlineExceeded},
		{"ended before", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(own)
			return ctx
		}, func(_ *flush.Flusher, ctx context.Context, _ *stream) { <-ctx.Done() }, own, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				ended := make(chan context.Context, 1)
				opened := make(chan *stream, 1)
				h := wrapped(&flush.Options{SendTimeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
					defer func() { ended <- r.Context() }()
					derived, cancel := context.WithCancel(r.Context())
					defer cancel()
					test.h(flusher(w), r.Context(), <-opened)
					synctest.Wait() // derived contexts end just after
					if r.Context().Err() != nil && (derived.Err() == nil || context.Cause(derived) != context.Cause(r.Context())) {
						t.Error("the derived context says", context.Cause(derived))
					}
				})
				srv := serveMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if test.above != nil {
						r = r.WithContext(test.above(r.Context()))
					}
					h.ServeHTTP(w, r)
				}), 1000)
				s := open(t, srv, "GET", "/", nil)
				opened <- s
				ctx := <-ended
				synctest.Wait()
				if got := context.Cause(ctx); !errors.Is(got, test.want) || ctx.Err() != test.err {
					t.Errorf("cause %v, err %v, want %v, %v", got, ctx.Err(), test.want, test.err)
				}
				s.leave()
			})
		})
	}
}

// A handler that panics leaves a context that has not ended well.
func TestContextCauseAfterPanic(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	var ctx context.Context
	func() {
		defer func() { recover() }()
		wrapped(nil, func(_ http.ResponseWriter, r *http.Request) { ctx = r.Context(); panic("x") }).ServeHTTP(httptest.NewRecorder(), r)
	}()
	if err := context.Cause(ctx); err == nil || errors.Is(err, flush.ErrClosed) {
		t.Error("cause:", err)
	}
}

// A client that leaves: writing fails with ErrClientGone before long, it
// sticks, and everything agrees on it.
func TestClientGone(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		t.Run(mode.String(), func(t *testing.T) {
			eachProto(t, func(t *testing.T, p proto) {
				ended := make(chan error, 1)
				opts := &flush.Options{Flush: mode, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
				srv := serve(t, p, wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					flush.Flush(w, true)
					f := flusher(w)
					var err error
					for begin := time.Now(); err == nil && time.Since(begin) < patience(); {
						if _, err = w.Write(make([]byte, 10_000)); err == nil {
							err = f.FlushError()
						}
					}
					for _, err := range []error{err, f.Err(), flush.Flush(w, true), context.Cause(r.Context())} {
						if !errors.Is(err, flush.ErrClientGone) || errors.Is(err, flush.ErrTimeout) {
							t.Error(err)
						}
					}
					if _, err := w.Write([]byte("x")); !errors.Is(err, flush.ErrClientGone) {
						t.Error("later:", err)
					}
				}), smallBuffers)
				s := open(t, srv, "GET", "/", nil)
				s.header()
				s.leave()
				if err := <-ended; !errors.Is(err, flush.ErrClientGone) {
					t.Error("OnClose:", err)
				}
			})
		})
	}
}

// With no deadline left there is none to blame when the client leaves.
func TestClientGoneAfterLiftedDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		ended := make(chan error, 1)
		opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
		srv := serveMemory(t, p, wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
			flusher(w).SetWriteDeadline(time.Time{})
			flush.Flush(w, true)
			<-r.Context().Done()
			if err := context.Cause(r.Context()); !errors.Is(err, flush.ErrClientGone) {
				t.Error("cause:", err)
			}
			w.Write(make([]byte, much))
		}), 1000, configure(func(s *http.Server) { s.WriteTimeout = time.Second }))
		s := open(t, srv, "GET", "/", nil)
		s.header()
		<-time.After(time.Minute)
		s.leave()
		if err := <-ended; !errors.Is(err, flush.ErrClientGone) || errors.Is(err, flush.ErrTimeout) {
			t.Error("OnClose:", err)
		}
	})
}

// A client that half-closes its connection ends the context, and still gets
// everything: the end of the context fails no Write and no Flush.
func TestHalfClosedClientGetsEverything(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		for _, p := range []proto{http1, http10} {
			for _, real := range []bool{true, false} {
				t.Run(fmt.Sprint(mode, p, real), func(t *testing.T) {
					run := func(t *testing.T, serve func(h http.Handler) *server) {
						s := open(t, serve(wrapped(&flush.Options{Flush: mode}, func(w http.ResponseWriter, r *http.Request) {
							io.WriteString(w, "first,")
							flush.Flush(w, true)
							<-r.Context().Done()
							if err := context.Cause(r.Context()); !errors.Is(err, flush.ErrClientGone) {
								t.Error("cause:", err)
							}
							for i := range 3 {
								if _, err := fmt.Fprint(w, i); err != nil {
									t.Error(err)
								}
								for _, err := range []error{flusher(w).FlushError(), flusher(w).FlushWait(r.Context()), flusher(w).Err()} {
									if err != nil {
										t.Error(err)
									}
								}
							}
						})), "GET", "/", nil)
						s.expect("first,")
						if c, ok := s.conn.(*net.TCPConn); ok {
							c.CloseWrite()
						} else {
							s.conn.(interface{ CloseWrite() error }).CloseWrite()
						}
						s.expectEnd("012")
					}
					if real {
						run(t, func(h http.Handler) *server { return serve(t, p, h) })
						return
					}
					synctest.Test(t, func(t *testing.T) {
						run(t, func(h http.Handler) *server { return serveMemory(t, p, h, 0) })
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
		h := wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
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
			if f, ok := flush.FromContext(derived); !ok || f != w {
				t.Error("FromContext found", f)
			}
		})
		srv := serveMemory(t, http1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithDeadline(context.WithValue(r.Context(), valueKey{}, "value"), at)
			defer cancel()
			h.ServeHTTP(w, r.WithContext(ctx))
		}), 0)
		open(t, srv, "GET", "/", nil).expectEnd("")
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
	wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
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

// The cause of a passed deadline is the write's own verdict, not the end of the server's
// context before it.
func TestContextWaitsForTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newClock()
		ended := make(chan struct{})
		srv := serveMemory(t, http1, wrapped(&flush.Options{SendTimeout: -1}, func(w http.ResponseWriter, r *http.Request) {
			flusher(w).SetWriteDeadline(time.Now().Add(time.Minute))
			context.AfterFunc(r.Context(), func() {
				defer close(ended)
				if err := context.Cause(r.Context()); !errors.Is(err, flush.ErrTimeout) || clock.now() != time.Minute+time.Second {
					t.Errorf("cause %v after %v", err, clock.now())
				}
			})
			w.Write(make([]byte, much))
		}), 1000, wrapConn(func(c net.Conn) net.Conn { return slowlyClosing{c} }))
		s := open(t, srv, "GET", "/", nil)
		<-ended
		s.leave()
		<-time.After(time.Minute)
	})
}
