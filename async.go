package flush

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// Flush is for [http.Flusher]: it does what [Options.Flush] says. A failure
// sticks; [Flusher.Err] tells. What else went wrong, as a filter that failed, is told
// at the end of the response.
func (f *Flusher) Flush() {
	if err := without(f.FlushError(), isNoLoss); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.noteUntoldLocked(err)
	}
}

// FlushError is Flush for [http.ResponseController] and for handlers written
// against it. As those take an error for a dead client, it returns nil where
// the other calls return [ErrBuffering].
func (f *Flusher) FlushError() error {
	async := f.cfg.Flush == Async || f.asyncCalls.Load() > 0
	var err error
	switch {
	case f.cfg.Flush == Off:
		return f.Err()
	case async:
		err = f.FlushAsync()
	default:
		err = f.flushNow()
	}
	if err != nil {
		err = without(err, isBuffering)
	}
	return err
}

// FlushAsync asks for a flush and returns at once (ngx.flush()). A carrier
// goroutine hands the output down and ends when nothing is left; what is asked
// for meanwhile becomes one flush. A nil error says that the flush will be
// done or the failure reported by a later call. It never waits for the client; the
// time that a [Filter] takes is the caller's.
//
// With [ConnContext], on HTTP/1, small output that comes alone is handed to the
// server by FlushAsync itself while the kernel is sure to have room for it: that
// costs less than a carrier.
//
// From the first FlushAsync on, output that moves down by itself is carried in
// the background too. With [New], and before the request body has been read,
// headers go out on the caller's goroutine instead; see [Flusher.EnableFullDuplex].
func (f *Flusher) FlushAsync() error {
	if !f.quick.Load() {
		return f.flushAsync()
	}
	if f.asks.Add(1)%asksTurn != 0 && f.quick.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.absorbLocked()
	f.kickLocked()
	return f.refuse
}

// flushAsync is FlushAsync where the short way is closed.
func (f *Flusher) flushAsync() error {
	f.mu.Lock()
	if f.goesAheadLocked() && f.takesAtOnceLocked(int(f.ahead.len)) {
		f.turnAsyncLocked()
		return f.pushAhead()
	}
	if f.stack == &noStack && f.beginAtOnceLocked() {
		if f.pushPlain(false) == nil {
			return nil
		}
		return f.Err()
	}
	return f.flushAsyncSlow()
}

// flushAsyncSlow is flushAsync where there is more to it than one call. It is called
// with mu held and returns without.
func (f *Flusher) flushAsyncSlow() error {
	start := false
	defer f.unlockLocked(&start)
	if f.stack == &noStack { // it does not go down at once: that has been asked
		return f.askAsyncLocked(&start)
	}
	ferr := f.followAsyncLocked()
	return joinErrors(f.flushAsyncLocked(&start), ferr)
}

// flushAsyncLocked asks for a flush. If later is given, it says that the caller
// is to start the carrier, with mu dropped.
func (f *Flusher) flushAsyncLocked(later *bool) error {
	if f.beginAtOnceLocked() {
		f.pushPlain(true)
		return f.fail
	}
	return f.askAsyncLocked(later)
}

// askAsyncLocked is flushAsyncLocked where that does not go down at once.
func (f *Flusher) askAsyncLocked(later *bool) error {
	ask, err := f.askFlushLocked()
	if err != nil || ask.seq == 0 {
		return err
	}
	f.carryAsyncLocked(later)
	if f.fail == nil && !f.srv.flushes {
		return errCannotFlush
	}
	return f.fail
}

// FlushWait flushes and returns when everything accepted before it has been
// handed to the kernel's send buffer, or has failed (ngx.flush(true)). See
// [Flush] for what that means on each protocol. The bytes of a later Write are
// not waited for.
//
// The end of ctx ends the wait and not the response: the flush goes on in the
// background, and the error wraps the context's. nil, Background and the
// request's own context do not end it.
//
// It returns [ErrTimeout] and [ErrClientGone], which stick, [ErrClosed],
// [ErrBuffering], and [http.ErrNotSupported]. Nothing to flush is success.
func (f *Flusher) FlushWait(ctx context.Context) error {
	if ctx == nil || ctx.Done() == nil {
		return f.flushNow()
	}
	f.mu.Lock()
	return f.flushWaitSlow(ctx)
}

// flushNow is FlushWait that nothing ends but the response.
func (f *Flusher) flushNow() error {
	f.mu.Lock()
	if f.goesAheadLocked() {
		return f.pushAhead()
	}
	if !f.stack.follows() && f.beginNowLocked() {
		return f.pushPlain(false)
	}
	return f.flushWaitSlow(context.Background())
}

// FlushAcked is [Flusher.FlushWait] that goes on to wait until the client's
// kernel has acknowledged every byte up to here: they have arrived, though the
// client need not have read them. It asks the kernel every 1 to 50 ms.
//
// ctx ends the wait and not the response. With no byte acknowledged for
// SendTimeout it returns [ErrTimeout], which does not stick here: the bytes may
// yet arrive. On HTTP/2 it waits for what the connection has sent so far, other
// streams included.
//
// It needs [ConnContext]; without it, and where the kernel does not tell, the
// error matches [errors.ErrUnsupported] and nothing has been flushed.
func (f *Flusher) FlushAcked(ctx context.Context) error {
	if f.conn == nil {
		return errNoConn
	}
	if ctx == nil {
		ctx = context.Background()
	}
	before, err := f.position()
	if err != nil {
		return err
	}
	sent := f.Stats().Bytes
	if err := f.FlushWait(ctx); err != nil {
		return err
	}
	more := f.Stats().Bytes - sent
	mark := int64(-1)
	moved, at := before, now()
	timer := time.NewTimer(tcp.FirstPoll)
	defer timer.Stop()
	for wait := tcp.FirstPoll; ; wait = min(2*wait, tcp.LastPoll) {
		// On HTTP/2 the flush may return before the frame is in the kernel:
		// the mark is good once as much has come as was handed over.
		if mark < 0 && (f.http1 || wait > tcp.FirstPoll) {
			p, err := f.position()
			if err != nil {
				return err
			}
			if f.http1 || p >= before+more {
				mark = p
			}
		}
		acked, err := f.conn.Acked()
		if err != nil {
			return f.lost(err)
		}
		if mark >= 0 && acked >= mark {
			return nil
		}
		if acked != moved {
			moved, at = acked, now()
		}
		if f.stalledFor(now() - at) {
			return ErrTimeout
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			if !f.ownContext(ctx) {
				return contextError(ctx)
			}
			<-timer.C
		case <-timer.C:
		}
		if err := f.openErr(); err != nil {
			return err
		}
	}
}

