package flush

// Clean takes back every byte that has not been sent, on floor 2 and in
// user-level buffers, which stay open; their filters begin anew. The status is
// unset and the headers are open again, with their present values less those
// that described the body: Content-Length, Content-Encoding, Content-Range,
// ETag, Last-Modified and Trailer. It serves an error page after half a page.
//
// It looks first and acts then: once headers have been sent it does nothing and
// returns [ErrHeadersSent], and [ErrReentrant] while a filter runs. No header
// leaves meanwhile, unless a filter that is told of the Clean flushes by
// itself; then too it returns ErrHeadersSent, and only what filters have been told of
// is gone. An error of a filter is returned after all has been done.
func (f *Flusher) Clean() (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.uncleanLocked(); err != nil {
		return err
	}
	s := f.stack
	if s.active() {
		if err := f.takeTurnLocked(false); err != nil {
			return err
		}
		defer f.settleTurnLocked(&err)
	}
	if err := f.takeBatonBehindLocked(f.stack.busy); err != nil {
		return err
	}
	if err := f.uncleanLocked(); err != nil { // it has waited
		f.releaseLocked()
		return err
	}
	if !s.active() {
		defer f.releaseLocked()
	} else {
		s.withheld = true
		defer f.yieldLocked()
		var late error
		if err, late = f.cleanStackLocked(); late != nil {
			return joinErrors(late, err)
		}
	}
	f.resetLocked()
	if r := f.rare; r != nil {
		r.cutBy = nil
		if i := r.interval; i != nil {
			i.upTo, i.headers = 0, false
		}
	}
	f.status, f.written, f.length, f.fixed, f.eventStream = 0, 0, -1, false, false
	f.holdLocked(f.holdsLocked())
	f.dropNoteLocked()
	for _, k := range bodyHeaders {
		delete(f.headerLocked(), k)
	}
	return err
}

// uncleanLocked says why nothing can be taken back, or nil.
func (f *Flusher) uncleanLocked() error {
	if f.sentLocked() {
		return ErrHeadersSent
	}
	return f.refuse
}

var bodyHeaders = []string{"Content-Length", "Content-Encoding", "Content-Range", "Etag", "Last-Modified", "Trailer"}

// cleanStackLocked drops what the buffers hold, and has their filters begin
// anew, unless one of them has sent the headers, as late says: then a part of what a
// filter let through is on its way, and the rest must follow. So only filters that hear
// of the Clean lose something by one that comes too late: they come first, and none
// below the one that has sent the headers. Clean calls it, with the turn and the baton.
func (f *Flusher) cleanStackLocked() (err, late error) {
	s := f.stack
	s.cleaning = true
	defer func() { s.cleaning = false }()
	for b := range s.fromTop() {
		if b.opts.Filter == nil || b.disabled { // disabled: an error page could fail with the page
			continue
		}
		if late := f.overtakenLocked(); late != nil {
			return wrapReentrant(err), late
		}
		err = joinErrors(err, f.runLocked(b, PhaseClean))
	}
	if late := f.overtakenLocked(); late != nil {
		return wrapReentrant(err), late
	}
	for b := range s.fromTop() {
		if b.opts.Filter == nil {
			err = joinErrors(err, f.runLocked(b, PhaseClean))
		}
		b.started, b.processed, b.pinned = false, false, false
	}
	if h := f.headerLocked(); s.sniffed != "" && h.Get("Content-Type") == s.sniffed {
		delete(h, "Content-Type") // it was that of the body
	}
	s.rest, s.grown, s.resized, s.ownLength, s.owesAll, s.sniffed = nil, 0, false, false, false, ""
	return wrapReentrant(err), nil
}

// overtakenLocked says why Clean comes too late, or nil: a filter may have flushed,
// and then somebody else may have the baton, who hands over the headers; or it has taken
// the connection, or ended the response.
func (f *Flusher) overtakenLocked() error {
	if !f.stack.withheld {
		if err := f.takeBatonBehindLocked(true); err != nil {
			return err
		}
		f.noteWithheldLocked()
	}
	if f.headersSent {
		return ErrHeadersSent
	}
	return nil
}
