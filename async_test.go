package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// carriers returns how many goroutines of the package run in the background.
func carriers() int {
	n := 0
	for _, stack := range besideUs() {
		if strings.Contains(stack, "\ncreated by github.com/fa492104/flush.") {
			n++
		}
	}
	return n
}

// besideUs returns the stacks of all goroutines, or of those in the bubble of the caller
// if that is in one: what ran outside may still end.
func besideUs() (stacks []string) {
	own := make([]byte, 64)
	own = own[:runtime.Stack(own, false)]
	for _, stack := range harness.Goroutines() {
		if bubbleOf(stack) == bubbleOf(string(own)) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// bubbleOf returns the bubble that a goroutine's stack says it is in; "": in none.
func bubbleOf(stack string) string {
	head, _, _ := strings.Cut(stack, "\n")
	_, bubble, _ := strings.Cut(head, "synctest bubble ")
	return bubble
}

// events returns n numbered events of size bytes each.
func events(n, size int) (list []string, all string) {
	for i := range n {
		e := fmt.Sprintf("event %d ", i)
		list = append(list, e+strings.Repeat("x", max(size-len(e)-1, 0))+"\n")
	}
	return list, strings.Join(list, "")
}

// Stats counts a flush as soon as it has been asked for, also while a carrier is at work.
func TestStatsCountsFlushesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		s.Hold(0)
		harness.MustWrite(t, f, "event")
		for n := range int64(5) {
			harness.Must(t, f.FlushAsync())
			synctest.Wait() // the first is in the server
			if got := f.Stats().Flushes; got != n+1 {
				t.Errorf("%d flushes, want %d", got, n+1)
			}
		}
		s.Release()
		harness.Must(t, f.Close())
	})
}

// Flushes asked for while a slow write is under way cost nothing and become one.
func TestAsyncCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		s.Hold(0)
		list, all := events(1000, 40)
		for i, e := range list {
			harness.MustWrite(t, f, e)
			harness.Must(t, f.FlushAsync())
			if i == 0 {
				synctest.Wait() // the carrier is in its first call
			}
		}
		if n := carriers(); n != 1 {
			t.Errorf("%d carriers", n)
		}
		s.Release()
		synctest.Wait()
		if s.Body() != all {
			t.Errorf("got %q", harness.Clip(s.Got))
		}
		if at, n := s.LastFlush(); at != len(all) || n != 2 {
			t.Errorf("%d flushes, the last after %d bytes", n, at)
		}
		if st := f.Stats(); st.Flushes != 1000 || st.Pushes != 2 || st.Waited != 0 {
			t.Errorf("%+v", st)
		}
		if n := carriers(); n != 0 {
			t.Errorf("%d carriers on an idle stream", n)
		}
		harness.Must(t, f.Close())
	})
}

// What has been asked for so often that the count of it goes round is seen: the flush
// is done, and of its bytes alone.
func TestAsyncCountGoesRound(t *testing.T) {
	for _, n := range []uint32{1, 1<<31 - 1, 1<<32 - 1} {
		synctest.Test(t, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			s.Hold(0)
			harness.MustWrite(t, f, "a")
			harness.Must(t, f.FlushAsync())
			synctest.Wait() // the carrier is in its first call
			harness.MustWrite(t, f, "b")
			half := n / 2
			flush.AskAsync(f, half)
			harness.Must(t, f.FlushAsync())
			flush.AskAsync(f, n-half-1)
			harness.Must(t, f.FlushAsync())
			harness.MustWrite(t, f, "c")
			s.Release()
			synctest.Wait()
			if at, k := s.LastFlush(); at != 2 || k != 2 || s.Body() != "ab" {
				t.Errorf("%d: %d flushes, the last after %d bytes of %q", n, k, at, s.Body())
			}
			if got := f.Stats().Flushes; got != int64(n)+2 {
				t.Errorf("%d: %d flushes counted", n, got)
			}
			harness.Must(t, f.Close())
		})
	}
}

