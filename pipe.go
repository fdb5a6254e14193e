package flush

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A pipe is floor 2 of a response: bytes that were accepted, in order, on their
// way down to floor 1. It knows bytes, marks and flushes, and what is below it
// by the interface [down] alone.
//
// What is to be done is three positions in the stream of accepted bytes:
//
//	sent ≤ moveTo ≤ accepted    bytes up to moveTo go down by themselves
//	asked.pos ≤ accepted        bytes up to asked.pos go down and are flushed
//
// Work is due if sent < moveTo or the last flush asked for has not been done.
// A holder of the baton works in rounds. A round looks once at what has been
// asked, hands down that much and no more, and flushes once, however many have
// asked: that is the coalescing. A wait is for a flush's number, so it ends when
// its own bytes are down, whatever comes behind them.
//
// Four things are taken, in this order, and each is let go before the caller
// returns:
//
//	        taken by                      guards                       what may be waited for with it
//	turn    whoever works on the stack    the user-level buffers       all below, and a filter
//	pen     a Write that may drop mu      the place of its bytes       the baton, room, the budget
//	baton   whoever calls the server      floor 1 and positions sent   floor 1 or a filter, with mu dropped
//	mu      everybody                     all fields not marked        nothing
//
// Invariants, whenever mu is free:
//
//  1. Only the holder of the baton calls down.
//  2. sent + q.len + what a caller is passing through = accepted.
//  3. Work that is due has a holder, unless only a caller may call floor 1:
//     then the next caller does it.
//  4. q.len exceeds the high mark by no more than what entered whole.
//  5. Every change that a waiter could wait for is followed by wakeLocked
//     before mu is dropped; a waiter looks again at everything it waits for.
//
// Because of 3 a caller who lets the baton go with work due passes it straight
// to a new carrier. There is no moment in which a request can be forgotten.
type pipe struct {
	// What each event looks at and changes stands first and close together, in few
	// lines of the processor's cache: a Broadcast to many finds none of them there.

	mu sync.Mutex // guards all that is not marked

	asyncCalls atomic.Int32 // calls that must not wait though the pipe is not async; here, so that touch finds the line of mu
	stalls     int16        // stretches without progress on a floor 1 that cannot be interrupted
	pace       pace         // of the client, as large pieces have shown it
	wanted     bool         // the holder of the pen waits for the baton: a carrier gives it up

	q     queue
	ahead ahead // of it

	held    bool // the baton is not free
	async   bool // what moves by itself moves in the background
	pen     bool // a Write is in progress and may drop mu
	holding bool // nothing moves before the end, or before more than marks.hold bytes are held
	gone    bool // floor 1 is not ours any more
	cut     bool // it will not be whole: a Write that had begun did not finish, or worse
	parked  bool // floor 1 is being taken away: no operation goes on before it is known whether it was
	owed    bool // floor 3 has more to bring down, which found no room

	accepted int64 // bytes accepted since the start
	sent     int64 // bytes handed to floor 1, or dropped on its word
	asked    mark  // the last flush asked for
	done     int64 // the number of the last flush done
	flow     flow

	// The short way of FlushAsync, without mu: while quick is set a carrier is
	// at work or about to be. Before it goes it clears quick and then looks at
	// asks; a caller adds to asks and then looks at quick. So one of the two
	// sees the other. Every Write looks at asks before it enters, so that the
	// position is exact. Who looks leaves asks as it is, since to take it back
	// would cost a Write as much as mu does: it goes round, see asksTurn.
	asks     atomic.Uint32
	absorbed uint32      // of asks: what asked knows of
	quick    atomic.Bool // see asks

	waiters int32 // goroutines in waitLocked

	refuse  error         // what a new operation gets; nil: it may go on
	marks   *marks        // never changed
	passing time.Duration // since when a caller passes a piece of his own memory through, as now says; 0: nobody does

	seldom *seldom // nil: nothing of it
	fail   error   // the failure that sticks
	down   down    // never changed
	moveTo int64
	carry  func() // p.carrier, made once: starting it allocates nothing
}

// seldom is what few pipes have: that somebody waits, or that bytes have not gone down.
type seldom struct {
	waiting
	lost   int64 // accepted, and never handed over
	passed int64 // passed over on floor 1's word: they count as sent
}

// seldomLocked returns p.seldom for writing.
func (p *pipe) seldomLocked() *seldom {
	if p.seldom == nil {
		p.seldom = &seldom{waiting: waiting{cond: sync.Cond{L: &p.mu}}}
	}
	return p.seldom
}

// init makes the pipe ready.
func (p *pipe) init(m *marks, d down, async, holding bool) {
	p.marks, p.down, p.async, p.holding = m, d, async, holding
}

