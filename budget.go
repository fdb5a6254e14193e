package flush

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Budget bounds the memory of floor 2 of all responses that share it, as
// [Options.Budget]. Each response still has its own MaxPending.
//
// Over soft, send timeouts shrink in proportion to what is left below hard, to
// a sixteenth at most. At hard, the response that holds most for longest is
// aborted with [ErrOverBudget], never one that keeps up; where all keep up,
// writers wait. User-level buffers are not counted.
//
// All methods are safe for concurrent use.
type Budget struct {
	soft, hard int64
	held       atomic.Int64 // by all, in whole blocks

	mu      sync.Mutex
	members map[*member]struct{} // those who have ever held something
	waiting []chan struct{}      // writers, in order; each is told of one piece that came back
	last    *member              // the one aborted last
	lastAt  time.Duration        // when that was
}

// A member is a response as its budget sees it. The fields are atomic so that
// nobody has to lock a response to compare it.
type member struct {
	f     *Flusher
	held  atomic.Int64
	since atomic.Int64 // when the call of the server that blocks began, or last showed progress; 0: none is under way
}

// keepsUp is how long one call of the server may take of a response that
// keeps up. Send timeouts shrink no further, nor below a sixteenth.
const keepsUp = 100 * time.Millisecond

// NewBudget returns a Budget of hard bytes, with pressure from soft bytes on.
// Values are raised to make sense: hard to at least one block of 4 KiB, soft
// to at least 0; a soft above hard is hard.
func NewBudget(soft, hard int64) *Budget {
	hard = max(hard, blockMemory)
	return &Budget{soft: min(max(soft, 0), hard), hard: hard, members: make(map[*member]struct{})}
}

// shrink returns d as the budget leaves it.
func (b *Budget) shrink(d time.Duration) time.Duration {
	over := b.held.Load() - b.soft
	if over <= 0 {
		return d
	}
	left := max(b.hard-b.soft-over, 0)
	return max(time.Duration(float64(d)*float64(left)/float64(max(b.hard-b.soft, 1))), max(d/16, min(d, keepsUp)))
}

// chargeLocked brings the budget's count of f up to date. f.mu is held; the
// count changes only when a block comes or goes, not with every write.
func (f *Flusher) chargeLocked() {
	b := f.cfg.Budget
	if b == nil {
		return
	}
	if f.member == nil {
		if f.q.blocks == 0 {
			return
		}
		f.member = &member{f: f}
		b.mu.Lock()
		b.members[f.member] = struct{}{}
		b.mu.Unlock()
	}
	m := f.member
	all := int64(f.q.blocks) * blockMemory
	delta := all - m.held.Load()
	if delta == 0 {
		return
	}
	m.held.Store(all)
	b.held.Add(delta)
	if delta < 0 {
		b.wake()
	}
}

// leaveLocked takes f out of its budget at the end.
func (f *Flusher) leaveLocked() {
	f.chargeLocked()
	if b, m := f.cfg.Budget, f.member; m != nil {
		f.member = nil
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.members, m)
	}
}

// wake tells the first writer who waits that memory came back.
func (b *Budget) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 {
		close(b.waiting[0])
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
	}
}

// waitBudgetLocked waits until the budget has another block for f. It drops
// f.mu: a response must not be locked while another is.
func (f *Flusher) waitBudgetLocked() error {
	b := f.cfg.Budget
	defer f.noteWaitedLocked(now())
	for stalls := f.stalls; b.held.Load()+blockMemory > b.hard; {
		switch {
		case f.haltedLocked(true) != nil:
			return f.haltedLocked(true)
		case f.stalls != stalls:
			return ErrTimeout
		}
		if f.q.len > 0 {
			f.carryOnLocked()
		}
		f.mu.Unlock()
		if !b.relieve() {
			b.wait()
		}
		f.mu.Lock()
	}
	return f.fail
}

// wait returns when a piece of memory has come back, or when it is time to look
// again who keeps up.
func (b *Budget) wait() {
	freed := make(chan struct{})
	b.mu.Lock()
	b.waiting = append(b.waiting, freed)
	b.mu.Unlock()
	timer := time.NewTimer(keepsUp)
	defer timer.Stop()
	select {
	case <-freed:
		return
	case <-timer.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiting, freed); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
}

// relieve aborts the response that holds most for longest, and reports whether
// there was one that does not keep up. No response is locked by the caller.
func (b *Budget) relieve() bool {
	b.mu.Lock()
	at := now()
	if b.last != nil && b.last.held.Load() > 0 && at-b.lastAt < keepsUp {
		b.mu.Unlock()
		return false // its memory is about to come back: one is enough
	}
	var worst *member
	var most float64
	for m := range b.members {
		since := time.Duration(m.since.Load())
		if held, age := m.held.Load(), at-since; since != 0 && held > 0 && age >= keepsUp {
			if score := float64(held) * float64(age); score > most {
				worst, most = m, score
			}
		}
	}
	if worst != nil {
		delete(b.members, worst)
		b.last, b.lastAt = worst, at
	}
	b.mu.Unlock()
	if worst == nil {
		return false
	}
	f := worst.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended && !f.hijacked {
		f.abortLocked(ErrOverBudget)
	}
	return true
}
