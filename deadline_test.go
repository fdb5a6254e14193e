package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
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

// With a known connection, no send timeout is none at the end of the
// response, too: a client that pauses gets everything, and no deadline cuts it.
func TestNoSendTimeoutAtTheEnd(t *testing.T) {
	for _, test := range []struct {
		name        string
		send, write time.Duration
		pause       time.Duration
	}{
		{"none", -1, 0, time.Second},
		{"none, long", -1, 0, 10 * time.Minute},
		{"none replaces WriteTimeout", -1, 30 * time.Second, time.Minute},
		{"WriteTimeout", 0, 30 * time.Second, time.Second},
		{"WriteTimeout, at once", 0, 30 * time.Second, 0},
		{"twin: the default", 0, 0, time.Second},
		{"twin: a send timeout", 10 * time.Second, 30 * time.Second, 9 * time.Second},
	} {
		for _, end := range []string{"Close", "FlushWait", "FlushAsync", "FlushAcked"} {
			t.Run(test.name+"/"+end, func(t *testing.T) {
				edge(t, func(t *testing.T) {
					began := time.Now()
					l := &link{pause: began.Add(test.pause)}
					s := harness.NewSink(t)
					s.Fault = func(p []byte, _ int) (int, error) {
						l.mu.Lock()
						defer l.mu.Unlock()
						l.noteLocked(int64(len(p)))
						return -1, nil
					}
					r := requestOf(l.known(t.Context()), test.write)
					f := flush.New(harness.DeadlineSink{Sink: s}, r, &flush.Options{SendTimeout: test.send})
					f.Write(make([]byte, 3<<20))
					switch end {
					case "FlushWait":
						harness.Must(t, f.FlushWait(harness.NoContext))
					case "FlushAsync":
						harness.Must(t, f.FlushAsync())
					case "FlushAcked":
						harness.Must(t, f.FlushAcked(t.Context()))
					}
					if err := f.Close(); err != nil || f.Err() != nil {
						t.Errorf("Close after %v: %v", time.Since(began), err)
					}
					if deadline.Closed(s.WriteDeadline.Passed()) {
						t.Error("a deadline in the past was left on the connection")
					}
					if n := len(s.Body()); n != 3<<20 {
						t.Errorf("%d bytes arrived", n)
					}
					<-time.After(time.Second) // whoever watches sees that nobody blocks, and ends
				})
			})
		}
	}
}

// The same over a server: the client sees the end, and OnClose no error.
func TestNoSendTimeoutAtTheEndOfAPausedClient(t *testing.T) {
	for _, test := range []struct {
		name        string
		send, write time.Duration
	}{
		{"none", -1, 0},
		{"WriteTimeout", 0, 30 * time.Second},
		{"twin: the default", 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			edges(t, func(t *testing.T, p harness.Proto) {
				const pause, size = time.Second, 300_000
				opts, told := harness.TellClosing(flush.Options{SendTimeout: test.send})
				l := &link{pause: time.Now().Add(pause)}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					for range size / 1000 {
						w.Write(make([]byte, 1000))
					}
				}), 4<<20, append(linked(l), harness.Configure(func(s *http.Server) { s.WriteTimeout = test.write }))...)
				s := harness.Open(t, srv, "GET", "/", nil)
				<-time.After(pause)
				if body, _, end := s.Rest(); len(body) != size || end == harness.Cut {
					t.Errorf("%d bytes, %s", len(body), end)
				}
				if c := <-told; c.Err != nil || c.Bytes != size {
					t.Errorf("OnClose: %v, %+v", c.Err, c.Stats)
				}
				s.Leave()
				<-time.After(time.Second)
			})
		})
	}
}

