package flush

import (
	"container/heap"
	"math/bits"
	"time"
)

// The candidates of a Budget: responses whose call of the server has been looked
// at several times without progress. One of them is aborted where memory is
// wanted.

// lookLocked looks at the call of the server that is under way: the timer that
// watches it has fired. It returns when the budget wants to look again; 0 is
// never.
func (f *Flusher) lookLocked() time.Duration {
	b, m := f.cfg.Budget, f.member
	if b == nil || m != nil && m.stalled {
		return 0
	}
	at := now()
	if blocked := at - f.timeout.since; blocked < lookEvery {
		return lookEvery - blocked
	}
	if m == nil {
		return 0 // it holds nothing: memberLocked sets the timer
	}
	switch {
	case m.looks == 0:
		m.looks = 1
	case at-m.due < lookEvery:
		m.looks += timelyLook
	default:
		m.looks++
	}
	if m.looks < enoughLook {
		m.due = at + lookEvery
		return lookEvery
	}
	m.stalled = true
	b.rankLocked(m, f.timeout.since)
	return 0
}

// movedLocked notes that the call of the server has returned, or got on.
func (f *Flusher) movedLocked() {
	if f.marks.counted && f.member != nil {
		f.member.forgiveLocked()
	}
}

// forgiveLocked has the looks begin anew. It is m.f.mu that is held.
func (m *member) forgiveLocked() {
	if m.looks == 0 {
		return
	}
	m.looks = 0
	if m.stalled {
		m.stalled = false
		m.f.cfg.Budget.unrankLocked(m)
	}
}

// ranks are by the number of blocks, one by one for the usual MaxPending and in
// powers of two above.
const (
	fineRanks = 32
	ranks     = fineRanks + 64
)

func rankOf(blocks int64) int {
	if blocks < fineRanks {
		return int(blocks)
	}
	return fineRanks + bits.Len64(uint64(blocks/fineRanks)) - 1
}

// rankLocked makes m a candidate, or brings up to date what it holds. It is
// m.f.mu that is held.
func (b *Budget) rankLocked(m *member, since time.Duration) {
	m.ranked = m.held
	b.mu.Lock()
	defer b.mu.Unlock()
	b.strike(m)
	m.blocks, m.since = m.held/blockMemory, since
	if m.blocks == 0 {
		return
	}
	m.rank = rankOf(m.blocks)
	heap.Push(&b.stalled[m.rank], m)
	b.changed.Signal()
}

// unrankLocked makes m no candidate any more. It is m.f.mu that is held.
func (b *Budget) unrankLocked(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.strike(m)
}

// strike takes m off its heap. The budget's mu is held.
func (b *Budget) strike(m *member) {
	if m.index > 0 {
		heap.Remove(&b.stalled[m.rank], m.index-1)
	}
}

// worst takes out the candidate with most that comes back at once for longest.
// Only where nobody has such it is one whose only block is in flight.
func (b *Budget) worst() *member {
	var worst *member
	var most float64
	at := now()
	for i := range b.stalled {
		if len(b.stalled[i]) == 0 {
			continue
		}
		m := b.stalled[i][0]
		if score := float64(m.blocks-1) * float64(at-m.since); worst == nil || score > most {
			worst, most = m, score
		}
	}
	if worst != nil {
		b.strike(worst)
	}
	return worst
}

// oldest is a heap of candidates that hold the same, stalled for longest first.
type oldest []*member

func (h oldest) Len() int           { return len(h) }
func (h oldest) Less(i, j int) bool { return h[i].since < h[j].since }

func (h oldest) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *oldest) Push(m any) {
	*h = append(*h, m.(*member))
	(*h)[len(*h)-1].index = len(*h)
}

func (h *oldest) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	m.index = 0
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}
