package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A client that stops reading fails what waits for it after exactly
// SendTimeout, and its twin that goes on reading just before does not.
func TestSendTimeoutOfStalledClient(t *testing.T) {
	const limit = time.Minute
	file, _ := harness.TempFile(t, harness.Much)
	for _, way := range []struct {
		name string
		opts flush.Options
		send func(w http.ResponseWriter) error // nil: the return of the handler sends
	}{
		{"write", flush.Options{}, func(w http.ResponseWriter) error { _, err := w.Write(make([]byte, harness.Much)); return err }},
		{"small writes", flush.Options{}, func(w http.ResponseWriter) error {
			for range harness.Much / 100 {
				if n, err := w.Write(make([]byte, 100)); n != 100 || err != nil {
					return err
				}
			}
			return nil
		}},
		{"file", flush.Options{}, func(w http.ResponseWriter) error {
			_, err := io.Copy(w, io.NewSectionReader(file, 0, harness.Much))
			if err == nil {
				return nil
			}
			return err
		}},
		{"sendfile", flush.Options{}, func(w http.ResponseWriter) error {
			f, err := os.Open(file.Name())
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		}},
		{"flush", flush.Options{BufferSize: harness.Much + 1}, func(w http.ResponseWriter) error {
			w.Write(make([]byte, harness.Much))
			return flush.Flush(w, true)
		}},
		{"implicit", flush.Options{Implicit: flush.Wait, BufferSize: harness.Much + 1}, func(w http.ResponseWriter) error {
			_, err := w.Write(make([]byte, harness.Much))
			return err
		}},
		{"background", flush.Options{Flush: flush.Async, MaxPending: 64 << 10}, func(w http.ResponseWriter) error {
			_, err := w.Write(make([]byte, harness.Much))
			return err
		}},
		{"wait for the background", flush.Options{MaxPending: harness.Much}, func(w http.ResponseWriter) error {
			w.Write(make([]byte, 4000))
			flush.Flush(w, false)
			w.Write(make([]byte, harness.Much-4000))
			return flush.Flush(w, true)
		}},
		{"context", flush.Options{BufferSize: harness.Much + 1}, func(w http.ResponseWriter) error {
			w.Write(make([]byte, harness.Much))
			ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
			defer cancel()
			return harness.Flusher(w).FlushWait(ctx)
		}},
		{"return", flush.Options{BufferSize: harness.Much + 1}, nil},
		{"asynchronous return", flush.Options{MaxPending: harness.Much}, nil},
	} {
		for _, lives := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", way.name, lives), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					clock := harness.NewClock()
					inTime := func(way string) bool {
						late := clock.Now() - limit
						return late == 0 || way == "sendfile" && 0 < late && late <= grain(limit)-limit // its file's position is looked at now and then
					}
					ended := make(chan error, 1)
					opts := way.opts
					opts.SendTimeout = limit
					opts.OnClose = func(_ *http.Request, st flush.Stats, err error) {
						if !lives && !inTime(way.name) {
							t.Errorf("ended after %v", clock.Now())
						}
						if st.Bytes+st.Lost > harness.Much || lives && st.Bytes != harness.Much {
							t.Errorf("%+v", st)
						}
						ended <- err
					}
					srv := harness.ServeMemory(t, p, harness.Wrapped(&opts, func(w http.ResponseWriter, r *http.Request) {
						if way.send == nil {
							w.Write(make([]byte, harness.Much))
							if way.opts.BufferSize == 0 {
								flush.Flush(w, false)
							}
							return
						}
						ended := r.Context().Done() // from here on the server's context is watched
						err := way.send(w)
						f := harness.Flusher(w)
						if lives {
							if err != nil || f.Err() != nil {
								t.Errorf("%v, %v after %v", err, f.Err(), clock.Now())
							}
							return
						}
						if !errors.Is(err, flush.ErrTimeout) || !errors.Is(err, os.ErrDeadlineExceeded) || !inTime(way.name) {
							t.Errorf("%v after %v", err, clock.Now())
						}
						// It sticks, and everybody says the same.
						<-ended
						_, werr := w.Write(nil)
						for _, err := range []error{f.Err(), werr, flush.Flush(w, true), flush.Flush(w, false), f.FlushError(), f.SendHeaders(), flush.Cause(r.Context())} {
							if !errors.Is(err, flush.ErrTimeout) {
								t.Errorf("later: %v", err)
							}
						}
						if f.Available() != 0 {
							t.Error("bytes available after the failure")
						}
					}), 1000)
					s := harness.Open(t, srv, "GET", "/", nil)
					if lives {
						clock.Until(limit - 1)
						s.Take(harness.Much)
						s.ExpectEnd("")
						if err := <-ended; err != nil {
							t.Error("OnClose:", err)
						}
						return
					}
					if err := <-ended; !errors.Is(err, flush.ErrTimeout) {
						t.Error("OnClose:", err)
					}
					if _, _, end := s.Rest(); end == harness.Complete {
						t.Error("the client takes it for complete")
					}
				})
			})
		}
	}
}

