package flush

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// errThrough is waitBudgetLocked's answer where nothing is to be waited for. No
// caller of the Flusher sees it.
var errThrough = errors.New("flush: to be handed to the server")

// A Budget bounds the memory of floor 2 of all responses that share it, as
// [Options.Budget]. Each response still has its own MaxPending.
//
// Over soft, send timeouts shrink in proportion to what is left below hard, to
// a sixteenth or 100 ms. At hard, the response that holds most for longest is
// aborted with [ErrOverBudget], never one that keeps up: it has to have been
// looked at several times, over at least 100 ms, with no progress. Where all
// keep up, a Write waits, and one of a response that holds nothing comes first.
// Once no memory has come to anybody for SendTimeout it fails with [ErrTimeout];
// Close, Abort and Hijack end the wait, and so does the end of the client. A
// synchronous Write does not wait: it goes to the client at once. Nor does the
// first Write of a response, or the first after a flush that is done, of no more
// than the 2 KiB that net/http keeps by itself; nor does a Write of a Flusher below,
// behind middleware, while one with a Budget writes to it.
//
// A failed response gives back at once all but the block that the server is
// writing. On HTTP/2 that write may last as long as the client's connection:
// bound it with WriteByteTimeout of [net/http.HTTP2Config].
//
// Memory is counted in blocks of 4 KiB. User-level buffers are not counted. All
// methods are safe for concurrent use. Make one with [NewBudget].
type Budget struct {
	// A response is, as its budget sees it,
	//
	//	outside    it has never held a block: there is no member
	//	in         its blocks are counted
	//	watched    a call of the server is under way, and its timer has looked
	//	stalled    several looks saw the same call without progress: a candidate
	//	failed     it has given back all but the block in flight, and is counted,
	//	           and a candidate to be unblocked once more, until that is back
	//	left       its end: the member is gone
	//
	// and beside that it may be waiting for a block, in one of two lines.
	//
	// Invariants:
	//
	//  1. held is the sum of all members' held, and of a block that the server
	//     of the lines is handing over. It changes by atomics alone.
	//  2. Whenever f.mu is free, a member's held is the blocks of its queue, plus
	//     the one block that it was granted and has not filled.
	//  3. held exceeds hard only by the first block of a synchronous response to
	//     HEAD, while its Write lasts.
	//  4. Who gives memory back counts it in held first and then looks at asleep;
	//     the server of the lines sets asleep first and then looks at held. So
	//     one of the two sees the other.
	//  5. While somebody is in a line one goroutine serves the lines: it alone
	//     hands blocks over and aborts, whatever the number of those who wait.
	//  6. No operation looks at more than one member, or one of each rank. A
	//     charge takes mu only for a response that is stalled, or to wake the
	//     server of the lines.
	//
	// Locks: a response's mu before the budget's; never two responses; with the
	// budget's held, no response is locked.
	soft, hard int64
	held       atomic.Int64 // bytes, in whole blocks
	members    atomic.Int64 // responses that have held something and have not ended
	waiting    atomic.Int64 // Writes that wait
	aborted    atomic.Int64
	granted    atomic.Int64 // when a block was last handed to one who waits, as now says; 0: never

	mu      sync.Mutex
	lines   [2]list.List // members that wait: those who hold nothing, those who hold something
	serving bool         // a goroutine serves the lines
	changed sync.Cond    // on mu: tells it to look again
	asleep  atomic.Bool  // it wants to be told of memory that comes back
	stalled [ranks]oldest

	// Aborting a response that holds one block gives nothing back until the
	// server's call returns. burst is how many may be aborted before that is
	// waited for, tried how many have been.
	burst, tried int
	pausing      bool
}

// BudgetStats are the counts of a [Budget].
type BudgetStats struct {
	Held    int64 // bytes held, in whole blocks of 4 KiB
	Members int   // responses that have held something and have not ended
	Waiting int   // Writes that wait for memory
	Aborted int   // responses aborted with [ErrOverBudget] so far
}

// NewBudget returns a Budget of hard bytes, with pressure from soft bytes on.
// It counts blocks of 4 KiB. Values are raised to make sense: hard to at least
// one block, soft to at least 0; a soft above hard is hard.
func NewBudget(soft, hard int64) *Budget {
	b := &Budget{hard: hard}
	b.soft = min(max(soft, 0), b.most())
	return b
}

// most is how many bytes may be held.
func (b *Budget) most() int64 { return max(b.hard, blockMemory) }

