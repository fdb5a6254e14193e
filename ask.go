package flush

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// Flush is for [http.Flusher]: it does what [Options.Flush] says. The error
// sticks; [Flusher.Err] tells.
func (f *Flusher) Flush() { f.FlushError() }

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
		err = f.FlushWait(context.Background())
	}
	if errors.Is(err, ErrBuffering) {
		return nil
	}
	return err
}

// FlushAsync asks for a flush and returns at once (ngx.flush()). A carrier
// goroutine hands the output down and ends when nothing is left; what is asked
// for meanwhile becomes one flush. A nil error says that the flush will be
// done or the failure reported by a later call.
//
// From the first FlushAsync on, output that moves down by itself is carried in
// the background too. Before the request body has been read, headers go out on
// the caller's goroutine instead; see [Flusher.EnableFullDuplex].
func (f *Flusher) FlushAsync() error {
	if !f.quick.Load() {
		return f.flushAsync()
	}
	f.asks.Add(1)
	if f.quick.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kickLocked()
	return f.refuse
}

// flushAsync is FlushAsync where the short way is closed.
func (f *Flusher) flushAsync() error {
	start := false
	f.mu.Lock()
	defer func() {
		f.mu.Unlock()
		if start {
			go f.carry()
		}
	}()
	ferr := f.followFlushLocked(true)
	return joinErrors(f.flushAsyncLocked(&start), ferr)
}

