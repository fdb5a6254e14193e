package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// Floor 2 never holds more than MaxPending, whatever the sizes; a Write waits
// there, and goes on, with every byte in order, as the client takes them.
func TestQueueBound(t *testing.T) {
	for _, mark := range []int{1, 10, 4096, 10000} {
		for _, buffer := range []int{-1, 10, 0, 10000} {
			for _, size := range []int{1, 7, 4064, 9000, 100000} {
				for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
					if mark <= 10 && size > 10000 {
						continue // a carrier for each byte or ten: slow, and nothing new
					}
					t.Run(fmt.Sprintf("%d/%d/%d/%v", mark, buffer, size, mode), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							s := harness.NewSink(t)
							f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: mode, MaxPending: mark, BufferSize: buffer})
							real := max(mark, buffer)
							if buffer == 0 {
								real = max(mark, 4096)
							}
							var all []byte
							done := make(chan struct{})
							s.Hold(0)
							go func() {
								defer close(done)
								for i := range 5 {
									p := bytes.Repeat([]byte{byte('a' + i)}, size)
									all = append(all, p...)
									if n, err := f.Write(p); n != size || err != nil {
										t.Error(n, err)
									}
								}
							}()
							for taken := 0; ; taken += 4000 {
								synctest.Wait()
								if n := f.Buffered(); n > real {
									t.Errorf("%d bytes held, over %d", n, real)
									s.Release()
									<-done
								}
								if deadline.Closed(done) {
									break
								}
								s.Hold(taken)
							}
							s.Release()
							harness.Must(t, f.Close())
							if s.Body() != string(all) {
								t.Errorf("%d bytes arrived of %d, or not in order", len(s.Body()), len(all))
							}
							if st := f.Stats(); st.MaxPending > real {
								t.Errorf("high-water mark %d, over %d", st.MaxPending, real)
							}
						})
					})
				}
			}
		}
	}
}

// A large Write that comes when floor 2 is nearly full fills it up and passes
// the rest through.
func TestQueuePassThrough(t *testing.T) {
	for _, buffer := range []int{0, 1, 1000, 4063, 4064, 4065, 8128, 20000} {
		for held := range 10 {
			for _, size := range []int{1, 5000, 40000} {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{BufferSize: buffer})
					full := buffer
					if buffer == 0 {
						full = 4096
					}
					want := 0
					for want < full-1-held {
						n := min(97, full-1-held-want)
						f.Write(make([]byte, n))
						want += n
					}
					f.Write(make([]byte, size))
					f.FlushAsync()
					f.Write(make([]byte, 10))
					harness.Must(t, f.Close())
					if len(s.Body()) != want+size+10 {
						t.Errorf("BufferSize %d, %d held, then %d: %d bytes arrived", buffer, want, size, len(s.Body()))
					}
				})
			}
		}
	}
}

// A flush takes along all that is held, in whatever pieces that came and lies.
func TestFlushTakesAllOfALargeWriteAlong(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		for _, size := range []int{4000, 5000, 16 << 10, 32 << 10, 64 << 10, 100 << 10} {
			for _, then := range []int{0, 1, 20_000} {
				t.Run(fmt.Sprintf("%v/%d/%d", mode, size, then), func(t *testing.T) {
					edges(t, func(t *testing.T, p harness.Proto) {
						text := harness.Numbered(10 + size + then)
						done := make(chan bool)
						opts := &flush.Options{Flush: mode, BufferSize: 128 << 10}
						srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
							f := harness.Flusher(w)
							io.WriteString(w, text[:10])
							harness.Must(t, f.FlushWait(t.Context()))
							io.WriteString(w, text[10:10+size])
							io.WriteString(w, text[10+size:])
							harness.Must(t, f.FlushWait(context.Background()))
							if n := f.Buffered(); n > 0 {
								t.Errorf("%d bytes are still held", n)
							}
							<-done
						}), 1<<20)
						s := harness.Open(t, srv, "GET", "/", nil)
						s.Expect(text)
						close(done)
						s.ExpectEnd("")
					})
				})
			}
		}
	}
}

