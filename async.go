package flush

import (
	"errors"
	"io"
	"sync"
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
//     and Hijack, and it does so with mu dropped and calling set. (Not so for
//     net/http's own WriteHeader on HTTP/1, which only takes notes.)
//  2. sent + q.len + what a caller is passing through = accepted.
//  3. Work that is due has a holder, unless the request body comes first (see
//     bodyFirstLocked): then the next caller does it.
//  4. q.len never exceeds MaxPending.
//  5. Every change that a waiter could wait for is followed by wakeLocked
//     before mu is dropped; a waiter looks again at everything it waits for.
//
// Because of 3 a caller who lets the baton go with work due passes it straight
// to a new carrier. There is no moment in which a request can be forgotten.
type baton struct {
	q     queue
	held  bool // the baton is not free
	async bool // what moves by itself moves in the background
	pen   bool // a Write is in progress and may drop mu

	unblocking int16 // calls that unblock the server, under way
	accepted   int64 // bytes accepted on floor 2 since the start
	sent       int64 // bytes handed to the server, or dropped on its word
	moveTo     int64
	asked      mark  // the last flush asked for
	done       int64 // the number of the last flush done

	// The short way of FlushAsync, without mu: while quick is set a carrier is
	// at work or about to be, and before it goes it clears quick and then
	// looks at asks.
	// Who adds to asks and finds quick still set has been seen. Every Write
	// looks at asks before it enters, so the position is exact.
	asks     atomic.Int64
	absorbed int64 // asks that asked knows of
	quick    atomic.Bool
	waiters  int32  // goroutines in waitLocked
	carry    func() // f.carrier, made once: starting it allocates nothing

	cond    *sync.Cond // on mu; made by the first to wait, in waitLocked
	waiting *waiting   // nil: nobody has waited in turn
}

// waiting is who waits in turn.
type waiting struct {
	line    []uint64 // Writes that wait for the pen, first come first served
	tickets uint64
	flushes []mark // flushes that somebody waits for, in the order asked
}

// waitingLocked returns who waits in turn, to join them.
func (f *Flusher) waitingLocked() *waiting {
	if f.waiting == nil {
		f.waiting = new(waiting)
	}
	return f.waiting
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
	if f.cond == nil {
		f.cond = sync.NewCond(&f.mu)
	}
	f.waiters++
	f.cond.Wait()
	f.waiters--
}

// waitBoundLocked is waitLocked for waits that must end on a server without
// deadlines: once the send timeout has run out there, it returns ErrTimeout,
// which does not stick. stalls is the count when the wait began.
func (f *Flusher) waitBoundLocked(stalls int16) error {
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

// startCarrierLocked hands the baton, which the caller has, to a carrier. It
// may drop mu before.
func (f *Flusher) startCarrierLocked() {
	f.readyCarrierLocked()
	go f.carry()
}

// readyCarrierLocked does what must come before a carrier. The handler may
// change a shared header map as soon as we have returned to it.
func (f *Flusher) readyCarrierLocked() {
	if f.shared && !f.headersSent {
		f.absorbLocked()
		f.leadLocked(f.q.len > 0, f.asked.seq > f.done)
	}
	if f.carry == nil {
		f.carry = f.carrier
	}
	f.q.credit = 0
	f.quickenLocked() // until it runs, a busy machine may take long
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
	growStack(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	returned := false
	defer func() {
		f.quick.Store(false)
		if !returned {
			r := f.rareLocked()
			if r.panicked = recover(); r.panicked == nil {
				r.panicked = errGoexit
			}
		}
		f.freeLocked()
	}()
	for {
		for f.dueLocked() {
			f.roundLocked()
		}
		f.quick.Store(false)
		if !f.dueLocked() {
			break
		}
		f.quickenLocked()
	}
	returned = true
}

// stackSize is what the server's Write and Flush need of a stack, once the
// headers are out.
const stackSize = 2 << 10

// growStack makes the stack of a new goroutine as large as the server's calls
// need. Left to those, it grows step by step, and each step has to look at every
// frame of a deep stack: more than a third of what a carrier takes for an event.
//
//go:noinline
func growStack(use bool) {
	if use {
		var frame [stackSize]byte
		touch(&frame)
	}
}

//go:noinline
func touch(*[stackSize]byte) {}

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
	f.leadLocked(goal > f.sent, push)
	if f.bodilessLocked() {
		// The server would drop the body, or choke on it (HTTP/2).
		f.dropLocked()
		f.sent = f.accepted
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

// leadLocked hands over the headers if bytes follow, or a flush.
func (f *Flusher) leadLocked(bytes, push bool) {
	switch {
	case bytes && !f.bodilessLocked():
		f.sendHeadersLocked(push)
	case bytes || push:
		f.sendBareHeadersLocked(push)
	}
}

// bodilessLocked reports whether headers go out without the body.
func (f *Flusher) bodilessLocked() bool { return f.head && f.cfg.SAPI.Headers != OutputOnly }

// handFrontLocked hands one piece of floor 2 to the server and, if it is the
// last before goal, flushes in the same call. It reports whether it did.
func (f *Flusher) handFrontLocked(goal int64, push bool) (flushed bool) {
	p := f.q.front(int(min(goal-f.sent, blockSize)))
	push = push && f.sent+int64(len(p)) == goal
	var n int
	var err, perr error
	f.callLocked(func() {
		if push {
			n, err, perr = f.srv.writeAndFlush(p)
		} else {
			n, err = f.srv.write(p)
		}
	})
	return f.handedFrontLocked(p, n, err, push, perr)
}

// handedFrontLocked notes that of p, the front of floor 2, n bytes were handed
// over, and flushed with push. It reports whether the flush was done.
func (f *Flusher) handedFrontLocked(p []byte, n int, err error, push bool, perr error) (flushed bool) {
	err = f.handedLocked(n, err, push, perr)
	f.measurePendingLocked()
	f.q.pop(n)
	f.chargeLocked()
	if err != nil && f.fail == nil {
		// The server will not have these bytes, and goes on.
		f.rareLocked().refused = errors.Join(f.rare.refused, err)
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

// handedLocked notes that n bytes were handed over, and flushed with push, and
// takes the verdict.
func (f *Flusher) handedLocked(n int, err error, push bool, perr error) error {
	f.sent += int64(n)
	f.stats.Bytes += int64(n)
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
