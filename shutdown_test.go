package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Streams end at once, a download and a completion finish undisturbed, and
// Shutdown waits for them.
func TestShutdown(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		clock := harness.NewClock()
		var g, room flush.Group
		var mu sync.Mutex
		causes := make(map[string]error)
		opts := &flush.Options{Group: &g, OnClose: func(r *http.Request, _ flush.Stats, err error) {
			mu.Lock()
			defer mu.Unlock()
			causes[r.URL.Path] = flush.Cause(r.Context())
			if err != nil {
				t.Errorf("%s ended with %v", r.URL.Path, err)
			}
		}}
		srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/stream":
				harness.EventStream(w, r)
				ctx := r.Context()
				if ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled || flush.Cause(ctx) != flush.ErrShutdown {
					t.Errorf("the context says %v, %v, Cause %v", ctx.Err(), context.Cause(ctx), flush.Cause(ctx))
				}
			case "/added":
				io.WriteString(w, harness.Hello)
				flush.Flush(w, true)
				room.Add(harness.Flusher(w))
				<-r.Context().Done()
				if err := room.Add(harness.Flusher(w)); !errors.Is(err, flush.ErrShutdown) {
					t.Error("added again after Shutdown:", err)
				}
				if err := g.Add(harness.Flusher(w)); !errors.Is(err, flush.ErrShutdown) {
					t.Error("added after Shutdown:", err)
				}
				io.WriteString(w, harness.Goodbye)
			case "/download":
				io.WriteString(w, harness.Hello)
				flush.Flush(w, true)
				select {
				case <-time.After(time.Hour):
				case <-r.Context().Done():
					t.Error("the context of a download ends:", flush.Cause(r.Context()))
				}
				io.WriteString(w, harness.Goodbye)
			}
		}), 0)
		var streams []*harness.Stream
		for _, path := range []string{"/stream", "/download"} {
			s := harness.Open(t, srv, "GET", path, nil)
			s.Expect(harness.Hello)
			streams = append(streams, s)
		}
		ended := harness.Go(func() error { return g.Shutdown(t.Context()) })
		streams[0].ExpectEnd(harness.Goodbye)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatal("Shutdown does not wait for the download:", err)
		default:
		}
		if clock.Now() != 0 {
			t.Errorf("the stream ended after %v", clock.Now())
		}

		// One that comes later ends as soon as it is a stream.
		streams[0].Leave()
		late := harness.Open(t, srv, "GET", "/stream", nil)
		late.ExpectEnd(harness.Hello + harness.Goodbye)
		late.Leave()

		streams[1].ExpectEnd(harness.Goodbye)
		if err := <-ended; err != nil || clock.Now() != time.Hour {
			t.Errorf("Shutdown: %v after %v", err, clock.Now())
		}
		if err := g.Shutdown(t.Context()); err != nil {
			t.Error("again:", err)
		}
		synctest.Wait()
		mu.Lock()
		if causes["/stream"] != flush.ErrShutdown || causes["/download"] != flush.ErrClosed {
			t.Error(causes)
		}
		mu.Unlock()

		// One that was added is a stream whatever its headers say.
		added := harness.Open(t, srv, "GET", "/added", nil)
		added.Expect(harness.Hello)
		synctest.Wait()
		ended = harness.Go(func() error { return room.Shutdown(harness.NoContext) })
		added.ExpectEnd(harness.Goodbye)
		harness.Must(t, <-ended)
		for _, s := range append(streams, added) {
			s.Leave()
		}
	})
}

// A page that comes after Shutdown is no stream: it is left to finish.
func TestShutdownLeavesLatePages(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		var g flush.Group
		harness.Must(t, g.Shutdown(t.Context()))
		srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{Group: &g}, func(w http.ResponseWriter, r *http.Request) {
			done := r.Context().Done()
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, harness.Hello)
			flush.Flush(w, true)
			select {
			case <-done:
				t.Error("the context of a page ends:", flush.Cause(r.Context()))
			case <-time.After(time.Hour):
			}
			io.WriteString(w, harness.Goodbye)
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.ExpectEnd(harness.Hello + harness.Goodbye)
		s.Leave()
	})
}

