package flush

import "slices"

// The pen: Writes enter floor 2 in turn. One that can enter at once, with mu
// held all along, needs no pen; one that must drop mu in the middle takes it,
// and the others stand in line.

func (f *Flusher) penTakenLocked() bool { return f.pen || f.waiting != nil && len(f.waiting.line) > 0 }

func (f *Flusher) takePenLocked() error {
	if !f.penTakenLocked() {
		f.pen = true
		return nil
	}
	q := f.waitingLocked()
	q.tickets++
	ticket := q.tickets
	q.line = append(q.line, ticket)
	defer func() {
		q.line = slices.DeleteFunc(q.line, func(t uint64) bool { return t == ticket })
		if len(q.line) == 0 {
			q.line = nil
			f.wakeLocked() // Close waits for this
		}
	}()
	began := now()
	defer func() { f.stats.Waited += now() - began }()
	for stalls := f.timeout.stalls; f.pen || q.line[0] != ticket; {
		if err := f.refusedLocked(); err != nil {
			return err
		}
		if err := f.waitBoundLocked(stalls); err != nil {
			return err
		}
	}
	if err := f.refusedLocked(); err != nil {
		return err
	}
	f.pen = true
	return nil
}

func (f *Flusher) dropPenLocked() {
	f.pen = false
	f.wakeLocked()
}

// appendLocked puts p on floor 2. There is room for it.
func appendLocked[T []byte | string](f *Flusher, p T) {
	push(&f.q, p)
	f.accepted += int64(len(p))
}

// dropLocked empties floor 2 and returns how many bytes it held.
func (f *Flusher) dropLocked() int {
	f.measurePendingLocked()
	n := f.q.reset()
	f.chargeLocked()
	return n
}

// dropBehindLocked is dropLocked while the baton is held: the first block stays
// until the call of the server that may be reading it has returned.
func (f *Flusher) dropBehindLocked() int {
	f.measurePendingLocked()
	n := f.q.dropBehind()
	f.chargeLocked()
	return n
}

// measurePendingLocked keeps the high-water mark. Floor 2 only grows between
// two of its calls.
func (f *Flusher) measurePendingLocked() {
	f.stats.MaxPending = max(f.stats.MaxPending, f.q.len)
}

// throughLocked moves floor 2 and p down on the caller's goroutine. The baton
// and the pen are free. p's place in the stream is taken at once, so others
// may append behind it meanwhile.
func throughLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	if f.soloLocked() && !f.bodyFirstLocked() {
		return handSolo(f, p)
	}
	f.held = true
	defer f.releaseLocked()
	// Small pieces leave as one: fill up the block that is open. A body that
	// will be dropped leaves its first bytes there, to tell the type from.
	if k := min(f.q.room(), len(p), f.cfg.MaxPending-f.q.len); (f.q.len > 0 || f.head) && k > 0 {
		appendLocked(f, p[:k])
		f.chargeLocked()
		n, p = k, p[k:]
	}
	goal := f.accepted
	f.accepted += int64(len(p))
	f.moveTo = max(f.moveTo, goal)
	f.roundLocked()
	for len(p) > 0 && f.fail == nil && err == nil {
		if f.head {
			n += len(p)
			break
		}
		f.sendHeadersLocked(false)
		if f.fail != nil {
			break
		}
		var m int
		m, err = handLocked(f, p[:min(len(p), sliceSize)])
		n, p = n+m, p[m:]
	}
	if f.head {
		f.sent = f.accepted
	} else if f.fail == nil && len(p) > 0 {
		f.sent += int64(len(p)) // refused: their place is passed over
	}
	if f.fail != nil {
		err = f.fail
	}
	return n, err
}

// handSolo accepts p and waits until a carrier has handed it over.
func handSolo[T []byte | string](f *Flusher, p T) (n int, err error) {
	n, err = enqueueLocked(f, p)
	if n == 0 {
		return n, err
	}
	pos := f.accepted
	f.moveTo = pos
	f.kickLocked()
	for stalls := f.timeout.stalls; err == nil && f.sent < pos; {
		if f.fail != nil {
			return n, f.fail
		}
		if f.ended || f.hijacked {
			return n, f.refuse
		}
		err = f.waitBoundLocked(stalls)
	}
	return n, err
}

// enqueueLocked appends p to floor 2, in parts if there is no room for it, and
// lets it move down in the background.
func enqueueLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	if len(p) > f.cfg.MaxPending-f.q.len || f.cfg.Budget != nil || f.penTakenLocked() {
		if err := f.takePenLocked(); err != nil {
			return 0, err
		}
		defer f.dropPenLocked()
	}
	for len(p) > 0 {
		room := f.cfg.MaxPending - f.q.len
		if room == 0 {
			if err := f.waitRoomLocked(); err != nil {
				if f.closing {
					f.cut = true
				}
				return n, err
			}
			continue
		}
		if f.cfg.Budget != nil {
			open := f.q.tail != nil && f.q.room() > 0
			if !open {
				if err := f.waitBudgetLocked(); err == errThrough {
					m, err := throughLocked(f, p)
					return n + m, err
				} else if err != nil {
					if f.closing {
						f.cut = true
					}
					return n, err
				}
			}
			// One block at a time.
			room = blockSize
			if open {
				room = f.q.room()
			}
			room = min(f.cfg.MaxPending-f.q.len, room)
		}
		k := min(room, len(p))
		appendLocked(f, p[:k])
		f.chargeLocked()
		n, p = n+k, p[k:]
		if f.holding && f.q.len > f.cfg.HTTP10Buffer || f.holding && len(p) > 0 {
			f.holding = false
		}
		if f.fullLocked() {
			f.kickLocked()
		}
	}
	return n, nil
}

// waitRoomLocked waits until floor 2 is down to the low mark. Waking at the
// first free byte would have writer and carrier take turns.
func (f *Flusher) waitRoomLocked() error {
	began := now()
	defer func() { f.stats.Waited += now() - began }()
	for stalls := f.timeout.stalls; f.q.len > f.cfg.lowMark; {
		switch {
		case f.fail != nil:
			return f.fail
		case f.hijacked || f.ended:
			return f.refuse
		case f.held:
		case !f.backgroundLocked() && !f.soloLocked() || f.bodyFirstLocked():
			f.moveTo = f.accepted
			f.workLocked()
			continue
		default:
			f.moveTo = f.accepted
			f.kickLocked()
		}
		if err := f.waitBoundLocked(stalls); err != nil {
			return err
		}
	}
	if f.fail == nil && (f.hijacked || f.ended) {
		return f.refuse // it is the end that has made room
	}
	return f.fail
}
