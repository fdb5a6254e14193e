package flush

import (
	"context"
	"sync"
	"time"
)

type contextKey struct{}

// A requestContext is the context of the handler's request: the Flusher itself
// in another role. It has the values and the deadline of the server's context,
// but ends on its own: the server's ends when a write fails, before that write
// has returned to us, and would say "canceled" for what is a timeout.
//
// It takes Flusher.mu nowhere but in askServer, as a context that is derived
// from it may be looked at under mu.
type requestContext Flusher

// newContext derives the handler's context from the server's.
func (f *Flusher) newContext(server context.Context) context.Context {
	f.server = server
	return (*requestContext)(f)
}

// Done is where most handlers meet their context, if at all: only from then on
// the server's is watched.
func (c *requestContext) Done() <-chan struct{} {
	f := (*Flusher)(c)
	l := f.lifeOf()
	l.watch(f)
	return l.Done()
}

func (c *requestContext) Value(key any) any {
	f := (*Flusher)(c)
	switch key {
	case contextKey{}:
		return f
	case lifeKey:
		f.askServer()
		return f.lifeOf().Value(key)
	}
	return c.server.Value(key)
}

func (c *requestContext) Deadline() (time.Time, bool) { return c.server.Deadline() }

// Err says DeadlineExceeded when it was the server's deadline that ended it.
func (c *requestContext) Err() error {
	f := (*Flusher)(c)
	f.askServer()
	l := f.life.Load()
	if l == nil {
		return nil
	}
	err := l.Err()
	if err != nil && c.server.Err() == context.DeadlineExceeded && context.Cause(l) == context.Cause(c.server) {
		return context.DeadlineExceeded
	}
	return err
}

// A life is what ends when the handler's context ends. Most handlers never ask
// for it, so it is made by the first who does, or by a failure.
type life struct {
	context.Context // has no values
	cancel          context.CancelCauseFunc

	mu      sync.Mutex
	watched bool
	stop    func() bool // ends the watch on the server's context
}

func newLife() *life {
	l := new(life)
	l.Context, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// closedLife is that of all responses that ended well before anybody asked.
var closedLife = func() *life {
	l := newLife()
	l.end(ErrClosed)
	return l
}()

// lifeKey is what package context asks a context for, to find its cause or to
// make it a parent: only for this key does the life answer.
var lifeKey = func() (key any) {
	context.Cause(keyRecorder{closedLife, &key})
	return key
}()

type keyRecorder struct {
	context.Context
	key *any
}

func (r keyRecorder) Value(key any) any {
	*r.key = key
	return nil
}

func (f *Flusher) lifeOf() *life {
	l := f.life.Load()
	if l == nil {
		f.life.CompareAndSwap(nil, newLife())
		l = f.life.Load()
	}
	return l
}

// watch has f told when the server's context ends.
func (l *life) watch(f *Flusher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watched {
		return
	}
	l.watched = true
	if f.server.Done() != nil {
		l.stop = context.AfterFunc(f.server, f.serverContextEnded)
	}
}

// end ends the life and the watch, for good.
func (l *life) end(cause error) {
	l.cancel(cause)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched = true
	if l.stop != nil {
		l.stop()
	}
}

// endContext ends the handler's context.
func (f *Flusher) endContext(cause error) {
	if f.server == nil || cause == ErrClosed && f.life.CompareAndSwap(nil, closedLife) {
		return
	}
	f.lifeOf().end(cause)
}

// askServer is for those who look at the context without waiting for its end.
func (f *Flusher) askServer() {
	if f.server.Err() == nil {
		return
	}
	l := f.lifeOf()
	if l.Err() != nil {
		return
	}
	if !f.mu.TryLock() {
		l.watch(f) // whoever is at work may be the caller
		return
	}
	defer f.mu.Unlock()
	f.serverEnded = true
	f.settleLocked()
}

// serverContextEnded runs when the server's context ends. While the server is
// being called it waits for the call's own verdict; settleLocked then follows.
// It never fails a Write or Flush: a half-closed client still gets everything.
func (f *Flusher) serverContextEnded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serverEnded = true
	f.settleLocked()
}

// settleLocked passes the end of the server's context on to the handler's, if
// nothing better is known.
func (f *Flusher) settleLocked() {
	if !f.serverEnded || f.server == nil || f.fail != nil {
		return
	}
	cause := context.Cause(f.server)
	if cause == context.Canceled {
		// HTTP/2 ends the stream, and with it the context, once the headers
		// of a response without a body are out (golang/go#66812).
		if f.timeout.calling || f.head && f.headersSent && !f.http1 {
			return
		}
		cause = ErrClientGone
		if !f.http1 && f.deadlinePassedLocked() {
			cause = ErrTimeout // HTTP/2 resets the stream at its deadline, idle or not
		}
	}
	f.endContext(cause)
}
