package flush_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// Who calls the server, and who waits for that.

// A Hijack behind a call that is stuck ends, and leaves the response as it was:
// nobody has the server, and it goes on once the server does.
func TestHijackThatEndsTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := waitSink{harness.NewSink(t)}
		f := flush.New(s, nil, &flush.Options{SendTimeout: time.Minute})
		for range 2 { // and again when it stops once more
			s.Hold(len(s.Body()))
			harness.MustWrite(t, f, "stuck")
			harness.Must(t, f.FlushAsync())
			synctest.Wait()
			began := time.Now()
			if _, _, err := f.Hijack(); !errors.Is(err, flush.ErrTimeout) || time.Since(began) != time.Minute {
				t.Errorf("Hijack: %v after %v", err, time.Since(began))
			}
			harness.Must(t, f.Err())
			s.Release()
			harness.MustWrite(t, f, "goes on")
			harness.Must(t, f.FlushWait(harness.NoContext))
		}
		conn, _, err := f.Hijack()
		harness.Must(t, err)
		conn.Close()
		if want := strings.Repeat("stuckgoes on", 2); s.Body() != want {
			t.Errorf("got %q", s.Body())
		}
		if _, err := f.WriteString("late"); err != http.ErrHijacked {
			t.Errorf("a Write after Hijack: %v", err)
		}
		f.Close()
	})
}

// A response that fails during a call of the server's makes no other: what was to
// follow, be it only the flush, does not.
func TestNothingFollowsTheCallInWhichItFails(t *testing.T) {
	for name, test := range map[string]struct {
		opts flush.Options
		use  func(f *flush.Flusher)
	}{
		"SendHeaders":   {flush.Options{}, func(f *flush.Flusher) { f.SendHeaders() }},
		"FlushWait":     {flush.Options{}, func(f *flush.Flusher) { f.FlushWait(harness.NoContext) }},
		"FlushAsync":    {flush.Options{}, func(f *flush.Flusher) { f.FlushAsync() }},
		"implicit":      {flush.Options{Implicit: flush.Wait}, func(f *flush.Flusher) { f.WriteString("x") }},
		"FlushInterval": {flush.Options{FlushInterval: time.Second}, func(f *flush.Flusher) { f.WriteString("x") }},
		"Write":         {flush.Options{}, func(f *flush.Flusher) { f.Write(make([]byte, 10_000)) }},
		"Close":         {flush.Options{}, func(f *flush.Flusher) { f.WriteString("x"); f.Close() }},
		"Close of none": {flush.Options{}, func(f *flush.Flusher) { f.Close() }},
		"Hijack":        {flush.Options{}, func(f *flush.Flusher) { f.WriteString("x"); f.Hijack() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := headStop{waitSink{harness.NewSink(t)}, make(chan bool), new(int)}
				opts, told := harness.TellClosing(test.opts)
				h := harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					go func() {
						s.here <- true
						synctest.Wait() // whoever wants to is waiting
						go f.Abort(harness.ErrBoom)
						synctest.Wait()
						s.here <- true
					}()
					test.use(f)
					time.Sleep(2 * time.Second) // the interval, and who works in the background
					expectError(t, "Err", f.Err(), harness.ErrBoom)
				})
				func() {
					defer func() {
						if v := recover(); v != http.ErrAbortHandler {
							t.Errorf("the handler ended with %v", v)
						}
					}()
					h.ServeHTTP(s, httptest.NewRequest("GET", "/", nil))
				}()
				expectError(t, "OnClose", (<-told).Err, harness.ErrBoom)
				if *s.followed > 0 {
					t.Errorf("%d calls followed", *s.followed)
				}
			})
		})
	}
}

// A headStop stops inside WriteHeader.
type headStop struct {
	waitSink
	here     chan bool
	followed *int // calls, of whatever kind
}

func (s headStop) WriteHeader(code int) {
	<-s.here
	<-s.here
	s.waitSink.WriteHeader(code)
}