// What is left when ctx ends is aborted then, and its client sees it though the
// handler takes no notice: a stream, a download that is not read, and one whose
// handler sleeps. Shutdown waits for none of them.
func TestShutdownAbortsAtTheDeadline(t *testing.T) {
	for _, name := range []string{"deaf", "unread", "late"} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				clock := harness.NewClock()
				var g flush.Group
				wake := make(chan struct{})
				ended := make(chan error, 1)
				begun := make(chan struct{})
				opts := &flush.Options{Group: &g, SendTimeout: -1, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					if name == "late" {
						<-begun
					}
					w.Header().Set("Content-Type", "text/event-stream")
					io.WriteString(w, harness.Hello)
					flush.Flush(w, true)
					if name == "unread" {
						if _, err := w.Write(make([]byte, harness.Much)); !errors.Is(err, flush.ErrShutdown) {
							t.Error("Write:", err)
						}
						return
					}
					<-wake
					if _, err := io.WriteString(w, "late"); !errors.Is(err, context.DeadlineExceeded) {
						t.Error("Write after the deadline:", err)
					}
				}), 1000)
				s := harness.Open(t, srv, "GET", "/", nil)
				if name != "late" {
					s.Expect(harness.Hello)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				synctest.Wait()
				if name == "late" {
					time.AfterFunc(time.Second, func() { close(begun) })
				}
				err := g.Shutdown(ctx)
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, flush.ErrShutdown) || clock.Now() != 10*time.Second {
					t.Errorf("Shutdown: %v after %v", err, clock.Now())
				}
				if p == harness.HTTP2 && name != "unread" {
					if _, _, end := s.Rest(); end != harness.Cut { // while the handler sleeps
						t.Error("the response ended", end)
					}
				}
				close(wake)
				if got := <-ended; got != err {
					t.Errorf("OnClose got %v, want %v", got, err)
				}
				if _, _, end := s.Rest(); end == harness.Complete {
					t.Error("the response looks complete")
				}
				if g.Len() != 0 {
					t.Errorf("%d members are left", g.Len())
				}
				s.Leave()
			})
		})
	}
}

// A known connection shows the cut though the handler never returns.
func TestShutdownIsSeenOnAKnownConnection(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			var g flush.Group
			park := harness.NewPark(t)
			srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{Group: &g}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, harness.Hello)
				flush.Flush(w, true)
				park.Here()
			}), harness.Configure(func(s *http.Server) { s.ConnContext = flush.ConnContext }))
			s := harness.Open(t, srv, "GET", "/", nil)
			s.Expect(harness.Hello)
			park.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := g.Shutdown(ctx); !errors.Is(err, context.Canceled) {
				t.Error("Shutdown:", err)
			}
			if _, _, end := s.Rest(); end != harness.Cut {
				t.Error("the response ended", end)
			}
			park.Resume()
		})
	}
}

// A call of the server that cannot be ended is not waited for.
func TestShutdownWaitsForNoStuckCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := harness.NewClock()
		var g flush.Group
		s := harness.NewSink(t)
		f := flush.New(s, nil, nil) // no deadlines
		harness.Must(t, g.Add(f))
		s.Hold(0)
		f.WriteString("x")
		f.FlushAsync()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || clock.Now() != time.Minute {
			t.Errorf("%v after %v", err, clock.Now())
		}
		if err := f.Err(); !errors.Is(err, flush.ErrShutdown) {
			t.Error(err)
		}
		s.Release()
		f.Close()
	})
}

