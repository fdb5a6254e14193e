package flush

import (
	"fmt"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

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
// Since when the call under way makes no progress is known in two ways:
//
//	slow   each call reads the clock as it begins
//	brisk  calls come so close that this would be a good part of what the
//	       library costs. They are only counted, and the timer ticks. A call
//	       that had not begun at the last tick began no longer ago than that: its
//	       stretch counts from the tick that finds it, and ends at most a tick late
//
// A response becomes brisk with the last of briskCalls calls of which each began
// soon after the one before. It is slow again from a tick that finds a call under
// way, or few counted: so many calls pay for a tick, and the timer of an idle
// response runs out. Whenever mu is free:
//
//  1. Slow, with a call under way: since is when that began, or got on, or when a
//     tick has found it.
//  2. Brisk: the timer fires within briskTick. Who needs to know when a call
//     began makes the response slow: a Budget, the end of the response, a piece
//     that is passed through.
//  3. With a call under way that has no deadline on the connection: the timer
//     runs, or the watcher looks.
//  4. Slow: the queue keeps no empty block, and all that it holds has been seen. A
//     brisk response does without the pool and the clock there, too; its tick sees
//     what it finds.
//
// All of it is guarded by Flusher.mu.
type sendTimeout struct {
	d       time.Duration // 0: none; asked by passed and begin alone
	since   time.Duration // slow: when the present call began or last showed progress, as now says
	timer   *time.Timer   // made by the first call, and by the next if it has gone since
	running bool          // the timer will fire
	calling bool          // a call of the server is under way
	expired bool          // a call was ended by us
	closing bool          // the response is ending, and its deadline is ours: see beginCallLocked, onFlusher
	quiet   bool          // and what is left stays with the server until we have returned
	bounded bool          // what the server writes after us has its time
	brisk   bool
	calls   uint8 // brisk: since the last tick; else those in a row that came soon

	progress *progress // nil: only what the server takes is progress
}

const (
	briskCalls = 16

	// leastBrisk is the least send timeout of which a sixteenth is as long as
	// what may add up: a tick, and twice until the watcher looks.
	leastBrisk = 4 * time.Second
)

// briskTick is how often the timer of a brisk response fires.
func briskTick(d time.Duration) time.Duration { return d / 32 }

// clockCallsLocked has the calls read the clock, and the queue keep nothing.
func (f *Flusher) clockCallsLocked() {
	f.timeout.brisk, f.timeout.calls = false, 0
	f.ahead.settle()
	f.q.settle()
}

// closeTimeoutLocked notes that the response is ending.
func (f *Flusher) closeTimeoutLocked(quiet bool) {
	f.timeout.closing, f.timeout.quiet = !f.srv.onFlusher, quiet
	f.clockCallsLocked()
}

// beginCallLocked notes that a call of the server begins.
func (f *Flusher) beginCallLocked() {
	f.ahead.end() // what the server keeps is not known any more
	t := &f.timeout
	if t.calling = true; t.progress != nil {
		t.progress.room.begin()
	}
	if !t.brisk || f.passing != 0 {
		f.beginSlowCallLocked()
	} else if t.calls < briskCalls {
		t.calls++
	}
}

// beginSlowCallLocked is beginCallLocked with a look at the clock.
//
// While the response ends, the deadline is set on the connection instead: the
// server writes closing bytes after we have returned, and nobody but the
// connection can bound those.
func (f *Flusher) beginSlowCallLocked() {
	t := &f.timeout
	closing := t.closing && t.progress == nil && !f.drainingLocked()
	budget := f.cfg.Budget != nil && !t.quiet
	before := t.since
	if budget || t.d > 0 && !closing {
		f.progressedLocked()
	}
	if closing && !t.quiet {
		f.setClosingDeadlineLocked(false)
	}
	f.watchCallLocked()
	if t.d < leastBrisk || budget || t.closing || f.passing != 0 || t.since-before >= briskTick(t.d)/briskCalls {
		f.clockCallsLocked()
	} else if t.calls++; t.calls == briskCalls {
		t.brisk, t.calls = true, 0
		t.timer.Reset(briskTick(t.d))
	}
}

// watchCallLocked starts the timer for the call under way, unless it runs.
func (f *Flusher) watchCallLocked() {
	t := &f.timeout
	budget, closing := f.cfg.Budget != nil && !t.quiet, t.closing && t.progress == nil && !f.drainingLocked()
	if t.running || !budget && (closing || t.d <= 0) {
		return
	}
	t.running = true
	first := t.d
	if t.progress != nil {
		first = pollEvery(t.d)
	} else if f.watchesFileLocked() {
		first = fileTick(t.d)
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

// rewatchLocked has the call under way watched from now on, if there is one: a
// send timeout holds that did not when it began.
func (f *Flusher) rewatchLocked() {
	if f.timeout.calling {
		f.progressedLocked()
		f.watchCallLocked()
	}
}

// A progress lets bytes that the client's kernel has acknowledged while a call
// of the server blocks count as progress. Guarded by Flusher.mu.
type progress struct {
	room    sureRoom
	f       *Flusher
	conn    *tcp.Known
	acked   int64 // as last looked at
	watched bool
	looked  bool // it has been watched: the client has looked stalled in this response
	direct  bool // nothing but the kernel has a call wait. Never changed
}

// newProgress is for a response whose connection is known.
func (f *Flusher) newProgress() *progress {
	p := &progress{f: f, conn: f.conn}
	// A wire takes the place of net/http's own writer alone. What stands on any
	// other may have a call wait.
	p.direct = f.conn.Plain && f.srv.ownHeader
	return p
}

// pollEvery is how often a response with send timeout d is looked at, and how
// long a write blocks before anybody looks.
func pollEvery(d time.Duration) time.Duration {
	return min(max(d/16, tcp.FirstPoll), tcp.LastPoll)
}

// watchLocked has the response looked at until its call of the server has
// returned.
func (p *progress) watchLocked() {
	acked, err := p.conn.Acked()
	if err != nil {
		return // the write will say so itself
	}
	p.acked = acked
	p.f.progressedLocked() // there may have been some that nobody saw
	p.watched, p.looked = true, true
	p.conn.Watcher.Add(p, pollEvery(p.f.timeout.d))
}

// Look is what the watcher does.
func (p *progress) Look() {
	f := p.f
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &f.timeout
	if t.calling && !f.gone {
		if n, err := p.conn.Acked(); err == nil {
			if n != p.acked {
				p.acked = n
				f.progressedLocked()
			}
			return
		}
	}
	p.watched = false
	if t.running {
		t.timer.Reset(pollEvery(t.d)) // to see the next block in time
	}
	p.conn.Watcher.Remove(p)
}

// passed reports whether a stretch of length d without progress is too long.
func (t *sendTimeout) passed(d time.Duration) bool { return t.d > 0 && d >= t.d }

// tookLongLocked reports whether a call of length d was slow: a client as slow
// as that in all of a larger one would come near the send timeout.
func (f *Flusher) tookLongLocked(d time.Duration) bool { return f.timeout.passed(64 * d) }

// endCallLocked notes that the call has returned. The time is not noted: a
// reading of the clock costs as much as all that is done under the lock, and
// between two calls nothing is watched.
func (f *Flusher) endCallLocked() {
	f.timeout.calling = false
	f.admitBodyLocked()
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
	if t.brisk && f.tickLocked() {
		return
	}
	if !t.calling || f.gone {
		if f.detached == released || f.timerRestsLocked() {
			t.timer = nil
		}
		return
	}
	if f.watchesFileLocked() {
		if f.lookAtFileLocked(); !t.calling || f.gone {
			return
		}
	}
	look := f.lookLocked()
	if t.d <= 0 || t.closing && t.progress == nil && !f.drainingLocked() {
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
		t.progress.watchLocked()
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
		if f.watchesFileLocked() {
			left = min(left, fileTick(t.d))
		}
		t.running = true
		t.timer.Reset(left)
		return
	}
	if f.drainingLocked() {
		if t.since = now(); t.closing {
			f.deadline.age()
			f.setClosingDeadlineLocked(false)
		}
		f.cutDrainLocked()
		if t.calling {
			f.watchCallLocked()
		}
		return
	}
	if f.srv.deadlines {
		// The call may take long to return (crypto/tls), or wait for the
		// connection (HTTP/2 behind a closed TCP window): others need not.
		t.expired = true
		f.failLocked(fmt.Errorf("%w: no progress for %v", ErrTimeout, t.d))
		f.unblockLocked()
		return
	}
	f.stalledLocked()
	t.since = now()
	t.running = true
	t.timer.Reset(t.d)
}

// tickLocked is what the timer of a brisk response does. It reports whether that
// stays brisk.
func (f *Flusher) tickLocked() bool {
	t := &f.timeout
	calls := t.calls
	if t.calls = 0; !t.calling && !f.gone && calls >= briskCalls/2 {
		t.running = true
		t.timer.Reset(briskTick(t.d))
		f.ahead.see()
		f.q.see()
		return true
	}
	f.clockCallsLocked()
	if t.calling && calls > 0 {
		f.progressedLocked()
	}
	return false
}

// timerRestsLocked reports whether the timer of a response that idles fires so seldom
// that the next call can make another: it is a good part of what an idle one costs.
func (f *Flusher) timerRestsLocked() bool {
	return f.timeout.d >= leastBrisk && f.timeout.progress == nil && f.cfg.Budget == nil
}

// dropTimerLocked gives back the send timeout's timer, which the next call makes
// anew, unless a call is under way: one that idles is a good part of what a
// detached response costs.
func (f *Flusher) dropTimerLocked() {
	if t := &f.timeout; !t.calling && t.timer != nil && t.timer.Stop() {
		t.timer, t.running = nil, false
		f.clockCallsLocked()
	}
}

// stopTimersLocked ends both timers for good. A callback that is already
// running finds the response ended and does nothing.
func (f *Flusher) stopTimersLocked() {
	if f.timeout.timer != nil {
		f.timeout.timer.Stop()
	}
	if i := f.rarely().interval; i != nil && i.timer != nil {
		i.timer.Stop()
	}
}
