package flush

import (
	"context"
	"sync"
	"time"
)

// Cause returns why the response that ctx belongs to ended, or nil while it has
// not. ctx is the context of a handler that [NewHandler] wrapped, or derived
// from it. Nobody need have asked before, and [Options.OnClose] may ask.
//
// It is, of these, the first that holds:
//
//   - the failure that sticks: [ErrTimeout], [ErrOverBudget], [ErrClientGone]
//     where a write found it, or what [Flusher.Abort] was given;
//   - [ErrShutdown] where a [Group] has ended the response;
//   - the cause that the server, or middleware above, gave its context;
//   - [ErrClientGone] if the server ended its context by itself. If the server
//     has [ConnContext] it is [context.Canceled] instead where the client is
//     known to be there still: BaseContext was cancelled, or the kernel says so
//     of an HTTP/1 connection (a read deadline has passed, middleware cancelled);
//   - [ErrClosed] from Close on, the return of the handler included. It stays
//     that if the client leaves later.
//
// For a context that belongs to no response, or to one that was hijacked, it is
// [context.Cause]. That of the handler's context says what it says without this
// package: context.Canceled, unless the server or middleware gave another.
func Cause(ctx context.Context) error {
	if c, ok := ctx.Value(causeKey{}).(*requestContext); ok {
		return c.why()
	}
	return context.Cause(ctx)
}

type (
	flusherKey struct{} // for flusherOn
	causeKey   struct{} // for Cause
)

// flusherOn returns the Flusher whose handler was given ctx, or one derived from it,
// or nil.
func flusherOn(ctx context.Context) *Flusher {
	f, _ := ctx.Value(flusherKey{}).(*Flusher)
	return f
}

// A requestContext is the context of a wrapped handler's request. To everybody
// but this package it is what the server's would be: others act on its error
// and its cause (net/http's Transport returns the cause, and ReverseProxy
// compares it), so why it ended is for [Cause] alone.
//
//	running   as the server's context, with the Flusher's values
//	watched   the same, once Done was asked for: child, the server's child,
//	          ends with it, or by cancel
//	cut off   the handler of a detached response has returned: the server's
//	          context has values, and nothing else of it counts
//	ended     by the server's context (its error, its cause) or by itself
//	          (plain Canceled): a failure, Abort, the return of the handler
//	left      ended, and the Flusher is gone: what is kept is the channel, the
//	          reason and the server's context
//
// Invariants:
//
//  1. Once it has ended its error and its cause do not change any more. Done
//     only ever returns one channel, which is closed then.
//  2. An early Close does not end it, nor does Hijack; the return of the handler does.
//  3. mu is taken with Flusher.mu held, never the other way round, and nothing
//     is waited for with it. package context may look at it under Flusher.mu.
//  4. Nobody watches the server's context before Done was asked for, and nobody
//     after the end, or once it is cut off.
type requestContext struct {
	server context.Context // never changed

	// Each response has one of these, an idle stream too: its size counts.
	mu       sync.Mutex
	ended    bool
	own      bool // it ended by itself, and not with the server's
	cutOff   bool // from the server's context
	hijacked bool // whoever inherits it lives on a connection that is not the response's any more
	closed   bool // what Cause says is ErrClosed, failures apart

	f    *Flusher // nil: left
	rare *rareContext
}

// A rareContext is what few contexts have: that somebody waits for their end, or
// another reason for it than ErrClosed.
type rareContext struct {
	child  context.Context    // nil: nobody has asked for Done. After the end only its channel, as a closedContext
	cancel context.CancelFunc // ends child; nil: not watched
	unlink func() bool        // has child not end with the server's context; nil: it does not
	reason error              // what Cause says, failures apart; nil: not settled, or closed
}

var noRareContext rareContext

// rarely returns c.rare for reading.
func (c *requestContext) rarely() *rareContext {
	if c.rare == nil {
		return &noRareContext
	}
	return c.rare
}

// rareLocked returns c.rare for writing.
func (c *requestContext) rareLocked() *rareContext {
	if c.rare == nil {
		c.rare = new(rareContext)
	}
	return c.rare
}

// A closedContext is what is kept of a child that has ended.
type closedContext <-chan struct{}