func (s headStop) Write(p []byte) (int, error)                  { *s.followed++; return len(p), nil }
func (s headStop) FlushError() error                            { *s.followed++; return nil }
func (s headStop) Hijack() (net.Conn, *bufio.ReadWriter, error) { *s.followed++; return nil, nil, nil }
func (s headStop) SetWriteDeadline(time.Time) error             { return nil }

// Two Hijacks wait: one gets the connection, the other is told, and the server
// is asked once.
func TestHijackTwice(t *testing.T) {
	for _, deadlines := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := waitSink{harness.NewSink(t)}
			asked := 0
			var w http.ResponseWriter = countingHijacker{s, &asked}
			if deadlines {
				w = deadlineHijacker{countingHijacker{s, &asked}}
			}
			f := flush.New(w, nil, nil)
			s.Hold(0)
			harness.MustWrite(t, f, "stuck")
			harness.Must(t, f.FlushAsync())
			synctest.Wait()
			var wg sync.WaitGroup
			errs := make(chan error, 2)
			for range 2 {
				wg.Go(func() { errs <- hijack(&waiter{f: f}) })
				synctest.Wait()
			}
			s.Release()
			wg.Wait()
			if a, b := <-errs, <-errs; (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), http.ErrHijacked) || asked != 1 {
				t.Errorf("deadlines %t: %v and %v, the server was asked %d times", deadlines, a, b, asked)
			}
			f.Close()
		})
	}
}

type countingHijacker struct {
	waitSink
	asked *int
}

func (c countingHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	*c.asked++
	return c.waitSink.Hijack()
}

type deadlineHijacker struct{ countingHijacker }

func (d deadlineHijacker) SetWriteDeadline(t time.Time) error { d.WriteDeadline.Set(t); return nil }

// A sendfileSink is inside its ReadFrom until it is let go, as the server is
// during sendfile.
type sendfileSink struct {
	harness.DeadlineSink
	slices chan struct{} // one value lets a call go
}

func (s sendfileSink) ReadFrom(src io.Reader) (int64, error) {
	s.Enter()
	defer s.Leave()
	select {
	case <-s.slices:
	case <-s.WriteDeadline.Passed():
		return 0, os.ErrDeadlineExceeded
	}
	p, err := io.ReadAll(src)
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.Got = append(s.Got, p...)
	return int64(len(p)), err
}

// While a file is sent nothing else calls the server: whoever would flush waits
// or has it done after, and the bytes keep their order.
func TestNothingCallsTheServerDuringSendfile(t *testing.T) {
	for name, call := range map[string]func(f *flush.Flusher) error{
		"FlushAsync": func(f *flush.Flusher) error { return f.FlushAsync() },
		"FlushWait":  func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"FlushWait and ctx": func(f *flush.Flusher) error {
			return f.FlushWait(context.WithValue(context.Background(), sendfileSink{}, 0))
		},
		"SendHeaders": func(f *flush.Flusher) error { return f.SendHeaders() },
		"Write":       func(f *flush.Flusher) error { _, err := f.Write(make([]byte, 10_000)); return err },
		"WriteHeader": func(f *flush.Flusher) error { f.WriteHeader(103); return nil },
		"ReadFrom": func(f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 10)
			_, err := f.ReadFrom(file)
			return err
		},
		"Close": func(f *flush.Flusher) error { return f.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sendfileSink{harness.DeadlineSink{Sink: harness.NewSink(t)}, make(chan struct{})}
				f := flush.New(s, nil, &flush.Options{FlushInterval: time.Second, BufferSize: 4096})
				harness.MustWrite(t, f, "before ")
				file, text := harness.TempFile(t, 100_000) // 64 KiB and the rest: two slices
				var wg sync.WaitGroup
				wg.Go(func() {
					if n, err := f.ReadFrom(file); n != 100_000 || err != nil {
						t.Errorf("ReadFrom: %d, %v", n, err)
					}
				})
				synctest.Wait()
				wg.Go(func() { harness.Must(t, call(f)) })
				for range 5 {
					<-time.After(2 * time.Second) // the interval's timer, too
				}
				s.slices <- struct{}{}
				<-time.After(time.Second)
				close(s.slices)
				wg.Wait()
				f.Close()
				if got := s.Body(); !strings.HasPrefix(got, "before "+text) {
					t.Errorf("got %s", harness.Clip([]byte(got)))
				}
			})
		})
	}
}