// The timer of a stream that idles for SendTimeout is given back, where the next call
// does not need another soon: that makes one, which ends it as exactly as the first
// would.
func TestIdleStreamGivesItsTimerBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		opts  flush.Options
		keeps bool
	}{
		{"long", flush.Options{SendTimeout: time.Minute}, false},
		{"short", flush.Options{SendTimeout: time.Second}, true},
		{"in a budget", flush.Options{SendTimeout: time.Minute, Budget: flush.NewBudget(1<<20, 1<<21)}, true},
	} {
		for _, calls := range []int{1, 100} { // those of the second come close
			t.Run(fmt.Sprint(c.name, " ", calls), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					limit, ended := c.opts.SendTimeout, make(chan struct{})
					srv := harness.ServeMemory(t, p, harness.Wrapped(&c.opts, func(w http.ResponseWriter, _ *http.Request) {
						defer close(ended)
						f := harness.Flusher(w)
						for range 2 {
							for range calls {
								io.WriteString(w, "x")
								flush.Flush(w, true)
							}
							if !flush.KeepsTimer(f) {
								t.Error("nothing watches the calls")
							}
							<-time.After(2 * limit)
							if flush.KeepsTimer(f) != c.keeps {
								t.Errorf("it keeps its timer: %t", !c.keeps)
							}
						}
						clock := harness.NewClock()
						w.Write(make([]byte, harness.Much))
						if err := flush.Flush(w, true); !errors.Is(err, flush.ErrTimeout) || clock.Now() != limit {
							t.Errorf("%v after %v", err, clock.Now())
						}
					}), 1000)
					s := harness.Open(t, srv, "GET", "/", nil)
					s.Take(2 * calls)
					<-ended
				})
			})
		}
	}
}

// So is that of a detached response, though its next call needs another soon: many
// idle.
func TestIdleDetachedStreamGivesItsTimerBack(t *testing.T) {
	for name, opts := range map[string]flush.Options{
		"short":       {SendTimeout: time.Second},
		"in a budget": {SendTimeout: time.Minute, Budget: flush.NewBudget(1<<20, 1<<21)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				detached := make(chan *flush.Flusher, 1)
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					harness.Must(t, f.Detach())
					detached <- f
				}), 1000)
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Response()
				f := <-detached
				synctest.Wait() // the handler has returned
				harness.MustWrite(t, f, "x")
				harness.Must(t, f.FlushWait(harness.NoContext))
				if !flush.KeepsTimer(f) {
					t.Error("nothing watches the call")
				}
				<-time.After(2 * opts.SendTimeout)
				if flush.KeepsTimer(f) {
					t.Error("it keeps its timer")
				}
				harness.Must(t, f.Close())
				s.ExpectEnd("x")
			})
		})
	}
}

// The timeout rolls: a client that is slow, but takes something of each step in
// time, gets everything.
func TestSendTimeoutRolls(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		harness.Bubble(t, func(t *testing.T, p harness.Proto) {
			const limit = time.Minute
			opts := &flush.Options{Flush: mode, SendTimeout: limit, BufferSize: 4 * harness.Much}
			srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
				w.Write(make([]byte, 4*harness.Much))
				if err := flush.Flush(w, true); err != nil {
					t.Error(err)
				}
			}), 1000)
			s := harness.Open(t, srv, "GET", "/", nil)
			clock := harness.NewClock()
			for range 20 {
				<-time.After(limit - 1)
				s.Take(4 * harness.Much / 20)
			}
			s.ExpectEnd("")
			if clock.Now() < 10*limit {
				t.Error("took no longer than", clock.Now())
			}
		})
	}
}

