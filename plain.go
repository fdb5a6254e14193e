package flush

// A plain flush has nothing else to look at than the bytes that it is for: the
// case of most, once the headers are out. It is asking and round in one, on the
// caller's goroutine, and nothing that another flush would not do. It is written as
// one straight line, since it is what a stream does for each event: the call wakes
// the client, and little of us is left in the processor's caches then.

// plainBelowLocked reports whether a flush, before which the buffers have come down
// that follow one, may be plain, as far as floor 1 goes.
func (f *Flusher) plainBelowLocked() bool {
	return f.headersSent && !f.head && f.srv.flushes && !f.carrierOnly() && !f.bodyUnreadLocked()
}

// beginNowLocked begins a plain flush if it may be one, whose caller has let the
// buffers come down that follow it.
func (f *Flusher) beginNowLocked() bool {
	if !f.plainBelowLocked() || !f.plainLocked() {
		return false
	}
	f.beginPlainLocked()
	return true
}

// beginAtOnceLocked begins a plain flush whose caller must not wait for the client,
// if there is nothing to wait for.
func (f *Flusher) beginAtOnceLocked() bool {
	if f.timeout.progress == nil || !f.plainBelowLocked() || !f.plainLocked() || !f.takesAtOnceLocked(f.q.len+int(f.ahead.len)) {
		return false
	}
	f.turnAsyncLocked()
	f.beginPlainLocked()
	return true
}

// endPlainSlow is the end of one that has gone wrong, or been in somebody's way. It
// is called with mu held and returns without, unless keeps.
func (f *Flusher) endPlainSlow(keeps bool, seq int64, size, n int, pushed bool, err error) error {
	if !keeps {
		defer f.mu.Unlock()
	}
	n, err = wrote(n, size, err)
	if pushed {
		f.notePushLocked(err)
		err = nil
	} else {
		err = f.refusedBytesLocked(err)
	}
	f.endPushLocked(seq, size, n, pushed, err)
	if f.fail != nil {
		return f.fail
	}
	return f.lastPushLocked()
}

// plainLocked reports whether a flush may be plain, as far as floor 2 goes.
func (p *pipe) plainLocked() bool {
	return !p.held && p.q.len > 0 && p.q.head == p.q.tail && p.refuse == nil && p.asked.seq == p.done && p.allAbsorbedLocked()
}

// beginPlainLocked asks for a plain flush, which may be plain, and takes the baton for
// it.
func (p *pipe) beginPlainLocked() {
	p.beginAheadLocked()
	p.q.more = noMore
}

// endPlainLocked is the end of a plain flush of n bytes, asked for as seq, if it has
// been in nobody's way. With keep another is likely to follow soon, before which so
// many bytes may go ahead.
func (p *pipe) endPlainLocked(seq int64, n int, keep bool, ahead int32) bool {
	if n != p.q.len || p.asked.seq != seq || !p.allAbsorbedLocked() || p.waiters > 0 || p.wanted || p.owed || p.marks.counted || p.refuse != nil {
		return false
	}
	credit := p.q.credit
	p.sent += int64(n)
	p.flow.pushes++
	p.done = seq
	p.measureHighestLocked()
	if keep && !p.async && ahead == 0 && p.q.head.long == nil {
		p.q.keepBlock()
	} else {
		p.q.dropBlock()
	}
	p.leaveLocked()
	if credit > 0 { // nobody has taken it back
		p.q.grant(min(blockSize, p.marks.buffer-1))
		p.ahead.flushed(ahead)
	} else {
		p.ahead.flushed(0)
		p.grantLocked()
	}
	return true
}

// goesAheadLocked reports whether there is room ahead, and nothing in the way.
func (p *pipe) goesAheadLocked() bool { return p.ahead.room > 0 && !p.held }

// fitsAheadLocked reports whether n bytes may go ahead.
func (p *pipe) fitsAheadLocked(n int) bool { return 0 < n && n <= int(p.ahead.room) && !p.held }

// wentAheadLocked notes that n bytes have gone ahead.
func (p *pipe) wentAheadLocked(n int) {
	p.noteThroughLocked(int64(n))
	p.ahead.room -= int32(n)
	p.ahead.len += int32(n)
}

// beginAheadLocked asks for a flush of what has gone ahead, and takes the baton for it.
func (p *pipe) beginAheadLocked() (seq int64) {
	p.seizeLocked()
	p.flow.flushes++
	p.askLocked()
	return p.asked.seq
}

// endAheadLocked is the end of that flush, if it has been in nobody's way. room is
// for the next.
func (p *pipe) endAheadLocked(seq int64, room int32) bool {
	if p.ahead.room != underWay || p.asked.seq != seq || p.waiters > 0 {
		return false
	}
	p.flow.pushes++
	p.done = seq
	p.ahead.flushed(room)
	p.leaveLocked()
	return true
}

// endPushLocked is the end of a plain flush, of what was held or had gone ahead, that has
// been in somebody's way.
func (p *pipe) endPushLocked(seq int64, size, n int, pushed bool, err error) {
	defer func() {
		p.releaseLocked()
		p.grantLocked()
	}()
	p.wrotePieceLocked(size, n, pushed, err)
	if !pushed && p.fail == nil && p.down.pushLocked() {
		p.flow.pushes++
	}
	if p.fail == nil {
		p.done = seq
		p.ahead.flushed(0)
	}
}

// turnAsyncLocked has what moves by itself move in the background from now on.
func (p *pipe) turnAsyncLocked() { p.async = true }
