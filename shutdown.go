package flush

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Shutdown ends the Group: Add returns [ErrShutdown] from now on. The contexts
// of streams end at once, with that as their [Cause]: handlers say goodbye and
// return, and what has been detached is closed with what is queued. A stream is a
// response that was added by Add, a detached one, or one of [Options.Group] whose
// fixed headers say text/event-stream: its client comes back by itself, which that
// of a download cannot. All others finish undisturbed. A response that becomes a
// stream later ends at once, too.
//
// It waits until the responses that were members when it began have left and
// their OnClose, which must not call it, has returned. When ctx ends it aborts
// those that are left, with the error that it then returns (it matches
// [ErrShutdown] and what ctx says), and waits for no call that is stuck. Their
// clients see the cut where the protocol can show it: on HTTP/1, if the handler
// does not return, only with [ConnContext]. It returns nil if none had to be
// aborted.
//
// It may be called again, and by several at a time. [Flusher]s of [New] have no
// context of their own: what ends their handlers is up to the caller.
//
// http.Server.Shutdown does not wait for functions that were registered with
// RegisterOnShutdown: to wait for goodbyes call this one before.
func (g *Group) Shutdown(ctx context.Context) error {
	if ctx == nil {
		ctx = context.Background()
	}
	type told struct {
		f     *Flusher
		added bool
	}
	g.mu.Lock()
	g.shutDown = true
	all := make([]told, len(g.members))
	for i, m := range g.members {
		all[i] = told{m.f, m.added}
		if !m.awaited {
			m.awaited = true
			g.awaited++
		}
	}
	drained := g.drainedLocked()
	g.mu.Unlock()
	for _, t := range all {
		t.f.tellShutdown(t.added)
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-drained:
		return nil
	default:
	}
	err := shutdownError(ctx)
	cutAll(g.appendMembers(nil), err)
	return err
}

func shutdownError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return fmt.Errorf("%w: %w", ErrShutdown, err)
	}
	return fmt.Errorf("%w: %w: %w", ErrShutdown, err, cause)
}

// drainedLocked returns a channel that is closed once nobody is awaited.
func (g *Group) drainedLocked() <-chan struct{} {
	switch {
	case g.awaited == 0:
		return alreadyDone
	case g.drained == nil:
		g.drained = make(chan struct{})
	}
	return g.drained
}

func (g *Group) isShutDown() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shutDown
}

// endLateStreamLocked ends a response that has become a stream after one of its
// Groups has been shut down.
func (f *Flusher) endLateStreamLocked() {
	for m := range f.groups.all() {
		if m.g.isShutDown() {
			f.endStreamLocked()
			return
		}
	}
}

// tellShutdown ends a stream.
func (f *Flusher) tellShutdown(added bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if added || f.eventStream || f.detached >= kept {
		f.endStreamLocked()
	}
}

// endStreamLocked has a stream end because its Group has been shut down: its
// handler is told by the context, and one that has none left is closed.
func (f *Flusher) endStreamLocked() {
	f.endContextLocked(ErrShutdown)
	if f.detached >= kept && !f.closing {
		f.endSoonLocked(true)
	}
}

// cutGrace bounds what Shutdown waits for its cuts, which may call a writer that
// takes its time.
const cutGrace = time.Second

// cutAll aborts responses, with err as the cause, and has their clients see it.
func cutAll(all []*Flusher, err error) {
	var wg sync.WaitGroup
	for _, f := range all {
		if f.failForShutdown(err) {
			wg.Go(f.showCut)
		}
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(cutGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// failForShutdown makes err the failure, and waits for nothing. It reports
// whether showCut is to follow: until then the response does not end.
func (f *Flusher) failForShutdown(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || f.hijacked {
		return false
	}
	f.aborted, f.rareLocked().abort = true, true
	f.failLocked(err)
	f.aside++
	return true
}

// showCut ends the call of the server that is under way, and has the client see
// that the response is cut though its handler may never return: HTTP/2 resets
// the stream, and the socket of a known HTTP/1 connection says that it ends.
func (f *Flusher) showCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() {
		f.aside--
		f.wakeLocked()
	}()
	if f.timeout.calling {
		f.cutDrainLocked()
	}
	if f.timeout.calling || !f.http1 {
		f.unblockLocked()
	}
	switch {
	case f.detached >= taken: // its end closes the connection
	case !f.http1 || f.conn == nil || f.http10 && f.length < 0:
	case f.hijacking:
		f.afterHijackLocked(func() { f.conn.HangUp() })
	default:
		f.conn.HangUp()
	}
	if f.detached >= kept && !f.closing {
		f.endSoonLocked(false)
	}
}
