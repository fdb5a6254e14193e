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
type requestContext Flusher

// newContext derives the handler's context from the server's. The Flusher ends
// it through f.cancel.
func (f *Flusher) newContext(server context.Context) context.Context {
	f.server = server
	f.own, f.cancel = context.WithCancelCause((*serverValues)(f))
	return (*requestContext)(f)
}

// Done is where most handlers meet their context, if at all: only from then on
// the server's is watched.
func (c *requestContext) Done() <-chan struct{} {
	(*Flusher)(c).watchServer()
	return c.own.Done()
}

func (c *requestContext) Value(key any) any {
	if key == (contextKey{}) {
		return (*Flusher)(c)
	}
	(*Flusher)(c).askServer() // context.Cause asks this way
	return c.own.Value(key)
}

func (c *requestContext) Deadline() (time.Time, bool) { return c.server.Deadline() }

// Err says DeadlineExceeded when it was the server's deadline that ended it.
func (c *requestContext) Err() error {
	(*Flusher)(c).askServer()
	err := c.own.Err()
	if err != nil && c.server.Err() == context.DeadlineExceeded && context.Cause(c.own) == context.Cause(c.server) {
		return context.DeadlineExceeded
	}
	return err
}

// serverValues is the parent of Flusher.own: the server's context, as it would
// be if it never ended.
type serverValues Flusher

func (v *serverValues) Deadline() (time.Time, bool) { return time.Time{}, false }
func (v *serverValues) Done() <-chan struct{}       { return nil }
func (v *serverValues) Err() error                  { return nil }
func (v *serverValues) Value(key any) any           { return v.server.Value(key) }

// A serverWatch has the Flusher told when the server's context ends.
type serverWatch struct {
	mu   sync.Mutex
	on   bool
	stop func() bool
}

// watchServer does not take Flusher.mu: a context that is derived from ours
// may be looked at under it.
func (f *Flusher) watchServer() {
	f.watch.mu.Lock()
	defer f.watch.mu.Unlock()
	if f.watch.on {
		return
	}
	f.watch.on = true
	if f.server.Done() != nil {
		f.watch.stop = context.AfterFunc(f.server, f.serverContextEnded)
	}
}

func (f *Flusher) unwatchServer() {
	f.watch.mu.Lock()
	defer f.watch.mu.Unlock()
	f.watch.on = true
	if f.watch.stop != nil {
		f.watch.stop()
	}
}

// askServer is for those who look at the context without waiting for its end.
func (f *Flusher) askServer() {
	if f.server.Err() == nil || f.own.Err() != nil {
		return
	}
	if !f.mu.TryLock() {
		f.watchServer() // whoever is at work may be the caller
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
	if !f.serverEnded || f.cancel == nil || f.fail != nil {
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
	f.cancel(cause)
}
