package flush_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Many responses share a budget that is far too small, over clients that read,
// pause, stall or cannot be ended, and are ended in every way at any time: every
// call returns, what is held stays within the bound and goes back to nothing,
// and each byte is either handed over or lost. In a bubble a lost wake-up is a
// deadlock.
func TestBudgetHammer(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 15
	}
	for i := range rounds {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) { hammerBudget(t, seed) })
		if t.Failed() {
			t.Fatalf("round %d, seed %d", i, seed)
		}
	}
}

func hammerBudget(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	hard := int64(rnd.IntN(12)) << 12
	budget := flush.NewBudget(int64(rnd.IntN(12))<<12, hard)
	hard = max(hard, 4<<10)
	errOwn := errors.New("own")
	modes := []flush.Mode{flush.Async, flush.Async, flush.Wait, flush.Off}
	var all, helpers sync.WaitGroup
	for id := range 12 {
		rnd := rand.New(rand.NewPCG(seed, uint64(id+1)))
		client := harness.NewTap(rnd.IntN(3) > 0)
		client.Stuck = rnd.IntN(4) == 0
		client.Pace = time.Duration(rnd.IntN(3)) * 40 * time.Millisecond
		if rnd.IntN(2) == 0 && client.Pace > 0 {
			client.Pace /= 100
		}
		opts := &flush.Options{
			Budget: budget, Flush: modes[rnd.IntN(len(modes))],
			SendTimeout: []time.Duration{time.Second, time.Minute, -1}[rnd.IntN(3)],
			MaxPending:  []int{0, 100, 10_000, 100_000}[rnd.IntN(4)],
			BufferSize:  []int{0, -1, 20_000}[rnd.IntN(3)],
		}
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		f := flush.New(client, r, opts)
		if rnd.IntN(5) == 0 {
			f = flush.New(harness.NoDeadlines{T: client}, r, opts)
		}
		// However it goes on, the client's way opens in the end.
		helpers.Go(func() {
			time.Sleep(5 * time.Minute)
			select {
			case <-client.Opened:
			default:
				close(client.Opened)
			}
		})
		var writers sync.WaitGroup
		for w := range 2 {
			rnd := rand.New(rand.NewPCG(seed, uint64(1000+100*w+id)))
			writers.Go(func() {
				for range 30 {
					if _, err := f.Write(make([]byte, rnd.IntN(3)*rnd.IntN(8000))); err != nil {
						return
					}
					if held := budget.Stats().Held; held > hard {
						t.Errorf("%d bytes are held of %d", held, hard)
					}
					switch rnd.IntN(8) {
					case 0:
						f.FlushAsync()
					case 1:
						f.FlushWait(ctx)
					case 2:
						time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
					case 3:
						f.Available()
					}
				}
			})
		}
		all.Go(func() {
			switch rnd.IntN(6) {
			case 0:
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
				f.Abort(errOwn)
			case 1:
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
				f.Hijack()
			case 2:
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
				leave()
			case 3:
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
			default:
				writers.Wait()
			}
			f.Close()
			writers.Wait()
			if s := f.Stats(); f.Buffered() != 0 || s.Waited < 0 {
				t.Errorf("%+v, %d held", s, f.Buffered())
			}
		})
	}
	all.Wait()
	helpers.Wait()
	harness.ExpectNothingHeld(t, budget)
}
