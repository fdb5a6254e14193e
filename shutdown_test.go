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
)

// An eventStream is a handler of server-sent events as they are written: it
// knows of no shutdown, only of its context. It says goodbye.
func eventStream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	io.WriteString(w, "data: hello\n\n")
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
	io.WriteString(w, "data: goodbye\n\n")
}

const hello, goodbye = "data: hello\n\n", "data: goodbye\n\n"

// Streams end at once, a download and a completion finish undisturbed, and
// Shutdown waits for them.
func TestShutdown(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		clock := newClock()
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
		srv := serveMemory(t, p, wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/stream":
				eventStream(w, r)
				ctx := r.Context()
				if ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled || flush.Cause(ctx) != flush.ErrShutdown {
					t.Errorf("the context says %v, %v, Cause %v", ctx.Err(), context.Cause(ctx), flush.Cause(ctx))
				}
			case "/added":
				io.WriteString(w, hello)
				flush.Flush(w, true)
				room.Add(flusher(w))
				<-r.Context().Done()
				if err := room.Add(flusher(w)); !errors.Is(err, flush.ErrShutdown) {
					t.Error("added again after Shutdown:", err)
				}
				if err := g.Add(flusher(w)); !errors.Is(err, flush.ErrShutdown) {
					t.Error("added after Shutdown:", err)
				}
				io.WriteString(w, goodbye)
			case "/download":
				io.WriteString(w, hello)
				flush.Flush(w, true)
				select {
				case <-time.After(time.Hour):
				case <-r.Context().Done():
					t.Error("the context of a download ends:", flush.Cause(r.Context()))
				}
				io.WriteString(w, goodbye)
			}
		}), 0)
		var streams []*stream
		for _, path := range []string{"/stream", "/download"} {
			s := open(t, srv, "GET", path, nil)
			s.expect(hello)
			streams = append(streams, s)
		}
		ended := after(func() error { return g.Shutdown(t.Context()) })
		streams[0].expectEnd(goodbye)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatal("Shutdown does not wait for the download:", err)
		default:
		}
		if clock.now() != 0 {
			t.Errorf("the stream ended after %v", clock.now())
		}

		// One that comes later ends as soon as it is a stream.
		streams[0].leave()
		late := open(t, srv, "GET", "/stream", nil)
		late.expectEnd(hello + goodbye)
		late.leave()

		streams[1].expectEnd(goodbye)
		if err := <-ended; err != nil || clock.now() != time.Hour {
			t.Errorf("Shutdown: %v after %v", err, clock.now())
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
		added := open(t, srv, "GET", "/added", nil)
		added.expect(hello)
		synctest.Wait()
		ended = after(func() error { return room.Shutdown(noContext) })
		added.expectEnd(goodbye)
		must(t, <-ended)
		for _, s := range append(streams, added) {
			s.leave()
		}
	})
}

// What is left when ctx ends is aborted then, and its client sees it though the
// handler takes no notice: a stream, a download that is not read, and one whose
// handler sleeps. Shutdown waits for none of them.
func TestShutdownAbortsAtTheDeadline(t *testing.T) {
	for _, name := range []string{"deaf", "unread", "late"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				clock := newClock()
				var g flush.Group
				wake := make(chan struct{})
				ended := make(chan error, 1)
				begun := make(chan struct{})
				opts := &flush.Options{Group: &g, SendTimeout: -1, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
				srv := serveMemory(t, p, wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					if name == "late" {
						<-begun
					}
					w.Header().Set("Content-Type", "text/event-stream")
					io.WriteString(w, hello)
					flush.Flush(w, true)
					if name == "unread" {
						if _, err := w.Write(make([]byte, much)); !errors.Is(err, flush.ErrShutdown) {
							t.Error("Write:", err)
						}
						return
					}
					<-wake
					if _, err := io.WriteString(w, "late"); !errors.Is(err, context.DeadlineExceeded) {
						t.Error("Write after the deadline:", err)
					}
				}), 1000)
				s := open(t, srv, "GET", "/", nil)
				if name != "late" {
					s.expect(hello)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				synctest.Wait()
				if name == "late" {
					time.AfterFunc(time.Second, func() { close(begun) })
				}
				err := g.Shutdown(ctx)
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, flush.ErrShutdown) || clock.now() != 10*time.Second {
					t.Errorf("Shutdown: %v after %v", err, clock.now())
				}
				if p == h2 && name != "unread" {
					if _, _, end := s.rest(); end != cut { // while the handler sleeps
						t.Error("the response ended", end)
					}
				}
				close(wake)
				if got := <-ended; got != err {
					t.Errorf("OnClose got %v, want %v", got, err)
				}
				if _, _, end := s.rest(); end == complete {
					t.Error("the response looks complete")
				}
				if g.Len() != 0 {
					t.Errorf("%d members are left", g.Len())
				}
				s.leave()
			})
		})
	}
}

// A known connection shows the cut though the handler never returns.
func TestShutdownIsSeenOnAKnownConnection(t *testing.T) {
	for _, p := range []proto{http1, https1} {
		t.Run(p.String(), func(t *testing.T) {
			var g flush.Group
			park := newPark(t)
			srv := serve(t, p, wrapped(&flush.Options{Group: &g}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, hello)
				flush.Flush(w, true)
				park.here()
			}), configure(func(s *http.Server) { s.ConnContext = flush.ConnContext }))
			s := open(t, srv, "GET", "/", nil)
			s.expect(hello)
			park.wait()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := g.Shutdown(ctx); !errors.Is(err, context.Canceled) {
				t.Error("Shutdown:", err)
			}
			if _, _, end := s.rest(); end != cut {
				t.Error("the response ended", end)
			}
			park.resume()
		})
	}
}

