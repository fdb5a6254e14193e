package flush

import "slices"

// The pen: Writes enter floor 2 in turn. One that can enter at once, with mu
// held all along, needs no pen; one that must drop mu in the middle takes it,
// and the others stand in line.

func (p *pipe) penTakenLocked() bool { return p.pen || p.waiting != nil && len(p.waiting.line) > 0 }

func (p *pipe) takePenLocked(begun bool) error {
	p.q.credit = 0
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
	p.wakeLocked()
}

// grantLocked settles what the next Writes may append without asking: bytes
// that fit into the open block and whose only effect is to be there. It is the
// one predicate of Write's short way. Whatever ends that state takes the credit
// back.
func (p *pipe) grantLocked() {
	p.q.credit = 0
	if p.refuse != nil || p.holding || p.penTakenLocked() || p.q.tail == nil && p.marks.counted || !p.down.shortWriteLocked() {
		return
	}
	most := p.marks.buffer - 1 // beyond, a write moves
	if p.held {
		most = p.marks.high // the holder looks at the length by itself
	}
	p.q.credit = max(min(p.q.room(), most-p.q.len), 0)
}

// spendLocked is the short way: b enters if the credit allows it.
func spendLocked[T []byte | string](p *pipe, b T) bool {
	if len(b) == 0 || len(b) > p.q.credit {
		return false
	}
	p.absorbLocked()
	spend(&p.q, b)
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
	case p.q.len+len(b) < p.marks.buffer:
		appendLocked(p, b)
		return len(b), nil
	case p.down.carrierOnly() && !p.down.callerOnlyLocked():
		return carryLocked(p, b, begun)
	}
	return throughLocked(p, b)
}

// appendLocked puts b on floor 2, whatever the marks say.
func appendLocked[T []byte | string](p *pipe, b T) {
	push(&p.q, b)
	p.accepted += int64(len(b))
	p.countLocked()
}

// throughLocked moves floor 2 and b down on the caller's goroutine. The baton
// and the pen are free. b's place in the stream is taken at once, so others
// may append behind it meanwhile.
func throughLocked[T []byte | string](p *pipe, b T) (n int, err error) {
	p.held = true
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
	p.moveTo = max(p.moveTo, goal)
	p.roundLocked()
	if skips && p.fail == nil {
		p.sent = p.accepted
		return n + len(b), nil
	}
	for len(b) > 0 && p.fail == nil && err == nil {
		p.down.leadLocked(true, false)
		if p.fail != nil {
			break
		}
		var m int
		m, err = passLocked(p, b[:min(len(b), sliceSize)])
		n, b = n+m, b[m:]
	}
	if p.fail != nil {
		return n, p.fail
	}
	p.sent += int64(len(b)) // refused: their place is passed over
	return n, err
}

// passLocked hands b to floor 1 from the caller's own memory.
func passLocked[T []byte | string](p *pipe, b T) (n int, err error) {
	switch b := any(b).(type) {
	case []byte:
		n, _, err = p.down.writeLocked(b, false)
	case string:
		n, err = p.down.writeStringLocked(b)
	}
	p.noteSentLocked(n)
	return n, err
}

// carryLocked accepts b and waits until a carrier has handed it over.
func carryLocked[T []byte | string](p *pipe, b T, begun bool) (n int, err error) {
	n, err = enqueueLocked(p, b, begun)
	if n == 0 {
		return n, err
	}
	pos := p.accepted
	p.moveTo = pos
	p.kickLocked()
	if err != nil {
		return n, err
	}
	return n, p.awaitLocked(true, nil, func() bool { return p.sent >= pos })
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
	for len(b) > 0 {
		if err := p.awaitRoomLocked(); err != nil {
			p.cut = p.cut || p.refuse != nil && !begun // who has begun keeps what is left
			return n, err
		}
		room := p.roomLocked()
		if p.marks.counted {
			// One block at a time. Others may have filled it meanwhile.
			room = min(room, max(p.q.room(), 1))
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

// awaitRoomLocked waits, at the high mark, until floor 2 is down to the low
// one: waking at the first free byte would have writer and carrier take turns.
// Then it waits for the budget, if there is one.
func (p *pipe) awaitRoomLocked() error {
	if p.roomLocked() == 0 {
		defer p.noteWaitedLocked(now())
		err := p.awaitLocked(true, nil, func() bool {
			for !p.held && p.q.len > p.marks.low && p.haltedLocked(true) == nil {
				if p.down.callerOnlyLocked() || !p.backgroundLocked() && !p.down.carrierOnly() {
					p.moveTo = p.accepted
					p.workLocked()
				} else {
					p.carryOnLocked()
				}
			}
			return p.q.len <= p.marks.low
		})
		if err != nil {
			return err
		}
	}
	if p.marks.counted && (p.q.tail == nil || p.q.room() == 0) {
		return p.down.waitBudgetLocked()
	}
	return nil
}