// Bytes written after a FlushAsync are not part of that flush, however they
// enter and whatever the carrier is doing.
func TestAsyncFlushEndsWhereItWasAsked(t *testing.T) {
	big := strings.Repeat("b", 10000)
	ask := map[string]func(f *flush.Flusher) error{
		"FlushAsync":      (*flush.Flusher).FlushAsync,
		"Flush":           func(f *flush.Flusher) error { return flush.Flush(f, false) },
		"FlushWait ended": func(f *flush.Flusher) error { return harness.EndedWait(f) },
	}
	write := map[string]func(f *flush.Flusher, s string) (int, error){
		"Write":       func(f *flush.Flusher, s string) (int, error) { return f.Write([]byte(s)) },
		"WriteString": (*flush.Flusher).WriteString,
		"ReadFrom": func(f *flush.Flusher, s string) (int, error) {
			n, err := f.ReadFrom(strings.NewReader(s))
			return int(n), err
		},
	}
	for an, ask := range ask {
		for wn, write := range write {
			for _, size := range []int{1, 100, 4063, 4064, 10000} {
				for _, after := range []int{0, 1, 5000} {
					t.Run(fmt.Sprintf("%s/%s/%d/%d", an, wn, size, after), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							s := harness.NewSink(t)
							f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{BufferSize: 1 << 20, MaxPending: 1 << 20})
							s.Hold(0)
							harness.MustWrite(t, f, "a")
							harness.Must(t, f.FlushAsync())
							synctest.Wait()
							for range 2 { // a flush before the write under test, and one after
								if n, err := write(f, big[:size]); n != size || err != nil {
									t.Fatal(n, err)
								}
								harness.Must(t, ask(f))
							}
							want := 1 + 2*size
							if after > 0 {
								if n, err := write(f, big[:after]); n != after || err != nil {
									t.Fatal(n, err)
								}
							}
							s.Release()
							synctest.Wait()
							if at, _ := s.LastFlush(); at != want || len(s.Body()) != want || f.Buffered() != after {
								t.Errorf("flushed %d of %d written, %d held; want %d, %d held", at, len(s.Body()), f.Buffered(), want, after)
							}
							harness.Must(t, f.Close())
							if len(s.Body()) != want+after {
								t.Errorf("%d bytes in the end", len(s.Body()))
							}
						})
					})
				}
			}
		}
	}
}

// The first asynchronous flush makes the response asynchronous, even if it finds
// a carrier at work that was started for a wait.
func TestAsyncFromTheFirstFlushOn(t *testing.T) {
	for _, wait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			s.Hold(0)
			harness.MustWrite(t, f, "a")
			if wait {
				ctx, cancel := context.WithCancel(t.Context())
				go func() { f.FlushWait(ctx) }()
				synctest.Wait()
				cancel()
				synctest.Wait()
			}
			harness.Must(t, f.FlushAsync())
			s.Hold(1) // the carrier ends
			synctest.Wait()
			if n := carriers(); n != 0 {
				t.Fatalf("%d carriers", n)
			}
			big := strings.Repeat("b", 20000)
			written := false
			go func() {
				harness.MustWrite(t, f, big)
				written = true
			}()
			synctest.Wait()
			if !written {
				t.Error("a Write after the first asynchronous flush works on the network")
			}
			s.Release()
			harness.Must(t, f.Close())
			if s.Body() != "a"+big {
				t.Errorf("got %q", harness.Clip(s.Got))
			}
		})
	}
}

// What is asked for while a caller works is done after it, without a further call.
func TestAsyncPassesTheBatonOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		s.Hold(0)
		harness.MustWrite(t, f, "a")
		go func() { harness.Must(t, f.FlushWait(harness.NoContext)) }()
		synctest.Wait()
		harness.MustWrite(t, f, "b")
		harness.Must(t, f.FlushAsync())
		s.Release()
		synctest.Wait()
		if at, _ := s.LastFlush(); at != 2 {
			t.Errorf("%d bytes flushed", at)
		}
		harness.Must(t, f.Close())
	})
}

// Once a failure sticks every wait ends and no Write succeeds, not even while the server's call is
// under way and the bytes would fit.
func TestAsyncNoWriteAfterTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(s, nil, nil) // no deadlines: Abort waits
		s.Hold(0)
		harness.MustWrite(t, f, "a")
		harness.Must(t, f.FlushAsync())
		synctest.Wait()
		harness.MustWrite(t, f, "b")
		reason := errors.New("reason")
		waits := []func() error{
			func() error { return f.FlushWait(harness.NoContext) },
			func() error { return f.FlushWait(t.Context()) },
			func() error { _, err := f.Write(make([]byte, 100<<10)); return err },
			func() error { _, err := f.WriteString("in line"); return err },
		}
		var ended atomic.Int64
		for _, wait := range waits {
			go func() {
				if err := wait(); !errors.Is(err, reason) {
					t.Error(err)
				}
				ended.Add(1)
			}()
			synctest.Wait()
		}
		go f.Abort(reason)
		synctest.Wait()
		if n := int(ended.Load()); n != len(waits) {
			t.Errorf("%d of %d waits ended with the failure", n, len(waits))
		}
		if n, err := f.Write([]byte("c")); n != 0 || !errors.Is(err, reason) {
			t.Errorf("%d, %v", n, err)
		}
		if err := f.FlushAsync(); !errors.Is(err, reason) {
			t.Error(err)
		}
		s.Release()
		f.Close()
	})
}