// 200 clients of handlers that know nothing: each gets its goodbye and a proper
// end, one that does not read is waited for until the context ends and is cut, a
// request under way is answered, and nothing is left. With Install the server's own
// Shutdown is all that is called, and is over with the last response.
func TestShutdownOfAServer(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		for _, how := range []string{"Group", "Group, and one is stuck", "Install"} {
			t.Run(fmt.Sprintf("%v/%s", p, how), func(t *testing.T) {
				stuck, installed := how == "Group, and one is stuck", how == "Install"
				before := descriptors(t)
				var g flush.Group
				var streams []*harness.Stream
				t.Run("server", func(t *testing.T) {
					park := harness.NewPark(t)
					handler := func(w http.ResponseWriter, r *http.Request) {
						switch r.URL.Path {
						case "/":
							harness.EventStream(w, r)
						case "/page":
							park.Here()
							io.WriteString(w, "page")
						case "/stuck":
							w.Write(make([]byte, harness.Much))
						}
					}
					opts := &flush.Options{Group: &g}
					var h http.Handler = http.HandlerFunc(handler)
					install := func(srv *http.Server) { flush.Install(srv, opts) }
					if !installed {
						h, install = harness.Wrapped(opts, handler), func(*http.Server) {}
					}
					srv := harness.Serve(t, p, h, harness.SmallBuffers, harness.Configure(install))
					for range 200 {
						s := harness.Open(t, srv, "GET", "/", nil)
						s.Expect(harness.Hello)
						streams = append(streams, s)
					}
					page := harness.Open(t, srv, "GET", "/page", nil)
					park.Wait()
					patient, cancel := context.WithTimeout(t.Context(), harness.Patience())
					defer cancel()
					ctx, giveUp := patient, func() {}
					if stuck {
						unread := harness.Open(t, srv, "GET", "/stuck", nil)
						unread.Response()
						defer func() {
							if _, _, end := unread.Rest(); end != harness.Cut {
								t.Error("the response that was not read ended", end)
							}
							unread.Leave()
						}()
						ctx, giveUp = context.WithCancel(ctx)
						defer giveUp()
					}
					shutdown := g.Shutdown
					if installed {
						shutdown = srv.Shutdown
					}
					shut := harness.Go(func() error { return shutdown(ctx) })
					for _, s := range streams {
						s.ExpectEnd(harness.Goodbye)
					}
					park.Resume()
					if page.Response().StatusCode != 200 {
						t.Error(page.Response().Status)
					}
					page.ExpectEnd("page")
					ended := time.Now()
					if stuck && len(shut) > 0 {
						t.Error("Shutdown has not waited for the response that is stuck")
					}
					giveUp()
					if err := <-shut; stuck != errors.Is(err, context.Canceled) || !stuck && err != nil {
						t.Error("Shutdown:", err)
					}
					if installed {
						t.Logf("Shutdown returned %v after the last response", time.Since(ended))
					}
					if p == harness.HTTP2 {
						srv.Client().CloseIdleConnections()
					}
					for _, s := range append(streams, page) {
						s.Leave()
					}
					if !stuck {
						if err := srv.Shutdown(patient); err != nil {
							t.Error("the server's Shutdown:", err)
						}
					}
				})
				if g.Len() != 0 {
					t.Errorf("%d members are left", g.Len())
				}
				harness.WaitFor(t, func() bool { return descriptors(t) <= before }) // what has been closed on the other side
			})
		}
	}
}

// A detached response has no handler that could say goodbye: the goodbye is a
// Broadcast before, and Shutdown closes it with what is queued, whoever joined it.
func TestShutdownOfDetachedResponses(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP10, harness.HTTP2} {
		for _, joins := range []string{"Add", "Options.Group"} {
			t.Run(fmt.Sprintf("%v/%s", p, joins), func(t *testing.T) {
				var g flush.Group
				ended, joined := make(chan error, 3), make(chan struct{}, 3)
				opts := &flush.Options{OnClose: func(r *http.Request, _ flush.Stats, err error) {
					ended <- errors.Join(err, flush.Cause(r.Context()))
				}}
				if joins == "Options.Group" {
					opts.Group = &g
				}
				srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, harness.Hello)
					f := harness.Flusher(w)
					harness.Must(t, f.Detach())
					defer func() { joined <- struct{}{} }()
					if joins == "Add" {
						if err := g.Add(f); err != nil && !errors.Is(err, flush.ErrShutdown) {
							t.Error(err)
						}
					}
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Expect(harness.Hello)
				<-joined
				if missed := g.Broadcast([]byte(harness.Goodbye)); len(missed) > 0 {
					t.Error("it has missed the goodbye")
				}
				ctx, cancel := context.WithTimeout(t.Context(), harness.Patience())
				defer cancel()
				harness.Must(t, g.Shutdown(ctx))
				s.ExpectEnd(harness.Goodbye)
				if err := <-ended; !errors.Is(err, flush.ErrShutdown) || errors.Is(err, flush.ErrClientGone) {
					t.Error("OnClose:", err)
				}
				if joins == "Options.Group" {
					late := harness.Open(t, srv, "GET", "/", nil)
					late.ExpectEnd(harness.Hello)
					late.Leave()
				}
				s.Leave()
			})
		}
	}
}