// Where output moves in the background a flush that others ask for in the middle of a
// large Write is done before the next slice of that, and takes along what has been
// accepted by then.
func TestFlushInTheMiddleOfALargeWrite(t *testing.T) {
	for name, ask := range map[string]func(f *flush.Flusher) error{
		"FlushAsync": (*flush.Flusher).FlushAsync,
		"FlushWait":  func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"Flush":      (*flush.Flusher).FlushError,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async})
				s.Hold(100 << 10)
				written := harness.Go(func() error { _, err := f.Write(make([]byte, 1<<20)); return err })
				synctest.Wait()
				asked := harness.Go(func() error { return ask(f) })
				synctest.Wait()
				_, before := s.LastFlush()
				s.Hold(300 << 10)
				synctest.Wait()
				if at, n := s.LastFlush(); n != before+1 || at < 90<<10 || at > 300<<10 {
					t.Errorf("%d flushes, at %d", n-before, at)
				}
				if len(written) > 0 || len(asked) == 0 {
					t.Errorf("%d Writes and %d flushes have ended", len(written), len(asked))
				}
				s.Release()
				harness.Must(t, <-written)
				harness.Must(t, <-asked)
				harness.Must(t, f.Close())
			})
		})
	}
}

// A blocked producer may emit MaxPending and what is in the server's call, and
// not a byte more.
func TestQueueHoldsTheProducer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 10000})
		s.Hold(3000)
		var emitted atomic.Int64
		go func() {
			for range 1000 {
				f.Write(make([]byte, 100))
				emitted.Add(100)
			}
		}()
		synctest.Wait()
		if n := emitted.Load(); n != 10000 || f.Available() != 0 {
			t.Errorf("emitted %d, room for %d", n, f.Available())
		}
		s.Release()
		drainAndClose(t, f)
	})
}

// drainAndClose waits until floor 2 is empty and closes.
func drainAndClose(t *testing.T, f *flush.Flusher) {
	t.Helper()
	synctest.Wait()
	harness.Must(t, f.FlushWait(context.Background()))
	harness.Must(t, f.Close())
}

// A Write that waits goes on at the low mark, half, and not before: else writer
// and carrier would take turns.
func TestQueueLowMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 16384, BufferSize: 16384})
		s.Hold(0)
		f.Write(make([]byte, 16384))
		synctest.Wait()
		began := time.Now()
		var woke atomic.Bool
		go func() {
			f.Write([]byte("x"))
			woke.Store(true)
		}()
		for step := 1000; step <= 16384; step += 1000 {
			<-time.After(time.Second)
			s.Hold(step)
			synctest.Wait()
			switch held := f.Buffered(); {
			case held > 8192 && woke.Load():
				t.Fatalf("woken at %d bytes held", held)
			case held <= 8192 && !woke.Load():
				t.Fatalf("not woken at %d bytes held", held)
			case held > 8192 && f.Available() != 0:
				t.Fatalf("room for %d while a Write waits", f.Available())
			}
			if woke.Load() {
				break
			}
		}
		if st := f.Stats(); st.Waited != time.Since(began) || st.Waited < time.Second {
			t.Errorf("waited %v of %v", st.Waited, time.Since(began))
		}
		s.Release()
		drainAndClose(t, f)
	})
}

// Available is 0 while a Write waits, even when room has come already that is
// the next in line's.
func TestQueueAvailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 20000, BufferSize: 4096})
		if n := f.Available(); n != 20000 {
			t.Errorf("room for %d at the start", n)
		}
		s.Hold(0)
		f.Write(make([]byte, 15000))
		if n := f.Available(); n != 5000 {
			t.Errorf("room for %d, want 5000", n)
		}
		var wg sync.WaitGroup
		wg.Go(func() { f.Write(make([]byte, 8000)) })
		synctest.Wait()
		if n := f.Available(); n != 0 {
			t.Errorf("room for %d while a Write waits", n)
		}
		s.Hold(6000)
		synctest.Wait()
		if n := f.Available(); n != 0 || f.Buffered() == 20000 {
			t.Errorf("room for %d, %d held, while a Write waits", n, f.Buffered())
		}
		s.Release()
		wg.Wait()
		synctest.Wait()
		if n := f.Available(); n != 20000-f.Buffered() {
			t.Errorf("room for %d, %d held", n, f.Buffered())
		}
		harness.Must(t, f.Close())
		if n := f.Available(); n != 0 {
			t.Errorf("room for %d after Close", n)
		}
	})
}

