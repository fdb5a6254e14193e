package flush

import (
	"context"
	"slices"
)

// A flush of the response goes through the buffers with FollowFlush first. One
// that must not wait leaves that to a carrier where it would have to: floor 2 is
// at its high mark, a Write waits there, somebody else works on the stack, or
// the server is called before the headers and a filter may want to set some. What
// is left so is owed. The states are
//
//	nothing owed  writes enter the buffers
//	owed          writes wait, or buffers would grow past every mark
//	paying        a carrier flushes the buffers, without the baton; or a caller who
//	              waits for that, where only a caller may call the server
//
// What a flush that does not wait brings down enters floor 2 whole. So floor 2
// holds at most MaxPending and what the buffers held when that was crossed.

// followAsyncLocked flushes the buffers that follow a flush of the response,
// without waiting. While a filter runs it does nothing.
func (f *Flusher) followAsyncLocked() error {
	f.payOwnLocked()
	if !f.followsLocked() {
		return nil
	}
	if f.owesLocked() {
		f.oweLocked()
		return nil
	}
	return unlessReentrant(f.flushStackLocked(false, true))
}

// flushAllAsyncLocked is the same for all buffers.
func (f *Flusher) flushAllAsyncLocked() error {
	f.payOwnLocked()
	s := f.stack
	switch {
	case s.running != nil:
		return ErrReentrant
	case !s.active() || f.refuse != nil:
		return nil
	case f.owesLocked():
		s.owesAll = true
		f.oweLocked()
		if slices.ContainsFunc(s.bufs, func(b *Buffer) bool { return b.opts.NoFlush }) {
			return ErrForbidden // the carrier does the rest
		}
		return nil
	}
	return f.flushStackLocked(true, true)
}

// followWaitLocked is followAsyncLocked for who waits, until ctx ends. It
// reports whether the wait has ended, with err.
func (f *Flusher) followWaitLocked(ctx context.Context) (err error, ended bool) {
	if !f.followsLocked() {
		return nil, false
	}
	if !f.endsLocked(ctx) && !f.owed {
		return unlessReentrant(f.flushStackLocked(false, false)), false
	}
	if !f.owesLocked() {
		return unlessReentrant(f.flushStackLocked(false, true)), false
	}
	f.oweLocked()
	f.kickLocked()
	if !f.endsLocked(ctx) {
		ctx = nil
	} else {
		defer context.AfterFunc(ctx, f.wake)()
	}
	err = f.awaitLocked(false, ctx, f.settledLocked)
	return err, err != nil
}

func (f *Flusher) followsLocked() bool {
	s := f.stack
	return (s.follow > 0 || len(s.rest) > 0) && s.running == nil && f.refuse == nil
}

// owesLocked reports whether the buffers cannot come down without waiting.
func (f *Flusher) owesLocked() bool {
	return f.overLocked() || f.stack.busy || f.timeout.calling && !f.headersSent && f.cfg.SAPI.Headers != OutputOnly
}

// payableLocked reports whether a carrier, which has the baton, can flush the
// buffers now.
func (f *Flusher) payableLocked() bool {
	return !f.stack.busy && !f.stack.paying && !f.penTakenLocked() && f.roomLocked() > 0 && f.refuse == nil
}

// payLocked flushes the buffers that are owed. What a filter says is kept for the
// end of the response.
func (f *Flusher) payLocked() {
	s := f.stack
	all := s.owesAll
	s.paying, s.owesAll = true, false
	defer func() {
		s.paying = false
		f.paidLocked()
	}()
	if err := f.flushStackLocked(all, true); err != nil && f.fail == nil {
		f.rareLocked().refused = joinErrors(f.rare.refused, err)
	}
	f.askFlushLocked() // another than the one that left them: that has gone down without them
}

// payOwnLocked pays on the caller's goroutine, where only a caller may call the
// server, and reports whether it has.
func (f *Flusher) payOwnLocked() bool {
	if !f.owed || !f.callerOnlyLocked() || !f.payableLocked() {
		return false
	}
	f.payLocked()
	return true
}

// settledLocked reports whether nothing is owed, or a filter runs: it may be the
// one that waits.
func (f *Flusher) settledLocked() bool {
	for f.owed && f.stack.running == nil && (f.payOwnLocked() || f.callerOnlyLocked() && f.roomLocked() == 0 && f.moveOnLocked()) {
	}
	return !f.owed || f.stack.running != nil
}

// awaitPaidLocked has a Write into a buffer wait until nothing is owed, and
// floor 2 is below its high mark. While a filter runs it does not: it may be the
// filter's own.
func (f *Flusher) awaitPaidLocked() error {
	if f.stack.running != nil {
		return nil
	}
	if f.owed {
		defer f.noteWaitedLocked(now())
		f.kickLocked()
		if err := f.awaitLocked(false, nil, f.settledLocked); err != nil {
			return err
		}
	}
	if f.stack.follow > 0 && f.roomLocked() == 0 && f.refuse == nil {
		return f.awaitLowLocked()
	}
	return nil
}

func unlessReentrant(err error) error {
	if err == ErrReentrant {
		return nil
	}
	return err
}
