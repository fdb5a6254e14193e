package flush_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// FlushAcked, Backlog, and the end that waits for the kernel, over a connection
// whose kernel says what the test wants.

// overConn returns a response over a connection that is known.
func overConn(t *testing.T, ctx context.Context, opts *flush.Options) (f *flush.Flusher, s *harness.Sink, c *harness.KernelConn) {
	s, c = harness.NewSink(t), new(harness.KernelConn)
	f = flush.New(harness.DeadlineSink{Sink: s}, httptest.NewRequestWithContext(c.WithConn(ctx), "GET", "/", nil), opts)
	return f, s, c
}

// grow adds to what the kernel holds and to what the client has acknowledged.
func grow(c *harness.KernelConn, unsent, unacked, acked int64) {
	c.Set(func(s *harness.ConnState) {
		s.Unsent, s.Unacked, s.Acked = s.Unsent+unsent, s.Unacked+unacked, s.Acked+acked
	})
}

// the kernel is asked every 50 ms at most.
const kernelAsked = 50 * time.Millisecond

// FlushAcked lives while the client moves, however slowly, and returns with the
// last byte; it ends SendTimeout after the last move if that does not come.
func TestFlushAckedLivesWhileTheClientMoves(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f, _, c := overConn(t, t.Context(), &flush.Options{SendTimeout: time.Minute})
			grow(c, 3, 7, 0)
			harness.MustWrite(t, f, "event")
			began := time.Now()
			last := 9 * 59 * time.Second // the tenth byte does not come
			if arrives {
				last += 59 * time.Second
			}
			for i := range int(last / (59 * time.Second)) {
				time.AfterFunc(time.Duration(i+1)*59*time.Second, func() {
					c.Set(func(s *harness.ConnState) {
						if s.Unacked > 0 {
							s.Unacked--
						} else {
							s.Unsent--
						}
						s.Acked++
					})
				})
			}
			err := f.FlushAcked(t.Context())
			want, at := error(nil), last
			if !arrives {
				want, at = flush.ErrTimeout, last+time.Minute
			}
			took := time.Since(began)
			if !errors.Is(err, want) || want == nil && err != nil || took < at || took > at+2*kernelAsked {
				t.Errorf("%v after %v, want %v after %v", err, took, want, at)
			}
			if err := f.Err(); err != nil {
				t.Errorf("it sticks: %v", err)
			}
			harness.Must(t, f.Close())
			<-time.After(time.Second)
		})
	}
}

// FlushAcked waits for what was there when its flush was done, and not for what
// comes later.
func TestFlushAckedIsForItsOwnBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, c := overConn(t, t.Context(), &flush.Options{SendTimeout: time.Hour})
		grow(c, 0, 10, 100)
		harness.MustWrite(t, f, "event")
		began := time.Now()
		time.AfterFunc(time.Second, func() { grow(c, 1000, 0, 0) })        // others write
		time.AfterFunc(time.Minute, func() { grow(c, 0, -10, 10) })        // its own have arrived
		time.AfterFunc(30*time.Minute, func() { grow(c, -1000, 0, 1000) }) // the others'
		if err := f.FlushAcked(t.Context()); err != nil || time.Since(began) < time.Minute || time.Since(began) > time.Minute+kernelAsked {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		harness.Must(t, f.Close())
	})
}

// A connection that is lost while FlushAcked waits is a failure that sticks, and
// says what the kernel said.
func TestFlushAckedSaysThatTheConnectionIsLost(t *testing.T) {
	lost := errors.New("lost")
	for name, at := range map[string]func(s *harness.ConnState){
		"before":                 nil,
		"midway":                 func(s *harness.ConnState) { s.Err = lost },
		"by queue":               nil,
		"at the flush":           nil,
		"by queue, at the flush": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s, c := overConn(t, t.Context(), &flush.Options{SendTimeout: time.Hour})
				grow(c, 0, 10, 0)
				harness.MustWrite(t, f, "event")
				began, want := time.Now(), time.Duration(0)
				switch name {
				case "before":
					c.Set(func(s *harness.ConnState) { s.Err = lost })
				case "by queue":
					c.Set(func(s *harness.ConnState) { s.QueuedErr = lost })
				case "at the flush":
					s.OnFlush = func() error {
						c.Set(func(s *harness.ConnState) { s.Err = lost })
						return nil
					}
				case "by queue, at the flush":
					s.OnFlush = func() error {
						c.Set(func(s *harness.ConnState) { s.QueuedErr = lost })
						return nil
					}
				default:
					want = time.Minute
					time.AfterFunc(want, func() { c.Set(at) })
				}
				err := f.FlushAcked(t.Context())
				if took := time.Since(began); !errors.Is(err, flush.ErrClientGone) || !errors.Is(err, lost) || took < want || took > want+kernelAsked {
					t.Errorf("%v after %v", err, took)
				}
				if _, werr := f.WriteString("later"); !errors.Is(f.Err(), flush.ErrClientGone) || !errors.Is(werr, flush.ErrClientGone) {
					t.Errorf("what sticks is %v, a Write says %v", f.Err(), werr)
				}
				if (name == "before" || name == "by queue") && s.Body() != "" {
					t.Errorf("%q was handed over", s.Body())
				}
				f.Close()
			})
		})
	}
}

