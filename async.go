package flush

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
)

// The baton.
//
// Whoever calls the server's writer holds the baton. There is one, and these
// are its states:
//
//	free      nobody calls the server
//	a caller  a goroutine of the handler's works inside a call of the Flusher
//	a carrier a goroutine of ours works; it exists only in this state
//
// What is to be done is three positions in the stream of accepted bytes:
//
//	sent ≤ moveTo ≤ accepted    bytes up to moveTo go down by themselves
//	asked.pos ≤ accepted        bytes up to asked.pos go down and are flushed
//
// Work is due if sent < moveTo or the last flush asked for has not been done.
// A holder works in rounds. A round looks once at what has been asked, hands
// down that much and no more, and flushes once, however many have asked: that
// is the coalescing. A wait is for a flush's number, so it ends when its own
// bytes are down, whatever comes behind them.
//
// Invariants, whenever mu is free:
//
//  1. Only the holder calls the server's Write, ReadFrom, WriteHeader, Flush
//     and Hijack, and it does so with mu dropped and calling set.
//  2. sent + q.len + what a caller is passing through = accepted.
//  3. Work that is due has a holder, unless the request body comes first (see
//     watchedBody): then the next caller does it.
//  4. q.len never exceeds MaxPending.
//  5. Every change that a waiter could wait for is followed by wakeLocked
//     before mu is dropped; a waiter looks again at everything it waits for.
//
// Because of 3 a caller who lets the baton go with work due passes it straight
// to a new carrier. There is no moment in which a request can be forgotten.
type baton struct {
	q        queue
	accepted int64 // bytes accepted on floor 2 since the start
	sent     int64 // bytes handed to the server, or dropped on its word
	moveTo   int64
	asked    mark  // the last flush asked for
	done     int64 // the number of the last flush done

	held  bool   // the baton is not free
	async bool   // what moves by itself moves in the background
	carry func() // f.carrier, made once: starting it allocates nothing

	// The short way of FlushAsync, without mu: while quick is set a carrier
	// is at work, and before it goes it clears quick and then looks at asks.
	// Who adds to asks and finds quick still set has been seen. Every Write
	// looks at asks before it enters, so the position is exact.
	quick    atomic.Bool
	asks     atomic.Int64
	absorbed int64 // asks that asked knows of

	pen     bool     // a Write is in progress and may drop mu
	line    []uint64 // Writes that wait for the pen, first come first served
	tickets uint64

	waits      []mark // flushes that somebody waits for, in the order asked
	waiters    int    // goroutines in waitLocked
	unblocking int    // calls that unblock the server, under way
}

// A mark is a flush that was asked for: its number and the position that has
// to be flushed.
type mark struct{ seq, pos int64 }

// wakeLocked wakes every waiter; each decides for itself.
func (f *Flusher) wakeLocked() {
	if f.waiters > 0 {
		f.cond.Broadcast()
	}
}

func (f *Flusher) waitLocked() {
	f.waiters++
	f.cond.Wait()
	f.waiters--
}

// waitBoundLocked is waitLocked for waits that must end on a server without
// deadlines: once the send timeout has run out there, it returns ErrTimeout,
// which does not stick. stalls is the count when the wait began.
func (f *Flusher) waitBoundLocked(stalls int) error {
	if f.timeout.stalls != stalls {
		return ErrTimeout
	}
	f.waitLocked()
	return nil
}

// absorbLocked notes the flushes that were asked for the short way.
func (f *Flusher) absorbLocked() {
	if n := f.asks.Load(); n != f.absorbed {
		f.stats.Flushes += n - f.absorbed
		f.absorbed = n
		f.asked.seq++
		f.asked.pos = f.accepted
	}
}

// dueLocked reports whether there is work for a holder of the baton.
func (f *Flusher) dueLocked() bool {
	f.absorbLocked()
	return f.fail == nil && !f.hijacked && (f.asked.seq > f.done || f.sent < f.moveTo || f.fullLocked())
}

// fullLocked reports whether floor 2 has reached the size at which it moves
// down by itself.
func (f *Flusher) fullLocked() bool {
	return f.q.len >= max(f.cfg.bufferSize, 1) && !f.holding
}

// kickLocked gives work that is due to a carrier, if the baton is free.
func (f *Flusher) kickLocked() {
	if f.held || f.ended || !f.dueLocked() || f.bodyFirstLocked() {
		return
	}
	f.held = true
	f.startCarrierLocked()
}

func (f *Flusher) startCarrierLocked() {
	f.readyCarrierLocked()
	go f.carry()
}

