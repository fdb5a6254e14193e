package flush

// A plain flush has nothing else to look at than the bytes that it is for: the
// case of most, once the headers are out. It is asking and round in one, on the
// caller's goroutine, and nothing that another flush would not do. It is written as
// one straight line, since it is what a stream does for each event: the call wakes
// the client, and little of us is left in the processor's caches then.

// plainLocked reports whether a flush, before which the buffers have come down that
// follow one, would be plain.
func (f *Flusher) plainLocked() bool {
	return f.pipe.plainLocked() && f.headersSent && !f.head && f.srv.flusher != nil && !f.carrierOnly() &&
		(f.body == nil || f.body.over.Load())
}

// atOnceLocked reports whether a flush whose caller must not wait for the client
// would be plain, and would not wait.
func (f *Flusher) atOnceLocked() bool {
	return f.timeout.progress != nil && f.plainLocked() && f.takesAtOnceLocked(f.q.len)
}

// pushPlainLocked is a plain flush. It returns the failure, or what the server's
// flush said that does not stick.
func (f *Flusher) pushPlainLocked() error {
	ask, piece := f.beginPlainLocked()
	returned := false
	defer func() {
		if !returned {
			f.releaseLocked()
		}
	}()
	f.beginCallLocked()
	n, pushed, err := f.writeEnteredLocked(piece, true)
	returned = true
	if !pushed || !f.endPlainLocked(ask, n) {
		f.endPushLocked(ask, len(piece), n, pushed, err)
	}
	if f.fail != nil {
		return f.fail
	}
	return f.lastPushLocked()
}

// plainLocked is what of that concerns floor 2.
func (p *pipe) plainLocked() bool {
	return !p.held && p.q.head != nil && p.q.head == p.q.tail && p.refuse == nil && p.asked.seq == p.done && p.asks.Load() == 0
}

func (p *pipe) beginPlainLocked() (ask mark, piece []byte) {
	p.held = true
	p.flow.flushes++
	ask, piece = p.askLocked(), p.q.head.held()
	p.q.lend(len(piece))
	return ask, piece
}

// endPlainLocked is the end of a plain flush of n bytes, if it has been in nobody's
// way.
func (p *pipe) endPlainLocked(ask mark, n int) bool {
	if n != p.q.len || p.asked != ask || p.asks.Load() != 0 || p.waiters > 0 || p.wanted || p.owed || p.marks.counted || p.fail != nil {
		return false
	}
	credit := p.q.credit
	p.noteSentLocked(n)
	p.noteDoneLocked(ask)
	p.measureHighestLocked()
	p.q.regain(n)
	p.held = false
	if credit > 0 { // nobody has taken it back
		p.q.credit = int32(max(min(blockSize, p.marks.buffer-1), 0))
	} else {
		p.grantLocked()
	}
	return true
}

// endPushLocked is the end of any other.
func (p *pipe) endPushLocked(ask mark, size, n int, pushed bool, err error) {
	p.wrotePieceLocked(size, n, pushed, err)
	if !pushed && p.fail == nil && p.down.pushLocked() {
		p.flow.pushes++
	}
	if p.fail == nil {
		p.done = ask.seq
	}
	p.releaseLocked()
	p.grantLocked()
}

// turnAsyncLocked has what moves by itself move in the background from now on.
func (p *pipe) turnAsyncLocked() { p.async = true }
