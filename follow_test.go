package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// asks are the calls that ask for a flush and return at once.
var asks = []struct {
	name string
	opts flush.Options
	do   func(f *flush.Flusher) error
}{
	{"FlushAsync", flush.Options{}, (*flush.Flusher).FlushAsync},
	{"FlushAsync, asynchronous", flush.Options{Flush: flush.Async}, (*flush.Flusher).FlushAsync},
	{"Flush without wait", flush.Options{}, func(f *flush.Flusher) error { return flush.Flush(f, false) }},
	{"Flush behind a wrapper", flush.Options{}, func(f *flush.Flusher) error { return flush.Flush(harness.Unwrapper{ResponseWriter: f}, false) }},
	{"Flush behind a wrapper that flushes", flush.Options{}, func(f *flush.Flusher) error {
		return flush.Flush(&harness.Compressor{ResponseWriter: f, Down: func(w http.ResponseWriter) { w.(http.Flusher).Flush() }}, false)
	}},
	{"FlushError", flush.Options{Flush: flush.Async}, (*flush.Flusher).FlushError},
	{"http.Flusher", flush.Options{Flush: flush.Async}, func(f *flush.Flusher) error { f.Flush(); return nil }},
	{"controller", flush.Options{Flush: flush.Async}, func(f *flush.Flusher) error { return http.NewResponseController(f).Flush() }},
	{"FlushAll", flush.Options{}, func(f *flush.Flusher) error { return f.FlushAll(false) }},
}

// A flush that is only asked for never waits for the client, whatever the
// buffers hold that follow it, and what they hold goes out by itself once the
// client goes on.
func TestAskingNeverWaitsForFollowers(t *testing.T) {
	const stall, size = 30 * time.Second, 200_000
	double := func(p []byte, _ flush.Phase) ([]byte, error) { return append(p[:len(p):len(p)], p...), nil }
	for _, shape := range []struct {
		name string
		open func(f *flush.Flusher)
		want func(s string) string
	}{
		{"one", func(f *flush.Flusher) { f.StartBuffer(&flush.BufferOptions{FollowFlush: true}) }, func(s string) string { return s }},
		{"two", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
		}, func(s string) string { return s }},
		{"one that doubles", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: double})
		}, func(s string) string { return s + s }},
	} {
		for _, ask := range asks {
			for _, first := range []int{0, 1000, 65_000} { // on floor 2 before
				t.Run(fmt.Sprintf("%s/%s/%d", shape.name, ask.name, first), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						s := harness.NewSink(t)
						s.Hold(0)
						opts := ask.opts
						opts.SendTimeout, opts.BufferSize = time.Minute, 65_001
						f := flush.New(harness.DeadlineSink{Sink: s}, nil, &opts)
						lead := harness.Numbered(first)
						harness.MustWrite(t, f, lead)
						shape.open(f)
						all := harness.Numbered(size)
						harness.MustWrite(t, f, all)
						clock := harness.NewClock()
						time.AfterFunc(stall, s.Release)
						for range 3 {
							if err := ask.do(f); err != nil || clock.Now() != 0 {
								t.Errorf("%v after %v", err, clock.Now())
							}
						}
						<-time.After(stall + 1)
						synctest.Wait()
						want := lead + shape.want(all)
						if at, _ := s.LastFlush(); s.Body() != want || at != len(want) {
							t.Errorf("%d of %d bytes arrived, %d flushed, %d held", len(s.Body()), len(want), at, f.Buffered())
						}
						harness.Must(t, f.Close())
						if st := f.Stats(); st.Lost != 0 || st.Bytes != int64(len(want)) {
							t.Errorf("%+v", st)
						}
					})
				})
			}
		}
	}
}

