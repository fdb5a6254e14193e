package flush_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A failed response gives back all but the block in flight at once, however
// long the server's call is stuck, and is counted until that one is back.
func TestBudgetFailedResponseGivesBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(f *flush.Flusher)
		want error
	}{
		{"SendTimeout", func(*flush.Flusher) { time.Sleep(2 * time.Second) }, flush.ErrTimeout},
		{"Abort", func(f *flush.Flusher) { go f.Abort(errors.ErrUnsupported) }, errors.ErrUnsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(64<<10, 64<<10)
				client := harness.NewTap(false)
				client.Stuck = true
				opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second}
				f := flush.New(client, nil, opts)
				if _, err := f.Write(make([]byte, 60_000)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the server has been called
				tc.fail(f)
				synctest.Wait()
				if got, want := budget.Stats(), (flush.BudgetStats{Held: 4 << 10, Members: 1}); got != want || !errors.Is(f.Err(), tc.want) {
					t.Errorf("%+v, %v; want %+v, %v", got, f.Err(), want, tc.want)
				}
				other := flush.New(harness.NewTap(false), nil, opts)
				if got := <-harness.WriteBehind(other, 15*harness.BlockBytes); got.Err != nil || got.After != 0 {
					t.Errorf("a Write for which there is room again: %+v", got)
				}
				other.Abort(nil)
				close(client.Opened)
				f.Close()
				if s := f.Stats(); s.Bytes+s.Lost != 60_000 {
					t.Errorf("%d bytes handed over and %d lost of 60000", s.Bytes, s.Lost)
				}
				harness.ExpectNothingHeld(t, budget)
			})
		})
	}
}

// One that fails while the server is not being called gives back everything at once,
// however long its handler goes on.
func TestBudgetIdleFailedResponseGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(64<<10, 64<<10)
		f := harness.HoldBudget(budget, 3)
		var g flush.Group
		harness.Must(t, g.Add(f))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Shutdown(ctx); !errors.Is(err, flush.ErrShutdown) {
			t.Errorf("Shutdown: %v", err)
		}
		if held, s := budget.Stats().Held, f.Stats(); held != 0 || f.Buffered() != 0 || s.Lost != 3*harness.BlockBytes {
			t.Errorf("%d bytes of the budget, %d held, %d lost", held, f.Buffered(), s.Lost)
		}
		f.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// Without a budget the memory of a failed response comes back as soon.
func TestFailedResponseDropsWhatIsBehindTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := harness.NewTap(false)
		client.Stuck = true
		f := flush.New(client, nil, &flush.Options{Flush: flush.Async, SendTimeout: time.Second})
		for range 6 {
			f.Write(make([]byte, 10_000))
		}
		time.Sleep(2 * time.Second)
		if n := f.Buffered(); n > harness.BlockBytes {
			t.Errorf("%d bytes are held", n)
		}
		close(client.Opened)
		if err := f.Close(); !errors.Is(err, flush.ErrTimeout) {
			t.Error(err)
		}
		if s := f.Stats(); s.Bytes+s.Lost != 60_000 {
			t.Errorf("%d bytes handed over and %d lost of 60000", s.Bytes, s.Lost)
		}
	})
}

// A response that blocks with nothing on floor 2 and is written to then is a
// candidate like any other.
func TestBudgetCandidateThatBlockedWithNothingHeld(t *testing.T) {
	for _, timeout := range []time.Duration{-1, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			budget := flush.NewBudget(16<<10, 16<<10)
			f := flush.New(harness.NewTap(false), nil, &flush.Options{Budget: budget, SendTimeout: timeout})
			large := harness.WriteBehind(f, 100_000) // on the caller's goroutine, in the caller's slice
			time.Sleep(time.Hour / 2)
			if got := budget.Stats(); got != (flush.BudgetStats{}) {
				t.Errorf("%+v", got)
			}
			f.Write(make([]byte, 3*harness.BlockBytes))
			holder := harness.HoldBudget(budget, 1)
			other := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
			if got := <-harness.WriteBehind(other, 5); got.Err != nil || got.After > 110*time.Millisecond {
				t.Errorf("Write: %+v", got)
			}
			if got := <-large; !errors.Is(got.Err, flush.ErrOverBudget) {
				t.Errorf("the large Write: %v", got.Err)
			}
			f.Close()
			other.Close()
			holder.Close()
			harness.ExpectNothingHeld(t, budget)
		})
	}
}