// Stats returns the counts as they are now. A nil Budget has none.
func (b *Budget) Stats() BudgetStats {
	if b == nil {
		return BudgetStats{}
	}
	return BudgetStats{
		Held:    b.held.Load(),
		Members: int(b.members.Load()),
		Waiting: int(b.waiting.Load()),
		Aborted: int(b.aborted.Load()),
	}
}

// A member is a response as its budget sees it.
type member struct {
	f *Flusher

	// Guarded by f.mu.
	held    int64         // bytes counted for it
	ranked  int64         // what was held when it last took its rank
	looks   int8          // at the call under way: see lookLocked
	stalled bool          // it does not keep up
	waits   bool          // a Write waits for a block
	granted bool          // and has been given one
	entered bool          // it has been in a line since it waits, and was not given one
	due     time.Duration // when the next look should come

	// Guarded by the budget's mu.
	place  *list.Element // in lines[class]; nil: in none
	class  int
	rank   int // its heap of stalled, if index says that it is in one
	index  int // from 1 on; 0: in none
	blocks int64
	since  time.Duration // when the call began that it is stalled in, or last showed progress
}

const (
	// keepsUp is how long one call of the server may take of a response that
	// keeps up. Send timeouts shrink no further, nor below a sixteenth.
	keepsUp   = 100 * time.Millisecond
	lookEvery = keepsUp / 4

	// A look that comes in time counts timelyLook, one that comes late counts
	// one: a machine too busy to run a timer is too busy for the call, too.
	timelyLook = 4
	enoughLook = 1 + 3*timelyLook
)

// take counts n more bytes if there is room for them.
func (b *Budget) take(n int64) bool {
	for hard := b.most(); ; {
		held := b.held.Load()
		if held+n > hard {
			return false
		}
		if b.held.CompareAndSwap(held, held+n) {
			return true
		}
	}
}

// give counts n fewer bytes, and has the lines served.
func (b *Budget) give(n int64) {
	b.held.Add(-n)
	if b.asleep.CompareAndSwap(true, false) {
		b.mu.Lock()
		b.changed.Signal()
		b.mu.Unlock()
	}
}

// shrink returns d as the budget leaves it.
func (b *Budget) shrink(d time.Duration) time.Duration {
	over := b.held.Load() - b.soft
	if over <= 0 {
		return d
	}
	span := b.most() - b.soft
	left := max(span-over, 0)
	return max(time.Duration(float64(d)*float64(left)/float64(max(span, 1))), max(d/16, min(d, keepsUp)))
}

// memberLocked returns f's member, which it becomes with its first block.
func (f *Flusher) memberLocked() *member {
	if f.member == nil {
		f.member = &member{f: f}
		f.cfg.Budget.members.Add(1)
		if t := &f.timeout; t.calling && t.timer != nil {
			t.running = true
			t.timer.Reset(lookEvery) // while nothing was held nobody looked
		}
	}
	return f.member
}

// chargeLocked brings the budget's count of f up to date. The count changes
// only when a block comes or goes, not with every write.
func (f *Flusher) chargeLocked() {
	b := f.cfg.Budget
	if b == nil || f.member == nil && f.q.blocks == 0 {
		return
	}
	m := f.memberLocked()
	all := int64(f.q.blocks) * blockMemory
	if m.granted {
		all += blockMemory
	}
	delta := all - m.held // 0 where the blocks were counted before they came
	m.held = all
	if m.stalled && m.ranked != all {
		b.rankLocked(m, f.timeout.since)
	}
	if delta > 0 {
		b.held.Add(delta)
	} else if delta < 0 {
		b.give(-delta)
	}
}

// leaveLocked takes f out of its budget at the end.
func (f *Flusher) leaveLocked() {
	if m := f.member; m != nil {
		m.waits, m.granted = false, false // a Write that waits finds the end when it wakes
		f.chargeLocked()
		f.member = nil
		f.cfg.Budget.members.Add(-1)
	}
	if r := f.rarely(); r.feeds != nil {
		for _, below := range r.feeds {
			below.feed(-1)
		}
		r.feeds = nil
	}
}

// fitsLocked reports whether n more bytes enter without waiting for the budget.
// The blocks that they need are counted then: chargeLocked follows before mu is
// dropped.
func (f *Flusher) fitsLocked(n int) bool {
	if f.cfg.Budget == nil {
		return true
	}
	if f.q.tail != nil {
		n -= f.q.room()
	}
	return n <= 0 || f.reserveLocked((n+blockSize-1)/blockSize)
}