// A failure that FlushAcked has found ends at once what waits behind a call of the
// server, though that goes on.
func TestLostConnectionEndsEveryWait(t *testing.T) {
	for name, wait := range map[string]func(f *flush.Flusher) error{
		"FlushWait": func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"Write":     func(f *flush.Flusher) error { _, err := f.Write(make([]byte, 2000)); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s, c := overConn(t, t.Context(), &flush.Options{SendTimeout: time.Hour, MaxPending: 1000, BufferSize: 1000})
				s.OnFlush = func() error { <-time.After(time.Minute); return nil }
				harness.MustWrite(t, f, "event")
				go f.FlushWait(harness.NoContext)
				synctest.Wait()
				done := harness.Go(func() error { return wait(f) })
				synctest.Wait()
				if len(done) > 0 {
					t.Fatalf("%v: it does not wait", <-done)
				}
				c.Set(func(s *harness.ConnState) { s.Err = harness.ErrBoom })
				if err := f.FlushAcked(t.Context()); !errors.Is(err, harness.ErrBoom) {
					t.Errorf("FlushAcked: %v", err)
				}
				synctest.Wait()
				if len(done) == 0 {
					t.Error("it goes on to wait")
				}
				if err := <-done; !errors.Is(err, flush.ErrClientGone) {
					t.Error(err)
				}
				f.Close()
			})
		})
	}
}

// FlushAcked asks the kernel in growing steps, also when the request's own
// context, which does not end its wait, has ended.
func TestFlushAckedDoesNotSpin(t *testing.T) {
	for _, own := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			server, cancel := context.WithCancel(t.Context())
			c, s := new(harness.KernelConn), harness.NewSink(t)
			grow(c, 0, 10, 0)
			asked := 0
			h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.WriteString("event")
				ctx := context.Background()
				if own {
					ctx = r.Context()
				}
				cancel()
				synctest.Wait()
				time.AfterFunc(time.Minute, func() {
					asked = c.Asked()
					grow(c, 0, -10, 10)
				})
				if err := f.FlushAcked(ctx); err != nil {
					t.Error(err)
				}
			}), &flush.Options{SendTimeout: time.Hour})
			h.ServeHTTP(harness.DeadlineSink{Sink: s}, httptest.NewRequestWithContext(c.WithConn(server), "GET", "/", nil))
			if most := int(time.Minute/kernelAsked) + 20; asked > most || asked < most/2 {
				t.Errorf("own context %t: the kernel was asked %d times in a minute, want at most %d", own, asked, most)
			}
		})
	}
}

// Backlog says what waits unsent and what is not acknowledged, each in its
// place; of a connection that is lost, and after the end, it is an error.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, c := overConn(t, t.Context(), nil)
		if unsent, unacked, err := f.Backlog(); unsent != 0 || unacked != 0 || err != nil {
			t.Errorf("empty: %d, %d, %v", unsent, unacked, err)
		}
		grow(c, 7, 9, 100)
		harness.MustWrite(t, f, "floor 2 is not the kernel's")
		if unsent, unacked, err := f.Backlog(); unsent != 7 || unacked != 9 || err != nil {
			t.Errorf("%d unsent and %d unacknowledged, %v; want 7 and 9", unsent, unacked, err)
		}
		c.Set(func(s *harness.ConnState) { s.QueuedErr = errWaitBroken })
		if unsent, unacked, err := f.Backlog(); unsent != 0 || unacked != 0 || !errors.Is(err, flush.ErrClientGone) || !errors.Is(err, errWaitBroken) {
			t.Errorf("lost: %d, %d, %v", unsent, unacked, err)
		}
		c.Set(func(s *harness.ConnState) { s.QueuedErr = nil })
		harness.Must(t, f.Close())
		if _, _, err := f.Backlog(); !errors.Is(err, flush.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := f.FlushAcked(t.Context()); !errors.Is(err, flush.ErrClosed) {
			t.Errorf("FlushAcked after Close: %v", err)
		}
	})
}

