package flush_test

import (
	"errors"
	"math"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Many clients that do not read, and some that do, share one budget: what is
// held stays within it, and those that read are never touched. In a bubble who
// reads is never seen in a call of the server, however busy the machine.
func TestBudgetBoundsStalledClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stalled, reading, hard = 2000, 20, 16 << 20
		budget := flush.NewBudget(hard/2, hard)
		opts := &flush.Options{Flush: flush.Async, Budget: budget, SendTimeout: time.Hour}
		event := make([]byte, 1000)
		reads := func(i int) bool { return i%((stalled+reading)/reading) == 0 }
		clients := make([]*harness.Tap, stalled+reading) // the test's own memory
		for i := range clients {
			clients[i] = harness.NewTap(reads(i))
		}

		runtime.GC()
		var base, peak runtime.MemStats
		runtime.ReadMemStats(&base)

		var wg sync.WaitGroup
		var over, other int
		var mu sync.Mutex
		release := make(chan struct{})
		full := make(chan struct{}, stalled+reading)
		for i := range stalled + reading {
			wg.Go(func() {
				f := flush.New(clients[i], nil, opts)
				var err error
				for range 60 { // under MaxPending: only the budget can stop it
					if _, err = f.Write(event); err != nil {
						break
					}
					if held := budget.Stats().Held; held > hard {
						t.Errorf("%d bytes are held", held)
					}
					if err = f.FlushAsync(); err != nil {
						break
					}
				}
				full <- struct{}{}
				<-release
				if reads(i) {
					if cerr := f.Close(); err != nil || cerr != nil {
						t.Errorf("a client that reads: %v, %v", err, cerr)
					}
					return
				}
				if err == nil {
					err = f.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, flush.ErrOverBudget):
					over++
				case err != nil:
					t.Errorf("a client that does not read: %v", err)
				default:
					other++
				}
				f.Abort(nil)
			})
		}
		for range stalled + reading {
			<-full
		}
		for range 3 {
			runtime.GC() // pools let go of what they keep
		}
		runtime.ReadMemStats(&peak)
		stats := budget.Stats()
		if got, most := int64(peak.HeapAlloc)-int64(base.HeapAlloc), int64(hard+stalled*(4<<10)); got > most {
			t.Errorf("heap grew by %d bytes, want at most %d", got, most)
		} else {
			t.Logf("heap grew by %d bytes of %d, %d of them held: %d more for each response",
				got, most, stats.Held, (got-stats.Held)/(stalled+reading))
		}
		if stats.Members != stalled+reading || stats.Waiting != 0 {
			t.Errorf("%+v, want %d members", stats, stalled+reading)
		}
		close(release)
		wg.Wait()
		if over == 0 || other == 0 || over != stats.Aborted {
			t.Errorf("%d responses were aborted and %d were not; want some of each, and %+v", over, other, stats)
		}
		if got, want := budget.Stats(), (flush.BudgetStats{Aborted: over}); got != want {
			t.Errorf("at the end: %+v, want %+v", got, want)
		}
	})
}

// Half-way between soft and hard, half the send timeout is left; below soft,
// all of it.
func TestBudgetShrinksSendTimeout(t *testing.T) {
	for _, tc := range []struct {
		name string
		soft int64
		want time.Duration
	}{
		{"below soft", 64 << 10, 16 * time.Second},
		{"half-way", 0, 8 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// 8 blocks of 4 KiB of 16 are held.
				opts := &flush.Options{Budget: flush.NewBudget(tc.soft, 64<<10), SendTimeout: 16 * time.Second}
				f := flush.New(harness.NewTap(false), nil, opts)
				begin := time.Now()
				f.FlushAsync()
				for range 8 {
					f.Write(make([]byte, 4000))
				}
				err := f.FlushWait(t.Context())
				if !errors.Is(err, flush.ErrTimeout) || time.Since(begin) != tc.want {
					t.Errorf("after %v: %v; want ErrTimeout after %v", time.Since(begin), err, tc.want)
				}
				f.Close()
			})
		})
	}
}

// At the bound a writer waits while all keep up, and goes on when memory comes
// back.
func TestBudgetWaitsForThoseWhoKeepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(8<<10, 8<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
		first := harness.NewTap(false)
		a := flush.New(first, nil, opts)
		a.Write(make([]byte, 8000))
		b := flush.New(harness.NewTap(true), nil, opts)
		done := make(chan error, 1)
		go func() {
			_, err := b.Write(make([]byte, 100))
			done <- err
		}()
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Write returned %v over the budget", err)
		default:
		}
		close(first.Opened)
		if err := <-done; err != nil {
			t.Errorf("Write: %v", err)
		}
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
}

// What a budget counts for a block is what the allocator gives for it.
func TestBudgetCountsWhatIsAllocated(t *testing.T) {
	const n = 1000
	blocks := make([]any, n)
	least := uint64(math.MaxUint64) // others allocate, too
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range blocks {
			blocks[i] = flush.NewBlock()
		}
		runtime.ReadMemStats(&after)
		least = min(least, (after.TotalAlloc-before.TotalAlloc)/n)
	}
	if least < flush.BlockMemory || least > flush.BlockMemory+flush.BlockMemory/64 {
		t.Errorf("a block takes %d bytes, and counts as %d", least, flush.BlockMemory)
	}
	runtime.KeepAlive(blocks)
}
