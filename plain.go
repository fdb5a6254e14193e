package flush

// A plain flush has nothing else to look at than the bytes that it is for: the
// case of most, once the headers are out. It is asking and round in one, on the
// caller's goroutine, and nothing that another flush would not do. It is written as
// one straight line, since it is what a stream does for each event: the call wakes
// the client, and little of us is left in the processor's caches then.

// plainBelowLocked reports whether a flush, before which the buffers have come down
// that follow one, may be plain, as far as floor 1 goes. What has become so stays so
// while the server is the same.
func (f *Flusher) plainBelowLocked() bool {
	if !f.srv.plain {
		f.srv.plain = f.headersSent && !f.head && f.srv.flusher != nil && !f.carrierOnly() &&
			(f.body == nil || f.body.over.Load())
	}
	return f.srv.plain
}

// beginAtOnceLocked begins a plain flush whose caller must not wait for the client,
// if there is nothing to wait for.
func (f *Flusher) beginAtOnceLocked() bool {
	if f.timeout.progress == nil || !f.plainBelowLocked() || !f.plainLocked() || !f.takesAtOnceLocked(f.q.len) {
		return false
	}
	f.turnAsyncLocked()
	return f.beginPlainLocked()
}

// pushPlain is a plain flush that has begun. It is called with mu held and returns
// without. It returns the failure, or what the server's flush said that does not
// stick.
func (f *Flusher) pushPlain() error {
	defer f.mu.Unlock()
	return f.pushPlainLocked()
}

// pushAtOnce is a plain flush whose caller must not wait, and which has begun. It is
// called with mu held and returns without. It returns the failure that sticks.
func (f *Flusher) pushAtOnce() error {
	defer f.mu.Unlock()
	return f.pushAtOnceLocked()
}

// pushAtOnceLocked is pushAtOnce for who keeps mu.
func (f *Flusher) pushAtOnceLocked() error {
	f.pushPlainLocked()
	f.timeout.progress.room.ended()
	return f.fail
}

// pushPlainLocked is pushPlain for who keeps mu.
func (f *Flusher) pushPlainLocked() error {
	seq, piece := f.asked.seq, f.q.head.held()
	f.beginCallLocked()
	f.mu.Unlock()
	n, pushed, err := f.writePlain(piece)
	if err == nil && f.rare == nil && f.endPlainLocked(seq, n) {
		if p := f.timeout.progress; p != nil {
			p.room.flushed = true
		}
		return nil
	}
	return f.endPlainSlowLocked(seq, len(piece), n, pushed, err)
}

// endPlainSlowLocked is the end of one that has gone wrong, or been in somebody's
// way.
func (f *Flusher) endPlainSlowLocked(seq int64, size, n int, pushed bool, err error) error {
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
	return !p.held && p.q.head != nil && p.q.head == p.q.tail && p.refuse == nil && p.asked.seq == p.done && p.asks.Load() == 0
}

// beginPlainLocked asks for a plain flush and takes the baton for it, if it may be
// plain.
func (p *pipe) beginPlainLocked() bool {
	if !p.plainLocked() {
		return false
	}
	p.seizeLocked()
	p.flow.flushes++
	p.asked.seq++
	p.asked.pos = p.accepted
	p.q.more = noMore
	return true
}

// endPlainLocked is the end of a plain flush of n bytes, asked for as seq, if it has
// been in nobody's way.
func (p *pipe) endPlainLocked(seq int64, n int) bool {
	if n != p.q.len || p.asked.seq != seq || p.asks.Load() != 0 || p.waiters > 0 || p.wanted || p.owed || p.marks.counted || p.fail != nil {
		return false
	}
	credit := p.q.credit
	p.sent += int64(n)
	p.flow.bytes += int64(n)
	p.flow.pushes++
	p.done = seq
	p.measureHighestLocked()
	p.q.dropBlock()
	p.leaveLocked()
	if credit > 0 { // nobody has taken it back
		p.q.grant(min(blockSize, p.marks.buffer-1))
	} else {
		p.grantLocked()
	}
	return true
}

// endPushLocked is the end of any other.
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
	}
}

// turnAsyncLocked has what moves by itself move in the background from now on.
func (p *pipe) turnAsyncLocked() { p.async = true }