func (c closedContext) Done() <-chan struct{}         { return c }
func (closedContext) Err() error                      { return context.Canceled }
func (closedContext) Deadline() (t time.Time, _ bool) { return t, false }
func (closedContext) Value(any) any                   { return nil }

// newContext derives the handler's context from the server's.
func (f *Flusher) newContext(server context.Context) *requestContext {
	f.context = &requestContext{server: server, f: f}
	return f.context
}

// Done is where most handlers meet their context, if at all.
func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r := c.rarely(); {
	case r.child != nil:
		return r.child.Done()
	case c.ended:
		return alreadyDone.Done()
	}
	r := c.rareLocked()
	r.child, r.cancel = context.WithCancel(c.parent())
	return r.child.Done()
}

var alreadyDone = func() closedContext {
	c := make(chan struct{})
	close(c)
	return c
}()

func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.own:
		return context.Canceled
	case c.rarely().child != nil && !c.ended:
		return c.rare.child.Err()
	}
	return c.serverErrLocked()
}

// serverErr is the error of the server's context, as long as that counts.
func (c *requestContext) serverErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serverErrLocked()
}

func (c *requestContext) serverErrLocked() error {
	if c.cutOff {
		return nil
	}
	return c.server.Err()
}

func (c *requestContext) Deadline() (deadline time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutOff {
		return time.Time{}, false
	}
	return c.server.Deadline()
}

func (c *requestContext) Value(key any) any {
	switch key {
	case flusherKey{}:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.f == nil || c.hijacked {
			return nil
		}
		return c.f
	case causeKey{}:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.hijacked {
			return nil
		}
		return c
	case cancelKey:
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.own:
			return nil // there is no cause but Err
		case c.rarely().child != nil && !c.ended:
			return c.rare.child.Value(key)
		case c.cutOff:
			return nil
		}
	}
	return c.server.Value(key)
}

// parent is what child is made of.
func (c *requestContext) parent() context.Context {
	switch {
	case c.cutOff:
		return context.Background()
	case c.server.Err() != nil:
		return c.server
	}
	return serverLink{c}
}

// A serverLink is the server's context as the parent of one that can be cut off
// from it: package context has no other way to end such a tie than to cancel.
// It costs a goroutine at the moment at which the server's context ends.
type serverLink struct{ c *requestContext }

func (l serverLink) Deadline() (time.Time, bool) { return l.c.server.Deadline() }
func (l serverLink) Err() error                  { return l.c.server.Err() }
func (l serverLink) Value(key any) any           { return l.c.server.Value(key) }

// Done returns a channel that is not the server's: so package context does not
// take the child for one of the server's context.
func (l serverLink) Done() <-chan struct{} { return neverDone }

var neverDone = make(chan struct{})

// AfterFunc is what package context calls instead of waiting for Done. The child
// is being made, with mu held.
func (l serverLink) AfterFunc(f func()) func() bool {
	r := l.c.rareLocked()
	r.unlink = context.AfterFunc(l.c.server, f)
	return r.unlink
}

// cutOffServer ends all ties to the server's context but for its values. It
// reports whether the context goes on: it does not if it has ended, with the
// server's or by itself.
func (c *requestContext) cutOffServer() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r := c.rarely(); {
	case c.ended || c.server.Err() != nil:
		return false
	case r.child == nil:
	case r.child.Err() != nil || r.unlink == nil || !r.unlink():
		return false
	default:
		r.unlink = nil
	}
	c.cutOff = true
	return true
}

// cancelKey is what package context asks a context for, to find its cause or to
// make it a parent: only there the child answers for the server's context.
var cancelKey = func() (key any) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	context.Cause(keyRecorder{ctx, &key})
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

// end ends the context, and the watch on the server's.
func (c *requestContext) end() {
	c.mu.Lock()
	child, cancel := c.rarely().child, c.rarely().cancel
	if !c.ended && cancel == nil {
		c.ended, c.own = true, c.serverErrLocked() == nil
	}
	c.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	err, cause := child.Err(), context.Cause(child)
	byServer := c.serverErr() == err && context.Cause(c.server) == cause
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended, c.own = true, !byServer
		c.rare.child, c.rare.cancel, c.rare.unlink = closedContext(child.Done()), nil, nil
	}
}

// leave ends the context and lets go of the Flusher: a context that is kept
// keeps nothing of the response but why it ended.
func (c *requestContext) leave() {
	c.end()
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	c.letGoLocked()
}

