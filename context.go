package flush

import (
	"context"
	"time"
)

type contextKey struct{}

// A requestContext is the context of the handler's request. It has the values
// and the deadline of the server's, but ends on its own: the server's ends
// when a write fails, before that write has returned to us, and would say
// "canceled" for what is a timeout.
type requestContext struct {
	context.Context // ends with f; its Cause is ours
	server          context.Context
	f               *Flusher
}

// newContext derives the handler's context from the server's. The Flusher ends
// it through f.cancel.
func (f *Flusher) newContext(server context.Context) context.Context {
	own, cancel := context.WithCancelCause(context.WithoutCancel(server))
	f.cancel = cancel
	if server.Done() != nil {
		f.server = server
		f.unwatch = context.AfterFunc(server, f.serverContextEnded)
	}
	return &requestContext{Context: own, server: server, f: f}
}

func (c *requestContext) Value(key any) any {
	if key == (contextKey{}) {
		return c.f
	}
	return c.Context.Value(key)
}

func (c *requestContext) Deadline() (time.Time, bool) { return c.server.Deadline() }

// Err says DeadlineExceeded when it was the server's deadline that ended it.
func (c *requestContext) Err() error {
	err := c.Context.Err()
	if err != nil && c.server.Err() == context.DeadlineExceeded && context.Cause(c.Context) == context.Cause(c.server) {
		return context.DeadlineExceeded
	}
	return err
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