// Writers that wait enter first come first served, each in one piece, also
// when a small one would fit before a large one.
func TestQueueFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 5000, BufferSize: 1000})
		s.Hold(0)
		harness.MustWrite(t, f, strings.Repeat("-", 4999))
		var want strings.Builder
		want.WriteString(strings.Repeat("-", 4999))
		var wg sync.WaitGroup
		for i := range 20 {
			p := bytes.Repeat([]byte{byte('a' + i)}, []int{3000, 1, 12000}[i%3])
			want.WriteString(string(p))
			wg.Go(func() {
				if n, err := f.Write(p); n != len(p) || err != nil {
					t.Error(n, err)
				}
			})
			synctest.Wait() // it stands in line
		}
		s.Release()
		wg.Wait()
		harness.Must(t, f.Close())
		if s.Body() != want.String() {
			t.Errorf("out of order, or torn: %s", harness.Runs(s.Body()))
		}
	})
}

// A Write that would fit stands in line behind one that waits for more room.
func TestQueueNobodyOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 20000})
		s.Hold(0)
		harness.MustWrite(t, f, strings.Repeat("-", 20000))
		var wg sync.WaitGroup
		wg.Go(func() { harness.MustWrite(t, f, strings.Repeat("a", 100)) })
		synctest.Wait()
		s.Hold(6000) // there is room now, but not down to the low mark
		synctest.Wait()
		wg.Go(func() { harness.MustWrite(t, f, "b") })
		synctest.Wait()
		s.Release()
		wg.Wait()
		harness.Must(t, f.Close())
		if want := strings.Repeat("-", 20000) + strings.Repeat("a", 100) + "b"; s.Body() != want {
			t.Errorf("got %s", harness.Runs(s.Body()))
		}
	})
}

// A response that ends while a begun Write cannot finish is aborted: it must
// not look complete.
func TestQueueUnfinishedWriteAborts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		opts, told := harness.TellClosing(flush.Options{Flush: flush.Async, MaxPending: 5000, SendTimeout: time.Second})
		h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			s.Hold(0)
			go func() {
				if n, err := w.Write(make([]byte, 50000)); n != 5000 || !errors.Is(err, flush.ErrTimeout) {
					t.Errorf("Write: %d, %v", n, err)
				}
			}()
			synctest.Wait()
			time.AfterFunc(time.Minute, s.Release)
		}), opts)
		var recovered any
		func() {
			defer func() { recovered = recover() }()
			h.ServeHTTP(s, httptest.NewRequest("GET", "/", nil))
		}()
		if recovered != http.ErrAbortHandler {
			t.Errorf("recovered %v", recovered)
		}
		if c := <-told; c.Err == nil {
			t.Errorf("%+v", c)
		}
	})
}

// Writes that wait end with the failure, each with the number of bytes that
// were accepted: the sum is what was sent and what is lost.
func TestQueueFailureWakesEveryWriter(t *testing.T) {
	reason := errors.New("reason")
	for name, end := range map[string]func(f *flush.Flusher, s *harness.Sink){
		"abort":   func(f *flush.Flusher, _ *harness.Sink) { f.Abort(reason) },
		"timeout": func(*flush.Flusher, *harness.Sink) { <-time.After(time.Second) },
		"broken": func(_ *flush.Flusher, s *harness.Sink) {
			s.Mu.Lock()
			s.Fault = func([]byte, int) (int, error) { return 0, reason }
			s.Mu.Unlock()
			s.Release()
		},
		"close": func(f *flush.Flusher, _ *harness.Sink) { f.Close() }, // times out on the way
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 5000, SendTimeout: time.Second})
				s.Hold(0)
				var accepted atomic.Int64
				var wg sync.WaitGroup
				for i := range 10 {
					wg.Go(func() {
						n, err := f.Write(make([]byte, 1000+100*i))
						accepted.Add(int64(n))
						for err == nil {
							n, err = f.Write(make([]byte, 700))
							accepted.Add(int64(n))
						}
						if err != f.Err() && !errors.Is(err, flush.ErrClosed) {
							t.Errorf("error %v, failure %v", err, f.Err())
						}
					})
				}
				synctest.Wait()
				for range 3 {
					wg.Go(func() {
						if err := f.FlushWait(context.Background()); err == nil {
							t.Error("FlushWait succeeded")
						}
					})
				}
				synctest.Wait()
				end(f, s)
				wg.Wait()
				f.Close()
				st := f.Stats()
				if st.Bytes+st.Lost != accepted.Load() || st.Lost == 0 {
					t.Errorf("%d accepted, %d sent, %d lost", accepted.Load(), st.Bytes, st.Lost)
				}
				if f.Buffered() != 0 {
					t.Errorf("%d bytes held after the end", f.Buffered())
				}
			})
		})
	}
}