// flushAsyncLocked asks for a flush. If later is given, it says that the caller
// is to start the carrier, with mu dropped: a carrier that starts on another
// thread would meet it and go to sleep.
func (f *Flusher) flushAsyncLocked(later *bool) error {
	seq, err := f.askLocked()
	if err != nil || seq == 0 {
		return err
	}
	f.async = true
	switch {
	case f.held:
	case f.bodyFirstLocked():
		f.workLocked()
	case later != nil && f.dueLocked() && !f.ended:
		f.held = true
		f.readyCarrierLocked()
		*later = true
	default:
		f.kickLocked()
	}
	if f.fail == nil && f.srv.flusher == nil {
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
	f.mu.Lock()
	var ferr error
	if f.stack.follow > 0 {
		ferr = f.followFlush(ctx)
	}
	if f.plainLocked() && (ctx == nil || ctx.Done() == nil) {
		return joinErrors(f.flushPlain(), ferr)
	}
	defer f.mu.Unlock()
	return joinErrors(f.flushWaitLocked(ctx), ferr)
}

// followFlush is followFlushLocked that lets go of mu if a filter panics.
func (f *Flusher) followFlush(ctx context.Context) error {
	returned := false
	defer func() {
		if !returned {
			f.mu.Unlock()
		}
	}()
	err := f.followFlushLocked(f.endsLocked(ctx))
	returned = true
	return err
}

// plainLocked reports whether a flush has nothing else to look at than the
// bytes it is for: the case of most, once the headers are out.
func (f *Flusher) plainLocked() bool {
	return !f.held && f.q.head != nil && f.q.head == f.q.tail && f.headersSent && f.refuse == nil && !f.head &&
		f.asked.seq == f.done && f.asks.Load() == f.absorbed && f.srv.flusher != nil && !f.soloLocked()
}

// flushPlain is FlushWait for that case. It is called with mu held and returns
// without.
func (f *Flusher) flushPlain() (err error) {
	f.held = true
	f.stats.Flushes++
	f.asked = mark{f.asked.seq + 1, f.accepted}
	ask := f.asked
	f.lastPush = nil
	p := f.q.front(blockSize)
	f.beginSendLocked()
	f.mu.Unlock()
	returned := false
	defer func() {
		if returned {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.endSendLocked()
		f.failLocked(errPanicked)
		f.releaseLocked()
	}()
	n, werr, perr := f.srv.writeAndFlush(p)
	returned = true
	f.mu.Lock()
	f.endSendLocked()
	if !f.handedFrontLocked(p, n, werr, true, perr) && f.fail == nil {
		f.pushLocked()
		f.stats.Pushes++
	}
	if err = f.fail; err == nil {
		err = f.lastPush
		f.done = ask.seq
	}
	f.releaseLocked()
	f.grantLocked()
	f.mu.Unlock()
	return err
}

func (f *Flusher) flushWaitLocked(ctx context.Context) error {
	seq, err := f.askLocked()
	if err != nil || seq == 0 {
		return err
	}
	ends := f.endsLocked(ctx)
	if ends {
		stop := context.AfterFunc(ctx, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.wakeLocked()
		})
		defer stop()
	}
	mine := mark{seq, f.asked.pos}
	waits := false
	defer func() {
		if waits {
			q := f.waiting
			q.flushes = slices.DeleteFunc(q.flushes, func(m mark) bool { return m == mine })
		}
	}()
	for stalls := f.timeout.stalls; ; {
		switch {
		case f.done >= seq:
			return f.lastPush
		case f.fail != nil:
			return f.fail
		case f.ended || f.hijacked:
			return f.refuse
		case ends && ctx.Err() != nil:
			f.kickLocked()
			return contextError(ctx)
		case f.held:
		case f.bodyFirstLocked() || !ends && !f.soloLocked():
			f.workLocked()
			continue
		default:
			f.kickLocked()
		}
		if !waits {
			waits = true
			q := f.waitingLocked()
			q.flushes = append(q.flushes, mine)
		}
		if err := f.waitBoundLocked(stalls); err != nil {
			return err
		}
	}
}

// firstWaitLocked returns the first flush that somebody waits for. A round does
// not go far beyond it: he waits for his own bytes, not for all that was asked
// for since.
func (f *Flusher) firstWaitLocked() (mark, bool) {
	if f.waiting == nil {
		return mark{}, false
	}
	end := f.sent + int64(f.q.len)
	for _, m := range f.waiting.flushes {
		if m.seq > f.done && m.pos <= end {
			return m, true
		}
	}
	return mark{}, false
}

// workLocked takes the free baton for one round on the caller's goroutine.
func (f *Flusher) workLocked() {
	f.held = true
	defer f.releaseLocked()
	f.roundLocked()
}

// endsLocked reports whether ctx can end a wait.
func (f *Flusher) endsLocked(ctx context.Context) bool {
	return ctx != nil && ctx.Done() != nil && !f.ownContext(ctx)
}

// ownContext reports whether ctx is the request's own: its end is not the
// caller's wish to stop waiting.
func (f *Flusher) ownContext(ctx context.Context) bool {
	if c, ok := ctx.(*requestContext); ok && c == f.context {
		return true
	}
	return f.req != nil && ctx == f.req.Context()
}

func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return fmt.Errorf("flush: wait ended: %w", err)
	}
	return fmt.Errorf("flush: wait ended: %w: %w", err, cause)
}

// askLocked notes that a flush is asked for and returns its number, or 0 if
// there is nothing to do.
func (f *Flusher) askLocked() (int64, error) {
	if err := f.refusedLocked(); err != nil {
		return 0, err
	}
	f.absorbLocked()
	f.stats.Flushes++
	if !f.fixed {
		if f.holding && f.header.Get("Content-Length") != "" {
			f.holding = false
		}
		if f.holding {
			return 0, ErrBuffering
		}
		if f.cfg.SAPI.Headers == HeadersFirst {
			f.fixLocked(http.StatusOK)
		}
	}
	if f.holding {
		return 0, ErrBuffering
	}
	if f.accepted == 0 && f.cfg.SAPI.Headers != HeadersFirst && !f.headersSent && (!f.fixed || f.cfg.SAPI.Headers == OutputOnly || bodyAllowed(f.status) && !f.head) {
		return 0, nil
	}
	f.asked.seq++
	f.asked.pos = f.accepted
	return f.asked.seq, nil
}