// With a send timeout the end is held back for a client that has looked
// stalled, as long as its kernel acknowledges something in time.
func TestSendTimeoutAtTheEndOfAStalledClient(t *testing.T) {
	const limit = time.Minute
	for _, lives := range []bool{false, true} {
		t.Run(fmt.Sprint(lives), func(t *testing.T) {
			edge(t, func(t *testing.T) {
				clock := harness.NewClock()
				var moves, queued int64 // by the clock
				look := func() {
					moves, queued = int64(min(clock.Now(), 50*time.Second)/(10*time.Second)), 60<<10
					if lives && clock.Now() >= 50*time.Second+limit-1 {
						moves, queued = 100, 0
					}
				}
				var mu sync.Mutex
				ctx := harness.WithConn(t.Context(), harness.FakeConn{
					AckedFunc:  func() (int64, error) { mu.Lock(); defer mu.Unlock(); look(); return moves, nil },
					QueuedFunc: func() (int64, int64, error) { mu.Lock(); defer mu.Unlock(); look(); return queued, 0, nil },
					RoomFunc:   func() (int64, error) { return linkRoom, nil },
				})
				s := harness.NewSink(t)
				s.Hold(1000)
				time.AfterFunc(50*time.Second, s.Release)
				f := flush.New(harness.DeadlineSink{Sink: s}, requestOf(ctx, 0), &flush.Options{SendTimeout: limit})
				f.Write(make([]byte, 100_000))
				if clock.Now() != 50*time.Second {
					t.Errorf("written after %v", clock.Now())
				}
				err := f.Close()
				if lives && err != nil || !lives && (!errors.Is(err, flush.ErrTimeout) || clock.Now() < 50*time.Second+limit) {
					t.Errorf("Close after %v: %v", clock.Now(), err)
				}
				if clock.Now() > 50*time.Second+2*limit {
					t.Errorf("Close took until %v", clock.Now())
				}
				<-time.After(time.Second)
			})
		})
	}
}

// Where the handler lifts the server's WriteTimeout while somebody is
// blocked, SendTimeout, a minute if it is zero, holds for that call already.
func TestLiftedWriteTimeoutLeavesSendTimeout(t *testing.T) {
	const limit, lifted = time.Minute, 10 * time.Second
	lifts := map[string]func(f *flush.Flusher) error{
		"SetWriteDeadline": func(f *flush.Flusher) error { return f.SetWriteDeadline(time.Time{}) },
		"controller": func(f *flush.Flusher) error {
			return http.NewResponseController(harness.Unwrapper{ResponseWriter: f}).SetWriteDeadline(time.Time{})
		},
	}
	for _, blocked := range []struct {
		name string
		by   func(f *flush.Flusher)
	}{
		{"carrier", func(f *flush.Flusher) { f.FlushAsync(); f.Write(make([]byte, harness.Much)) }},
		{"write", func(f *flush.Flusher) { go f.Write(make([]byte, harness.Much)) }},
		{"flush", func(f *flush.Flusher) {
			f.FlushAsync()
			f.Write(make([]byte, harness.Much))
			go f.FlushWait(harness.NoContext)
		}},
		{"implicit", func(f *flush.Flusher) { f.SetImplicit(flush.Wait); go f.Write(make([]byte, harness.Much)) }},
	} {
		for name, lift := range lifts {
			for _, end := range []string{"return", "Close", "Write", "FlushWait"} {
				for _, lives := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%s/%t", blocked.name, name, end, lives), func(t *testing.T) {
						edges(t, func(t *testing.T, p harness.Proto) {
							clock := harness.NewClock()
							opts, told := harness.TellClosing(flush.Options{MaxPending: 2 * harness.Much})
							got := make(chan *flush.Flusher, 1)
							srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
								f := harness.Flusher(w)
								got <- f
								harness.Must(t, f.FlushWait(harness.NoContext))
								blocked.by(f)
								clock.Until(lifted)
								harness.Must(t, lift(f))
								switch end {
								case "Close":
									f.Close()
								case "Write":
									f.Write(make([]byte, 2*harness.Much))
								case "FlushWait":
									f.FlushWait(harness.NoContext)
								}
							}), 1000, harness.Configure(func(s *http.Server) { s.WriteTimeout = 30 * time.Second }))
							s := harness.Open(t, srv, "GET", "/", nil)
							if s.Header(); lives {
								clock.Until(limit - 1)
								if _, _, end := s.Rest(); end == harness.Cut {
									t.Errorf("the client sees it %s", end)
								}
								if c := <-told; c.Err != nil {
									t.Error("OnClose:", c.Err)
								}
								return
							}
							clock.Until(time.Hour)
							select {
							case c := <-told:
								at := c.At.Sub(clock.Start)
								if !errors.Is(c.Err, flush.ErrTimeout) || at < limit || at > lifted+grain(limit) {
									t.Errorf("OnClose after %v: %v", at, c.Err)
								}
							default:
								t.Errorf("the response has not ended after %v", clock.Now())
								go (<-got).Abort(nil)
								<-told
							}
							if _, _, end := s.Rest(); end == harness.Complete {
								t.Error("the client takes it for complete")
							}
							s.Leave()
						})
					})
				}
			}
		}
	}
}

