package flush

import (
	"context"
	"time"
)

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

// A flushInterval asks for a flush of what has waited d for one. Its one timer
// runs only while something waits. Guarded by Flusher.mu.
type flushInterval struct {
	d       time.Duration
	since   time.Duration // when the oldest byte not asked for came
	upTo    int64         // the bytes before this position have been asked for, or are what since counts for
	timer   *time.Timer
	headers bool // headers count for since
	running bool
}

// watchIntervalLocked notes that bytes were accepted, or headers fixed, if there is
// an interval.
func (f *Flusher) watchIntervalLocked() {
	i := f.rarely().interval
	if i == nil || !f.lyingLocked() || i.upTo > f.asked.pos || i.headers && f.accepted == 0 {
		return // a flush is on its way, or something older counts already
	}
	if !i.headers || f.headersSent {
		i.since = now()
	}
	i.headers, i.upTo = !f.headersSent, f.accepted
	if i.running {
		return
	}
	i.running = true
	if i.timer == nil {
		i.timer = time.AfterFunc(i.d, f.intervalFired)
	} else {
		i.timer.Reset(i.d)
	}
}

// lyingLocked reports whether something waits for a flush that nobody has asked
// for: bytes, or headers.
func (f *Flusher) lyingLocked() bool {
	return f.accepted > f.asked.pos || f.fixed && !f.headersSent && f.asked.seq <= f.done
}

func (f *Flusher) intervalFired() {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.rarely().interval
	i.running = false
	if f.refuse != nil || !f.lyingLocked() {
		return
	}
	if left := i.since + i.d - now(); left > 0 {
		i.running = true
		i.timer.Reset(left)
		return
	}
	if _, err := f.askFlushLocked(); err != nil {
		i.upTo, i.headers = 0, false // HTTP/1.0 holds it: count anew with the next write
		return
	}
	f.kickLocked()
}
