package flush

import (
	"fmt"
	"time"
)

// epoch is what the clock readings below count from. They are durations, half
// the size of a time.Time and cheaper to take.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

// aLongTimeAgo is a deadline that unblocks a write at once.
var aLongTimeAgo = time.Unix(1, 0)

// A sendTimeout ends a stretch without progress. It is nginx's send_timeout:
// not a bound on the response, but the longest time between two steps.
//
// While the server is being called it watches; between calls it does not, so
// an idle stream lives for ever. There is no deadline on the connection until
// one has expired: setting and clearing one around each flush costs as much as
// the flush, and one that is left behind kills an idle HTTP/2 stream, or the
// last chunk of a response. One timer a response is started by the first call
// and lets itself run out when it finds the response idle.
//
// All of it is guarded by Flusher.mu.
type sendTimeout struct {
	d       time.Duration // 0: none
	since   time.Duration // when the present call began or last showed progress, as now says
	timer   *time.Timer   // made by the first call
	running bool          // the timer will fire
	calling bool          // a call of the server is under way
	expired bool          // a call was ended by us
	closing bool          // the response is ending: see beginSendLocked
	quiet   bool          // and what is left stays with the server until we have returned
	stalls  int16         // times the timer ran out on a server without deadlines
	armed   time.Duration // when the connection's deadline was set while closing; 0: not

	progress *progress // nil: only what the server takes is progress
}

// beginSendLocked notes that a call of the server begins.
//
// While the response ends, the deadline is set on the connection instead: the
// server writes closing bytes after we have returned, and nobody but the
// connection can bound those.
func (f *Flusher) beginSendLocked() {
	t := &f.timeout
	t.calling = true
	closing := t.closing && t.progress == nil
	budget := f.cfg.Budget != nil && !t.quiet
	if budget || t.d > 0 && !closing {
		f.progressedLocked()
	}
	if closing && !t.quiet {
		f.setClosingDeadlineLocked(false)
	}
	if t.running || !budget && (closing || t.d <= 0) {
		return
	}
	t.running = true
	first := t.d
	if t.progress != nil {
		first = pollEvery(t.d)
	}
	if budget && (first <= 0 || first > lookEvery) {
		first = lookEvery
	}
	if t.timer == nil {
		t.timer = time.AfterFunc(first, f.sendTimeoutFired)
	} else {
		t.timer.Reset(first)
	}
}

// endSendLocked notes that the call has returned. The time is not noted: a
// reading of the clock costs as much as all that is done under the lock, and
// between two calls nothing is watched.
func (f *Flusher) endSendLocked() {
	f.timeout.calling = false
	f.movedLocked()
}

// progressedLocked notes that the call under way has just begun, or got on.
func (f *Flusher) progressedLocked() {
	f.timeout.since = now()
	f.movedLocked()
}

// sendTimeoutFired runs on the timer's goroutine. Close and Abort wait for it:
// it must not touch a connection that serves another request already.
func (f *Flusher) sendTimeoutFired() {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &f.timeout
	t.running = false
	if !t.calling || f.ended {
		return
	}
	look := f.lookLocked()
	if t.d <= 0 || t.closing && t.progress == nil {
		if look > 0 {
			t.running = true
			t.timer.Reset(look)
		}
		return
	}
	blocked := now() - t.since
	if t.progress != nil && !t.progress.watched && blocked < t.d {
		every := pollEvery(t.d)
		if left := every - blocked; left > 0 {
			if look > 0 {
				left = min(left, look)
			}
			t.running = true
			t.timer.Reset(left)
			return
		}
		t.progress.watcher.addLocked(f)
	}
	d := t.d
	if f.member != nil && f.member.stalled {
		d = f.cfg.Budget.shrink(d)
	}
	if left := d - blocked; left > 0 {
		if look > 0 {
			left = min(left, look)
		} else if f.cfg.Budget != nil {
			left = min(left, max(t.d/16, lookEvery)) // d may shrink meanwhile
		}
		t.running = true
		t.timer.Reset(left)
		return
	}
	if f.srv.deadline != nil {
		// The call may take long to return (crypto/tls), or wait for the
		// connection (HTTP/2 behind a closed TCP window): others need not.
		t.expired = true
		f.failLocked(fmt.Errorf("%w: no progress for %v", ErrTimeout, t.d))
		f.unblockLocked()
		return
	}
	t.stalls++
	f.wakeLocked()
	t.since = now()
	t.running = true
	t.timer.Reset(t.d)
}

// unblockLocked makes the call of the server that is under way return, if the
// server can: HTTP/1 at once, HTTP/2 by resetting the stream. The lock is
// dropped meanwhile; the end of the response waits until it is back.
func (f *Flusher) unblockLocked() {
	if f.srv.deadline == nil {
		return
	}
	f.unblocking++
	f.mu.Unlock()
	f.srv.deadline.SetWriteDeadline(aLongTimeAgo)
	f.mu.Lock()
	f.unblocking--
	f.wakeLocked()
}

// setClosingDeadlineLocked gives the bytes that end the response d to leave.
// A deadline of the handler's holds if it is earlier; one that passed while
// nothing was outstanding must not cost the server's last chunk, so last
// replaces it.
func (f *Flusher) setClosingDeadlineLocked(last bool) {
	if f.srv.deadline == nil || f.timeout.d <= 0 {
		return
	}
	at := time.Now()
	began := at.Sub(epoch)
	if f.timeout.armed > 0 && began-f.timeout.armed < f.timeout.d>>10 {
		return // the one just set will do: setting it costs as much as a small response
	}
	t := at.Add(f.timeout.d)
	if h := f.rarely().handlerDeadline; !h.IsZero() && h.Before(t) && !(last && h.Before(at)) {
		return
	}
	f.timeout.armed = began
	f.srv.deadline.SetWriteDeadline(t)
}

// stopTimersLocked ends both timers for good. A callback that is already
// running finds the response ended and does nothing.
func (f *Flusher) stopTimersLocked() {
	if f.timeout.timer != nil {
		f.timeout.timer.Stop()
	}
	if f.interval != nil && f.interval.timer != nil {
		f.interval.timer.Stop()
	}
}
