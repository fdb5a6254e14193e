package flush

import "context"

// CloseNotify is there for code that still asks for http.CloseNotifier. Where
// the server has none, or has let go of the connection (see [Flusher.Detach]), it
// follows the request's context. After the end of the response it reports the
// client as gone.
func (f *Flusher) CloseNotify() <-chan bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone := make(chan bool, 1)
	if f.ended {
		gone <- true
		return gone
	}
	type closeNotifier interface{ CloseNotify() <-chan bool }
	if cn, ok := find[closeNotifier](f.srv.w); ok {
		if f.context == nil || !f.srv.ownHeader || f.hijacked {
			return cn.CloseNotify()
		}
		return f.leavingLocked(cn.CloseNotify()).told
	}
	if ctx := f.ownContextLocked(); ctx != nil {
		context.AfterFunc(ctx, func() { gone <- true })
	}
	return gone
}

// A leaving tells who has asked with CloseNotify that the client has left, where
// the server's own channel may be left behind by Detach. Until then it passes on
// what that says: it comes right after the end of the server's context, so nobody
// waits for it before.
type leaving struct {
	told   chan bool
	stop   func() bool   // has the end of the server's context not be looked at; it is not started twice
	behind chan struct{} // closed once the server's channel is
}

// leavingLocked returns the response's, made for the server's channel if there is
// none.
func (f *Flusher) leavingLocked(server <-chan bool) *leaving {
	r := f.rareLocked()
	if r.leaving == nil {
		l := &leaving{told: make(chan bool, 1), behind: make(chan struct{})}
		l.stop = context.AfterFunc(f.context.server, func() {
			select {
			case <-server:
				l.tell()
			case <-l.behind:
			}
		})
		r.leaving = l
	}
	return r.leaving
}

func (l *leaving) tell() {
	select {
	case l.told <- true:
	default: // it knows
	}
}

// leaveServerLocked ends what needs the server for CloseNotify, as the handler has
// returned, or the connection has been taken over. A response that lives on goes by
// its own context.
func (f *Flusher) leaveServerLocked() {
	l := f.rarely().leaving
	if l == nil {
		return
	}
	f.rare.leaving = nil
	l.stop()
	close(l.behind)
	if !f.ended {
		context.AfterFunc(f.context, l.tell)
	}
}