// FlushWait waits for its own bytes and not for what others write behind it.
func TestFlushWaitForItsOwnBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		s.Hold(0)
		harness.MustWrite(t, f, "x")
		harness.Must(t, f.FlushAsync())
		synctest.Wait()
		harness.MustWrite(t, f, "own")
		var done atomic.Bool
		go func() {
			if err := f.FlushWait(context.Background()); err != nil {
				t.Error(err)
			}
			done.Store(true)
		}()
		synctest.Wait()
		s.Hold(1) // the carrier comes to them
		synctest.Wait()
		later := strings.Repeat("l", 10000)
		harness.MustWrite(t, f, later)
		harness.Must(t, f.FlushAsync())
		synctest.Wait()
		if done.Load() {
			t.Fatal("FlushWait returned before its bytes were sent")
		}
		s.Hold(4)
		synctest.Wait()
		if !done.Load() || s.Body() != "xown" || f.Buffered() != len(later) {
			t.Errorf("returned: %v, sent: %q, held: %d", done.Load(), s.Body(), f.Buffered())
		}
		s.Release()
		harness.Must(t, f.Close())
	})
}

// The end of the context ends the wait, at that moment, and the flush goes on.
func TestFlushWaitContext(t *testing.T) {
	reason := errors.New("reason")
	for _, deadlines := range []bool{true, false} {
		for name, ctx := range map[string]func() (context.Context, context.CancelFunc, time.Duration){
			"ended": func() (context.Context, context.CancelFunc, time.Duration) {
				ctx, cancel := context.WithCancelCause(context.Background())
				cancel(reason)
				return ctx, func() {}, 0
			},
			"cancelled": func() (context.Context, context.CancelFunc, time.Duration) {
				ctx, cancel := context.WithCancelCause(context.Background())
				time.AfterFunc(time.Second, func() { cancel(reason) })
				return ctx, func() {}, time.Second
			},
			"timed out": func() (context.Context, context.CancelFunc, time.Duration) {
				ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute-1, reason)
				return ctx, cancel, time.Minute - 1
			},
		} {
			t.Run(fmt.Sprint(name, deadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					w := http.ResponseWriter(s)
					if deadlines {
						w = harness.DeadlineSink{Sink: s}
					}
					f := flush.New(w, nil, nil)
					s.Hold(0)
					harness.MustWrite(t, f, "event")
					began := time.Now()
					ctx, cancel, after := ctx()
					defer cancel()
					err := f.FlushWait(ctx)
					if !errors.Is(err, ctx.Err()) || !errors.Is(err, reason) {
						t.Errorf("error %v", err)
					}
					if took := time.Since(began); took != after {
						t.Errorf("returned after %v, want %v", took, after)
					}
					if f.Err() != nil {
						t.Errorf("the response failed: %v", f.Err())
					}
					s.Release()
					synctest.Wait()
					if at, _ := s.LastFlush(); at != 5 {
						t.Errorf("the flush was forgotten: %q sent, %d flushed", s.Body(), at)
					}
					harness.Must(t, f.FlushWait(context.Background()))
					harness.Must(t, f.Close())
				})
			})
		}
	}
}

// nil, Background and the request's own context do not end a wait.
func TestFlushWaitOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		s := harness.NewSink(t)
		cancel()
		h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			synctest.Wait()
			if r.Context().Err() == nil {
				t.Error("the context lives on")
			}
			f, _ := flush.From(w)
			for _, ctx := range []context.Context{nil, context.Background(), r.Context()} {
				s.Hold(len(s.Body()))
				io.WriteString(w, "x")
				time.AfterFunc(time.Second, s.Release)
				began := time.Now()
				if err := f.FlushWait(ctx); err != nil || time.Since(began) != time.Second {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			}
		}), nil)
		h.ServeHTTP(harness.DeadlineSink{Sink: s}, r)
		if s.Body() != "xxx" {
			t.Errorf("%q", s.Body())
		}
	})
}

// Existing handlers, unchanged, stream in the background with Options.Flush.
func TestAsyncUnchangedHandlers(t *testing.T) {
	list, all := events(500, 100)
	flushers := map[string]func(w http.ResponseWriter) error{
		"http.Flusher":       func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil },
		"ResponseController": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
	}
	for name, flushIt := range flushers {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				last := make(chan time.Time, 1)
				opts, told := harness.TellClosing(flush.Options{Flush: flush.Async})
				srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					for _, e := range list {
						io.WriteString(w, e)
						if err := flushIt(w); err != nil {
							t.Error(err)
						}
					}
					last <- time.Now()
				}), opts), 2<<10)
				began := time.Now()
				s := harness.Open(t, srv, "GET", "/", nil)
				<-time.After(time.Second)
				if at := <-last; at != began {
					t.Errorf("the handler was held for %v", at.Sub(began))
				}
				if p == harness.HTTP2 {
					s.Header()
				}
				got, _, end := s.Rest()
				if got != all || end == harness.Cut {
					t.Errorf("%q, %s", harness.Clip([]byte(got)), end)
				}
				c := <-told
				if c.Err != nil || c.Waited != 0 || c.Pushes >= c.Flushes || c.Flushes != 500 || c.Bytes != int64(len(all)) || c.Lost != 0 {
					t.Errorf("%+v", c)
				}
			})
		})
	}
}