// A call that must not wait does not wait for one of the server's that hands over no
// headers, a 1xx to a client that reads nothing, although a filter of its own may not
// begin before: neither if that is under way, nor if whoever has the baton only begins
// it while the filter looks. What it leaves goes on once the call has returned; who may
// wait, waits.
func TestAskingNeverWaitsForACallBeforeTheHeaders(t *testing.T) {
	const stall = 30 * time.Second
	type way struct {
		name  string
		opts  flush.Options
		do    func(f *flush.Flusher) error
		waits bool
		err   error // if it is under way
		adds  string
	}
	var ways []way
	for _, ask := range asks {
		ways = append(ways, way{name: ask.name, opts: ask.opts, do: ask.do})
	}
	follows := func(f *flush.Flusher) (err error) {
		f.SetImplicit(flush.Async)
		defer f.SetImplicit(flush.Off)
		return f.TryWrite([]byte("try"))
	}
	broadcast := func(f *flush.Flusher) error {
		var g flush.Group
		if err := g.Add(f); err != nil {
			return err
		}
		defer g.Remove(f)
		if missed := g.Broadcast([]byte("try")); len(missed) > 0 {
			return flush.ErrNoRoom
		}
		return nil
	}
	ways = append(ways,
		way{name: "TryWrite", do: func(f *flush.Flusher) error { return f.TryWrite([]byte("try")) }, err: flush.ErrNoRoom, adds: "try"},
		way{name: "TryWrite, implicit", do: follows, err: flush.ErrNoRoom, adds: "try"},
		way{name: "Broadcast", do: broadcast, err: flush.ErrNoRoom, adds: "try"},
		way{name: "twin: FlushWait", do: func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) }, waits: true},
		way{name: "twin: FlushAll(true)", do: func(f *flush.Flusher) error { return f.FlushAll(true) }, waits: true},
		way{name: "twin: Buffer.Flush", do: func(f *flush.Flusher) error { return f.Top().Flush() }, waits: true},
		way{name: "twin: Write", do: func(f *flush.Flusher) error { _, err := f.WriteString("try"); return err }, waits: true, adds: "try"},
	)
	for _, way := range ways {
		for _, when := range []string{"under way", "begins", "twin: none"} {
			for _, below := range []bool{false, true} { // a plain buffer is on top
				if below && way.name == "twin: Buffer.Flush" {
					continue // it runs no filter
				}
				t.Run(fmt.Sprintf("%s/%s/%t", way.name, when, below), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						s := harness.NewSink(t)
						opts := way.opts
						opts.SendTimeout = time.Minute
						f := flush.New(harness.DeadlineSink{Sink: s}, nil, &opts)
						ran := 0
						f.StartBuffer(&flush.BufferOptions{ChunkSize: 7, FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
							if ran++; ran == 1 && f.HeadersSent() {
								t.Error("the headers were gone before the filter ran")
							}
							return p, nil
						}})
						if below {
							f.StartBuffer(&flush.BufferOptions{ChunkSize: 5, FollowFlush: true})
						}
						harness.MustWrite(t, f, "page")
						baton := flush.TakeBaton(f)
						call := func() { <-time.After(stall) }
						if when == "under way" {
							go func() {
								baton.Call(call)
								baton.Release()
							}()
							synctest.Wait()
						}
						clock := harness.NewClock()
						took := time.Duration(-1)
						done := harness.Go(func() error {
							err := way.do(f)
							took = clock.Now()
							return err
						})
						synctest.Wait()
						switch when {
						case "begins":
							go func() {
								baton.Call(call)
								baton.Release()
							}()
						case "twin: none":
							baton.Release()
						}
						err := <-done
						want := way.err
						if when != "under way" {
							want = nil
						}
						if most := time.Duration(0); err != want || way.waits != (took > most) && when != "twin: none" || when == "twin: none" && took > 0 {
							t.Errorf("%v after %v", err, took)
						}
						<-time.After(2 * stall)
						synctest.Wait()
						all := "page"
						if err == nil {
							all += way.adds
						}
						harness.Must(t, f.Close())
						if st := f.Stats(); s.Body() != all || st.Lost != 0 || ran == 0 {
							t.Errorf("%q came, the filter ran %d times, %+v", s.Body(), ran, st)
						}
					})
				})
			}
		}
	}
}