// An idle stream outlives any SendTimeout, comes to life again and ends with
// its last chunk, and so does the connection under it.
func TestSendTimeoutLeavesIdleStreamsAlone(t *testing.T) {
	for _, wait := range []bool{true, false} {
		for _, write := range []time.Duration{0, 2 * time.Second} {
			t.Run(fmt.Sprint(wait, write), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					opts := &flush.Options{SendTimeout: time.Second}
					srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
						for i := range 3 {
							fmt.Fprint(w, i)
							if err := flush.Flush(w, wait); err != nil {
								t.Error(err)
							}
							<-time.After(1000 * time.Hour)
						}
					}), 0, harness.Configure(func(s *http.Server) { s.WriteTimeout = write }))
					clock := harness.NewClock()
					s := harness.Open(t, srv, "GET", "/", nil)
					for range 2 {
						for i := range 3 {
							s.Expect(fmt.Sprint(i))
						}
						s.ExpectEnd("")
						if p == harness.HTTP10 {
							return
						}
						<-time.After(1000 * time.Hour)
						s = s.Again("GET", "/", nil)
					}
					s.ExpectEnd("012")
					if clock.Now() != 11_000*time.Hour {
						t.Error("took", clock.Now())
					}
				})
			})
		}
	}
}

// How SendTimeout, the server's WriteTimeout and the handler's own deadline
// work together, for a stream of an event every four seconds and for a stalled
// client.
func TestSendTimeoutBesideOtherDeadlines(t *testing.T) {
	const events = 1000
	const never, short, long = 0, 10_500 * time.Millisecond, 20_500 * time.Millisecond
	for _, test := range []struct {
		name         string
		send, write  time.Duration
		own          func(f *flush.Flusher) error
		streamDies   time.Duration
		stalledDies  time.Duration
		stalledAlive bool
	}{
		{"nothing set", 0, 0, nil, never, time.Minute, false},
		{"none", -1, 0, nil, never, never, true},
		{"WriteTimeout stays absolute", 0, short, nil, 12 * time.Second, short, false},
		{"SendTimeout replaces WriteTimeout", time.Minute, short, nil, never, time.Minute, false},
		{"none replaces WriteTimeout", -1, short, nil, never, never, true},
		{"own deadline first", time.Minute, 0, ownDeadline(short), 12 * time.Second, short, false},
		{"own deadline last", time.Minute, 0, ownDeadline(time.Hour + 1), time.Hour + 4*time.Second, time.Minute, false},
		{"own deadline under none", -1, 0, ownDeadline(short), 12 * time.Second, short, false},
		{"own deadline under WriteTimeout", 0, short, ownDeadline(long), 24 * time.Second, long, false},
		{"WriteTimeout lifted", 0, short, func(f *flush.Flusher) error { return f.SetWriteDeadline(time.Time{}) }, never, time.Minute, false},
		{"own deadline lifted", time.Minute, 0, func(f *flush.Flusher) error {
			return errors.Join(f.SetWriteDeadline(time.Now().Add(time.Second)), f.SetWriteDeadline(time.Time{}))
		}, never, time.Minute, false},
		{"through the controller", 0, short, func(f *flush.Flusher) error {
			return http.NewResponseController(harness.Unwrapper{ResponseWriter: f}).SetWriteDeadline(time.Time{})
		}, never, time.Minute, false},
		{"already past", time.Minute, 0, ownDeadline(-time.Second), 4 * time.Second, time.Nanosecond, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				opts := &flush.Options{SendTimeout: test.send}
				configured := harness.Configure(func(s *http.Server) { s.WriteTimeout = test.write })
				died := make(chan time.Duration, 1)
				var clock harness.Clock
				stream := func(w http.ResponseWriter, r *http.Request) {
					clock = harness.NewClock()
					if test.own != nil {
						if err := test.own(harness.Flusher(w)); err != nil {
							t.Error(err)
						}
					}
					for range events {
						<-time.After(4 * time.Second)
						io.WriteString(w, "event\n")
						if err := flush.Flush(w, true); err != nil {
							if !errors.Is(err, flush.ErrTimeout) || !errors.Is(flush.Cause(r.Context()), flush.ErrTimeout) {
								t.Errorf("%v, cause %v", err, flush.Cause(r.Context()))
							}
							died <- clock.Now()
							return
						}
					}
					died <- never
				}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, stream), 0, configured)
				s := harness.Open(t, srv, "GET", "/", nil)
				body, _, end := s.Rest()
				if at := <-died; at != test.streamDies {
					t.Errorf("the stream died after %v, want %v", at, test.streamDies)
				} else if at == never && (end == harness.Cut || len(body) != events*len("event\n")) {
					t.Errorf("%d bytes, %s", len(body), end)
				}

				// The stalled client, met by a write and by the end of the response.
				for _, size := range []int{0, harness.Much + 1} {
					opts := *opts
					opts.BufferSize = size
					opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) {
						if err != nil && !errors.Is(err, flush.ErrTimeout) {
							t.Error(err)
						}
						died <- took(clock.Now(), err)
					}
					srv := harness.ServeMemory(t, p, harness.Wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) {
						clock = harness.NewClock()
						if test.own != nil {
							test.own(harness.Flusher(w))
						}
						w.Write(make([]byte, harness.Much))
					}), 1000, configured)
					s := harness.Open(t, srv, "GET", "/", nil)
					if test.stalledAlive {
						<-time.After(1000 * time.Hour)
						s.Take(harness.Much)
					}
					if at := <-died; at != test.stalledDies {
						t.Errorf("the stalled client died after %v, want %v", at, test.stalledDies)
					}
					s.Leave()
				}
			})
		})
	}
}