// A ReverseProxy that flushes after every token: the client gets each at once,
// and a slow one does not hold the backend.
func TestAsyncReverseProxy(t *testing.T) {
	list, all := events(300, 100)
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		park, last := harness.NewPark(t), make(chan time.Time, 1)
		backend := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i, e := range list {
				io.WriteString(w, e)
				http.NewResponseController(w).Flush()
				if i < 3 {
					park.Here()
				}
			}
			last <- time.Now()
		}), 0)
		to, err := url.Parse(backend.URL("/"))
		harness.Must(t, err)
		proxy := httputil.NewSingleHostReverseProxy(to)
		proxy.FlushInterval = -1
		tr := &http.Transport{DialContext: backend.Listener.(*flushtest.Listener).Dial}
		t.Cleanup(tr.CloseIdleConnections)
		proxy.Transport = tr
		opts, told := harness.TellClosing(flush.Options{Flush: flush.Async})
		srv := harness.ServeMemory(t, p, flush.NewHandler(proxy, opts), 2<<10)
		began := time.Now()
		s := harness.Open(t, srv, "GET", "/", nil)
		for i := range 3 {
			park.Wait()
			s.Expect(list[i])
			s.ExpectNothing()
			park.Resume()
		}
		<-time.After(time.Second)
		if at := <-last; at != began {
			t.Errorf("the backend was held for %v", at.Sub(began))
		}
		got, _, end := s.Rest()
		if got != strings.Join(list[3:], "") || end == harness.Cut {
			t.Errorf("%q, %s", harness.Clip([]byte(got)), end)
		}
		if c := <-told; c.Err != nil || c.Bytes != int64(len(all)) || c.Waited != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// A panic, or Goexit, of the server's writer met in the background reaches the
// handler's goroutine, with its value, once, and every call knows of it.
func TestAsyncPanicBelow(t *testing.T) {
	for _, where := range []string{"Write", "Flush"} {
		for _, how := range []string{"panic", "abort", "Goexit"} {
			for _, handler := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%t", where, how, handler), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := harness.NewSink(t)
						value := map[string]any{"panic": "broken", "abort": http.ErrAbortHandler}[how]
						burst := func() {
							if how == "Goexit" {
								runtime.Goexit()
							}
							panic(value)
						}
						if where == "Write" {
							s.Fault = func([]byte, int) (int, error) { burst(); return 0, nil }
						} else {
							s.OnFlush = func() error { burst(); return nil }
						}
						opts, told := harness.TellClosing(flush.Options{})
						use := func(f *flush.Flusher) {
							io.WriteString(f, "event")
							harness.Must(t, f.FlushAsync())
							synctest.Wait()
							if f.Err() == nil {
								t.Error("no failure")
							}
							if _, err := f.Write([]byte("more")); err == nil || err != f.Err() {
								t.Errorf("Write: %v", err)
							}
						}
						var got any
						func() {
							defer func() { got = recover() }()
							if handler {
								flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
									f, _ := flush.From(w)
									use(f)
								}), opts).ServeHTTP(harness.DeadlineSink{Sink: s}, httptest.NewRequest("GET", "/", nil))
								return
							}
							f := flush.New(harness.DeadlineSink{Sink: s}, nil, opts)
							use(f)
							defer f.Close() // the second says nothing new
							f.Close()
						}()
						if how == "Goexit" && got == nil || how != "Goexit" && got != value {
							t.Errorf("recovered %v, want %v", got, value)
						}
						if c := <-told; c.Err == nil || where == "Write" && c.Lost != 5 || len(told) > 0 {
							t.Errorf("OnClose: %+v", c)
						}
					})
				})
			}
		}
	}
}

// The same on a caller's goroutine: there it goes on from the call itself.
func TestAsyncPanicBelowACaller(t *testing.T) {
	for _, begun := range []bool{false, true} {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		if begun {
			harness.MustWrite(t, f, "before")
			harness.Must(t, f.FlushWait(harness.NoContext))
		}
		s.Fault = func([]byte, int) (int, error) { panic("broken") }
		harness.MustWrite(t, f, "event")
		var got any
		func() {
			defer func() { got = recover() }()
			f.FlushWait(harness.NoContext)
		}()
		if got != "broken" || f.Err() == nil {
			t.Errorf("recovered %v, failed with %v", got, f.Err())
		}
		f.Abort(nil)
		if st := f.Stats(); st.Lost != 5 {
			t.Errorf("%+v", st)
		}
	}
}