// An asker is a server's writer of another kind, which looks at its response
// whenever it is called, as middleware between may.
type asker struct {
	*httptest.ResponseRecorder
	ask func()
}

func (a asker) WriteHeader(code int)        { a.ask(); a.ResponseRecorder.WriteHeader(code) }
func (a asker) Write(p []byte) (int, error) { a.ask(); return a.ResponseRecorder.Write(p) }
func (a asker) FlushError() error           { a.ask(); a.ResponseRecorder.Flush(); return nil }

// The server is called with no lock held: WriteHeader, Write and Flush of a
// writer that asks its Flusher for its state return.
func TestServerIsCalledWithNoLockHeld(t *testing.T) {
	for name, use := range map[string]func(f *flush.Flusher) error{
		"1xx":         func(f *flush.Flusher) error { f.WriteHeader(103); return nil },
		"SendHeaders": (*flush.Flusher).SendHeaders,
		"FlushWait":   func(f *flush.Flusher) error { f.WriteString("x"); return f.FlushWait(harness.NoContext) },
		"plain": func(f *flush.Flusher) error {
			f.FlushWait(harness.NoContext)
			f.WriteString("x")
			return f.FlushWait(harness.NoContext)
		},
		"FlushAsync": func(f *flush.Flusher) error { f.WriteString("x"); return f.FlushAsync() },
		"Write":      func(f *flush.Flusher) error { _, err := f.Write(make([]byte, 10_000)); return err },
		"nothing":    func(f *flush.Flusher) error { return nil },
		"held":       func(f *flush.Flusher) error { _, err := f.WriteString("x"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			a := asker{ResponseRecorder: httptest.NewRecorder(), ask: func() {}}
			done := make(chan struct{})
			go func() {
				defer close(done)
				h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					f, _ := flush.From(w)
					a.ask = func() {
						f.Stats()
						f.Buffered()
						f.HeadersSent()
						f.Err()
					}
					if err := use(f); err != nil {
						t.Error(err)
					}
				}), nil)
				r := httptest.NewRequest("GET", "/", nil)
				h.ServeHTTP(&a, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, "here")))
			}()
			timer := time.NewTimer(harness.Patience())
			defer timer.Stop()
			select {
			case <-done:
			case <-timer.C:
				t.Fatal("the server's writer waits for a lock that is held while it is called")
			}
		})
	}
}