// took is how long something that failed took, at least a moment; 0 stands for
// one that did not fail.
func took(d time.Duration, err error) time.Duration {
	if err == nil {
		return 0
	}
	return max(d, 1)
}

func ownDeadline(d time.Duration) func(*flush.Flusher) error {
	return func(f *flush.Flusher) error { return f.SetWriteDeadline(time.Now().Add(d)) }
}

// A deadline that has passed while nothing was outstanding does not cost an
// HTTP/1 response its last chunk. (HTTP/2 resets the stream at the deadline.)
func TestDeadlineSparesTheLastChunk(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		if p == harness.HTTP2 {
			return
		}
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			harness.Flusher(w).SetWriteDeadline(time.Now().Add(time.Second))
			io.WriteString(w, "all")
			flush.Flush(w, true)
			<-time.After(time.Minute)
		}), 0)
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd("all")
	})
}

// The bytes that the server itself still holds when the handler has returned
// have SendTimeout to leave, and no longer.
func TestSendTimeoutOfTheServersOwnBytes(t *testing.T) {
	trailers := func(w http.ResponseWriter) { w.Header().Set(http.TrailerPrefix+"X-Late", "1") }
	for _, test := range []struct {
		lives bool
		h     func(http.ResponseWriter)
	}{
		{false, func(http.ResponseWriter) {}},
		{true, func(http.ResponseWriter) {}},
		{false, trailers}, // flushed by us, so that there is room for them
		{true, trailers},
	} {
		lives := test.lives
		synctest.Test(t, func(t *testing.T) {
			const limit = time.Minute
			clock, ended := harness.NewClock(), make(chan time.Duration, 2)
			srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
				w.Write(make([]byte, 1000))
				test.h(w)
			}), 100, harness.Configure(func(s *http.Server) {
				s.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateIdle || state == http.StateClosed {
						ended <- clock.Now()
					}
				}
			}))
			s := harness.Open(t, srv, "GET", "/", nil)
			if lives {
				clock.Until(limit - 1)
				s.ExpectEnd(string(make([]byte, 1000)))
				if at := <-ended; at != limit-1 {
					t.Error("over after", at)
				}
				s.Leave()
			} else if at := <-ended; at != limit {
				t.Error("the connection was given up after", at)
			}
			synctest.Wait()
		})
	}
}

