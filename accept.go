package flush

import (
	"slices"
	"time"
)

// The pen: Writes enter floor 2 in turn. One that can enter at once, with mu
// held all along, needs no pen; one that must drop mu in the middle takes it,
// and the others stand in line.

func (p *pipe) takePenLocked(begun bool) error {
	p.revokeLocked()
	if !p.penTakenLocked() {
		p.pen = true
		return nil
	}
	q := p.waitingLocked()
	q.tickets++
	ticket := q.tickets
	q.line = append(q.line, ticket)
	defer p.noteWaitedLocked(now())
	err := p.awaitLocked(begun, nil, func() bool { return !p.pen && q.line[0] == ticket })
	q.line = slices.DeleteFunc(q.line, func(t uint64) bool { return t == ticket })
	if len(q.line) == 0 {
		q.line = nil
	}
	if err != nil {
		p.wakeLocked() // who stood behind, and Close
		return err
	}
	p.pen = true
	return nil
}

func (p *pipe) dropPenLocked() {
	p.pen = false
	if p.owed {
		p.kickLocked() // it may be paid now
	}
	p.wakeLocked()
}

// spendLocked is the short way: b enters if the credit allows it.
func spendLocked[T []byte | string](p *pipe, b T) bool {
	if len(b) == 0 || len(b) > int(p.q.credit) {
		return false
	}
	p.absorbLocked()
	q, to := &p.q, p.q.tail
	if to == nil {
		to = q.first()
	}
	q.markMore()
	to.w += int32(copy(to.free(), b))
	q.len += len(b)
	q.charge(len(b))
	p.ahead.end() // what went ahead would pass b
	p.accepted += int64(len(b))
	return true
}

// acceptLocked brings b onto floor 2 or past it, and returns how many bytes of
// it were accepted.
func acceptLocked[T []byte | string](p *pipe, b T, begun bool) (n int, err error) {
	p.absorbLocked()
	switch {
	case p.held || p.penTakenLocked() || p.backgroundLocked() || p.holding:
		return enqueueLocked(p, b, begun)
	case p.q.len+len(b) < p.marks.buffer && (!p.marks.counted || p.down.fitsLocked(len(b))):
		appendLocked(p, b)
		return len(b), nil
	case p.down.callerOnlyLocked() && p.q.len+len(b) < p.marks.buffer:
		return enqueueLocked(p, b, begun) // rather wait than take the upload from the handler
	case p.down.carrierOnly() && !p.down.callerOnlyLocked():
		return carryLocked(p, b, begun)
	}
	return throughLocked(p, b)
}

// appendLocked puts b on floor 2, whatever the marks say.
func appendLocked[T []byte | string](p *pipe, b T) {
	push(&p.q, b, p.marks.long())
	p.accepted += int64(len(b))
	p.countLocked()
}

// acceptPastLocked takes in n bytes that pass floor 2 by, and the flush of them.
// Nothing is held, nor on its way.
func (p *pipe) acceptPastLocked(n int) mark {
	p.accepted += int64(n)
	p.countAskLocked()
	return p.askLocked()
}

// queueRestLocked puts b on floor 2, the rest of what was accepted so, and has it
// carried.
func (p *pipe) queueRestLocked(b []byte) {
	push(&p.q, b, p.marks.long())
	p.countLocked()
	p.measureHighestLocked()
}

// acceptWholeLocked puts b on floor 2 whole, whatever the marks say: its caller
// has asked overLocked, and must not wait. It moves in the background.
func acceptWholeLocked[T []byte | string](p *pipe, b T) {
	p.absorbLocked()
	appendLocked(p, b)
	if p.q.len > p.marks.hold {
		p.holding = false
	}
	if p.fullLocked() {
		p.kickLocked()
	}
}