// A filter may abort the response in any phase, by itself or through a
// goroutine that it waits for: Abort marks the response and returns, and
// whoever made the filter run goes on.
func TestAbortInAFilterOfEveryPhase(t *testing.T) {
	cause := errors.New("cause")
	for _, way := range []struct {
		name  string
		phase flush.Phase
		o     flush.BufferOptions
		do    func(f *flush.Flusher, b *flush.Buffer)
	}{
		{"return", flush.PhaseFinal, flush.BufferOptions{}, func(*flush.Flusher, *flush.Buffer) {}},
		{"return, begun", flush.PhaseFinal, flush.BufferOptions{}, func(_ *flush.Flusher, b *flush.Buffer) { b.Flush() }},
		{"Close", flush.PhaseFinal, flush.BufferOptions{}, func(f *flush.Flusher, _ *flush.Buffer) { f.Close() }},
		{"Close from another goroutine", flush.PhaseFinal, flush.BufferOptions{}, func(f *flush.Flusher, _ *flush.Buffer) { go f.Close() }},
		{"Buffer.Close", flush.PhaseFinal, flush.BufferOptions{}, func(_ *flush.Flusher, b *flush.Buffer) { b.Close() }},
		{"Discard", flush.PhaseFinal, flush.BufferOptions{}, func(_ *flush.Flusher, b *flush.Buffer) { b.Discard() }},
		{"NoRemove", flush.PhaseFinal, flush.BufferOptions{NoRemove: true}, func(*flush.Flusher, *flush.Buffer) {}},
		{"Buffer.Flush", flush.PhaseFlush, flush.BufferOptions{}, func(_ *flush.Flusher, b *flush.Buffer) { b.Flush() }},
		{"FlushWait", flush.PhaseFlush, flush.BufferOptions{FollowFlush: true}, func(f *flush.Flusher, _ *flush.Buffer) { f.FlushWait(harness.NoContext) }},
		{"FlushAsync", flush.PhaseFlush, flush.BufferOptions{FollowFlush: true}, func(f *flush.Flusher, _ *flush.Buffer) { f.FlushAsync() }},
		{"FlushAll", flush.PhaseFlush, flush.BufferOptions{}, func(f *flush.Flusher, _ *flush.Buffer) { f.FlushAll(true) }},
		{"Clean", flush.PhaseClean, flush.BufferOptions{}, func(f *flush.Flusher, _ *flush.Buffer) { f.Clean() }},
		{"Buffer.Clean", flush.PhaseClean, flush.BufferOptions{}, func(_ *flush.Flusher, b *flush.Buffer) { b.Clean() }},
		{"Write", flush.PhaseStart, flush.BufferOptions{ChunkSize: 1}, func(f *flush.Flusher, _ *flush.Buffer) { io.WriteString(f, "more") }},
		{"ReadFrom", flush.PhaseStart, flush.BufferOptions{ChunkSize: 1}, func(f *flush.Flusher, _ *flush.Buffer) { io.Copy(f, strings.NewReader("more")) }},
	} {
		for _, below := range []bool{false, true} { // a plain buffer is on top, too
			for _, other := range []bool{false, true} {
				for _, sent := range []bool{false, true} {
					if sent && way.name == "Clean" {
						continue // it refuses, and runs no filter
					}
					t.Run(fmt.Sprintf("%s/%t/%t/%t", way.name, below, other, sent), func(t *testing.T) {
						edges(t, func(t *testing.T, p harness.Proto) {
							opts, told := harness.TellClosing(flush.Options{SendTimeout: time.Minute})
							clock := harness.NewClock()
							srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
								f := harness.Flusher(w)
								if sent {
									harness.MustWrite(t, f, "begun")
									harness.Must(t, f.FlushWait(harness.NoContext))
								}
								aborted := false
								o := way.o
								o.Filter = func(p []byte, phase flush.Phase) ([]byte, error) {
									if phase&way.phase == 0 || aborted {
										return p, nil
									}
									aborted = true
									if other {
										done := make(chan struct{})
										go func() { defer close(done); f.Abort(cause) }()
										<-done
									} else {
										f.Abort(cause)
									}
									if err := f.Err(); !errors.Is(err, cause) {
										t.Errorf("in the filter: %v", err)
									}
									return p, nil
								}
								b := f.StartBuffer(&o)
								if below && (way.phase == flush.PhaseFinal && !strings.Contains(way.name, "Buffer") && way.name != "Discard" || way.name == "FlushWait" || way.name == "FlushAsync" || way.name == "FlushAll" || way.name == "Clean") {
									f.StartBuffer(nil)
								}
								io.WriteString(f, "page")
								way.do(f, b)
								if clock.Now() != 0 {
									t.Errorf("it took %v", clock.Now())
								}
							}), 0)
							s := harness.Open(t, srv, "GET", "/", nil)
							if !sent {
								synctest.Wait() // no byte of it need come
							} else if body, _, end := s.Rest(); end == harness.Complete || end == harness.Closed && p != harness.HTTP10 {
								t.Errorf("the client got %q, %s", body, end)
							}
							select {
							case c := <-told:
								if !errors.Is(c.Err, cause) || c.At.Sub(clock.Start) > time.Second {
									t.Errorf("OnClose after %v: %v", c.At.Sub(clock.Start), c.Err)
								}
							case <-time.After(time.Hour):
								t.Error("the response has not ended")
							}
						})
					})
				}
			}
		}
	}
}