// The same over a server, under Gzip too, with a client that reads nothing for
// a while.
func TestAskingNeverWaitsForAStalledClient(t *testing.T) {
	const stall = 30 * time.Second
	for _, zipped := range []bool{false, true} {
		t.Run(fmt.Sprint(zipped), func(t *testing.T) {
			edges(t, func(t *testing.T, p harness.Proto) {
				clock := harness.NewClock()
				opts, told := harness.TellClosing(flush.Options{SendTimeout: time.Minute})
				all := harness.Numbered(400_000)
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					f := harness.Flusher(w)
					o := &flush.BufferOptions{FollowFlush: true}
					if zipped {
						o.Filter = flush.Gzip(f, r, -1)
					}
					f.StartBuffer(o)
					if _, err := io.WriteString(w, all); err != nil {
						t.Error(err)
					}
					for range 2 {
						if err := flush.Flush(w, false); err != nil || clock.Now() != 0 {
							t.Errorf("%v after %v", err, clock.Now())
						}
					}
				}), 1000)
				s := harness.Open(t, srv, "GET", "/", nil, "Accept-Encoding: gzip")
				clock.Until(stall)
				body, _, end := s.Rest()
				if zipped {
					body = unzipped(t, body, true)
				}
				if body != all || end == harness.Cut {
					t.Errorf("%d bytes, %s", len(body), end)
				}
				if c := <-told; c.Err != nil {
					t.Error("OnClose:", c.Err)
				}
			})
		})
	}
}

// Writers that ask for a flush after each event are held in Write, not in
// the flush, as soon as floor 2 has crossed its mark: it holds no more than
// MaxPending and what the buffers held when it was crossed.
func TestFollowersAreBounded(t *testing.T) {
	const mark, event = 64 << 10, 3000
	for _, shape := range []struct {
		name string
		open func(f *flush.Flusher)
		held int // what the buffers may hold beside an event of each writer
	}{
		{"one", func(f *flush.Flusher) { f.StartBuffer(&flush.BufferOptions{FollowFlush: true}) }, 0},
		{"two", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
		}, 0},
		{"with a chunk size", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true, ChunkSize: 2 * event})
		}, 0},
		{"below one with a chunk size", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1})
		}, 0},
		{"above a plain one", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1})
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
		}, 0},
	} {
		for _, ask := range asks {
			for _, writers := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s/%s/%d", shape.name, ask.name, writers), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						s := harness.NewSink(t)
						s.Hold(0)
						opts := ask.opts
						opts.SendTimeout = time.Minute
						f := flush.New(harness.DeadlineSink{Sink: s}, nil, &opts)
						shape.open(f)
						const each = 200
						var accepted, asking atomic.Int64
						var all sync.WaitGroup
						for range writers {
							all.Go(func() {
								for range each {
									n, err := f.Write(make([]byte, event))
									accepted.Add(int64(n))
									if n != event || err != nil {
										t.Error(n, err)
										return
									}
									asking.Add(1)
									if err := ask.do(f); err != nil {
										t.Error(err)
									}
									asking.Add(-1)
								}
							})
						}
						<-time.After(30 * time.Second)
						synctest.Wait()
						if n := asking.Load(); n > 0 {
							t.Errorf("%d writers wait in the flush that they asked for", n)
						}
						most := mark + int64(writers*event+shape.held)
						if n := accepted.Load(); n > most+int64(writers*event) {
							t.Errorf("%d bytes were accepted for a client that does not read", n)
						}
						if f.Available() != 0 {
							t.Errorf("%d bytes are available", f.Available())
						}
						s.Release()
						all.Wait()
						harness.Must(t, f.Close())
						want := writers * each * event
						if st := f.Stats(); int64(st.MaxPending) > most || st.Bytes != int64(want) || len(s.Body()) != want {
							t.Errorf("%d bytes arrived of %d, %+v", len(s.Body()), want, st)
						}
					})
				})
			}
		}
	}
}

// The twin: beside a client that takes what comes nobody waits at all.
func TestFollowersOfAMovingClient(t *testing.T) {
	for _, ask := range asks {
		t.Run(ask.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &ask.opts)
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
				clock := harness.NewClock()
				for range 100 {
					harness.MustWrite(t, f, harness.Numbered(3000))
					harness.Must(t, ask.do(f))
					synctest.Wait()
					if at, _ := s.LastFlush(); at != len(s.Body()) || f.Buffered() != 0 || f.Top().Len() != 0 {
						t.Fatalf("%d of %d bytes flushed, %d and %d held", at, len(s.Body()), f.Buffered(), f.Top().Len())
					}
				}
				harness.Must(t, f.Close())
				if len(s.Body()) != 300_000 || clock.Now() != 0 {
					t.Errorf("%d bytes after %v", len(s.Body()), clock.Now())
				}
			})
		})
	}
}

