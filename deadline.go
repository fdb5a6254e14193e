package flush

import (
	"fmt"
	"net/http"
	"time"
)

// aLongTimeAgo is a deadline that unblocks a write at once.
var aLongTimeAgo = time.Unix(1, 0)

// A writeDeadline is the one owner of the connection's write deadline: nothing
// else sets it. Its states:
//
//	the handler's  what SetWriteDeadline has set, or the server's WriteTimeout
//	closing        ours: what ends the response has SendTimeout to leave
//	unblocked      in the past, so that a call under way returns. It is final:
//	               the kernel's poller forgets a deadline in the past if another
//	               is set before the writer has run
//
// Guarded by Flusher.mu. Its value is one of these, or else when the closing one was
// set last, as now says.
type writeDeadline time.Duration

const (
	deadlineUnblocked writeDeadline = iota - 1
	deadlineHandlers
	deadlineOld // the closing one, set long ago
)

func (d writeDeadline) closing() bool { return d >= deadlineOld }

// age has a closing deadline be set anew.
func (d *writeDeadline) age() { *d = min(*d, deadlineOld) }

// SetReadDeadline sets the server's deadline for reading the request, as
// [http.ResponseController.SetReadDeadline].
func (f *Flusher) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := find[readDeadliner](f.srv.w)
	if err := f.goneLocked(); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("flush: response writer has no read deadlines: %w", http.ErrNotSupported)
	}
	if f.body != nil && f.body.cutShort {
		return nil
	}
	f.rareLocked().readDeadline = t
	if f.hijacking {
		f.afterHijackLocked(func() { d.SetReadDeadline(t) })
		return nil
	}
	return d.SetReadDeadline(t)
}

// SetWriteDeadline sets the server's own deadline, as
// [http.ResponseController.SetWriteDeadline]. It holds beside SendTimeout,
// whichever is earlier. The zero time lifts it and the server's WriteTimeout;
// SendTimeout, 60 s if it was left at zero, holds from then on.
func (f *Flusher) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.goneLocked(); err != nil {
		return err
	}
	if !f.srv.deadlines {
		return fmt.Errorf("flush: response writer has no deadlines: %w", http.ErrNotSupported)
	}
	if f.deadline == deadlineHandlers {
		if f.hijacking {
			f.afterHijackLocked(func() { f.srv.w.SetWriteDeadline(t) })
		} else if err := f.srv.w.SetWriteDeadline(t); err != nil {
			return err
		}
	}
	f.rareLocked().handlerDeadline = t
	f.rare.serverDeadline = time.Time{}
	f.wakeLocked() // a Write that waits for the budget looks at it
	if t.IsZero() && f.cfg.SendTimeout == 0 && f.timeout.d == 0 {
		f.timeout.d = defaultSendTimeout
		f.rewatchLocked()
	}
	return nil
}

// afterHijackLocked has do wait for the end of the Hijack that is under way: who gets
// the connection gets it without what was meant for the response. If nobody does, it is
// done then.
func (f *Flusher) afterHijackLocked(do func()) {
	r := f.rareLocked()
	r.besideHijack = append(r.besideHijack, do)
}

// deadlinePassedLocked reports whether the handler's deadline, or else the
// server's WriteTimeout, is over.
func (f *Flusher) deadlinePassedLocked() bool {
	deadline := f.rarely().handlerDeadline
	if deadline.IsZero() {
		deadline = f.rarely().serverDeadline
	}
	return !deadline.IsZero() && !time.Now().Before(deadline)
}

// closingPassedLocked reports whether the closing deadline has passed in the call that
// has just returned.
func (f *Flusher) closingPassedLocked() bool {
	at := f.timeout.since
	if f.deadline > deadlineOld {
		at = time.Duration(f.deadline) // it was set for a call before
	}
	return f.deadline.closing() && now()-at >= f.timeout.d
}

// liftClosingDeadlineLocked gives the deadline back to the handler.
func (f *Flusher) liftClosingDeadlineLocked() {
	if f.deadline.closing() {
		f.deadline = deadlineHandlers
		f.srv.w.SetWriteDeadline(f.rarely().handlerDeadline)
	}
}

// renewHandlersDeadlineLocked sets the handler's deadline, if there is one, on a floor
// 1 that is new.
func (f *Flusher) renewHandlersDeadlineLocked() {
	if t := f.rarely().handlerDeadline; !t.IsZero() {
		f.srv.w.SetWriteDeadline(t)
	}
}

// liftServerDeadline takes away the deadline that the server's WriteTimeout has
// set, before anything else is known of the response.
func (f *Flusher) liftServerDeadline() {
	if f.srv.deadlines {
		f.srv.w.SetWriteDeadline(time.Time{})
	}
}

// unblockLocked makes the call of the server that is under way return, if the
// server can: HTTP/1 at once, HTTP/2 by resetting the stream. The lock is
// dropped meanwhile; the end of the response waits until it is back.
func (f *Flusher) unblockLocked() {
	if !f.srv.deadlines || f.hijacking && !f.srv.onFlusher {
		return
	}
	f.deadline = deadlineUnblocked
	f.callAsideLocked(func() { f.srv.w.SetWriteDeadline(aLongTimeAgo) })
}

// setClosingDeadlineLocked gives the bytes that end the response SendTimeout to
// leave. A deadline of the handler's holds if it is earlier; one that passed
// while nothing was outstanding must not cost the server's last chunk, so last
// replaces it.
func (f *Flusher) setClosingDeadlineLocked(last bool) {
	if !f.srv.deadlines || f.srv.onFlusher || f.timeout.d <= 0 || f.deadline == deadlineUnblocked {
		return
	}
	at := time.Now()
	began := at.Sub(epoch)
	late := last && f.drainsLateLocked()
	if !late && f.deadline > deadlineOld && began-time.Duration(f.deadline) < f.timeout.d>>10 {
		return // the one just set will do: setting it costs as much as a small response
	}
	t := at.Add(f.timeout.d)
	if late {
		f.boundLateDrainLocked(t)
		t = t.Add(f.timeout.d)
	}
	if h := f.rarely().handlerDeadline; !h.IsZero() && h.Before(t) && !(last && h.Before(at)) {
		return
	}
	f.timeout.since = began
	f.deadline = max(writeDeadline(began), deadlineOld)
	f.srv.w.SetWriteDeadline(t)
}

// liftWriteTimeoutLocked has SendTimeout hold from now on, and no deadline of the
// server's own.
func (f *Flusher) liftWriteTimeoutLocked() {
	f.rare.serverDeadline = time.Time{}
	if f.detached == kept && f.rare.handlerDeadline.IsZero() && f.srv.deadlines && f.deadline == deadlineHandlers {
		f.srv.w.SetWriteDeadline(time.Time{})
	}
	if f.cfg.SendTimeout == 0 && f.timeout.d == 0 {
		f.timeout.d = defaultSendTimeout
	}
}
