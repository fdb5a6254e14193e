package flush

// A brief response is one as most are: nobody flushed it, and it is so short that
// net/http holds all of it until its handler has returned. Its end has nothing
// to wait for, and takes the short way here: a small part of what [Flusher.finish]
// does, in the same order.

// briefLocked reports whether the response, whose handler has just returned, is
// brief. Most of what it asks for only a response has that is something else, too.
func (f *Flusher) briefLocked() bool {
	return f.srv.ownHeader && f.fixed && !f.headersSent && !f.head && f.bodyAllowed() &&
		f.q.len > 0 && f.q.len <= serverMeasures && f.q.head == f.q.tail && f.accepted == int64(f.q.len) &&
		f.stack == &noStack && f.rare == nil && f.groups == nil && f.detached == attached &&
		f.refuse == nil && !f.cut && !f.held && !f.owed && !f.penTakenLocked() && f.aside == 0 &&
		!f.timeout.calling && (f.body == nil || !f.body.handing) && !f.dueLocked() &&
		(f.header == nil || f.noted != nil && f.noted.says(f.header))
}

// endBrief ends a response that is brief, as its handler has returned, and
// reports whether it was.
func (f *Flusher) endBrief() bool {
	if !f.closeBrief() {
		return false
	}
	if f.cfg.OnClose != nil {
		f.cfg.OnClose(f.req, f.Stats(), f.closeErr())
		f.context.leave()
	}
	return true
}

// closeBrief is endBrief up to OnClose, before which the context does not let go.
func (f *Flusher) closeBrief() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.briefLocked() {
		return false
	}
	f.handler.Or(handlerReturned)
	f.closing = true
	f.reasonLocked(ErrClosed)
	f.refuseLocked(ErrClosed)
	f.handBriefLocked()
	f.boundEndLocked()
	f.joinLocked()
	f.endLocked(true, nil)
	if f.cfg.OnClose == nil {
		f.context.letGoLocked()
	}
	return true
}

// handBriefLocked hands the headers and the body to the server, which only keeps
// them.
func (f *Flusher) handBriefLocked() {
	f.seizeLocked()
	defer f.freeLocked()
	f.closeTimeoutLocked(true)
	f.sendHeadersLocked(false)
	p := f.q.front(blockSize)
	n, err := f.writeBriefLocked(p)
	f.wrotePieceLocked(len(p), n, false, err)
}