// What is held in Write, in front of a buffer, ends as any wait for room does.
func TestHeldBeforeABufferEnds(t *testing.T) {
	const limit = time.Minute
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		end  func(f *flush.Flusher, s *harness.Sink)
		want error // nil: the Write is accepted
		at   time.Duration
	}{
		{"room", func(_ *flush.Flusher, s *harness.Sink) { s.Release() }, nil, 0},
		{"Abort", func(f *flush.Flusher, _ *harness.Sink) { f.Abort(cause) }, cause, 0},
		{"SendTimeout", func(*flush.Flusher, *harness.Sink) {}, flush.ErrTimeout, limit},
		{"Close", func(f *flush.Flusher, _ *harness.Sink) { go f.Close() }, harness.ErrAny, limit},
	} {
		t.Run(test.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				s := harness.NewSink(t)
				s.Hold(0)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: limit})
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
				clock := harness.NewClock()
				harness.MustWrite(t, f, harness.Numbered(100_000))
				harness.Must(t, f.FlushAsync())
				if clock.Now() != 0 {
					t.Errorf("FlushAsync took %v", clock.Now())
				}
				wrote := harness.Go(func() error { _, err := f.WriteString("held"); return err })
				synctest.Wait()
				if len(wrote) > 0 {
					t.Errorf("a Write over the mark is not held: %v", <-wrote)
					return
				}
				test.end(f, s)
				err, came := clock.By(grain(limit), wrote)
				if !came {
					t.Errorf("the Write waits after %v", clock.Now())
				} else if test.want == nil && err != nil || test.want == harness.ErrAny && err == nil || test.want != nil && test.want != harness.ErrAny && !errors.Is(err, test.want) || clock.Now() < test.at {
					t.Errorf("%v after %v", err, clock.Now())
				}
				s.Release()
				f.Close()
			})
		})
	}
}

// FlushWait's context ends its wait for what a buffer holds, and the response
// goes on: nothing is lost, and what was asked for is done.
func TestContextEndsTheWaitForFollowers(t *testing.T) {
	const limit, stall = 10 * time.Second, 30 * time.Second
	for _, size := range []int{3000, 60_000, 200_000} {
		for _, deadlines := range []bool{true, false} {
			for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
				for _, buffers := range []int{1, 2} {
					t.Run(fmt.Sprintf("%d/%t/%v/%d", size, deadlines, mode, buffers), func(t *testing.T) {
						edge(t, func(t *testing.T) {
							s := harness.NewSink(t)
							s.Hold(0)
							var w http.ResponseWriter = s
							if deadlines {
								w = harness.DeadlineSink{Sink: s}
							}
							r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
							f := flush.New(w, r, &flush.Options{Flush: mode, SendTimeout: time.Minute})
							for range buffers {
								f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
							}
							all := harness.Numbered(size)
							harness.MustWrite(t, f, all)
							time.AfterFunc(stall, s.Release)
							ctx, cancel := context.WithTimeout(context.Background(), limit)
							defer cancel()
							clock := harness.NewClock()
							err := f.FlushWait(ctx)
							if !errors.Is(err, context.DeadlineExceeded) || clock.Now() != limit || f.Err() != nil {
								t.Errorf("%v after %v, %v", err, clock.Now(), f.Err())
							}
							clock.Until(stall + time.Second)
							synctest.Wait()
							if at, _ := s.LastFlush(); s.Body() != all || at != size {
								t.Errorf("%d of %d bytes arrived, %d flushed, %d held", len(s.Body()), size, at, f.Buffered())
							}
							harness.MustWrite(t, f, "tail")
							harness.Must(t, f.Close())
							if s.Body() != all+"tail" || f.Stats().Lost != 0 {
								t.Errorf("%d of %d bytes arrived, %+v", len(s.Body()), size+4, f.Stats())
							}
						})
					})
				}
			}
		}
	}
}