// A response whose calls come close together is timed by ticks. Wherever between
// two of them its client stops, it lives just short of SendTimeout, and is dead at
// most a sixteenth after it; bytes that the client's kernel has acknowledged
// meanwhile count from when they have been.
func TestSendTimeoutOfBriskStream(t *testing.T) {
	const limit = time.Minute
	for _, way := range []struct {
		name  string
		known bool          // the connection is
		acked time.Duration // when the client has acknowledged something, once it has stopped
	}{
		{"unknown", false, 0},
		{"known", true, 0},
		{"acknowledged at once", true, 1},
		{"acknowledged soon", true, 20 * time.Millisecond},
		{"acknowledged after a tick", true, limit / 30},
		{"acknowledged late", true, limit - 1},
	} {
		for _, gap := range []time.Duration{0, time.Millisecond, 100 * time.Millisecond, 150 * time.Millisecond} {
			for _, async := range []bool{false, true} {
				for _, calls := range []int{1, 15, 16, 17, 18, 40, 57, 1000} {
					for _, goesOn := range []bool{false, true} {
						t.Run(fmt.Sprintf("%s/%v/%t/%d/%t", way.name, gap, async, calls, goesOn), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								opts := &flush.Options{SendTimeout: limit}
								f, s, c := overConn(t, t.Context(), opts)
								if !way.known {
									s = harness.NewSink(t)
									f = flush.New(harness.DeadlineSink{Sink: s}, nil, opts)
								}
								for range calls {
									harness.MustWrite(t, f, "event")
									harness.Must(t, flush.Flush(f, !async))
									time.Sleep(gap)
								}
								synctest.Wait()
								s.Hold(0)
								clock, ends := harness.NewClock(), way.acked+limit
								if way.acked > 0 {
									time.AfterFunc(way.acked, func() { grow(c, 0, 0, 100) })
								}
								if goesOn {
									time.AfterFunc(ends-1, s.Release)
								}
								f.WriteString("the last")
								if async {
									harness.Must(t, f.FlushAsync())
								}
								err := f.FlushWait(harness.NoContext)
								switch at := clock.Now(); {
								case goesOn && (err != nil || at != ends-1):
									t.Errorf("%v after %v: it has gone on after %v", err, at, ends-1)
								case !goesOn && (!errors.Is(err, flush.ErrTimeout) || at < ends || at > ends+limit/16):
									t.Errorf("%v after %v", err, at)
								}
								s.Release()
								f.Close()
								<-time.After(time.Second) // the watcher ends
							})
						})
					}
				}
			}
		}
	}
}

// A stuck writer stands for a server without deadlines (CGI, FastCGI): it
// takes nothing until its gate opens.
type stuck struct {
	harness.Flushable
	gate chan struct{}
}

func (s stuck) Write(p []byte) (int, error) { <-s.gate; return s.Flushable.Write(p) }

// SetWriteDeadline hides that of the writer it is made from.
func (s stuck) SetWriteDeadline() {}