// A write that the server refuses, but could go on after, is flushed all the
// same; after one that broke the connection nobody flushes.
func TestFlushWaitWhoseWriteFails(t *testing.T) {
	for _, test := range []struct {
		err     error
		flushes int
		stays   error
	}{
		{http.ErrBodyNotAllowed, 2, nil},
		{errors.New("broken"), 1, flush.ErrClientGone},
	} {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		harness.MustWrite(t, f, "before")
		harness.Must(t, f.FlushWait(harness.NoContext))
		s.Fault = func([]byte, int) (int, error) { return 0, test.err }
		harness.MustWrite(t, f, "event")
		if err := f.FlushWait(harness.NoContext); !errors.Is(err, test.stays) || !errors.Is(f.Err(), test.stays) {
			t.Errorf("%v: %v, then %v", test.err, err, f.Err())
		}
		if len(s.Flushed) != test.flushes {
			t.Errorf("%v: flushed at %v", test.err, s.Flushed)
		}
		if err := f.Close(); !errors.Is(err, test.err) || f.Stats().Lost != 5 {
			t.Errorf("%v: Close: %v, %+v", test.err, err, f.Stats())
		}
	}
}

// A handler that panics or exits stops a carrier that is stuck with a client
// who does not read: after a second, in which what was flushed may leave, with
// its own value, and the client sees the cut.
func TestAsyncHandlerPanics(t *testing.T) {
	for _, how := range []string{"panic", "abort", "Goexit"} {
		t.Run(how, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				value := map[string]any{"panic": "my own", "abort": http.ErrAbortHandler}[how]
				recovered := make(chan any, 1)
				opts, told := harness.TellClosing(flush.Options{Flush: flush.Async, MaxPending: 200 << 10})
				h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Write(make([]byte, 150<<10))
					http.NewResponseController(w).Flush()
					<-time.After(time.Second)
					if how == "Goexit" {
						runtime.Goexit()
					}
					panic(value)
				}), opts)
				srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() {
						v := recover()
						recovered <- v
						panic(http.ErrAbortHandler)
					}()
					h.ServeHTTP(w, r)
				}), 1000)
				began := time.Now()
				s := harness.Open(t, srv, "GET", "/", nil)
				c := <-told
				if took := c.At.Sub(began); took != 2*time.Second {
					t.Errorf("joined after %v", took)
				}
				if c.Err == nil || c.Lost == 0 || c.Bytes+c.Lost != 150<<10 {
					t.Errorf("%+v", c)
				}
				if v := <-recovered; v != value {
					t.Errorf("recovered %v, want %v", v, value)
				}
				got, _, end := s.Rest()
				if end == harness.Complete || len(got) >= 150<<10 {
					t.Errorf("%d bytes, %s", len(got), end)
				}
			})
		})
	}
}

// What was accepted and not sent by a failing response is counted and told.
func TestAsyncLostIsTold(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		opts, told := harness.TellClosing(flush.Options{Flush: flush.Async, SendTimeout: time.Minute})
		var accepted int64
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for {
				n, err := w.Write(make([]byte, 1000))
				accepted += int64(n)
				if err != nil {
					return
				}
			}
		}), opts), 1000)
		s := harness.Open(t, srv, "GET", "/", nil)
		c := <-told
		if !errors.Is(c.Err, flush.ErrTimeout) || c.Lost == 0 || c.Bytes+c.Lost != accepted {
			t.Errorf("%d accepted, %+v", accepted, c)
		}
		s.Leave()
	})
}

// An idle stream has no goroutine of ours and no buffer, after a large burst too:
// one block alone would be 4 KiB. bench/ measures the exact cost.
func TestAsyncIdleStreamsCostLittle(t *testing.T) {
	harness.CheckGoroutines(t)
	const streams = 1000
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	below := make([]*harness.Forgetful, streams)
	for i := range below {
		below[i] = &harness.Forgetful{Headers: make(http.Header)}
	}
	idle := make([]*flush.Flusher, streams)
	before := heap()
	for i, w := range below {
		f := flush.New(w, nil, nil)
		idle[i] = f
		for range 10 {
			f.Write(make([]byte, 20000))
			harness.Must(t, f.FlushAsync())
		}
		harness.Must(t, f.FlushWait(harness.NoContext))
	}
	for end := time.Now().Add(harness.Patience()); carriers() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d carriers", carriers())
		}
	}
	if each := (heap() - before) / streams; each > 2048 {
		t.Errorf("%d bytes of heap for each idle stream", each)
	}
	for _, f := range idle {
		harness.Must(t, f.Close())
	}
}