// A response that blocks and holds nothing has nothing to give, and stays.
func TestBudgetNoCandidateWithNothingHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		client := harness.NewTap(true)
		f := flush.New(client, nil, &flush.Options{Budget: budget, SendTimeout: -1})
		f.WriteString("held once")
		f.FlushWait(harness.NoContext)
		client.Pace = time.Hour
		large := harness.WriteBehind(f, 10_000)
		time.Sleep(time.Second)
		holder := harness.HoldBudget(budget, 1)
		other := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
		done := harness.WriteBehind(other, 5)
		time.Sleep(time.Minute)
		harness.ExpectWaiting(t, budget, 1)
		holder.Close()
		if got := <-done; got.Err != nil {
			t.Error(got.Err)
		}
		if got := <-large; got.Err != nil {
			t.Error(got.Err)
		}
		f.Close()
		other.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// A response whose handler has returned is a candidate while Close hands over
// the rest.
func TestBudgetCandidateThatIsClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(16<<10, 16<<10)
		f := flush.New(harness.NewTap(false), nil, &flush.Options{Budget: budget, BufferSize: 1 << 20, SendTimeout: time.Hour})
		f.Write(make([]byte, 4*harness.BlockBytes))
		closed := make(chan error, 1)
		go func() { closed <- f.Close() }()
		synctest.Wait()
		other := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
		if got := <-harness.WriteBehind(other, 5); got.Err != nil || got.After > 110*time.Millisecond {
			t.Errorf("Write: %+v", got)
		}
		if err := <-closed; !errors.Is(err, flush.ErrOverBudget) {
			t.Errorf("Close: %v", err)
		}
		other.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// The one that holds most for longest goes first, and no more go than memory is
// needed. Those that keep up stay, however long others wait.
func TestBudgetAbortsTheWorst(t *testing.T) {
	type client struct {
		blocks int
		age    time.Duration
		pace   time.Duration // 0: it does not read
		stuck  bool          // and its call cannot be ended
		idle   bool          // it holds what is under its BufferSize, and no call is under way
	}
	second := time.Second
	for _, tc := range []struct {
		name    string
		clients []client
		wants   int   // how many others write
		aborted []int // clients
		waits   bool  // and the others wait on: nothing comes back
	}{
		{"most", []client{{blocks: 3, age: second}, {blocks: 7, age: second}, {blocks: 6, age: second}}, 1, []int{1}, false},
		{"for longest", []client{{blocks: 4, age: second}, {blocks: 6, age: second / 2}, {blocks: 6, age: second / 4}}, 1, []int{0}, false},
		{"as many as are needed", []client{{blocks: 4, age: second}, {blocks: 6, age: second}, {blocks: 6, age: second / 2}}, 8, []int{0, 1}, false},
		{"not one that keeps up", []client{{blocks: 15, age: second, pace: 90 * time.Millisecond}, {blocks: 1, age: second / 2}}, 1, []int{1}, false},
		{"one whose block is in flight only after the others", []client{{blocks: 1, age: 100 * second, stuck: true}, {blocks: 15, age: second, stuck: true}}, 1, []int{1}, false},
		{
			"all whose blocks do not come back", []client{
				{blocks: 1, age: second, stuck: true}, {blocks: 1, age: second, stuck: true}, {blocks: 1, age: second, stuck: true},
				{blocks: 13, age: second, idle: true},
			}, 1, []int{0, 1, 2}, true,
		},
		{
			"more and more of them", append(slices.Repeat([]client{{blocks: 1, age: second, stuck: true}}, 12),
				client{blocks: 4, age: second, idle: true}), 1, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, true,
		},
		{
			"one of those whose block comes back", []client{
				{blocks: 1, age: 2 * second}, {blocks: 1, age: 3 * second}, {blocks: 1, age: second},
				{blocks: 13, age: second, idle: true},
			}, 1, []int{1}, false,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hard = 16 << 12
				budget := flush.NewBudget(hard, hard)
				opts := &flush.Options{Budget: budget, Flush: flush.Async, MaxPending: 1 << 20, SendTimeout: time.Hour}
				taps := make([]*harness.Tap, len(tc.clients))
				all := make([]*flush.Flusher, len(tc.clients))
				var feeding sync.WaitGroup
				stop := make(chan struct{})
				begin := time.Now()
				oldest := time.Duration(0)
				for _, c := range tc.clients {
					oldest = max(oldest, c.age)
				}
				for i, c := range tc.clients {
					taps[i] = harness.NewTap(c.pace > 0)
					taps[i].Pace, taps[i].Stuck = c.pace, c.stuck
					all[i] = flush.New(taps[i], nil, opts)
					if c.idle {
						all[i] = harness.HoldBudget(budget, c.blocks)
						continue
					}
					feeding.Go(func() {
						time.Sleep(oldest - c.age)
						_, err := all[i].Write(make([]byte, c.blocks*harness.BlockBytes))
						all[i].FlushAsync()
						for c.pace > 0 && err == nil {
							select {
							case <-stop:
								return
							default:
								_, err = all[i].Write(make([]byte, harness.BlockBytes))
							}
						}
					})
				}
				time.Sleep(oldest - time.Since(begin))
				synctest.Wait()
				if held := budget.Stats().Held; held != hard {
					t.Fatalf("%d of %d bytes are held", held, hard)
				}
				var others []*flush.Flusher
				var done []<-chan harness.WriteResult
				for range tc.wants {
					f := flush.New(harness.NewTap(false), nil, opts)
					others, done = append(others, f), append(done, harness.WriteBehind(f, 5))
				}
				time.Sleep(90 * time.Millisecond)
				synctest.Wait()
				for _, d := range done {
					select {
					case got := <-d:
						if got.Err != nil || tc.waits {
							t.Errorf("Write: %+v", got)
						}
					default:
						if !tc.waits {
							t.Error("a Write still waits")
						}
					}
				}
				var aborted []int
				for i, f := range all {
					switch err := f.Err(); {
					case errors.Is(err, flush.ErrOverBudget):
						aborted = append(aborted, i)
					case err != nil:
						t.Errorf("client %d: %v", i, err)
					}
				}
				if !slices.Equal(aborted, tc.aborted) || budget.Stats().Aborted != len(aborted) {
					t.Errorf("%v were aborted, want %v; %+v", aborted, tc.aborted, budget.Stats())
				}
				close(stop)
				for _, f := range others {
					f.Abort(nil)
				}
				for i, f := range all {
					if tc.clients[i].pace == 0 {
						close(taps[i].Opened)
					}
					f.Abort(nil)
				}
				feeding.Wait()
				harness.ExpectNothingHeld(t, budget)
			})
		})
	}
}