// reserveLocked counts blocks more for f if there is room for them, and nobody
// waits.
func (f *Flusher) reserveLocked(blocks int) bool {
	b, n := f.cfg.Budget, int64(blocks)*blockMemory
	if b.waiting.Load() > 0 || !b.take(n) {
		return false
	}
	f.memberLocked().held += n
	return true
}

// budgetRoomLocked returns how many bytes enter without waiting for the budget.
func (f *Flusher) budgetRoomLocked() int {
	b := f.cfg.Budget
	if b == nil {
		return f.marks.high
	}
	n := 0
	if f.q.tail != nil {
		n = f.q.room()
	}
	if b.waiting.Load() == 0 {
		n += int(max(b.most()-b.held.Load(), 0)/blockMemory) * blockSize
	}
	return n
}

// waitBudgetLocked waits until another block is counted for f, and returns nil
// then. The caller has the pen. It drops f.mu.
//
// What f holds itself goes down first, on the caller's goroutine if no carrier
// may do it. errThrough says that the caller is to hand his n bytes to the server
// himself, which needs no memory: see needsNoMemoryLocked.
func (f *Flusher) waitBudgetLocked(n int) (err error) {
	if f.reserveLocked(1) {
		return nil
	}
	if f.needsNoMemoryLocked(n) {
		return errThrough
	}
	b, m := f.cfg.Budget, f.memberLocked()
	began := now()
	m.waits = true
	b.waiting.Add(1)
	ctx := f.serverContext()
	if ctx != nil && ctx.Done() != nil {
		stop := context.AfterFunc(ctx, f.wake)
		defer stop()
	}
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
		m.waits, m.granted = false, false
		b.waiting.Add(-1)
		if m.entered {
			m.entered = false
			b.leaveLine(m)
		}
		if err != nil {
			f.chargeLocked() // a block that was granted goes to the next
		}
		f.noteWaitedLocked(began)
	}()
	var ended error
	err = f.awaitLocked(f.closing, nil, func() bool {
		for !m.granted && f.haltedLocked(true) == nil {
			if f.needsNoMemoryLocked(n) {
				ended = errThrough
				return true
			}
			since := began
			if at := time.Duration(b.granted.Load()); at != 0 {
				since = max(since, at) // the line moves; so it does with what f gives back
			}
			left, ends := f.patienceLocked(since)
			if ends && left <= 0 && f.closing && !f.srv.deadlines {
				// The end of the response waits for the server, however long, but
				// not for others: what it still has to bring down needs no memory.
				if !f.held && f.q.blocks == 0 {
					ended = errThrough
					return true
				}
				ends = false
			}
			if ends && left <= 0 {
				ended = f.impatientLocked()
				return true
			}
			if f.q.len > 0 && f.moveOnLocked() {
				continue
			}
			if ends && timer == nil {
				timer = time.AfterFunc(left, f.wake)
			} else if ends {
				timer.Reset(left)
			}
			m.entered = true
			b.enterLine(m, f.q.blocks > 0)
			return false
		}
		return m.granted
	})
	if err == nil {
		err = ended
	}
	return err
}

// needsNoMemoryLocked reports whether a Write of n bytes that finds no memory is to be
// handed to the server by its caller: where the server keeps them; where the server's
// context has ended, which may be the client's end or not, and that tells; or where
// the caller may be a Flusher above, which may hold memory itself while it waits here.
// It is so only while nothing is held and nobody calls the server.
func (f *Flusher) needsNoMemoryLocked(n int) bool {
	if f.held || f.q.blocks > 0 {
		return false
	}
	ctx := f.serverContext()
	return f.rarely().fed > 0 || ctx != nil && ctx.Err() != nil && !f.carrierOnly() || f.serverKeepsLocked(n)
}

// feedBelow tells the Flushers below that one with a budget writes to them, until it
// has ended.
func (f *Flusher) feedBelow() {
	var feeds []*Flusher
	for below := f.flusherBelow(); below != nil; below = below.flusherBelow() {
		below.feed(1)
		feeds = append(feeds, below)
	}
	if feeds != nil {
		f.rareLocked().feeds = feeds
	}
}

// feed counts those above that have begun and not ended.
func (f *Flusher) feed(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.rareLocked().fed += n
	}
}

// serverKeepsLocked reports whether a Write of n bytes more stays in the buffer that
// net/http has for each response, and so waits for nobody. That buffer is empty
// after a flush. Who has just come and who keeps up need no memory of the budget
// then, however many others have taken it all.
func (f *Flusher) serverKeepsLocked(n int) bool {
	return f.srv.direct && f.srv.netHTTP && f.detached == attached && !f.holding && !f.head && !f.carrierOnly() &&
		!f.bodyUnreadLocked() && f.asked.seq == f.done && f.sent-f.asked.pos+int64(n) <= serverMeasures
}