// With New, where the caller ends the response: Close after it returns what
// was given, and the server is not called again.
func TestAbortInAFilterUnderNew(t *testing.T) {
	cause := errors.New("cause")
	for _, deadlines := range []bool{false, true} {
		t.Run(fmt.Sprint(deadlines), func(t *testing.T) {
			edge(t, func(t *testing.T) {
				s := harness.NewSink(t)
				var w http.ResponseWriter = s
				if deadlines {
					w = harness.DeadlineSink{Sink: s}
				}
				var f *flush.Flusher
				ended := 0
				f = flush.New(w, nil, &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) {
					if ended++; !errors.Is(err, cause) {
						t.Error("OnClose:", err)
					}
				}})
				f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					f.Abort(cause)
					return p, nil
				}})
				harness.MustWrite(t, f, "page")
				closed := harness.Go(f.Close)
				synctest.Wait()
				if len(closed) == 0 {
					t.Fatal("Close has not returned")
				}
				if err := <-closed; !errors.Is(err, cause) || !errors.Is(f.Close(), cause) {
					t.Error("Close:", err)
				}
				f.Abort(nil)
				if s.Body() != "" || ended != 1 {
					t.Errorf("%q was sent, OnClose called %d times", s.Body(), ended)
				}
			})
		})
	}
}

// Before the headers an Abort shows what was flushed, in a filter as anywhere else:
// whoever made the filter run waits for that, as for all that a filter does, for at
// most the send timeout and a second. With nothing to show he does not wait.
func TestAbortInAFilterShowsWhatWasFlushed(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		name    string
		limit   time.Duration // the send timeout
		flushes bool          // the filter, before it aborts
		held    bool          // the client takes nothing
		took    time.Duration
		body    string
	}{
		{"held", 20 * time.Millisecond, true, true, 20 * time.Millisecond, ""},
		{"held, for a second", time.Minute, true, true, time.Second, ""},
		{"twin: the client takes it", time.Minute, true, false, 0, "page"},
		{"twin: nothing was flushed", time.Minute, false, true, 0, ""},
	} {
		for name, flushes := range map[string]func(f *flush.Flusher) error{
			"FlushAsync":      (*flush.Flusher).FlushAsync,
			"FlushAll(false)": func(f *flush.Flusher) error { return f.FlushAll(false) },
		} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				edge(t, func(t *testing.T) {
					s := harness.NewSink(t)
					if c.held {
						s.Hold(0)
					}
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: c.limit})
					expect := func(what string, err error) {
						t.Helper()
						if runsOut := c.limit == c.took; !errors.Is(err, cause) && !(runsOut && errors.Is(err, flush.ErrTimeout)) { // at the same moment
							t.Errorf("%s: %v", what, err)
						}
					}
					harness.MustWrite(t, f, "page")
					f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
						if c.flushes {
							harness.Must(t, f.FlushAsync())
						}
						f.Abort(cause)
						expect("Err in the filter", f.Err())
						return p, nil
					}})
					clock := harness.NewClock()
					expect(name, flushes(f))
					if clock.Now() != c.took || s.Body() != c.body {
						t.Errorf("it took %v, want %v; %q came, want %q", clock.Now(), c.took, s.Body(), c.body)
					}
					expect("Close", f.Close())
				})
			})
		}
	}
}

// A slowHijacker is middleware whose Hijack takes its time once it has the
// connection.
type slowHijacker struct {
	http.ResponseWriter
	park *harness.Park
}

func (w slowHijacker) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w slowHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.park.Here()
	return conn, rw, err
}