// Where the server has no deadlines the waits end all the same, with an
// ErrTimeout that does not stick; Close waits for the server's call.
func TestWaitsEndWithoutDeadlines(t *testing.T) {
	const limit, opens = time.Minute, 5 * time.Minute
	large := make([]byte, 10_000)
	for _, way := range []struct {
		name string
		opts flush.Options
		wait func(f *flush.Flusher) error
	}{
		{"flush", flush.Options{}, func(f *flush.Flusher) error { return flush.Flush(f, true) }},
		{"FlushError", flush.Options{}, (*flush.Flusher).FlushError},
		{"context", flush.Options{}, func(f *flush.Flusher) error { return f.FlushWait(context.Background()) }},
		{"write", flush.Options{}, func(f *flush.Flusher) error { _, err := f.Write(large); return err }},
		{"implicit", flush.Options{Implicit: flush.Wait}, func(f *flush.Flusher) error { _, err := f.Write(large); return err }},
		{"background", flush.Options{Flush: flush.Async, MaxPending: 8000}, func(f *flush.Flusher) error { _, err := f.Write(large); return err }},
		{"behind another", flush.Options{}, func(f *flush.Flusher) error { f.FlushAsync(); synctest.Wait(); return flush.Flush(f, true) }},
	} {
		for _, gateAt := range []time.Duration{opens, limit - 1} {
			t.Run(fmt.Sprintf("%s/%v", way.name, gateAt), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					clock := harness.NewClock()
					s := stuck{harness.Flushable{Plain: harness.NewPlain()}, afterFunc(true, gateAt)}
					way.opts.SendTimeout = limit
					f := flush.New(s, nil, &way.opts)
					if way.name != "implicit" {
						f.WriteString("held")
					}
					err := way.wait(f)
					if gateAt == opens && (!errors.Is(err, flush.ErrTimeout) || clock.Now() != limit) || gateAt < limit && (err != nil || clock.Now() != gateAt) {
						t.Errorf("%v after %v", err, clock.Now())
					}
					if f.Err() != nil {
						t.Error("it sticks:", f.Err())
					}
					if err := f.Close(); err != nil || clock.Now() != gateAt {
						t.Errorf("Close: %v after %v", err, clock.Now())
					}
					if st := f.Stats(); st.Lost != 0 || st.Bytes < 4 {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

// Without deadlines the return of the handler waits for the server's call as
// well, and a wait that timed out leaves the response as it was.
func TestHandlerWaitsWithoutDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := harness.NewClock()
		s := stuck{harness.Flushable{Plain: harness.NewPlain()}, afterFunc(true, time.Hour)}
		got := errors.New("not called")
		opts := &flush.Options{SendTimeout: time.Minute, OnClose: func(_ *http.Request, _ flush.Stats, err error) { got = err }}
		r, _ := http.NewRequest("GET", "/", nil)
		harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "one, ")
			if err := flush.Flush(w, true); !errors.Is(err, flush.ErrTimeout) {
				t.Error(err)
			}
			io.WriteString(w, "two")
			if err := flush.Flush(w, false); err != nil {
				t.Error(err)
			}
			if err := r.Context().Err(); err != nil {
				t.Error("context:", err)
			}
		}).ServeHTTP(s, r)
		if clock.Now() != time.Hour || got != nil {
			t.Errorf("%v after %v", got, clock.Now())
		}
		if want := "200 one,  flush two flush"; s.String() != want {
			t.Errorf("server saw %q, want %q", s, want)
		}
	})
}

// A call of the server that cannot be ended is waited for on every other way
// out as well: the server's writer is never left behind in use.
func TestAbortWaitsWithoutDeadlines(t *testing.T) {
	for name, end := range map[string]func(w http.ResponseWriter){
		"panic": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"Abort": func(w http.ResponseWriter) { harness.Flusher(w).Abort(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := harness.NewClock()
				s := stuck{harness.Flushable{Plain: harness.NewPlain()}, afterFunc(true, time.Hour)}
				defer func() {
					if v := recover(); v != http.ErrAbortHandler || clock.Now() != time.Hour {
						t.Errorf("recovered %v after %v", v, clock.Now())
					}
					if want := "200 one flush"; s.String() != want {
						t.Errorf("server saw %q, want %q", s, want)
					}
				}()
				r, _ := http.NewRequest("GET", "/", nil)
				harness.Wrapped(&flush.Options{SendTimeout: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, "one")
					flush.Flush(w, false)
					synctest.Wait()
					io.WriteString(w, "two")
					end(w)
				}).ServeHTTP(s, r)
			})
		})
	}
}

// The end of a response whose calls came in quick succession is bounded like any other.
func TestCloseOfABriskResponseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: time.Minute})
		for range 20 {
			harness.MustWrite(t, f, "event")
			harness.Must(t, f.FlushWait(harness.NoContext))
		}
		s.Hold(0)
		harness.MustWrite(t, f, "tail")
		began := time.Now()
		stop := time.AfterFunc(time.Hour, s.Release)
		defer stop.Stop()
		if err := f.Close(); !errors.Is(err, flush.ErrTimeout) || time.Since(began) != time.Minute {
			t.Errorf("Close: %v after %v", err, time.Since(began))
		}
	})
}