// throughLocked moves floor 2 and b down on the caller's goroutine. The baton
// and the pen are free. b's place in the stream is taken at once, so others
// may append behind it meanwhile.
func throughLocked[T []byte | string](p *pipe, b T) (n int, err error) {
	p.seizeLocked()
	defer p.releaseLocked()
	skips := p.down.skipsLocked()
	// Small pieces leave as one: fill up the block that is open. A body that
	// will be dropped leaves its first bytes there, to tell the type from.
	if k := min(p.q.room(), len(b), p.roomLocked()); (p.q.len > 0 || skips) && k > 0 {
		appendLocked(p, b[:k])
		n, b = k, b[k:]
	}
	goal := p.accepted
	p.accepted += int64(len(b))
	p.moveAllToLocked(goal)
	if skips && p.fail == nil {
		p.sent = p.accepted
		return n + len(b), nil
	}
	m, err := passThroughLocked(p, b, false, 0)
	if p.fail != nil {
		return n + m, p.fail
	}
	p.passOverLocked(len(b) - m)
	return n + m, err
}

// passThroughLocked hands b to floor 1 from the caller's own memory, in slices. The
// holder calls it. With asks it does between them what others have asked for
// meanwhile, and b's bytes count as accepted one slice at a time; without, they are
// already. It leaves the last bytes, held of them, unless b is much more and the
// client quick.
func passThroughLocked[T []byte | string](p *pipe, b T, asks bool, held int) (n int, err error) {
	defer p.passPieceLocked(0)
	much := len(b) >= 4*held
	for len(b) > 0 && p.fail == nil && err == nil {
		if asks && p.dueLocked() {
			p.roundLocked()
		}
		if p.down.leadLocked(true, false); p.fail != nil {
			break
		}
		size := p.pace.slice()
		k := min(len(b), size)
		if !much || p.pace != paceQuick {
			k = min(k, len(b)-held)
		}
		if k <= 0 {
			break
		}
		began := now()
		p.passPieceLocked(began)
		var m int
		switch b := any(b[:k]).(type) {
		case []byte:
			m, _, err = p.down.writeLocked(b, false)
		case string:
			// Of a large string the server's own WriteString makes small pieces.
			buf := copyBuffers.Get().(*[copySize]byte)
			k = copy(buf[:], b)
			m, _, err = p.down.writeLocked(buf[:k], false)
			p.freeCopyLocked(buf, err)
		}
		if asks {
			p.accepted += int64(m)
		}
		p.noteSentLocked(m)
		n, b = n+m, b[m:]
		if k > firstSlice || k == size {
			p.tookSliceLocked(k, began)
		}
	}
	return n, err
}

// freeCopyLocked gives buf back. After a failure the server may still be reading
// it: HTTP/2 returns from a Write whose stream has been reset before its frame is
// out.
func (p *pipe) freeCopyLocked(buf *[copySize]byte, err error) {
	if err == nil && p.fail == nil {
		copyBuffers.Put(buf)
	}
}

const (
	firstSlice = 32 << 10
	lastSlice  = 1 << 20
)

// A pace is how a client has taken slices in this response: how many, of more than
// half their size, it has taken quickly, or paceSlow.
//
// What need not be copied is given to floor 1 in slices. A slice is the grain of
// the send timeout: large ones cost less, and small ones keep a slow client alive.
// So they grow, while the client has never been slow: several of a size, and the
// next are twice as large. It is one count for all Writes: each by itself may be too
// small for another size.
type pace uint8

const (
	paceStep       = 2    // slices of a size
	paceQuick pace = 10   // they are as large as they become: the client has taken 2 MiB
	paceSlow  pace = 0xff // once: they do not grow any more
)

// slice is the size of the next slice.
func (c pace) slice() int {
	if c == paceSlow {
		return firstSlice
	}
	return firstSlice << (c / paceStep)
}

// tookSliceLocked notes that floor 1 has taken a slice of size bytes, since began.
func (p *pipe) tookSliceLocked(size int, began time.Duration) {
	switch {
	case p.pace == paceSlow:
	case p.down.tookLongLocked(now() - began):
		p.pace = paceSlow
	case 2*size > p.pace.slice() && p.pace < paceQuick:
		p.pace++
	}
}