// A connection that Hijack hands to its caller has no deadline of ours,
// whatever happened to the response meanwhile.
func TestHijackedConnectionIsTheCallersOwn(t *testing.T) {
	const limit = time.Minute
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		opts flush.Options
		do   func(t *testing.T, f *flush.Flusher) // while the server is in Hijack
	}{
		{"Abort", flush.Options{}, func(_ *testing.T, f *flush.Flusher) { go f.Abort(cause) }},
		{"Abort, a hijack that takes long", flush.Options{SendTimeout: limit}, func(_ *testing.T, f *flush.Flusher) { go f.Abort(cause); <-time.After(2 * limit) }},
		{"SendTimeout", flush.Options{SendTimeout: limit}, func(*testing.T, *flush.Flusher) { <-time.After(2 * limit) }},
		{"the default SendTimeout", flush.Options{}, func(*testing.T, *flush.Flusher) { <-time.After(time.Hour) }},
		{"Close", flush.Options{}, func(_ *testing.T, f *flush.Flusher) { go f.Close() }},
		{"a deadline that is rolled", flush.Options{}, func(_ *testing.T, f *flush.Flusher) { go f.SetWriteDeadline(time.Now()) }},
		{"twin: nothing", flush.Options{}, func(*testing.T, *flush.Flusher) {}},
	} {
		for _, before := range []bool{false, true} { // output was flushed
			t.Run(fmt.Sprintf("%s/%t", test.name, before), func(t *testing.T) {
				edge(t, func(t *testing.T) {
					park := harness.NewPark(t)
					got := make(chan *flush.Flusher, 1)
					done := make(chan struct{})
					h := harness.Wrapped(&test.opts, func(w http.ResponseWriter, _ *http.Request) {
						defer close(done)
						f := harness.Flusher(w)
						got <- f
						if before {
							io.WriteString(f, "HTTP/1.1 ")
							f.FlushAsync()
						}
						conn, _, err := f.Hijack()
						if err != nil {
							if test.name != "Abort" && test.name != "Abort, a hijack that takes long" {
								t.Error("Hijack:", err)
							}
							return // then the connection is not the caller's
						}
						defer conn.Close()
						<-time.After(2 * time.Second)
						if _, err := io.WriteString(conn, "the caller's"); err != nil {
							t.Error("a write on the connection:", err)
						}
					})
					srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						h.ServeHTTP(slowHijacker{w, park}, r)
					}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					f := <-got
					park.Wait()
					test.do(t, f)
					synctest.Wait()
					park.Resume()
					<-done
					s.Leave()
					<-time.After(time.Second)
				})
			})
		}
	}
}

// A duplexSink is a sink with everything that a handler may call beside its
// output. All of it notes when two calls are inside at once.
type duplexSink struct {
	hijackable
	note func(call string)
}

func (s duplexSink) call(name string) {
	s.Enter()
	defer s.Leave()
	s.note(name)
}

func (s duplexSink) EnableFullDuplex() error { s.call("EnableFullDuplex"); return nil }

func (s duplexSink) Push(string, *http.PushOptions) error { s.call("Push"); return nil }