// A poller is a server's writer that blocks as the netpoller makes it: a
// deadline that has passed wakes it a moment later, and is forgotten if another
// has taken its place by then.
type poller struct {
	*harness.Sink
	made time.Time
	mu   sync.Mutex
	at   time.Time
}

func (p *poller) SetWriteDeadline(at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = at
	return nil
}

func (p *poller) Write(b []byte) (int, error) {
	p.Enter()
	defer p.Leave()
	for {
		p.Sink.Mu.Lock()
		if p.Held == nil || len(p.Got)+len(b) <= p.Limit {
			p.Got = append(p.Got, b...)
			p.Sink.Mu.Unlock()
			return len(b), nil
		}
		p.Sink.Mu.Unlock()
		<-time.After(time.Millisecond - time.Since(p.made)%time.Millisecond + 550*time.Microsecond) // between two changes
		p.mu.Lock()
		passed := !p.at.IsZero() && !p.at.After(time.Now())
		p.mu.Unlock()
		if passed {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Once a call of the server has been unblocked nothing undoes it, however
// often the handler rolls its own deadline.
func TestRollingDeadlinesDoNotUndoTheEnd(t *testing.T) {
	const limit = 30 * time.Millisecond
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		opts flush.Options
		do   func(f *flush.Flusher) error // blocks until the response has failed
		want error
	}{
		{"write", flush.Options{SendTimeout: limit}, func(f *flush.Flusher) error { _, err := f.Write(make([]byte, harness.Much)); return err }, flush.ErrTimeout},
		{"flush", flush.Options{SendTimeout: limit}, func(f *flush.Flusher) error { io.WriteString(f, "x"); return f.FlushWait(harness.NoContext) }, flush.ErrTimeout},
		{"carrier", flush.Options{SendTimeout: limit, Flush: flush.Async}, func(f *flush.Flusher) error { _, err := f.Write(make([]byte, harness.Much)); return err }, flush.ErrTimeout},
		{"Close", flush.Options{SendTimeout: limit, Flush: flush.Async}, func(f *flush.Flusher) error { io.WriteString(f, "x"); f.FlushAsync(); return f.Close() }, flush.ErrTimeout},
		{"Abort", flush.Options{SendTimeout: -1, Flush: flush.Async}, func(f *flush.Flusher) error {
			time.AfterFunc(limit, func() { f.Abort(cause) })
			_, err := f.Write(make([]byte, harness.Much))
			return err
		}, cause},
		{"Abort of a write", flush.Options{SendTimeout: time.Hour}, func(f *flush.Flusher) error {
			time.AfterFunc(limit, func() { f.Abort(cause) })
			_, err := f.Write(make([]byte, harness.Much))
			return err
		}, cause},
		{"Budget", flush.Options{SendTimeout: -1, Flush: flush.Async, Budget: flush.NewBudget(8<<10, 8<<10)}, func(f *flush.Flusher) error {
			_, err := f.Write(make([]byte, 20_000))
			return err
		}, flush.ErrOverBudget},
	} {
		t.Run(test.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				clock := harness.NewClock()
				s := &poller{Sink: harness.NewSink(t), made: time.Now()}
				s.Hold(0)
				f := flush.New(s, nil, &test.opts)
				over := make(chan struct{})
				var rolling sync.WaitGroup
				for i := range 3 {
					rolling.Go(func() {
						for <-time.After(time.Duration(i) * 100 * time.Microsecond); !deadline.Closed(over); <-time.After(300 * time.Microsecond) {
							f.SetWriteDeadline(time.Now().Add(time.Hour))
						}
					})
				}
				done := harness.Go(func() error {
					err := test.do(f)
					<-time.After(10 * time.Millisecond) // and so much of the handler's work
					f.Close()
					return err
				})
				err, came := clock.By(2*time.Second, done)
				if !came {
					t.Errorf("the response has not ended after %v: %v", clock.Now(), f.Err())
				} else if !errors.Is(err, test.want) || clock.Now() > 500*time.Millisecond {
					t.Errorf("%v after %v", err, clock.Now())
				}
				close(over)
				s.Release()
				rolling.Wait()
				if !came {
					<-done
				}
			})
		})
	}
}

