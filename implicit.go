package flush

import "context"

// SetImplicit switches implicit flush, as PHP's ob_implicit_flush: after each
// write that put at least one byte on floor 2, one flush of the given mode.
// [Off] switches it off; zero restores the default of the options.
//
// Switching it on flushes nothing by itself: what is pending leaves with the
// next write. An empty write never flushes. Output that a user-level buffer
// holds does not flush until the buffer lets it through.
//
// With [Wait], a Write returns the failure of its flush; n is still the number
// of bytes accepted.
func (f *Flusher) SetImplicit(m Mode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m != Async && m != Wait && m != Off {
		m = f.cfg.Implicit
	}
	f.implicit = m
	f.slowLocked()
}

// implicitLocked does the flush that follows a write of at least one byte and
// returns the write's error: werr, or a failure of the flush that sticks. A
// response held for HTTP/1.0, or a server that cannot flush, has still accepted
// the bytes. A write whose wait has ended with an error does not wait again.
func (f *Flusher) implicitLocked(werr error, whole bool) error {
	switch {
	case f.implicit == Off:
	case werr != nil:
		if _, err := f.askFlushLocked(); err == nil {
			f.kickLocked()
		}
	case whole && f.callerOnlyLocked():
		f.askFlushLocked() // the next caller who may wait does it
	case f.implicit == Async || whole:
		f.flushAsyncLocked(nil)
		return f.fail
	default:
		if err := f.flushWaitLocked(context.Background()); err != nil && (f.fail != nil || isTimeout(err)) {
			return err
		}
	}
	return werr
}
