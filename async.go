package flush

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
// done or the failure reported by a later call. It never waits for the client.
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
	ferr := f.followAsyncLocked()
	return joinErrors(f.flushAsyncLocked(&start), ferr)
}

// flushAsyncLocked asks for a flush. If later is given, it says that the caller
// is to start the carrier, with mu dropped.
func (f *Flusher) flushAsyncLocked(later *bool) error {
	if f.pushAtOnceLocked() {
		f.timeout.progress.room.at = now()
		return f.fail
	}
	ask, err := f.askFlushLocked()
	if err != nil || ask.seq == 0 {
		return err
	}
	f.carryAsyncLocked(later)
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
	defer f.mu.Unlock()
	var ferr error
	if f.stack.follow > 0 || len(f.stack.rest) > 0 {
		var ended bool
		if ferr, ended = f.followWaitLocked(ctx); ended || f.waitEndedLocked(ferr) {
			return joinErrors(ferr, f.flushAsyncLocked(nil)) // it does not wait twice
		}
	}
	if (ctx == nil || ctx.Done() == nil) && f.plainLocked() {
		f.pushPlainLocked()
		return joinErrors(f.pushErrLocked(), ferr)
	}
	return joinErrors(f.flushWaitLocked(ctx), ferr)
}

// pushErrLocked is the failure, or what the last flush said that does not
// stick.
func (f *Flusher) pushErrLocked() error {
	if f.fail != nil {
		return f.fail
	}
	return f.lastPushLocked()
}

func (f *Flusher) flushWaitLocked(ctx context.Context) error {
	f.lendLocked()
	defer f.takeBackLocked()
	ask, err := f.askFlushLocked()
	if err != nil || ask.seq == 0 {
		return err
	}
	if !f.endsLocked(ctx) {
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

// ownContextLocked is the request's context as the handler knows it; nil: none.
func (f *Flusher) ownContextLocked() context.Context {
	switch {
	case f.req != nil:
		return f.req.Context()
	case f.context != nil:
		return f.context
	}
	return nil
}

func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return fmt.Errorf("flush: wait ended: %w", err)
	}
	return fmt.Errorf("flush: wait ended: %w: %w", err, cause)
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
			if f.srv.flusher == nil {
				return mark{}, errCannotFlush // the handler may still answer with that
			}
			f.fixLocked(http.StatusOK)
		}
	}
	if f.holding {
		return mark{}, ErrBuffering
	}
	if f.accepted == 0 && f.cfg.SAPI.Headers != HeadersFirst && !f.headersSent && (!f.fixed || f.cfg.SAPI.Headers == OutputOnly || bodyAllowed(f.status) && !f.head) {
		return mark{}, nil
	}
	return f.askLocked(), nil
}