// One that does not read costs the deadline, and is cut.
func TestShutdownCutsDetachedResponses(t *testing.T) {
	var g flush.Group
	ended, joined := make(chan error, 1), make(chan struct{})
	opts := &flush.Options{MaxPending: 2 * harness.Much, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, harness.Hello)
		f := harness.Flusher(w)
		harness.Must(t, f.Detach())
		harness.Must(t, f.TryWrite(make([]byte, harness.Much)))
		f.FlushAsync()
		harness.Must(t, g.Add(f))
		close(joined)
	}), harness.SmallBuffers)
	s := harness.Open(t, srv, "GET", "/", nil)
	s.Expect(harness.Hello)
	<-joined
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := g.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("Shutdown:", err)
	}
	if err := <-ended; !errors.Is(err, flush.ErrShutdown) {
		t.Error("OnClose:", err)
	}
	if _, _, end := s.Rest(); end != harness.Cut {
		t.Error("it ended", end)
	}
}

// A lateDeadline is a server whose deadlines take a while to be set.
type lateDeadline struct {
	harness.DeadlineSink
	takes time.Duration
}

func (s lateDeadline) SetWriteDeadline(at time.Time) error {
	time.Sleep(s.takes)
	return s.DeadlineSink.SetWriteDeadline(at)
}

// Shutdown returns when its cuts have been shown, but waits for no writer longer than
// a second.
func TestShutdownWaitsForItsCuts(t *testing.T) {
	for takes, want := range map[time.Duration]time.Duration{300 * time.Millisecond: 300 * time.Millisecond, time.Hour: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var g flush.Group
			s := harness.NewSink(t)
			f := flush.New(lateDeadline{harness.DeadlineSink{Sink: s}, takes}, nil, &flush.Options{SendTimeout: -1})
			harness.Must(t, g.Add(f))
			s.Hold(0)
			written := harness.Go(func() error { io.WriteString(f, "x"); return f.FlushWait(harness.NoContext) })
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			clock := harness.NewClock()
			if err := g.Shutdown(ctx); !errors.Is(err, flush.ErrShutdown) || clock.Now() != want {
				t.Errorf("deadlines take %v: %v after %v, want %v", takes, err, clock.Now(), want)
			}
			if err := <-written; !errors.Is(err, flush.ErrShutdown) {
				t.Errorf("FlushWait: %v", err)
			}
			s.Release()
			f.Close()
		})
	}
}

// A Shutdown that its context ends says so, and why that ended; so do those it cut.
func TestShutdownSaysWhyItEnded(t *testing.T) {
	errOwn := errors.New("own")
	for _, cause := range []error{nil, errOwn} {
		synctest.Test(t, func(t *testing.T) {
			var g flush.Group
			f := flush.New(harness.DeadlineSink{Sink: harness.NewSink(t)}, nil, nil)
			harness.Must(t, g.Add(f))
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(cause)
			for _, err := range []error{g.Shutdown(ctx), f.Err()} {
				if !errors.Is(err, flush.ErrShutdown) || !errors.Is(err, context.Canceled) || errors.Is(err, errOwn) != (cause != nil) {
					t.Errorf("cause %v: %v", cause, err)
				}
			}
			f.Close()
		})
	}
}