// marks are the limits of a pipe. Responses share them; nobody writes to them.
type marks struct {
	buffer  int  // it moves down by itself at this many bytes; 0: at every write
	high    int  // the most bytes held
	low     int  // a Write that waited goes on at this many
	hold    int  // the most bytes held for a length
	counted bool // the blocks count in a budget
}

// long reports whether a large Write is held in one piece. In a budget that counts
// small ones; and where little is held, the client's taking of a part of it is to be
// seen.
func (m *marks) long() bool { return !m.counted && m.high >= copySize }

// flow is what went through a pipe.
type flow struct {
	flushes int64 // asked for
	pushes  int64 // that floor 1 really got
	highest int   // the high-water mark
}

// A mark is a flush that was asked for: its number and the position that has
// to be flushed.
type mark struct{ seq, pos int64 }

// haltedLocked says why an operation may not go on, or nil. One that has begun
// goes on while the response closes.
func (p *pipe) haltedLocked(begun bool) error {
	switch {
	case p.gone || !begun:
		return p.refuse
	case p.fail != nil:
		return p.fail
	}
	return nil
}

// absorbLocked notes the flushes that were asked for the short way.
func (p *pipe) absorbLocked() {
	if n := p.asks.Load(); n != p.absorbed {
		p.flow.flushes += int64(n - p.absorbed)
		p.absorbed = n
		p.asked.seq++
		p.asked.pos = p.accepted
	}
}

// allAbsorbedLocked reports whether no flush was asked for the short way since.
func (p *pipe) allAbsorbedLocked() bool { return p.asks.Load() == p.absorbed }

// asksTurn is after how many asks one is absorbed by its own caller: they never come
// round to what was absorbed last.
const asksTurn = 1 << 31

// countAskLocked counts a flush that is asked for, whatever comes of it.
func (p *pipe) countAskLocked() {
	p.absorbLocked()
	p.flow.flushes++
}

// askLocked notes that a flush is asked for, of all that was accepted.
func (p *pipe) askLocked() mark {
	p.asked.seq++
	p.asked.pos = p.accepted
	return p.asked
}

// askBareLocked notes that a flush is asked for that takes no bytes along.
func (p *pipe) askBareLocked() mark {
	p.countAskLocked()
	p.asked.seq++
	p.asked.pos = max(p.asked.pos, p.sent)
	return p.asked
}

// dueLocked reports whether there is work for a holder of the baton.
func (p *pipe) dueLocked() bool {
	p.absorbLocked()
	return p.fail == nil && !p.gone && (p.asked.seq > p.done || p.sent < p.moveTo || p.fullLocked() || p.owed && p.down.payableLocked())
}

// fullLocked reports whether floor 2 has reached the size at which it moves
// down by itself.
func (p *pipe) fullLocked() bool {
	return p.q.len >= max(p.marks.buffer, 1) && !p.holding
}

// backgroundLocked reports whether what moves by itself moves in the
// background.
func (p *pipe) backgroundLocked() bool {
	return (p.async || p.asyncCalls.Load() > 0) && !p.down.callerOnlyLocked()
}

// roomLocked is how many bytes may enter before the high mark.
func (p *pipe) roomLocked() int { return max(p.marks.high-p.q.len, 0) }

// availableLocked is how many bytes may enter now without waiting.
func (p *pipe) availableLocked() int {
	if p.penTakenLocked() || p.owed {
		return 0
	}
	n := p.roomLocked()
	if p.marks.counted {
		n = min(n, p.down.budgetRoomLocked())
	}
	return n
}

// overLocked reports whether nothing may enter now: whoever brings bytes onto
// any floor without being able to wait asks it first.
func (p *pipe) overLocked() bool { return p.availableLocked() == 0 }

// outgrowLocked ends the holding for a length where nothing more can enter
// without waiting: what is held would never go down by itself.
func (p *pipe) outgrowLocked() {
	if p.holding {
		p.holding = false
		p.kickLocked()
	}
}

// oweLocked remembers that floor 3 has more to bring down. A carrier brings it
// once there is room.
func (p *pipe) oweLocked() {
	if p.overLocked() {
		p.outgrowLocked()
	}
	p.owed = true
	p.slowLocked()
	p.kickLocked() // the flush itself may have nothing to do
}

// paidLocked ends that.
func (p *pipe) paidLocked() {
	p.owed = false
	p.wakeLocked()
}

// moveUpToLocked has what was accepted up to pos move down, by whoever holds the
// baton next.
func (p *pipe) moveUpToLocked(pos int64) { p.moveTo = pos }