// What a handler asks of the server beside its output waits for the
// carrier's call, or ends when that does: never two calls at once.
func TestCallsBesideTheCarrier(t *testing.T) {
	const limit = time.Minute
	for _, call := range []struct {
		name string
		do   func(w http.ResponseWriter) error
	}{
		{"EnableFullDuplex", func(w http.ResponseWriter) error { return harness.Flusher(w).EnableFullDuplex() }},
		{"EnableFullDuplex by the controller", func(w http.ResponseWriter) error { return http.NewResponseController(w).EnableFullDuplex() }},
		{"Push", func(w http.ResponseWriter) error {
			if p, ok := w.(http.Pusher); ok {
				return p.Push("/style", nil)
			}
			return http.ErrNotSupported
		}},
		{"Hijack", func(w http.ResponseWriter) error { _, _, err := harness.Flusher(w).Hijack(); return err }},
		{"SendHeaders", func(w http.ResponseWriter) error { return harness.Flusher(w).SendHeaders() }},
		{"103", func(w http.ResponseWriter) error { w.WriteHeader(103); return nil }},
	} {
		for _, stays := range []bool{false, true} { // the client stalls for good
			t.Run(fmt.Sprintf("%s/%t", call.name, stays), func(t *testing.T) {
				edge(t, func(t *testing.T) {
					clock := harness.NewClock()
					s := harness.NewSink(t)
					s.Hold(0)
					h := harness.Wrapped(&flush.Options{Flush: flush.Async, SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
						f := harness.Flusher(w)
						io.WriteString(w, "carried")
						f.FlushAsync()
						synctest.Wait()
						called := harness.Go(func() error { return call.do(w) })
						synctest.Wait()
						if !stays {
							s.Release()
						}
						err, came := clock.By(grain(limit), called)
						if !came {
							t.Errorf("the call has not returned after %v", clock.Now())
							s.Release()
							<-called
						} else if !stays && err != nil && !errors.Is(err, http.ErrNotSupported) {
							t.Error(err)
						}
					})
					pushes := call.name == "Push"
					var w http.ResponseWriter = duplexSink{hijackable{DeadlineSink: harness.DeadlineSink{Sink: s}}, func(string) {}}
					if pushes { // HTTP/2 has no Hijack
						w = struct {
							harness.DeadlineSink
							http.Pusher
						}{harness.DeadlineSink{Sink: s}, w.(http.Pusher)}
					}
					serveCut(h, w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
				})
			})
		}
	}
}

// The same over net/http, for the race detector: the hand-over of headers, which
// a stalled upload holds, looks at what EnableFullDuplex sets.
func TestEnableFullDuplexBesideAHub(t *testing.T) {
	for _, u := range uploads {
		t.Run(u.name, func(t *testing.T) {
			begun := make(chan *flush.Flusher, 1)
			srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: harness.Patience()}, func(w http.ResponseWriter, r *http.Request) {
				f := harness.Flusher(w)
				hub := harness.Go(func() error {
					_, err := io.WriteString(f, "event")
					return errors.Join(err, f.FlushAsync())
				})
				timer := time.NewTimer(20 * time.Millisecond)
				defer timer.Stop()
				<-timer.C // it is inside the server
				begun <- f
				if err := f.EnableFullDuplex(); err != nil {
					t.Error(err)
				}
				io.Copy(io.Discard, r.Body)
				if err := <-hub; err != nil {
					t.Error(err)
				}
			}))
			s := u.post(t, srv)
			<-begun
			s.Settle()
			u.goOn(s)
			s.ExpectEnd("event")
			s.Leave()
		})
	}
}

// No end of a response leaves a call of the server behind, whichever
// goroutine made it. In real time, as the end may wait for it in a mutex.
func TestTheEndWaitsForEveryCall(t *testing.T) {
	for _, call := range []struct {
		name string
		do   func(w http.ResponseWriter)
	}{
		{"Push", func(w http.ResponseWriter) {
			if p, ok := w.(http.Pusher); ok {
				p.Push("/style", nil)
			} else {
				t.Error("the writer has no Push, but that below has")
			}
		}},
		{"EnableFullDuplex", func(w http.ResponseWriter) { harness.Flusher(w).EnableFullDuplex() }},
		{"SetWriteDeadline", func(w http.ResponseWriter) { harness.Flusher(w).SetWriteDeadline(time.Now().Add(time.Hour)) }},
		{"Write", func(w http.ResponseWriter) { w.Write(make([]byte, 10_000)) }},
		{"FlushWait", func(w http.ResponseWriter) { harness.Flusher(w).FlushWait(harness.NoContext) }},
		{"SendHeaders", func(w http.ResponseWriter) { harness.Flusher(w).SendHeaders() }},
		{"103", func(w http.ResponseWriter) { w.WriteHeader(103) }},
	} {
		for _, end := range []struct {
			name string
			do   func(w http.ResponseWriter)
		}{
			{"return", func(http.ResponseWriter) {}},
			{"Close", func(w http.ResponseWriter) { harness.Flusher(w).Close() }},
			{"Abort", func(w http.ResponseWriter) { harness.Flusher(w).Abort(nil) }},
			{"panic", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		} {
			t.Run(call.name+"/"+end.name, func(t *testing.T) {
				in, out := make(chan struct{}), make(chan struct{})
				var once sync.Once
				s := &slowCalls{pushable{harness.NewSink(t)}, call.name, func() {
					once.Do(func() { close(in); <-out })
				}}
				called, served := make(chan struct{}), make(chan struct{})
				ending := make(chan struct{})
				h := harness.Wrapped(&flush.Options{SendTimeout: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
					go func() { defer close(called); call.do(w) }()
					select {
					case <-in:
					case <-called:
						t.Error("the call has not come to the server")
					}
					close(ending)
					end.do(w)
				})
				ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, "a server that takes a 103")
				r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
				r.ProtoMajor, r.ProtoMinor, r.Proto = 2, 0, "HTTP/2.0"
				go func() { defer close(served); serveCut(h, s, r) }()
				<-ending
				timer := time.NewTimer(50 * time.Millisecond)
				defer timer.Stop()
				select {
				case <-served:
					t.Error("the response has ended with a call inside the server")
				case <-timer.C:
				}
				close(out)
				last := time.NewTimer(harness.Patience())
				defer last.Stop()
				for _, c := range []chan struct{}{called, served} {
					select {
					case <-c:
					case <-last.C:
						t.Fatal("it has not ended")
					}
				}
				if !deadline.Closed(called) {
					t.Error("the call has not returned")
				}
			})
		}
	}
}