// flushWaitSlow is FlushWait where there is more to it than one call. It is called with
// mu held and returns without.
func (f *Flusher) flushWaitSlow(ctx context.Context) error {
	defer f.mu.Unlock()
	var ferr error
	if f.stack.follows() {
		var ended bool
		if ferr, ended = f.followWaitLocked(ctx); ended || f.waitEndedLocked(ferr) {
			return joinErrors(ferr, f.flushAsyncLocked(nil)) // it does not wait twice
		}
	}
	return joinErrors(f.flushWaitLocked(ctx), ferr)
}

func (f *Flusher) flushWaitLocked(ctx context.Context) error {
	ends := f.endsLocked(ctx)
	if !ends && f.beginNowLocked() {
		return f.pushPlain(true)
	}
	f.lendLocked()
	defer f.takeBackLocked()
	ask, err := f.askFlushLocked()
	if err != nil || ask.seq == 0 {
		return err
	}
	if !ends {
		ctx = nil
	}
	return f.awaitFlushLocked(ask, ctx)
}

// endsLocked reports whether ctx can end a wait.
func (f *Flusher) endsLocked(ctx context.Context) bool {
	return ctx != nil && ctx.Done() != nil && !f.isOwnLocked(ctx)
}

// ownContext is isOwnLocked for who does not hold mu.
func (f *Flusher) ownContext(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isOwnLocked(ctx)
}

// isOwnLocked reports whether ctx is the request's own: its end is not the
// caller's wish to stop waiting.
func (f *Flusher) isOwnLocked(ctx context.Context) bool {
	if c, ok := ctx.(*requestContext); ok && c == f.context {
		return true
	}
	return f.req != nil && ctx == f.req.Context()
}

// askFlushLocked notes that a flush is asked for and returns it; its number is
// 0 if there is nothing to do.
func (f *Flusher) askFlushLocked() (mark, error) {
	if err := f.refusedLocked(); err != nil {
		return mark{}, err
	}
	f.countAskLocked()
	if !f.fixed {
		if f.holding && !f.stack.atHeader() && f.header.Get("Content-Length") != "" {
			f.stopHoldingLocked()
		}
		if f.holding {
			return mark{}, ErrBuffering
		}
		if f.cfg.SAPI.Headers == HeadersFirst {
			if !f.srv.flushes {
				return mark{}, errCannotFlush // the handler may still answer with that
			}
			f.fixLocked(http.StatusOK)
		}
	}
	if f.holding {
		return mark{}, ErrBuffering
	}
	if f.nothingLeavesLocked() {
		return mark{}, nil
	}
	return f.askLocked(), nil
}

// nothingLeavesLocked reports whether a flush has nothing to do: the headers leave
// with the first output, and there is none yet.
func (f *Flusher) nothingLeavesLocked() bool {
	switch {
	case f.accepted > 0 || f.headersSent || f.cfg.SAPI.Headers == HeadersFirst || f.detached == detaching:
		return false
	case f.cfg.SAPI.Headers == OutputOnly || !f.fixed:
		return true
	}
	return f.bodyAllowed() && !f.head
}

// A flush of the response goes through the buffers with FollowFlush first. One
// that must not wait leaves that to a carrier where it would have to: floor 2 is
// at its high mark, a Write waits there, somebody else works on the stack, or
// the server is called before the headers and a filter may want to set some; also
// where that call begins only while it looks. What is left so is owed. The states are
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
	if f.owesLocked() {
		f.oweLocked()
	} else if err = unlessReentrant(f.flushStackLocked(false, true)); !f.owed {
		return err, false
	}
	if !f.endsLocked(ctx) {
		ctx = nil
	} else {
		defer context.AfterFunc(ctx, f.wake)()
	}
	waitErr := f.awaitLocked(false, ctx, f.settledLocked)
	return joinErrors(err, waitErr), waitErr != nil
}

func (f *Flusher) followsLocked() bool {
	s := f.stack
	return s.follows() && s.running == nil && f.refuse == nil
}

// owesLocked reports whether the buffers cannot come down without waiting.
func (f *Flusher) owesLocked() bool {
	return f.overLocked() || f.stack.busy || f.filterWaitsLocked()
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
		f.noteRefusedLocked(err)
	}
	if f.owed { // not if it was taken back meanwhile
		f.askFlushLocked() // another than the one that left them: that has gone down without them
	}
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

// unpaidLocked reports whether a Write into a buffer has something to wait for:
// something is owed, or floor 2, to which a flush brings the buffer down, is at its
// high mark.
func (f *Flusher) unpaidLocked() bool { return f.owed || f.stack.follow > 0 && f.roomLocked() == 0 }

// awaitPaidLocked has such a Write wait until that is over. While a filter runs it
// does not: it may be the filter's own.
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