// Whatever a connection does at whatever offset, the client gets a prefix of
// what was written and sees whether that is all; a nil error told to OnClose
// means that it is.
func TestAsyncSweep(t *testing.T) {
	const body = "one\ntwo\nthree\n"
	broken := errors.New("broken")
	handlers := map[string]func(f *flush.Flusher){
		"async": func(f *flush.Flusher) {
			for _, e := range strings.SplitAfter(body, "\n") {
				io.WriteString(f, e)
				f.FlushAsync()
			}
		},
		"mixed": func(f *flush.Flusher) {
			for i, e := range strings.SplitAfter(body, "\n") {
				io.WriteString(f, e)
				flush.Flush(f, i%2 == 1)
			}
		},
	}
	type run struct {
		*harness.Stream
		told    chan harness.Closing
		came    chan *flush.Flusher
		wrote   chan struct{} // closed when the handler has written all
		stalled chan struct{}
		release chan struct{}
		began   time.Time
	}
	begin := func(t *testing.T, p harness.Proto, how string, sc harness.Script, park bool) *run {
		opts, told := harness.TellClosing(flush.Options{SendTimeout: time.Minute})
		x := &run{told: told, came: make(chan *flush.Flusher, 1), wrote: make(chan struct{}), stalled: sc.Stalled, release: sc.Release, began: time.Now()}
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
			f, _ := flush.From(w)
			x.came <- f
			handlers[how](f)
			close(x.wrote)
			if park {
				<-r.Context().Done()
			}
		}), opts), 0, harness.Scripted(sc))
		x.Stream = harness.Open(t, srv, "GET", "/", nil)
		return x
	}
	// ended checks what the client got.
	ended := func(t *testing.T, x *run, mayComplete bool) (whole bool) {
		t.Helper()
		got, _, end := x.Rest()
		whole = end == harness.Complete
		if !strings.HasPrefix(body, got) || whole && (got != body || !mayComplete) || end == harness.Closed {
			t.Errorf("got %q, %s", got, end)
		}
		return whole && got == body
	}
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP2} {
		for how := range handlers {
			t.Run(fmt.Sprintf("%v/%s", p, how), func(t *testing.T) {
				stalling := func(at int) harness.Script {
					return harness.Script{StallAt: at, Release: make(chan struct{}), Stalled: make(chan struct{})}
				}
				for at, reached := 0, true; reached; at++ {
					synctest.Test(t, func(t *testing.T) { // released
						x := begin(t, p, how, stalling(at), false)
						synctest.Wait()
						reached = deadline.Closed(x.stalled)
						<-time.After(time.Minute - 1)
						if reached && len(x.came) > 0 && how == "async" && !deadline.Closed(x.wrote) {
							t.Errorf("at %d: the handler is held", at)
						}
						close(x.release)
						x.ExpectEnd(body)
						if c := <-x.told; c.Err != nil || c.Lost != 0 || c.Bytes != int64(len(body)) {
							t.Errorf("at %d: %+v", at, c)
						}
					})
					synctest.Test(t, func(t *testing.T) { // fails
						x := begin(t, p, how, harness.Script{FailAt: at, Err: broken}, false)
						if p == harness.HTTP2 {
							// The server goes on to read where writing fails.
							time.AfterFunc(time.Hour, x.Cancel)
						}
						whole := ended(t, x, true)
						synctest.Wait()
						select {
						case c := <-x.told:
							if c.Err == nil && p == harness.HTTP1 && int(c.Bytes) != len(body) || c.Err != nil && whole || c.Bytes+c.Lost > int64(len(body)) {
								t.Errorf("at %d: %+v, whole: %t", at, c, whole)
							}
							if c.Err != nil && !errors.Is(c.Err, flush.ErrClientGone) {
								t.Errorf("at %d: %v", at, c.Err)
							}
						default:
							if p == harness.HTTP1 {
								t.Error("OnClose was not called")
							}
						}
					})
					synctest.Test(t, func(t *testing.T) { // aborted while it stalls
						x := begin(t, p, how, stalling(at), true)
						synctest.Wait()
						reason := errors.New("reason")
						if p == harness.HTTP2 {
							// A stuck connection holds its streams' resets up.
							time.AfterFunc(0, func() { close(x.release) })
						}
						(<-x.came).Abort(reason)
						if c := <-x.told; !errors.Is(c.Err, reason) || !c.At.Equal(x.began) {
							t.Errorf("at %d: %+v after %v", at, c, c.At.Sub(x.began))
						}
						if p != harness.HTTP2 {
							close(x.release)
						}
						ended(t, x, false)
					})
					synctest.Test(t, func(t *testing.T) { // stalls for good
						x := begin(t, p, how, stalling(at), false)
						synctest.Wait()
						if p == harness.HTTP2 {
							// The handler's return waits for a stuck connection;
							// other waits do not.
							<-time.After(time.Minute)
							synctest.Wait()
							if len(x.came) == 1 && len(x.told) == 0 {
								if f := <-x.came; !errors.Is(f.Err(), flush.ErrTimeout) {
									t.Errorf("at %d: no failure: %v", at, f.Err())
								}
							}
							close(x.release)
							ended(t, x, true)
							return
						}
						defer close(x.release)
						c := <-x.told
						switch took := c.At.Sub(x.began); {
						case took != 0 && (took != time.Minute || !errors.Is(c.Err, flush.ErrTimeout)):
							t.Errorf("at %d: %+v after %v", at, c, took)
						case took == 0 && c.Err != nil:
							t.Errorf("at %d: %+v", at, c)
						}
						whole := ended(t, x, true)
						if took := time.Since(x.began); deadline.Closed(x.stalled) && (took != time.Minute || whole) {
							t.Errorf("at %d: the connection ended after %v, whole: %t", at, took, whole)
						}
					})
					if t.Failed() {
						t.Fatalf("at offset %d", at)
					}
				}
			})
		}
	}
	// One byte at a time.
	for how := range handlers {
		harness.Bubble(t, func(t *testing.T, p harness.Proto) {
			if p != harness.HTTP10 {
				begin(t, p, how, harness.Script{Max: 1}, false).ExpectEnd(body)
			}
		})
	}
}