// carryLocked accepts b and waits until a carrier has handed it over.
func carryLocked[T []byte | string](p *pipe, b T, begun bool) (n int, err error) {
	n, err = enqueueLocked(p, b, begun)
	if n == 0 {
		return n, err
	}
	pos := p.accepted
	p.moveUpToLocked(pos)
	p.kickLocked()
	if err != nil {
		return n, err
	}
	err = p.awaitLocked(true, nil, func() bool { return p.sent >= pos })
	if p.fail == nil && p.sent >= pos {
		err = nil // that the response has ended meanwhile changes nothing
	}
	return n, err
}

// enqueueLocked appends b to floor 2, in parts if there is no room for it, and
// lets it move down in the background.
func enqueueLocked[T []byte | string](p *pipe, b T, begun bool) (n int, err error) {
	if len(b) > p.roomLocked() || p.marks.counted || p.penTakenLocked() {
		if err := p.takePenLocked(begun); err != nil {
			return 0, err
		}
		defer p.dropPenLocked()
	}
	if len(b) > max(p.marks.high, firstSlice) && !p.down.carrierOnly() && !p.down.callerOnlyLocked() && !p.down.skipsLocked() {
		n, err = passBulkLocked(p, b, begun)
		if b = b[n:]; err != nil {
			return n, err
		}
	}
	for len(b) > 0 {
		if err := p.awaitRoomLocked(len(b)); err == errThrough {
			m, err := throughLocked(p, b)
			return n + m, err
		} else if err != nil {
			p.cut = p.cut || p.refuse != nil && !begun // a begun one keeps what is left
			return n, err
		}
		room := p.roomLocked()
		if p.marks.counted {
			// One block at a time.
			if room = min(room, blockSize); p.q.tail != nil && p.q.room() > 0 {
				room = min(room, p.q.room())
			}
		}
		k := min(room, len(b))
		appendLocked(p, b[:k])
		n, b = n+k, b[k:]
		if p.q.len > p.marks.hold || len(b) > 0 {
			p.holding = false
		}
		if p.fullLocked() {
			p.kickLocked()
		}
	}
	return n, nil
}

// passBulkLocked takes the baton and hands b down from the caller's own memory,
// behind what is held. He would wait anyway for what is beyond the high mark, so
// nothing of that is held; and nothing of much more, while the client is quick: to
// copy the rest and have it carried costs more than to hand it down with the others.
// The pen is the caller's.
func passBulkLocked[T []byte | string](p *pipe, b T, begun bool) (n int, err error) {
	p.stopHoldingLocked()
	p.wanted = true
	began := now()
	err = p.takeBatonLocked(true)
	p.wanted = false
	p.noteWaitedLocked(began)
	if err != nil {
		p.cut = p.cut || p.refuse != nil && !begun // a begun one keeps what is left
		p.kickLocked()
		return 0, err
	}
	defer p.releaseLocked()
	p.moveLocked()
	if n, err = passThroughLocked(p, b, true, p.marks.high); p.fail != nil {
		err = p.fail
	}
	return n, err
}

func (p *pipe) awaitLowLocked() error {
	defer p.noteWaitedLocked(now())
	return p.awaitLocked(true, nil, func() bool {
		for p.q.len > p.marks.low && p.haltedLocked(true) == nil && p.moveOnLocked() {
		}
		return p.q.len <= p.marks.low
	})
}

// awaitRoomLocked waits, at the high mark, until floor 2 is down to the low
// one: waking at the first free byte would have writer and carrier take turns.
// Then it waits for the budget, if there is one, with n bytes.
func (p *pipe) awaitRoomLocked(n int) error {
	if p.roomLocked() == 0 {
		if err := p.awaitLowLocked(); err != nil {
			return err
		}
	}
	if p.marks.counted && (p.q.tail == nil || p.q.room() == 0) {
		return p.down.waitBudgetLocked(n)
	}
	return nil
}