// noteDueLocked settles what is to be done: what was asked for, and what moves by
// itself by now.
func (p *pipe) noteDueLocked() {
	p.absorbLocked()
	if p.fullLocked() {
		p.moveUpToLocked(p.accepted)
	}
}

// roundLocked does what has been asked so far. The holder calls it.
func (p *pipe) roundLocked() { p.roundToLocked(math.MaxInt64) }

// roundToLocked is roundLocked that hands down nothing behind most: there lies what
// the holder is about to pass by.
func (p *pipe) roundToLocked(most int64) {
	p.noteDueLocked()
	// What a caller is passing through is not on floor 2: it lies beyond end.
	end := min(p.sent+int64(p.q.len), most)
	goal, ask := min(p.moveTo, end), p.asked
	push := ask.seq > p.done && ask.pos <= end
	if push {
		goal = max(goal, ask.pos)
	}
	if first, ok := p.firstWaitLocked(); ok && goal > first.pos+blockSize {
		goal, ask, push = first.pos, first, true
	}
	p.down.leadLocked(goal > p.sent, push)
	if p.down.skipsLocked() {
		p.dropLocked()
		p.sent = p.accepted
	}
	pushed := false
	for p.sent < goal && p.fail == nil {
		pushed = p.writePieceLocked(goal, push)
	}
	if push && p.fail == nil {
		if !pushed && p.down.pushLocked() {
			p.flow.pushes++
		}
		p.done = ask.seq
		p.ahead.flushed(0)
		p.settleFlushesLocked(p.down.lastPushLocked())
	}
	p.wakeLocked()
}

// writePieceLocked hands the next piece before goal to floor 1 and, with push,
// if it comes to goal, flushes in the same call. It reports whether the flush was
// done.
//
// A piece is one block, unless so much is held that a copy of several costs less
// than their calls, and takes little beside it.
func (p *pipe) writePieceLocked(goal int64, push bool) (pushed bool) {
	left := goal - p.sent
	long := p.q.head != nil && p.q.head.long != nil
	if left <= blockSize || !long && p.marks.high < 4*copySize {
		return p.handPieceLocked(p.q.front(int(min(left, blockSize))), goal, push)
	}
	began := now()
	most := int(min(left, int64(p.pace.slice()), copySize))
	var piece []byte
	if long {
		piece = p.q.front(most)
	} else {
		buf := copyBuffers.Get().(*[copySize]byte)
		defer func() { p.freeCopyLocked(buf, nil) }()
		piece = p.q.gather(buf[:most])
	}
	size := len(piece)
	defer func() { p.tookSliceLocked(size, began) }()
	return p.handPieceLocked(piece, goal, push)
}

func (p *pipe) handPieceLocked(piece []byte, goal int64, push bool) (pushed bool) {
	p.q.lend(len(piece))
	n, pushed, err := p.down.writeLocked(piece, push && p.sent+int64(len(piece)) == goal)
	p.wrotePieceLocked(len(piece), n, pushed, err)
	return pushed
}

// wrotePieceLocked notes that of size bytes at the front of floor 2 n were
// handed over. An err that does not stick means that floor 1 will not have the
// rest, and goes on.
func (p *pipe) wrotePieceLocked(size, n int, pushed bool, err error) {
	p.noteSentLocked(n)
	if pushed {
		p.flow.pushes++
	}
	p.measureHighestLocked()
	if err != nil && p.fail == nil {
		p.passOverLocked(size - n)
		p.loseLocked(size - n)
		n = size
	}
	if more := n - p.q.len; more > 0 {
		p.loseLocked(-more) // a failure has dropped what the call took of a copy
		n = p.q.len
	}
	p.q.regain(n)
	p.countLocked()
	if p.q.len <= p.marks.low {
		p.wakeLocked()
	}
}

// noteSentLocked notes that floor 1 took n bytes.
func (p *pipe) noteSentLocked(n int) {
	p.sent += int64(n)
}

// noteDoneLocked notes that the flush asked for as ask was done, with its bytes.
func (p *pipe) noteDoneLocked(ask mark) {
	p.flow.pushes++
	p.done = max(p.done, ask.seq)
}

// passOverLocked notes that the place of n bytes is passed over, which floor 1 has
// refused.
func (p *pipe) passOverLocked(n int) {
	if n != 0 {
		p.sent += int64(n)
		p.seldomLocked().passed += int64(n)
	}
}

// countLocked tells the budget if blocks have come or gone.
func (p *pipe) countLocked() {
	if p.marks.counted {
		p.down.chargeLocked()
	}
}

// measureHighestLocked keeps the high-water mark. Floor 2 only grows between
// two of its calls.
func (p *pipe) measureHighestLocked() {
	p.flow.highest = max(p.flow.highest, p.q.len)
}

