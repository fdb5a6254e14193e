package flush

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// waiting is who waits, and who does so in turn.
type waiting struct {
	cond    sync.Cond // on the pipe's mu
	line    []uint64  // Writes that wait for the pen, first come first served
	tickets uint64
	flushes []flushWait   // flushes that somebody waits for, in the order asked
	waited  time.Duration // that Writes have waited
}

// A flushWait is a flush that somebody waits for, and what became of it.
type flushWait struct {
	mark
	settled bool
	err     error // of floor 1, and does not stick
}

// settleFlushesLocked notes that flushes have been done, with err.
func (p *pipe) settleFlushesLocked(err error) {
	if p.seldom == nil {
		return
	}
	for i := range p.seldom.flushes {
		if w := &p.seldom.flushes[i]; !w.settled && w.seq <= p.done {
			w.settled, w.err = true, err
		}
	}
}

// waitingLocked returns who waits, to join them.
func (p *pipe) waitingLocked() *waiting { return &p.seldomLocked().waiting }

// awaitLocked waits until ready. Before it waits, each time that it has waited,
// and once ready, it asks haltedLocked whether the operation may go on, and
// ends with the reason if not. It ends too when ctx does, and with an
// ErrTimeout that does not stick when a floor 1 that cannot be interrupted has
// stalled. ready is called with mu held and may drop it, if it looks once more
// before it says no. While the pipe is parked it is not asked.
func (p *pipe) awaitLocked(begun bool, ctx context.Context, ready func() bool) error {
	for stalls := p.stalls; ; {
		yes := !p.parked && ready()
		if err := p.haltedLocked(begun); yes || err != nil {
			return err
		}
		if p.stalls != stalls {
			return ErrTimeout
		}
		if ctx != nil && ctx.Err() != nil {
			return contextError(ctx)
		}
		p.waitLocked()
	}
}

// waitLocked gives mu up until somebody calls wakeLocked.
func (p *pipe) waitLocked() {
	q := p.waitingLocked()
	p.waiters++
	q.cond.Wait()
	p.waiters--
}

// wakeLocked wakes every waiter; each decides for itself.
func (p *pipe) wakeLocked() {
	if p.waiters > 0 {
		p.seldom.cond.Broadcast()
	}
}

// wake is wakeLocked for who does not hold mu.
func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked()
}

// stalledLocked ends every wait on a floor 1 that cannot be interrupted.
func (p *pipe) stalledLocked() {
	p.stalls++
	p.wakeLocked()
}

// noteWaitedLocked counts the time since began as time that a Write waited.
func (p *pipe) noteWaitedLocked(began time.Duration) {
	p.waitingLocked().waited += now() - began
}

// awaitFlushLocked waits until the flush asked for as ask has been done, and
// returns what floor 1 said of it. ctx ends the wait; nil: only the flush, or
// what ends every wait, does.
func (p *pipe) awaitFlushLocked(ask mark, ctx context.Context) (err error) {
	if ctx != nil {
		defer context.AfterFunc(ctx, p.wake)()
	}
	waits, done := false, false
	defer func() {
		if !waits {
			return
		}
		i := slices.IndexFunc(p.seldom.flushes, func(w flushWait) bool { return w.mark == ask })
		if w := p.seldom.flushes[i]; done && err == nil {
			err = w.err
		}
		p.seldom.flushes = slices.Delete(p.seldom.flushes, i, i+1)
	}()
	err = p.awaitLocked(true, ctx, func() bool {
		for p.done < ask.seq && p.fail == nil && !p.gone && !p.held {
			if ctx != nil && ctx.Err() != nil || !p.down.callerOnlyLocked() && (ctx != nil || p.down.carrierOnly()) {
				p.kickLocked()
				break
			}
			p.workLocked()
		}
		if done = p.done >= ask.seq; done {
			return true
		}
		if !waits {
			waits = true
			q := p.waitingLocked()
			q.flushes = append(q.flushes, flushWait{mark: ask})
		}
		return false
	})
	switch {
	case !done:
		return err
	case waits:
		return nil // and what was noted for it
	}
	return p.down.lastPushLocked()
}

// firstWaitLocked returns the first flush that somebody waits for. A round does
// not go far beyond it: he waits for his own bytes, not for all that was asked
// for since.
func (p *pipe) firstWaitLocked() (mark, bool) {
	if p.seldom == nil {
		return mark{}, false
	}
	end := p.sent + int64(p.q.len)
	for _, w := range p.seldom.flushes {
		if w.seq > p.done && w.pos <= end {
			return w.mark, true
		}
	}
	return mark{}, false
}

// awaitWritesLocked waits until the Writes that have begun have ended, or
// cannot go on.
func (p *pipe) awaitWritesLocked() {
	for p.penTakenLocked() && p.haltedLocked(true) == nil {
		p.waitLocked()
	}
}

func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return fmt.Errorf("flush: wait ended: %w", err)
	}
	return fmt.Errorf("flush: wait ended: %w: %w", err, cause)
}