// A handler that writes 1 MiB in 1 000 events to a client that reads nothing
// runs to its last line without having waited if MaxPending allows; then every
// byte arrives in order.
func TestAsyncBurstToStalledClient(t *testing.T) {
	list, all := events(1000, 1049)
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			park := harness.NewPark(t)
			opts, told := harness.TellClosing(flush.Options{MaxPending: 2 << 20})
			srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for _, e := range list {
					harness.MustWrite(t, w, e)
					harness.Must(t, flush.Flush(w, false))
				}
				park.Here()
			}), opts), harness.SmallBuffers)
			s := harness.Open(t, srv, "GET", "/", nil)
			park.Next() // nothing has been read but, over HTTP/2, the stream's window
			s.ExpectEnd(all)
			if c := <-told; c.Err != nil || c.Waited != 0 || c.Bytes != int64(len(all)) || c.Lost != 0 || c.Flushes != 1000 || c.Pushes >= 1000 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// With a lower mark the same handler is held, never over the mark, and released
// as the client reads.
func TestAsyncBurstHeldAtTheMark(t *testing.T) {
	list, all := events(1000, 1049)
	const mark = 64 << 10
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			running := make(chan *flush.Flusher, 1)
			var emitted atomic.Int64
			opts, told := harness.TellClosing(flush.Options{MaxPending: mark})
			srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				f, _ := flush.From(w)
				running <- f
				for _, e := range list {
					harness.MustWrite(t, w, e)
					harness.Must(t, flush.Flush(w, false))
					emitted.Add(int64(len(e)))
				}
			}), opts), harness.SmallBuffers)
			s := harness.Open(t, srv, "GET", "/", nil)
			f := <-running
			waitHeld(t, f)
			// Beyond the mark: kernel buffers, the server's own, and over
			// HTTP/2 the stream's window of 64 KiB.
			if n := emitted.Load(); n > mark+128<<10 {
				t.Errorf("%d bytes emitted to a client that does not read", n)
			}
			s.ExpectEnd(all)
			if c := <-told; c.Err != nil || c.Waited == 0 || c.Bytes != int64(len(all)) || c.MaxPending > mark {
				t.Errorf("%+v", c)
			}
		})
	}
}

// waitHeld waits until a Write waits for room.
func waitHeld(t *testing.T, f *flush.Flusher) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(harness.Patience()); f.Available() > 0; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("no Write waits: %+v", f.Stats())
		}
	}
}