// A pushable is a server's writer of HTTP/2.
type pushable struct{ *harness.Sink }

// slowCalls is one whose calls of one name wait, and notice the deadline as
// little as those of a stuck server.
type slowCalls struct {
	pushable
	name string
	wait func()
}

func (s *slowCalls) pause(name string) {
	if name == s.name {
		s.wait()
	}
}

func (s *slowCalls) Push(string, *http.PushOptions) error { s.pause("Push"); return nil }
func (s *slowCalls) EnableFullDuplex() error              { s.pause("EnableFullDuplex"); return nil }
func (s *slowCalls) SetWriteDeadline(time.Time) error     { s.pause("SetWriteDeadline"); return nil }
func (s *slowCalls) Write(p []byte) (int, error)          { s.pause("Write"); return s.Sink.Write(p) }
func (s *slowCalls) FlushError() error {
	s.pause("FlushWait")
	s.pause("SendHeaders")
	return s.Sink.FlushError()
}

func (s *slowCalls) WriteHeader(code int) {
	if code == 103 {
		s.pause("103")
	}
	s.Sink.WriteHeader(code)
}

// What is called on a hijacked connection is logged, as by net/http.
func TestHijackedComplaints(t *testing.T) {
	over := make(chan struct{})
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		defer close(over)
		conn, _, err := http.NewResponseController(w).Hijack()
		harness.Must(t, err)
		defer conn.Close()
		io.WriteString(w, "x")
		w.WriteHeader(http.StatusOK)
	}))
	s := harness.Open(t, srv, "GET", "/", nil)
	<-over
	s.Leave()
	for _, call := range []string{"response.Write", "response.WriteHeader"} {
		if want := call + " on hijacked connection"; !strings.Contains(srv.Logged(), want) {
			t.Errorf("%q is not in %q", want, srv.Logged())
		}
	}
}

// A Write that is larger than what may be held waits for one call of the server's, and
// not for all that others go on to ask of a carrier. It says how long.
func TestLargeWriteGetsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = time.Second
		s := harness.NewSink(t)
		s.OnFlush = func() error { time.Sleep(takes); return nil }
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		harness.MustWrite(t, f, "a")
		harness.Must(t, f.FlushAsync())
		ctx, cancel := context.WithCancel(t.Context())
		over := harness.Go(func() error {
			for range 100 {
				if ctx.Err() != nil {
					break
				}
				f.FlushAsync() // while the one before is under way: one is always due
				time.Sleep(takes / 2)
			}
			return nil
		})
		synctest.Wait()
		clock := harness.NewClock()
		if n, err := f.Write(make([]byte, 200_000)); n != 200_000 || err != nil || clock.Now() > 20*takes {
			t.Errorf("%d, %v after %v", n, err, clock.Now())
		}
		if waited := f.Stats().Waited; waited < takes || waited > clock.Now() {
			t.Errorf("it waited %v of %v", waited, clock.Now())
		}
		cancel()
		<-over
		harness.Must(t, f.Close())
	})
}