// Those whose only block is in flight go more and more at once while none comes back.
// Once one has, they go one by one again for the next who waits.
func TestBudgetOneByOneAgainAfterRelief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 30
		budget := flush.NewBudget(clients<<12, clients<<12)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Hour}
		var taps []*harness.Tap
		var all []*flush.Flusher
		for range clients {
			tap := harness.NewTap(false)
			tap.Stuck = true
			f := flush.New(tap, nil, opts)
			f.Write(make([]byte, harness.BlockBytes))
			f.FlushAsync()
			taps, all = append(taps, tap), append(all, f)
			time.Sleep(time.Millisecond) // the first go first
		}
		time.Sleep(time.Second)
		expect := func(aborted, waiting int) {
			t.Helper()
			synctest.Wait()
			if s := budget.Stats(); s.Aborted != aborted || s.Waiting != waiting {
				t.Errorf("%d have been aborted, %d wait; want %d and %d", s.Aborted, s.Waiting, aborted, waiting)
			}
		}
		a, b := flush.New(harness.NewTap(false), nil, opts), flush.New(harness.NewTap(false), nil, opts)
		written := []<-chan harness.WriteResult{harness.WriteBehind(a, 5), harness.WriteBehind(b, 5)}
		expect(1, 2)
		time.Sleep(25 * time.Millisecond)
		expect(3, 2)
		time.Sleep(25 * time.Millisecond)
		expect(7, 2)
		close(taps[0].Opened)
		expect(8, 1)
		time.Sleep(25 * time.Millisecond)
		expect(10, 1)
		for _, tap := range taps[1:] {
			close(tap.Opened)
		}
		for _, w := range written {
			if got := <-w; got.Err != nil {
				t.Error(got.Err)
			}
		}
		for _, f := range append(all, a, b) {
			f.Abort(nil)
		}
		harness.ExpectNothingHeld(t, budget)
	})
}

// What a candidate holds is what it holds now, and not when it became one.
func TestBudgetCandidateThatGrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(48<<10, 48<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Hour}
		older, younger := flush.New(harness.NewTap(false), nil, opts), flush.New(harness.NewTap(false), nil, opts)
		older.Write(make([]byte, 3*harness.BlockBytes))
		time.Sleep(time.Second / 4)
		younger.Write(make([]byte, 2*harness.BlockBytes))
		time.Sleep(time.Second)
		younger.Write(make([]byte, 7*harness.BlockBytes))
		other := flush.New(harness.NewTap(true), nil, opts)
		if got := <-harness.WriteBehind(other, 5); got.Err != nil || got.After != 0 {
			t.Errorf("Write: %+v", got)
		}
		if older.Err() != nil || !errors.Is(younger.Err(), flush.ErrOverBudget) {
			t.Errorf("the older: %v, the younger, which holds more: %v", older.Err(), younger.Err())
		}
		other.Close()
		older.Abort(nil)
		younger.Abort(nil)
		harness.ExpectNothingHeld(t, budget)
	})
}