// Close refuses new Writes and lets a begun one finish: every byte it was told
// are accepted arrives.
func TestQueueCloseLetsWriteFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 5000})
		s.Hold(0)
		big := strings.Repeat("b", 50000)
		var wg sync.WaitGroup
		wg.Go(func() { harness.MustWrite(t, f, big) })
		synctest.Wait()
		wg.Go(func() {
			if n, err := f.Write([]byte("in line")); n != 0 || !errors.Is(err, flush.ErrClosed) {
				t.Errorf("a Write that had not begun: %d, %v", n, err)
			}
		})
		synctest.Wait()
		wg.Go(func() { harness.Must(t, f.Close()) })
		synctest.Wait()
		if n, err := io.WriteString(f, "late"); n != 0 || !errors.Is(err, flush.ErrClosed) {
			t.Errorf("a late Write: %d, %v", n, err)
		}
		s.Release()
		wg.Wait()
		if s.Body() != big {
			t.Errorf("got %s", harness.Runs(s.Body()))
		}
	})
}

// The Flusher keeps no reference to what it was given.
func TestQueueKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 100000})
		s.Hold(0)
		p := bytes.Repeat([]byte("a"), 30000)
		f.Write(p)
		synctest.Wait()
		for i := range p {
			p[i] = 'b'
		}
		s.Release()
		harness.Must(t, f.Close())
		if s.Body() != strings.Repeat("a", 30000) {
			t.Errorf("got %s", harness.Runs(s.Body()))
		}
	})
}

// One flush of much that is held is one flush of the server, be it held in small
// blocks or in long ones.
func TestQueueFlushedOnce(t *testing.T) {
	for _, mark := range []int{100_000, 1 << 20} {
		for _, size := range []int{1, 5000, 64 << 10, 90_000, 200_000} {
			if size > mark {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: mark, BufferSize: mark})
				harness.MustWrite(t, f, harness.Text(size))
				if n := f.Buffered(); n != size {
					t.Errorf("%d of %d bytes are held: the test shows nothing", n, size)
				}
				harness.Must(t, f.FlushWait(t.Context()))
				at, n := s.LastFlush()
				if st := f.Stats(); at != size || n != 1 || st.Pushes != 1 || st.Flushes != 1 {
					t.Errorf("%d bytes: %d flushes, the last at %d; %+v", size, n, at, st)
				}
				harness.Must(t, f.Close())
			})
		}
	}
}

// What buffers hold that come down with a Write is counted off: so much takes a Write
// without waiting, and TryWrite. A buffer that never comes down by itself takes all.
func TestAvailableCountsWhatComesAlong(t *testing.T) {
	for _, test := range []struct {
		name  string
		open  func(f *flush.Flusher)
		write int // into the buffers
		want  int
	}{
		{"no buffer", func(*flush.Flusher) {}, 0, 5000},
		{"a chunk size", func(f *flush.Flusher) { f.StartBuffer(&flush.BufferOptions{ChunkSize: 4096}) }, 4000, 1000},
		{"two", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 4096})
			f.WriteString(strings.Repeat("b", 2000))
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 2000})
		}, 1500, 1500},
		{"more than there is room for", func(f *flush.Flusher) { f.StartBuffer(&flush.BufferOptions{ChunkSize: 8000}) }, 7000, 0},
		{"no chunk size", func(f *flush.Flusher) { f.StartBuffer(nil) }, 7000, 5000},
		{"no chunk size below", func(f *flush.Flusher) {
			f.StartBuffer(nil)
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 4096})
		}, 4000, 5000},
	} {
		for _, try := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", test.name, try), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: 20_000, SendTimeout: time.Minute})
					s.Hold(0)
					harness.MustWrite(t, f, strings.Repeat("f", 15_000))
					test.open(f)
					harness.MustWrite(t, f, strings.Repeat("b", test.write))
					n := f.Available()
					if n != test.want {
						t.Errorf("%d available, want %d", n, test.want)
					}
					clock := harness.NewClock()
					var err error
					if try {
						err = f.TryWrite(make([]byte, n))
					} else {
						_, err = f.Write(make([]byte, n))
					}
					if took := clock.Now(); err != nil || took != 0 {
						t.Errorf("%v after %v", err, took)
					}
					s.Release()
					harness.Must(t, f.Close())
				})
			})
		}
	}
}