// Clients of every kind on real sockets, with the kernel's buffers at 4 KiB.
func TestAsyncSlowClients(t *testing.T) {
	const size = 300 << 10
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		for _, client := range []struct {
			name  string
			limit time.Duration
			lives bool
			read  func(s *harness.Stream, f *flush.Flusher, told chan harness.Closing)
		}{
			{"reads nothing", 300 * time.Millisecond, false, func(s *harness.Stream, f *flush.Flusher, told chan harness.Closing) {}},
			{"is suspended", 2 * time.Second, false, func(s *harness.Stream, f *flush.Flusher, told chan harness.Closing) {
				// On a busy machine the time may be over before.
				if _, err := s.Head(); err == nil {
					io.CopyN(io.Discard, harness.BodyReader{S: s}, 20<<10)
				}
			}},
			{"goes away", time.Minute, false, func(s *harness.Stream, f *flush.Flusher, told chan harness.Closing) {
				s.Take(10 << 10)
				waitHeld(t, f)
				s.Leave()
			}},
			{"is slow", time.Minute, true, func(s *harness.Stream, f *flush.Flusher, told chan harness.Closing) {
				for range 100 {
					s.Take(1 << 10)
					for range 10 {
						runtime.Gosched()
					}
				}
			}},
			{"resumes just in time", time.Minute, true, func(s *harness.Stream, f *flush.Flusher, told chan harness.Closing) {
				waitHeld(t, f)
			}},
		} {
			t.Run(p.String()+" "+client.name, func(t *testing.T) {
				running := make(chan *flush.Flusher, 1)
				opts, told := harness.TellClosing(flush.Options{Flush: flush.Async, SendTimeout: client.limit})
				failure := make(chan error, 1)
				var accepted atomic.Int64
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					f, _ := flush.From(w)
					running <- f
					for range size / 1024 {
						n, err := w.Write(make([]byte, 1024))
						accepted.Add(int64(n))
						w.(http.Flusher).Flush()
						if err != nil {
							failure <- err
							return
						}
					}
					failure <- nil
				}), opts), harness.SmallBuffers)
				s := harness.Open(t, srv, "GET", "/", nil)
				client.read(s, <-running, told)
				if client.lives {
					_, _, end := s.Rest()
					if c := <-told; end != harness.Complete || c.Err != nil || c.Bytes != size {
						t.Errorf("%s, %+v", end, c)
					}
					return
				}
				err := <-failure
				if client.limit < time.Minute && !errors.Is(err, flush.ErrTimeout) || client.limit == time.Minute && !errors.Is(err, flush.ErrClientGone) {
					t.Errorf("error %v", err)
				}
				s.Leave() // over TLS the server's call waits for the client's end
				c := <-told
				if c.Err == nil || c.Lost == 0 || c.Bytes+c.Lost != accepted.Load() {
					t.Errorf("%d accepted, %+v", accepted.Load(), c)
				}
			})
		}
	}
}

// Behind is how long the oldest byte has waited, and Began when it all began.
func TestBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: time.Hour, MaxPending: 1 << 20})
		expect := func(least, most time.Duration) {
			t.Helper()
			synctest.Wait()
			if got := f.Stats().Behind; got < least || got > most {
				t.Errorf("behind for %v, want %v to %v", got, least, most)
			}
		}
		expect(0, 0)
		f.WriteString("a") // held for a flush
		time.Sleep(time.Minute)
		expect(time.Minute, time.Minute)
		harness.Must(t, f.FlushWait(t.Context()))
		expect(0, 0)
		s.Hold(1 + harness.BlockBytes)
		f.Write(make([]byte, harness.BlockBytes)) // a block, in flight
		f.FlushAsync()
		expect(0, 0)
		s.Hold(0)
		f.Write(make([]byte, 3*harness.BlockBytes)) // three more
		f.FlushAsync()
		time.Sleep(time.Minute)
		f.Write(make([]byte, harness.BlockBytes))
		f.FlushAsync()
		expect(time.Minute, time.Minute)
		s.Hold(1 + 4*harness.BlockBytes) // all but the last
		expect(0, time.Minute)
		time.Sleep(time.Minute)
		expect(time.Minute, 2*time.Minute)
		s.Release()
		expect(0, 0)
		harness.Must(t, f.Close())
		if st := f.Stats(); !st.Began.Equal(began) || st.Behind != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// What comes while a flush hands the rest down is behind since it came, and no longer.
func TestBehindSinceAFlushBegan(t *testing.T) {
	for name, ask := range map[string]func(f *flush.Flusher) error{
		"FlushWait":  func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"FlushAsync": (*flush.Flusher).FlushAsync,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
				harness.Must(t, f.SendHeaders())
				harness.MustWrite(t, f, "first")
				s.Hold(0)
				flushed := harness.Go(func() error { return ask(f) })
				synctest.Wait()
				time.Sleep(10 * time.Second)
				harness.Must(t, f.TryWrite([]byte("then")))
				time.Sleep(5 * time.Second)
				s.Release()
				synctest.Wait()
				harness.Must(t, <-flushed)
				if d := f.Stats().Behind; f.Buffered() != len("then") || d != 5*time.Second {
					t.Errorf("%d bytes are held, for %v", f.Buffered(), d)
				}
				harness.Must(t, f.Close())
			})
		})
	}
}

// A client that takes each event a second after it was written is behind for that
// long, and no longer, though there is always something in the block.
func TestBehindDoesNotGrow(t *testing.T) {
	for _, timeout := range []time.Duration{time.Hour, -1} {
		synctest.Test(t, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: timeout, MaxPending: 1 << 20})
			taken := 0
			s.Hold(0)
			for range 1000 {
				f.WriteString("event ")
				f.FlushAsync()
				time.Sleep(time.Second)
				f.WriteString("another ")
				f.FlushAsync()
				synctest.Wait()
				if got := f.Stats().Behind; got < time.Second || got > 3*time.Second {
					t.Fatalf("behind for %v", got)
				}
				taken += len("event another ")
				s.Hold(taken - len("another "))
				synctest.Wait()
			}
			s.Release()
			harness.Must(t, f.Close())
		})
	}
}