// loseLocked notes that n accepted bytes go nowhere, which never came to floor 2.
func (p *pipe) loseLocked(n int) {
	if n != 0 {
		p.seldomLocked().lost += int64(n)
	}
}

// lostLocked is how many accepted bytes were never handed over, and go nowhere.
func (p *pipe) lostLocked() int64 {
	if p.seldom == nil {
		return 0
	}
	return p.seldom.lost
}

// handedLocked is how many bytes were handed to floor 1.
func (p *pipe) handedLocked() int64 {
	switch {
	case p.down.skipsLocked():
		return 0
	case p.seldom == nil:
		return p.sent
	}
	return p.sent - p.seldom.passed
}

// dropLocked empties floor 2 and returns how many bytes it held.
func (p *pipe) dropLocked() int {
	p.measureHighestLocked()
	n := p.q.reset()
	p.countLocked()
	return n
}

// dropBehindLocked is dropLocked while the baton is held: the first block stays
// until the call of the server that may be reading it has returned.
func (p *pipe) dropBehindLocked() int {
	p.measureHighestLocked()
	n := p.q.dropBehind()
	p.countLocked()
	return n
}

// resetLocked takes back all that was accepted. The holder calls it, and
// nothing has been handed over.
func (p *pipe) resetLocked() {
	p.absorbLocked()
	p.dropLocked()
	p.slowLocked()
	p.paidLocked() // what was owed has gone with the rest
	p.cut = false
	p.accepted, p.moveTo, p.asked.pos, p.done = 0, 0, 0, p.asked.seq
}

// failLocked makes err the failure that sticks, unless there is one, or the
// response has ended.
func (p *pipe) failLocked(err error) {
	if p.fail != nil || p.gone {
		return
	}
	p.fail = err
	p.slowLocked()
	if p.refuse == nil {
		p.refuse = err
	}
	if p.held {
		p.loseLocked(p.dropBehindLocked())
	} else {
		p.loseLocked(p.dropLocked())
	}
	p.down.failedLocked()
	p.wakeLocked()
}

// refuseLocked has new operations get err from now on.
func (p *pipe) refuseLocked(err error) {
	p.refuse = err
	p.slowLocked()
	p.wakeLocked() // Writes in line go away
}

// takeAwayLocked takes floor 1 away: nothing goes down any more, and operations
// get err.
func (p *pipe) takeAwayLocked(err error) {
	p.loseLocked(p.dropLocked())
	p.gone = true
	p.refuseLocked(err)
}

// noteThroughLocked notes that the holder passed n bytes through by itself.
func (p *pipe) noteThroughLocked(n int64) {
	p.accepted += n
	p.sent += n
}

// passPieceLocked notes since when the holder passes a piece through; 0: not now.
func (p *pipe) passPieceLocked(since time.Duration) { p.passing = since }

// markCutLocked notes that the response will not be whole.
func (p *pipe) markCutLocked() { p.cut = true }

// parkLocked has every operation wait, and ends that.
func (p *pipe) parkLocked(parked bool) {
	p.parked = parked
	p.slowLocked()
	p.wakeLocked()
}

// holdLocked has nothing move before the end; stopHoldingLocked ends that.
func (p *pipe) holdLocked(holds bool) { p.holding = holds }

func (p *pipe) stopHoldingLocked() { p.holding = false }

func (p *pipe) penTakenLocked() bool {
	return p.pen || p.parked || p.seldom != nil && len(p.seldom.line) > 0
}

// grantLocked settles what the next Writes may append without asking: bytes
// that fit into the open block and whose only effect is to be there. It is the
// one predicate of Write's short way. Whatever ends that state takes the credit
// back.
func (p *pipe) grantLocked() {
	p.revokeLocked()
	if p.refuse != nil || p.holding || p.penTakenLocked() || p.q.tail == nil && p.marks.counted || !p.down.shortWriteLocked() {
		return
	}
	most := p.marks.buffer - 1 // beyond, a write moves
	if p.held {
		most = p.marks.high // the holder looks at the length by itself
	}
	p.q.grant(min(p.q.room(), most-p.q.len))
}

// revokeLocked takes back what Writes might do without asking.
func (p *pipe) revokeLocked() {
	p.q.revoke()
	p.ahead.end()
}

// moveOnLocked has all that is held move down, as a Write waits for that. It
// reports whether it has worked itself, so that there may be news; else somebody
// has the baton.
func (p *pipe) moveOnLocked() (worked bool) {
	p.moveUpToLocked(p.accepted)
	switch {
	case p.held:
		return false
	case p.down.callerOnlyLocked() || !p.backgroundLocked() && !p.down.carrierOnly():
		p.workLocked()
		return true
	}
	p.kickLocked()
	return false
}