// impatientLocked ends a Write that has waited too long without progress: the
// client must not take what it has for the whole.
func (f *Flusher) impatientLocked() error {
	if !f.srv.deadlines {
		return ErrTimeout
	}
	f.aborted = true
	f.failLocked(fmt.Errorf("%w: no memory in the budget", ErrTimeout))
	return f.fail
}

// patienceLocked returns how long a Write may still wait for memory that has
// made no progress since then, if that has an end.
func (f *Flusher) patienceLocked(since time.Duration) (left time.Duration, ends bool) {
	deadline := f.rarely().handlerDeadline
	if deadline.IsZero() {
		deadline = f.rarely().serverDeadline
	}
	if !deadline.IsZero() {
		left, ends = time.Until(deadline), true
	}
	if d := f.timeout.d; d > 0 {
		if d -= now() - since; !ends || d < left {
			left, ends = d, true
		}
	}
	return left, ends
}

// enterLine puts m in one of the lines, if it is not in that one, and sees to
// it that they are served.
func (b *Budget) enterLine(m *member, holds bool) {
	class := 0
	if holds {
		class = 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.place != nil {
		if m.class == class {
			return
		}
		b.lines[m.class].Remove(m.place)
	}
	m.place, m.class = b.lines[class].PushBack(m), class
	if b.serving {
		b.changed.Signal()
		return
	}
	b.serving = true
	b.changed.L = &b.mu
	b.burst, b.tried = 1, 0
	go b.serve()
}

// leaveLine takes m out of its line.
func (b *Budget) leaveLine(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.place != nil {
		b.lines[m.class].Remove(m.place)
		m.place = nil
		b.changed.Signal()
	}
}

// serve hands blocks to those who wait, in order, and aborts responses that do
// not keep up until there are enough. It ends with the lines.
func (b *Budget) serve() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		first := b.lines[0].Front()
		if first == nil {
			first = b.lines[1].Front()
		}
		if first == nil {
			b.serving = false
			return
		}
		if b.take(blockMemory) {
			m := first.Value.(*member)
			b.lines[m.class].Remove(first)
			m.place = nil
			b.mu.Unlock()
			granted := m.grant()
			if !granted {
				b.held.Add(-blockMemory) // it is ours to serve
			}
			b.mu.Lock()
			if granted {
				b.burst, b.tried = 1, 0
			}
			continue
		}
		if b.tried < b.burst {
			if m := b.worst(); m != nil {
				b.mu.Unlock()
				waits := m.abort()
				b.mu.Lock()
				if waits {
					b.tried++
				}
				continue
			}
		}
		if b.tried >= b.burst && !b.pausing {
			b.pausing = true
			time.AfterFunc(lookEvery, b.pauseOver)
		}
		b.asleep.Store(true)
		if b.held.Load()+blockMemory > b.most() {
			b.changed.Wait()
		}
		b.asleep.Store(false)
	}
}

// pauseOver runs when the memory of those who were aborted has had its time to
// come back. Where it has not, more are aborted at once.
func (b *Budget) pauseOver() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pausing = false
	if b.tried >= b.burst {
		b.burst, b.tried = 2*b.burst, 0
	}
	b.changed.Signal()
}

// grant gives m a block that has been counted. It reports false if m does not
// wait any more.
func (m *member) grant() bool {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if !m.waits || m.granted {
		return false
	}
	b := f.cfg.Budget
	b.granted.Store(int64(now()))
	b.leaveLine(m) // it may have come back to it meanwhile
	m.granted, m.entered = true, false
	m.held += blockMemory
	f.wakeLocked()
	return true
}

// abort aborts m's response for its memory. It reports whether nothing but the
// block in flight was to be had, and that will be back if the call can be ended.
func (m *member) abort() (waits bool) {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if !m.stalled || f.gone {
		return false
	}
	if f.fail == nil {
		f.cfg.Budget.aborted.Add(1)
		f.aborted = true
		before := m.held
		f.failLocked(ErrOverBudget)
		waits = m.held == before
	}
	if f.timeout.calling {
		// A writer in between may take its time; the lines must not wait.
		f.aside++
		go func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.timeout.calling {
				f.unblockLocked()
			}
			f.aside--
			f.wakeLocked()
		}()
	}
	return waits
}