// What is owed because others hold the whole budget comes down whatever the flush
// itself has to do: nothing, before there is output that headers leave with.
func TestOwedBehindAFullBudget(t *testing.T) {
	for _, sapi := range []flush.SAPI{flush.NetHTTP(), flush.OpenResty(), flush.CLI()} {
		for _, ask := range asks {
			t.Run(sapi.Name+"/"+ask.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					budget := flush.NewBudget(0, 4096)
					other := harness.HoldBudget(budget, 1)
					s := harness.NewSink(t)
					opts := ask.opts
					opts.SAPI, opts.Budget = sapi, budget
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &opts)
					f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
					harness.MustWrite(t, f, "event")
					if n := f.Available(); n != 0 {
						t.Error("available:", n)
					}
					harness.Must(t, ask.do(f))
					synctest.Wait()
					if at, _ := s.LastFlush(); s.Body() != "event" || at != len("event") {
						t.Errorf("%q came, %d bytes of it flushed", s.Body(), at)
					}
					harness.Must(t, f.Close())
					other.Abort(nil)
					harness.ExpectNothingHeld(t, budget)
				})
			})
		}
	}
}

// What FlushAll leaves to a carrier is every buffer, and not those alone that follow a
// flush: also if the call that its filter would wait for begins only while it looks.
func TestFlushAllOwesEveryBuffer(t *testing.T) {
	for _, begins := range []bool{false, true} {
		t.Run(fmt.Sprintf("begins=%t", begins), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
				f.StartBuffer(&flush.BufferOptions{Filter: bracket})
				harness.MustWrite(t, f, "page")
				baton := flush.TakeBaton(f)
				called := make(chan struct{})
				call := func() {
					baton.Call(func() { <-called })
					baton.Release()
				}
				if !begins {
					go call()
					synctest.Wait()
				}
				asked := harness.Go(func() error { return f.FlushAll(false) })
				synctest.Wait()
				if begins {
					go call()
				}
				harness.Must(t, <-asked)
				if f.Top().Len() == 0 {
					t.Fatal("nothing is owed: the test shows nothing")
				}
				close(called)
				synctest.Wait()
				if at, _ := s.LastFlush(); s.Body() != "[page]" || at != len("[page]") {
					t.Errorf("%q came, %d bytes of it flushed", s.Body(), at)
				}
				harness.Must(t, f.Close())
			})
		})
	}
}

// A filter that panics as a carrier brings down what is owed keeps nothing else from
// coming: what a flush had been asked for.
func TestOwedWhoseFilterPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{MaxPending: 8192, BufferSize: 8192})
		s.Hold(0)
		harness.MustWrite(t, f, string(make([]byte, 4096)))
		harness.Must(t, f.FlushAsync())
		synctest.Wait() // a carrier is in the server
		harness.MustWrite(t, f, string(make([]byte, 4096)))
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if phase&flush.PhaseFlush != 0 {
				panic(harness.ErrBoom)
			}
			return p, nil
		}})
		harness.MustWrite(t, f, "c")
		harness.Must(t, f.FlushAll(false))
		s.Release()
		synctest.Wait()
		if at, _ := s.LastFlush(); at < 8192 {
			t.Errorf("%d bytes flushed", at)
		}
		defer func() {
			if v := recover(); v != harness.ErrBoom {
				t.Errorf("recovered %v", v)
			}
		}()
		f.Close()
	})
}

// An Abort while a carrier brings down what is owed ends with that: the server is not
// called again, be it for the flush that was asked for.
func TestAbortWhileACarrierPays(t *testing.T) {
	for _, aborts := range []bool{true, false} {
		t.Run(fmt.Sprint(aborts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := hintedSink{harness.DeadlineSink{Sink: harness.NewSink(t)}, harness.NewPark(t)}
				f := flush.New(s, requestOf(t.Context(), 0), nil)
				filter := harness.NewPark(t)
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					if phase&flush.PhaseFinal == 0 {
						filter.Here()
					}
					return p, nil
				}})
				harness.MustWrite(t, f, "a")
				hinted := harness.Go(func() error { f.WriteHeader(http.StatusEarlyHints); return nil })
				s.hint.Wait()
				harness.Must(t, f.FlushAsync()) // the filter could not set headers now: it is owed
				s.hint.Resume()
				<-hinted
				filter.Wait()
				if s.Status != 0 {
					t.Fatal("the headers are out: the test shows nothing")
				}
				var over <-chan error
				if aborts {
					over = harness.Go(func() error { f.Abort(harness.ErrBoom); return nil })
					time.Sleep(2 * time.Second) // what was flushed may go out for one
				}
				filter.Resume()
				synctest.Wait()
				if (s.Status == 0) != aborts || (len(s.Flushed) == 0) != aborts {
					t.Errorf("status %d, flushed at %v", s.Status, s.Flushed)
				}
				if aborts {
					<-over
				} else {
					harness.Must(t, f.Close())
				}
			})
		})
	}
}