func (f *Flusher) readyCarrierLocked() {
	if f.carry == nil {
		f.carry = f.carrier
	}
	f.q.credit = 0
}

// quickenLocked opens the short way of FlushAsync if nothing else must be
// looked at there. Whatever changes that closes it with slowLocked.
func (f *Flusher) quickenLocked() {
	f.quick.Store(f.async && f.refuse == nil && f.stack.follow == 0 && f.srv.flusher != nil)
}

// slowLocked closes the short ways of Write and FlushAsync.
func (f *Flusher) slowLocked() {
	f.q.credit = 0
	f.quick.Store(false)
}

// takeBatonLocked waits for the baton.
func (f *Flusher) takeBatonLocked() error {
	for stalls := f.timeout.stalls; f.held; {
		if f.fail != nil {
			return f.fail
		}
		if err := f.waitBoundLocked(stalls); err != nil {
			return err
		}
		if f.ended || f.hijacked {
			return f.refuse
		}
	}
	if f.fail != nil {
		return f.fail
	}
	f.held = true
	return nil
}

// releaseLocked lets the baton go, or passes it to a carrier.
func (f *Flusher) releaseLocked() {
	if f.dueLocked() && !f.ended && !f.bodyFirstLocked() {
		f.startCarrierLocked()
		return
	}
	f.freeLocked()
}

func (f *Flusher) freeLocked() {
	f.held = false
	f.q.credit = 0
	if f.fail != nil {
		f.stats.Lost += int64(f.dropLocked())
	}
	f.wakeLocked()
}

// carrier is the goroutine that carries in the background. It ends when
// nothing is left to carry. A panic in the server's writer would kill the
// process here: it is kept for the handler's goroutine.
func (f *Flusher) carrier() {
	f.mu.Lock()
	defer f.mu.Unlock()
	returned := false
	defer func() {
		f.quick.Store(false)
		if !returned {
			f.panicked = recover()
			if f.panicked == nil {
				f.panicked = errGoexit
			}
		}
		f.freeLocked()
	}()
	for f.dueLocked() {
		f.quickenLocked()
		for f.dueLocked() {
			f.roundLocked()
		}
		f.quick.Store(false)
	}
	returned = true
}

// callLocked calls the server with mu dropped. The holder of the baton calls
// it, and then verdictLocked.
func (f *Flusher) callLocked(call func()) {
	f.beginSendLocked()
	f.mu.Unlock()
	returned := false
	defer func() {
		f.mu.Lock()
		f.endSendLocked()
		if !returned {
			f.failLocked(errPanicked)
		}
	}()
	call()
	returned = true
}

// roundLocked does what has been asked so far. The holder calls it.
func (f *Flusher) roundLocked() {
	f.absorbLocked()
	if f.fullLocked() {
		f.moveTo = f.accepted
	}
	// What a caller is passing through is not on floor 2: it lies beyond end.
	end := f.sent + int64(f.q.len)
	goal, ask := min(f.moveTo, end), f.asked
	push := ask.seq > f.done && ask.pos <= end
	if push {
		goal = max(goal, ask.pos)
	}
	if first, ok := f.firstWaitLocked(); ok && goal > first.pos+blockSize {
		goal, ask, push = first.pos, first, true
	}
	f.lastPush = nil
	switch {
	case f.head && f.cfg.SAPI.Headers != OutputOnly:
		// The server would drop the body, or choke on it (HTTP/2).
		if goal > f.sent || push {
			f.sendBareHeadersLocked(push)
		}
		f.dropLocked()
		f.sent = f.accepted
	case goal > f.sent:
		f.sendHeadersLocked(push)
	case push:
		f.sendBareHeadersLocked(push)
	}
	flushed := false
	for f.sent < goal && f.fail == nil {
		flushed = f.handFrontLocked(goal, push && f.srv.flusher != nil)
	}
	if push && f.fail == nil {
		if !flushed {
			f.pushLocked()
			if f.srv.flusher != nil {
				f.stats.Pushes++
			}
		}
		f.done = ask.seq
	}
	f.wakeLocked()
}