// A response whose call took long and has returned keeps up again, whatever it
// holds.
func TestBudgetNoCandidateAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(8<<10, 8<<10)
		opts := &flush.Options{Budget: budget, SendTimeout: -1}
		client := harness.NewTap(true)
		client.Pace = time.Second
		f := flush.New(client, nil, opts)
		for range 2 { // with the headers, and without
			f.WriteString("x")
			if err := f.FlushWait(harness.NoContext); err != nil {
				t.Fatal(err)
			}
		}
		f.WriteString("held")
		holder := harness.HoldBudget(budget, 1)
		other := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
		done := harness.WriteBehind(other, 5)
		time.Sleep(time.Minute)
		harness.ExpectWaiting(t, budget, 1)
		if err := f.Err(); err != nil {
			t.Error(err)
		}
		holder.Close()
		if got := <-done; got.Err != nil {
			t.Error(got.Err)
		}
		other.Close()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		harness.ExpectNothingHeld(t, budget)
	})
}

// Where the connection is known, bytes that the client's kernel acknowledges
// are progress: such a response keeps up, however long one call takes.
func TestBudgetAcknowledgedBytesAreProgress(t *testing.T) {
	for _, moves := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			budget := flush.NewBudget(16<<10, 16<<10)
			opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Minute}
			begin := time.Now()
			acked := func() int64 {
				if moves {
					return int64(time.Since(begin))
				}
				return 1
			}
			r := httptest.NewRequestWithContext(harness.WithAcked(t.Context(), acked), "GET", "/", nil)
			client := harness.NewTap(false)
			f := flush.New(client, r, opts)
			f.Write(make([]byte, 4*harness.BlockBytes))
			time.Sleep(10 * time.Second)
			other := flush.New(harness.NewTap(true), nil, opts)
			done := harness.WriteBehind(other, 5)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if err := f.Err(); moves != (err == nil) || !moves && !errors.Is(err, flush.ErrOverBudget) {
				t.Errorf("moves: %v; failure: %v", moves, err)
			}
			close(client.Opened)
			if got := <-done; got.Err != nil {
				t.Error(got.Err)
			}
			f.Close()
			other.Close()
			time.Sleep(time.Second) // who asks the kernel goes away
			harness.ExpectNothingHeld(t, budget)
		})
	}
}

// A Write waits however long while all that hold something keep up, or have
// nothing under way: nobody is aborted for it.
func TestBudgetAbortsNobodyWhoKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(0, 16<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: 200 * time.Millisecond}
		slow := harness.NewTap(true)
		slow.Pace = 90 * time.Millisecond
		f := flush.New(slow, nil, opts)
		holder := harness.HoldBudget(budget, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 1000 {
				if _, err := f.Write(make([]byte, 1000)); err != nil {
					t.Error(err)
					return
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if s := budget.Stats(); s.Aborted != 0 || slow.Got() != 1_000_000 {
			t.Errorf("%+v, %d bytes came", s, slow.Got())
		}
		holder.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// A writer below whose SetWriteDeadline takes its time holds up nobody who
// waits.
func TestBudgetDoesNotWaitForSetWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(16<<10, 16<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Hour}
		client := slowDeadline{harness.NewTap(false)}
		f := flush.New(client, nil, opts)
		f.Write(make([]byte, 4*harness.BlockBytes))
		time.Sleep(time.Second)
		other := flush.New(harness.NewTap(true), nil, opts)
		if got := <-harness.WriteBehind(other, 5); got.Err != nil || got.After != 0 {
			t.Errorf("Write: %+v", got)
		}
		other.Close()
		if err := f.Close(); !errors.Is(err, flush.ErrOverBudget) {
			t.Error(err)
		}
		harness.ExpectNothingHeld(t, budget)
	})
}

type slowDeadline struct{ *harness.Tap }

func (s slowDeadline) SetWriteDeadline(at time.Time) error {
	time.Sleep(time.Minute)
	return s.Tap.SetWriteDeadline(at)
}

var _ http.ResponseWriter = slowDeadline{}

// Who makes no progress for a tenth of a second does not keep up: where memory is
// wanted he goes then, and not before.
func TestBudgetKeepsUpForATenthOfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(100 * 365 * 24 * time.Hour) // a bubble begins before the process, which the library counts from
		budget := flush.NewBudget(16<<10, 16<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Minute}
		client := harness.NewTap(false)
		f := flush.New(client, nil, opts)
		f.Write(make([]byte, 4*harness.BlockBytes))
		other := flush.New(harness.NewTap(true), nil, opts)
		done := harness.WriteBehind(other, 5)
		time.Sleep(100*time.Millisecond - 1)
		synctest.Wait()
		harness.Must(t, f.Err())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if err := f.Err(); !errors.Is(err, flush.ErrOverBudget) {
			t.Errorf("after 100 ms: %v", err)
		}
		close(client.Opened)
		if got := <-done; got.Err != nil {
			t.Error(got.Err)
		}
		f.Close()
		other.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}