// A call of the server that cannot be ended is not waited for.
func TestShutdownWaitsForNoStuckCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newClock()
		var g flush.Group
		s := newSink(t)
		f := flush.New(s, nil, nil) // no deadlines
		must(t, g.Add(f))
		s.hold(0)
		f.WriteString("x")
		f.FlushAsync()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || clock.now() != time.Minute {
			t.Errorf("%v after %v", err, clock.now())
		}
		if err := f.Err(); !errors.Is(err, flush.ErrShutdown) {
			t.Error(err)
		}
		s.release()
		f.Close()
	})
}

// 200 clients of handlers that know nothing: each gets its goodbye and a proper
// end, one that does not read costs the deadline and is cut, a request under way
// is answered, and nothing is left. With Install the server's own Shutdown is all
// that is called, and is over with the last response.
func TestShutdownOfAServer(t *testing.T) {
	for _, p := range []proto{http1, https1, h2} {
		for _, how := range []string{"Group", "Group, and one is stuck", "Install"} {
			t.Run(fmt.Sprintf("%v/%s", p, how), func(t *testing.T) {
				stuck, installed := how == "Group, and one is stuck", how == "Install"
				before := descriptors(t)
				var g flush.Group
				var streams []*stream
				t.Run("server", func(t *testing.T) {
					park := newPark(t)
					handler := func(w http.ResponseWriter, r *http.Request) {
						switch r.URL.Path {
						case "/":
							eventStream(w, r)
						case "/page":
							park.here()
							io.WriteString(w, "page")
						case "/stuck":
							w.Write(make([]byte, much))
						}
					}
					opts := &flush.Options{Group: &g}
					var h http.Handler = http.HandlerFunc(handler)
					install := func(srv *http.Server) { flush.Install(srv, opts) }
					if !installed {
						h, install = wrapped(opts, handler), func(*http.Server) {}
					}
					srv := serve(t, p, h, smallBuffers, configure(install))
					for range 200 {
						s := open(t, srv, "GET", "/", nil)
						s.expect(hello)
						streams = append(streams, s)
					}
					page := open(t, srv, "GET", "/page", nil)
					park.wait()
					patient, cancel := context.WithTimeout(t.Context(), patience())
					defer cancel()
					ctx := context.Context(patient)
					if stuck {
						unread := open(t, srv, "GET", "/stuck", nil)
						unread.response()
						defer func() {
							if _, _, end := unread.rest(); end != cut {
								t.Error("the response that was not read ended", end)
							}
							unread.leave()
						}()
						short, cancel := context.WithTimeout(ctx, 2*time.Second)
						defer cancel()
						ctx = short
					}
					shutdown := g.Shutdown
					if installed {
						shutdown = srv.Shutdown
					}
					shut := after(func() error { return shutdown(ctx) })
					for _, s := range streams {
						s.expectEnd(goodbye)
					}
					park.resume()
					if page.response().StatusCode != 200 {
						t.Error(page.response().Status)
					}
					page.expectEnd("page")
					ended := time.Now()
					if err := <-shut; stuck != errors.Is(err, context.DeadlineExceeded) || !stuck && err != nil {
						t.Error("Shutdown:", err)
					}
					if installed {
						t.Logf("Shutdown returned %v after the last response", time.Since(ended))
					}
					if p == h2 {
						srv.client().CloseIdleConnections()
					}
					for _, s := range append(streams, page) {
						s.leave()
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
				waitFor(t, func() bool { return descriptors(t) <= before }) // what has been closed on the other side
			})
		}
	}
}

// A detached response has no handler that could say goodbye: the goodbye is a
// Broadcast before, and Shutdown closes it with what is queued, whoever joined it.
func TestShutdownOfDetachedResponses(t *testing.T) {
	for _, p := range []proto{http1, https1, http10, h2} {
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
				srv := serve(t, p, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, hello)
					f := flusher(w)
					must(t, f.Detach())
					defer func() { joined <- struct{}{} }()
					if joins == "Add" {
						if err := g.Add(f); err != nil && !errors.Is(err, flush.ErrShutdown) {
							t.Error(err)
						}
					}
				}))
				s := open(t, srv, "GET", "/", nil)
				s.expect(hello)
				<-joined
				if missed := g.Broadcast([]byte(goodbye)); len(missed) > 0 {
					t.Error("it has missed the goodbye")
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience())
				defer cancel()
				must(t, g.Shutdown(ctx))
				s.expectEnd(goodbye)
				if err := <-ended; !errors.Is(err, flush.ErrShutdown) || errors.Is(err, flush.ErrClientGone) {
					t.Error("OnClose:", err)
				}
				if joins == "Options.Group" {
					late := open(t, srv, "GET", "/", nil)
					late.expectEnd(hello)
					late.leave()
				}
				s.leave()
			})
		}
	}
}

// One that does not read costs the deadline, and is cut.
func TestShutdownCutsDetachedResponses(t *testing.T) {
	var g flush.Group
	ended, joined := make(chan error, 1), make(chan struct{})
	opts := &flush.Options{MaxPending: 2 * much, OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
	srv := serve(t, http1, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, hello)
		f := flusher(w)
		must(t, f.Detach())
		must(t, f.TryWrite(make([]byte, much)))
		f.FlushAsync()
		must(t, g.Add(f))
		close(joined)
	}), smallBuffers)
	s := open(t, srv, "GET", "/", nil)
	s.expect(hello)
	<-joined
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := g.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("Shutdown:", err)
	}
	if err := <-ended; !errors.Is(err, flush.ErrShutdown) {
		t.Error("OnClose:", err)
	}
	if _, _, end := s.rest(); end != cut {
		t.Error("it ended", end)
	}
}