// letGoLocked is the last step of leave. Flusher.mu is held.
func (c *requestContext) letGoLocked() {
	reason := c.f.causeLocked()
	c.f.leaveServerLocked()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setReasonLocked(reason)
	c.f = nil
}

// why is Cause.
func (c *requestContext) why() error {
	c.mu.Lock()
	f, reason := c.f, c.reasonLocked()
	c.mu.Unlock()
	if f == nil {
		return reason
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.causeLocked()
}

// hijack notes that the connection has been taken over: requests may live on it
// whose contexts are derived from this one.
func (c *requestContext) hijack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hijacked = true
}

// endContextLocked ends the handler's context. reason is what Cause says from
// now on, unless it has said another before or a failure sticks; nil: nothing
// new.
func (f *Flusher) endContextLocked(reason error) {
	if f.context == nil {
		return
	}
	f.reasonLocked(reason)
	f.context.end()
}

// reasonLocked settles what Cause says, if the server's context has not ended
// before.
func (f *Flusher) reasonLocked(reason error) {
	c := f.context
	if c == nil || reason == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reasonLocked() == nil && c.serverErrLocked() == nil {
		c.setReasonLocked(reason)
	}
}

// setReasonLocked has reason be what Cause says. It is called with both mutexes
// held, and read with c.mu.
func (c *requestContext) setReasonLocked(reason error) {
	if c.closed = reason == ErrClosed; c.closed {
		reason = nil
	}
	if c.rare != nil || reason != nil {
		c.rareLocked().reason = reason
	}
}

func (c *requestContext) reasonLocked() error {
	if c.closed {
		return ErrClosed
	}
	return c.rarely().reason
}

// settled is what Cause says, if that does not change any more but for a failure.
func (c *requestContext) settled() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reasonLocked()
}

// causeLocked is Cause for the response of f.
func (f *Flusher) causeLocked() error {
	if f.fail != nil {
		return f.fail
	}
	c := f.context
	if reason := c.settled(); reason != nil {
		return reason
	}
	reason := f.serverCauseLocked()
	if reason != nil && reason != context.Canceled { // what the kernel says may still change: a TLS client says goodbye before its end is seen
		c.mu.Lock()
		defer c.mu.Unlock()
		c.setReasonLocked(reason)
	}
	return reason
}

// serverCauseLocked says why the server ended its context; nil: it has not.
//
// The server's context ends when a write fails, before that write has returned
// to us: what is known of the deadlines says then which of two it will be.
func (f *Flusher) serverCauseLocked() error {
	server := f.context.server
	if f.context.serverErr() == nil {
		return nil
	}
	cause := context.Cause(server)
	if outer, ok := server.Value(causeKey{}).(*requestContext); ok && cause == context.Canceled {
		if why := outer.why(); why != nil {
			return why // the server below is a Flusher's handler, with middleware between
		}
	}
	switch {
	case cause != context.Canceled:
		return cause
	case f.head && f.headersSent && !f.http1:
		return ErrClosed // HTTP/2 ends a stream that has no body with its headers (golang/go#66812)
	case (f.timeout.calling || !f.http1) && f.deadlinePassedLocked():
		return ErrTimeout // HTTP/2 resets the stream at its deadline, idle or not
	case f.body != nil && f.body.cutShort, f.clientThere():
		return context.Canceled // a read that we ended fails, too
	}
	return ErrClientGone
}

// serverContext is the context that ends with the client: the request's as the
// server made it, or the handler's once that is cut off from it. nil: none.
func (f *Flusher) serverContext() context.Context {
	switch {
	case f.detached == released:
		return f.context
	case f.context != nil:
		return f.context.server
	case f.req != nil:
		return f.req.Context()
	}
	return nil
}

// ownContextLocked is the request's context as the handler knows it; nil: none.
func (f *Flusher) ownContextLocked() context.Context {
	switch {
	case f.req != nil:
		return f.req.Context()
	case f.context != nil:
		return f.context
	}
	return nil
}

// clientThere reports whether the client is known to be there though the
// server's context has ended. Of an HTTP/2 connection the kernel's word says
// nothing: the client may have reset the stream.
func (f *Flusher) clientThere() bool {
	return f.conn != nil && (f.conn.ServerEnded() || f.http1 && f.conn.Established())
}