// lookStalled lets the client of f look stalled for a while, with n bytes.
func lookStalled(t *testing.T, f *flush.Flusher, s *harness.Sink, n int) {
	s.Hold(0)
	if _, err := f.Write(make([]byte, n)); err != nil {
		t.Error(err)
	}
	time.AfterFunc(30*time.Second, s.Release)
	harness.Must(t, f.FlushWait(harness.NoContext))
}

// The end of a response whose client has looked stalled waits for the kernel,
// while that client moves, until there is room for the server's own last bytes;
// it fails SendTimeout after the client has stopped, and never waits for more
// than room.
func TestCloseWaitsForAClientThatMoves(t *testing.T) {
	for _, test := range []struct {
		name  string
		moves time.Duration // the client takes 100 bytes each 50 s until then
		queue int64
		want  error
		at    time.Duration
	}{
		{"there is room", 0, 1000, nil, 0},
		{"moves until there is room", time.Hour, 2000, nil, 500 * time.Second},
		{"stops", 200 * time.Second, 2000, flush.ErrTimeout, 260 * time.Second},
		{"never moves", 0, 2000, flush.ErrTimeout, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s, c := overConn(t, t.Context(), &flush.Options{SendTimeout: time.Minute})
				c.Set(func(s *harness.ConnState) { s.Room = 4000 })
				lookStalled(t, f, s, 3000)
				grow(c, test.queue/2, test.queue-test.queue/2, 0)
				began := time.Now()
				_, flushed := s.LastFlush()
				moves := time.NewTicker(50 * time.Second)
				over := make(chan struct{})
				go func() {
					for {
						select {
						case <-moves.C:
							if time.Since(began) <= test.moves {
								c.Set(func(s *harness.ConnState) {
									s.Acked += 100
									if s.Unsent >= 100 {
										s.Unsent -= 100
									} else {
										s.Unacked -= 100
									}
								})
							}
						case <-over:
							return
						}
					}
				}()
				err := f.Close()
				took := time.Since(began)
				if !errors.Is(err, test.want) || test.want == nil && err != nil || took < test.at || took > test.at+2*kernelAsked {
					t.Errorf("%v after %v, want %v after %v", err, took, test.want, test.at)
				}
				if _, n := s.LastFlush(); n-flushed != min(int(test.at), 1) { // what waits is to be on its way
					t.Errorf("Close has flushed %d times", n-flushed)
				}
				moves.Stop()
				close(over)
				<-time.After(time.Second)
			})
		})
	}
}

// A kernel that does not tell how much room it has, or what it holds, does not
// hold the end back, and no send timeout is none there as well.
func TestCloseDoesNotWaitForWhatItCannotKnow(t *testing.T) {
	for name, test := range map[string]struct {
		send time.Duration
		is   harness.ConnState
	}{
		"no room told":    {time.Minute, harness.ConnState{Unsent: 4000, RoomErr: errWaitBroken}},
		"no queue told":   {time.Minute, harness.ConnState{Unsent: 4000, Room: 4000, QueuedErr: errWaitBroken}},
		"no send timeout": {-1, harness.ConnState{Unsent: 4000, Room: 4000}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s, c := overConn(t, t.Context(), &flush.Options{SendTimeout: test.send})
				lookStalled(t, f, s, 3000)
				c.Set(func(s *harness.ConnState) { *s = test.is })
				time.AfterFunc(10*time.Minute, func() { grow(c, -4000, 0, 4000) })
				began := time.Now()
				if err := f.Close(); err != nil || test.send > 0 && time.Since(began) != 0 {
					t.Errorf("%v after %v", err, time.Since(began))
				}
				<-time.After(time.Second)
			})
		})
	}
}