// A flush brings a buffer down that follows it also where there are bytes below it
// already, which could go by themselves; one that does not follow stays.
func TestFollowFlushBehindWhatIsHeld(t *testing.T) {
	for _, follows := range []bool{true, false} {
		for name, call := range map[string]func(f *flush.Flusher) error{
			"FlushAsync": func(f *flush.Flusher) error { err := f.FlushAsync(); synctest.Wait(); return err },
			"FlushError": (*flush.Flusher).FlushError,
			"FlushWait":  func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		} {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
				harness.MustWrite(t, f, "a")
				harness.Must(t, f.FlushWait(harness.NoContext))
				harness.MustWrite(t, f, "b")
				f.StartBuffer(&flush.BufferOptions{FollowFlush: follows})
				harness.MustWrite(t, f, "c")
				harness.Must(t, call(f))
				want := "ab"
				if follows {
					want += "c"
				}
				if at, _ := s.LastFlush(); s.Body() != want || at != len(want) {
					t.Errorf("%s: %q, flushed at %d, want %q", name, s.Body(), at, want)
				}
				harness.Must(t, f.Close())
			})
		}
	}
}

// Who waits in line to bring buffers down, while who is before him comes to a filter,
// does without them: the filter may be waiting for him.
func TestFlushWaitInLineBehindAFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{BufferSize: -1})
		filter := harness.NewPark(t)
		f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if phase&flush.PhaseFlush != 0 {
				filter.Here()
			}
			return p, nil
		}})
		f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
		harness.MustWrite(t, f, "page")
		s.Hold(0)
		all := harness.Go(func() error { return f.FlushAll(true) }) // the page is on its way down
		synctest.Wait()
		flushed := harness.Go(func() error { return f.FlushWait(harness.NoContext) })
		synctest.Wait()
		s.Release()
		filter.Wait()
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		if at, _ := s.LastFlush(); at != len("page") {
			t.Errorf("%d bytes have been flushed", at)
		}
		filter.Resume()
		harness.Must(t, <-all)
		harness.Must(t, f.Close())
	})
}

// What a wait that has ended left behind comes down with the next flush, be it asked
// for while the call of the server that it waited for is still under way.
func TestFlushAsyncBringsDownWhatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t) // no deadlines: the response goes on
		f := flush.New(s, nil, &flush.Options{MaxPending: 8192, SendTimeout: time.Minute})
		b := f.StartBuffer(nil)
		harness.MustWrite(t, f, "a")
		harness.Must(t, b.Flush())
		harness.Must(t, f.FlushAsync())
		synctest.Wait()
		s.Hold(1)
		all := harness.Numbered(20_000)
		harness.MustWrite(t, f, all[:100])
		harness.Must(t, b.Flush())
		harness.Must(t, f.FlushAsync())
		synctest.Wait() // a carrier is in the server
		harness.MustWrite(t, f, all[100:])
		if err := b.Flush(); !errors.Is(err, flush.ErrTimeout) || f.Err() != nil {
			t.Fatalf("%v, then %v: the test shows nothing", err, f.Err())
		}
		harness.Must(t, f.FlushAsync())
		s.Release()
		synctest.Wait()
		if at, _ := s.LastFlush(); s.Body() != "a"+all || at != 1+len(all) {
			t.Errorf("%d bytes came, flushed at %d", len(s.Body()), at)
		}
		harness.Must(t, f.Close())
	})
}