// handFrontLocked hands one piece of floor 2 to the server and, if it is the
// last before goal, flushes in the same call. It reports whether it did.
func (f *Flusher) handFrontLocked(goal int64, push bool) (flushed bool) {
	p := f.q.front(int(min(goal-f.sent, blockSize)))
	push = push && f.sent+int64(len(p)) == goal
	var n int
	var err, perr error
	f.callLocked(func() {
		n, err = f.srv.w.Write(p)
		n, err = wrote(n, len(p), err)
		if push && err == nil {
			perr = f.srv.flusher.FlushError()
		}
	})
	err = f.handedLocked(n, err, push, perr)
	f.measurePendingLocked()
	f.q.pop(n)
	f.chargeLocked()
	if err != nil && f.fail == nil {
		// The server will not have these bytes, and goes on.
		f.refused = errors.Join(f.refused, err)
		f.q.pop(len(p) - n)
		f.sent += int64(len(p) - n)
		f.stats.Lost += int64(len(p) - n)
	}
	if f.q.len <= f.cfg.lowMark {
		f.wakeLocked()
	}
	return push && err == nil
}

// handLocked is one Write of the server.
func handLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	f.callLocked(func() {
		n, err = put(f.srv.w, p)
		n, err = wrote(n, len(p), err)
	})
	return n, f.handedLocked(n, err, false, nil)
}

// wrote makes sense of what a Write of size bytes returned.
func wrote(n, size int, err error) (int, error) {
	if err == nil && n < size {
		err = io.ErrShortWrite
	}
	return min(max(n, 0), size), err
}

// handedLocked notes that n bytes were handed over, and flushed with push, and
// takes the verdict.
func (f *Flusher) handedLocked(n int, err error, push bool, perr error) error {
	f.sent += int64(n)
	f.stats.Bytes += int64(n)
	f.noteDrainLocked(push)
	if err == nil && push {
		f.stats.Pushes++
		f.lastPush = f.verdictLocked(perr)
		return nil
	}
	return f.verdictLocked(err)
}

func put[T []byte | string](w io.Writer, p T) (int, error) {
	switch p := any(p).(type) {
	case []byte:
		return w.Write(p)
	case string:
		return io.WriteString(w, p)
	}
	panic("unreachable")
}

// pushLocked flushes the server. Stats count it where a flush was asked for.
func (f *Flusher) pushLocked() {
	if f.fail != nil {
		return
	}
	if f.srv.flusher == nil {
		f.lastPush = errCannotFlush
		return
	}
	var err error
	f.callLocked(func() { err = f.srv.flusher.FlushError() })
	f.noteDrainLocked(true)
	f.lastPush = f.verdictLocked(err)
}

// soloLocked reports whether only a carrier may call the server, since a
// caller's wait could not be ended: the server has no deadlines.
func (f *Flusher) soloLocked() bool { return f.srv.deadline == nil && f.timeout.d > 0 }

// backgroundLocked reports whether what moves by itself moves in the
// background.
func (f *Flusher) backgroundLocked() bool {
	return (f.async || f.asyncCalls.Load() > 0) && !f.bodyFirstLocked()
}

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
	if f.quick.Load() {
		f.asks.Add(1)
		if f.quick.Load() {
			return nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.kickLocked()
		return f.refuse
	}
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
	defer f.mu.Unlock()
	if f.plainLocked() && (ctx == nil || ctx.Done() == nil) {
		return f.flushPlainLocked()
	}
	ferr := f.followFlushLocked(f.endsLocked(ctx))
	return joinErrors(f.flushWaitLocked(ctx), ferr)
}

// plainLocked reports whether a flush has nothing else to look at than the
// bytes it is for: the case of most, once the headers are out.
func (f *Flusher) plainLocked() bool {
	return !f.held && f.q.head != nil && f.q.head == f.q.tail && f.headersSent && f.refuse == nil && !f.head &&
		f.asked.seq == f.done && f.asks.Load() == f.absorbed && !f.stack.active() && f.srv.flusher != nil && !f.soloLocked()
}

// flushPlainLocked is flushWaitLocked for that case.
func (f *Flusher) flushPlainLocked() error {
	f.held = true
	defer func() {
		f.releaseLocked()
		f.grantLocked()
	}()
	f.stats.Flushes++
	f.asked = mark{f.asked.seq + 1, f.accepted}
	ask := f.asked
	f.lastPush = nil
	flushed := f.handFrontLocked(ask.pos, true)
	if f.fail != nil {
		return f.fail
	}
	if !flushed {
		f.pushLocked()
		f.stats.Pushes++
	}
	if f.fail != nil {
		return f.fail
	}
	f.done = ask.seq
	return f.lastPush
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
			f.waits = slices.DeleteFunc(f.waits, func(m mark) bool { return m == mine })
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
			f.waits = append(f.waits, mine)
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
	end := f.sent + int64(f.q.len)
	for _, m := range f.waits {
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
	if c, ok := ctx.(*requestContext); ok && (*Flusher)(c) == f {
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