// The twin: the handler's deadlines, rolled while the client moves, cost
// nothing, and the earliest holds.
func TestRollingDeadlinesOfAMovingClient(t *testing.T) {
	edge(t, func(t *testing.T) {
		clock := harness.NewClock()
		s := &poller{Sink: harness.NewSink(t), made: time.Now()}
		s.Hold(0)
		f := flush.New(s, nil, &flush.Options{SendTimeout: 30 * time.Millisecond, Flush: flush.Async})
		done := harness.Go(func() error { _, err := f.Write(make([]byte, harness.Much)); return errors.Join(err, f.Close()) })
		for n := 32 << 10; ; n += 32 << 10 {
			if err := f.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil && n < harness.Much {
				break
			}
			if _, came := clock.By(clock.Now()+20*time.Millisecond, done); came {
				break
			}
			s.Hold(n)
		}
		if n := len(s.Body()); n != harness.Much || f.Err() != nil {
			t.Errorf("%d bytes arrived: %v", n, f.Err())
		}
	})
}

// A deadline of the handler's that comes while the response closes is no
// reason to wait longer than SendTimeout.
func TestRollingDeadlinesWhileClosing(t *testing.T) {
	edges(t, func(t *testing.T, p harness.Proto) {
		const limit = time.Minute
		clock := harness.NewClock()
		opts, told := harness.TellClosing(flush.Options{SendTimeout: limit, BufferSize: harness.Much + 1})
		over := make(chan struct{})
		var rolling sync.WaitGroup
		srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			w.Write(make([]byte, harness.Much))
			rolling.Go(func() {
				for !deadline.Closed(over) {
					f.SetWriteDeadline(time.Now().Add(time.Hour))
					<-time.After(time.Second)
				}
			})
			synctest.Wait()
		}), 1000)
		s := harness.Open(t, srv, "GET", "/", nil)
		if c := <-told; !errors.Is(c.Err, flush.ErrTimeout) || c.At.Sub(clock.Start) > grain(limit) {
			t.Errorf("OnClose after %v: %v", c.At.Sub(clock.Start), c.Err)
		}
		close(over)
		rolling.Wait()
		if _, _, end := s.Rest(); end == harness.Complete {
			t.Error("the client takes it for complete")
		}
		s.Leave()
	})
}

// "None" in words that a handler may choose: nothing ends a stalled client's
// response but what was asked for.
func TestNoneIsNone(t *testing.T) {
	for _, send := range []time.Duration{-1, -time.Hour} {
		for _, known := range []bool{false, true} {
			for _, way := range []struct {
				name string
				opts flush.Options
				do   func(f *flush.Flusher) error
			}{
				{"write", flush.Options{}, func(f *flush.Flusher) error { _, err := f.Write(make([]byte, harness.Much)); return err }},
				{"flush", flush.Options{}, func(f *flush.Flusher) error { io.WriteString(f, "x"); return f.FlushWait(harness.NoContext) }},
				{"background", flush.Options{Flush: flush.Async}, func(f *flush.Flusher) error { _, err := f.Write(make([]byte, harness.Much)); return err }},
				{"Close", flush.Options{BufferSize: harness.Much + 1}, func(f *flush.Flusher) error { f.Write(make([]byte, harness.Much)); return nil }},
				{"a roomy budget", flush.Options{Budget: flush.NewBudget(1<<30, 1<<30)}, func(f *flush.Flusher) error { _, err := f.Write(make([]byte, harness.Much)); return err }},
				{"own deadline lifted", flush.Options{}, func(f *flush.Flusher) error {
					f.SetWriteDeadline(time.Now().Add(time.Hour))
					f.SetWriteDeadline(time.Time{})
					_, err := f.Write(make([]byte, harness.Much))
					return err
				}},
			} {
				t.Run(fmt.Sprintf("%v/%t/%s", send, known, way.name), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						const stalls = 10_000 * time.Hour
						ctx := t.Context()
						if known {
							var l link
							l.pause = time.Now().Add(2 * stalls)
							l.noteLocked(100_000)
							ctx = l.known(ctx)
						}
						s := harness.NewSink(t)
						s.Hold(0)
						time.AfterFunc(stalls, s.Release)
						opts := way.opts
						opts.SendTimeout = send
						f := flush.New(harness.DeadlineSink{Sink: s}, requestOf(ctx, 0), &opts)
						clock := harness.NewClock()
						err := errors.Join(way.do(f), f.Close())
						if err != nil || clock.Now() < stalls {
							t.Errorf("%v after %v", err, clock.Now())
						}
						if n := len(strings.TrimPrefix(s.Body(), "x")); n != harness.Much && s.Body() != "x" {
							t.Errorf("%d bytes arrived", n)
						}
						<-time.After(time.Second)
					})
				})
			}
		}
	}
}