// A filter that has flushed in vain has the headers to itself again: another that
// flushes meanwhile takes nothing from it, and the response ends.
func TestFilterFlushesInVainBesideAnother(t *testing.T) {
	edge(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SAPI: flush.OpenResty()})
		park := harness.NewPark(t)
		b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if phase&flush.PhaseFlush != 0 {
				harness.Must(t, f.FlushWait(harness.NoContext)) // there is no output yet
				park.Here()
				f.Header().Set("X-Filter", "set")
			}
			return p, nil
		}})
		harness.MustWrite(t, f, "a")
		flushed := harness.Go(b.Flush)
		park.Wait()
		harness.Must(t, f.FlushWait(harness.NoContext))
		park.Resume()
		harness.Must(t, <-flushed)
		harness.Must(t, f.Close())
		if s.Sent.Get("X-Filter") != "set" || s.Body() != "a" {
			t.Errorf("%v, %q", s.Sent, s.Body())
		}
	})
}

// Two Writes wait behind a call of the server's, one for the room that it makes and one
// for its turn at the server: the one for room, if it looks first, leaves the server to
// the other.
func TestWriteForRoomLeavesTheServerToALargeOne(t *testing.T) {
	for _, smallFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			const high = 40 << 10
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{MaxPending: high, BufferSize: high, Flush: flush.Async})
			s.Hold(0)
			harness.MustWrite(t, f, "a")
			harness.Must(t, f.FlushAsync())
			synctest.Wait() // a carrier is in the server
			held := harness.Numbered(high - 2)
			harness.MustWrite(t, f, held)
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true, ChunkSize: 4096})
			harness.MustWrite(t, f, "bc")
			top := f.StartBuffer(nil)
			large := harness.Numbered(3 * high)
			harness.MustWrite(t, f, large)
			harness.Must(t, f.FlushAsync()) // fills floor 2
			waiting := make([]<-chan error, 2)
			for i := range waiting {
				if smallFirst == (i == 0) {
					waiting[i] = harness.Go(func() error { _, err := f.WriteString("d"); return err })
				} else {
					waiting[i] = harness.Go(top.Flush)
				}
				synctest.Wait()
			}
			if len(waiting[0]) > 0 || len(waiting[1]) > 0 {
				t.Fatal("nobody waits: the test shows nothing")
			}
			s.Release()
			harness.Must(t, <-waiting[0])
			harness.Must(t, <-waiting[1])
			harness.Must(t, f.Close())
			if got := s.Body(); got != "a"+held+"bc"+large+"d" {
				t.Errorf("%d bytes came", len(got))
			}
		})
	}
}

// A hintedSink is a server that takes as long for a 103 as the test likes.
type hintedSink struct {
	harness.DeadlineSink
	hint *harness.Park
}

func (s hintedSink) WriteHeader(code int) {
	if code == http.StatusEarlyHints {
		s.hint.Here()
	}
	s.DeadlineSink.WriteHeader(code)
}

// Nor does a hub fill up a response whose filter waits for the client: what was
// written meanwhile counts as held. Twin: a filter that gets on is no reason to miss.
func TestTryWriteBesideAFilterIsBounded(t *testing.T) {
	const mark, event = 64 << 10, 3000
	for name, offer := range map[string]func(f *flush.Flusher, p []byte) (taken bool){
		"TryWrite": func(f *flush.Flusher, p []byte) bool { return f.TryWrite(p) == nil && f.FlushAsync() == nil },
		"Broadcast": func(f *flush.Flusher, p []byte) bool {
			var g flush.Group
			return g.Add(f) == nil && len(g.Broadcast(p)) == 0
		},
	} {
		for _, stalls := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", name, stalls), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, SendTimeout: time.Minute})
					first := true
					f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
						if first {
							first = false
							if stalls {
								f.FlushWait(harness.NoContext)
							}
						}
						return p, nil
					}})
					harness.MustWrite(t, f, "page")
					if stalls {
						s.OnFlush = func() error { <-time.After(time.Second); return nil }
					}
					flushed := harness.Go(func() error { return f.FlushWait(harness.NoContext) })
					synctest.Wait()
					taken := 0
					for range 100 {
						if !offer(f, make([]byte, event)) {
							break
						}
						if taken += event; !stalls {
							synctest.Wait()
						}
					}
					if stalls && taken > mark || !stalls && taken != 100*event {
						t.Errorf("%d bytes taken", taken)
					}
					harness.Must(t, <-flushed)
					harness.Must(t, f.Close())
					if got := len(s.Body()); got != taken+len("page") {
						t.Errorf("%d bytes taken, %d have come", taken, got)
					}
				})
			})
		}
	}
}
