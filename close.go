package flush

import (
	"net/http"
	"time"
)

// The four ends of a response. What each hands over, waits for, and says:
//
//	                 panic, Goexit           Abort                    Close                     return
//	hands over       what a flush was        the same, if no header   all, buffers unwound;     all, buffers unwound;
//	                 asked for               is out; else nothing     the handler's Close       no flush: the server
//	                                                                  pushes it                 does that
//	for at most      SendTimeout, 1 s        SendTimeout, 1 s         SendTimeout without       as Close
//	                                                                  progress
//	waits for        the carrier             the call under way,      begun Writes, the         begun Writes, filters,
//	                                         which it ends            carrier; while a filter   the carrier
//	                                                                  runs: ErrReentrant
//	context          ends                    ends                     goes on                   ends
//	OnClose is told  handler panicked        the cause                the failure, refusals     as Close
//	the client       sees a cut              sees a cut               sees the end, at the      sees the end
//	                                                                  latest with the return
//
// Panic and Abort hand over what moves by itself with what was flushed, as it has
// moved already where there is no carrier. The rest is dropped: net/http alone would
// have sent what is more than its own buffers take, 2 KiB on HTTP/1 and 4 KiB on
// HTTP/2. So it is with what HTTP/1.0 buffering holds, and with the headers of a HEAD
// that nobody has flushed, or the writer cannot: no cut could be seen behind them.
//
// A call of a server without deadlines (CGI, FastCGI) cannot be ended: there each
// waits for the one under way, however long. TestEnds has every cell.

// Close ends the response: it refuses new Writes, lets a begun one finish,
// unwinds the user-level buffers, hands the rest to the server and joins the
// background work. It waits for at most SendTimeout without progress; on a
// server without deadlines, however long the server's call takes. If a begun
// Write cannot finish the response is aborted. While a [Filter] runs it does
// nothing and returns [ErrReentrant].
//
// In a handler that goes on it completes the response where the protocol lets it
// (ngx.eof, fastcgi_finish_request): one that has sent nothing goes out with its
// exact length, one that has reached the length it declared is flushed, and the
// client has the end before the handler returns. Where only the server can write
// the end (chunks, HTTP/2 but for HEAD, HTTP/1.0 without a length, CGI, FastCGI)
// what there is is flushed, and the end comes with the return. The next request
// on the same HTTP/1 connection waits for that, too: work of more than moments
// belongs behind [Flusher.Detach], or after "Connection: close". The context goes on.
//
// It returns the failure that sticks and errors of filters, or nil if
// everything was handed over. A second Close returns what the first did. A
// panic of the server's writer that was met in the background goes on here.
func (f *Flusher) Close() error {
	f.mu.Lock()
	reentrant := f.stack.running != nil
	f.mu.Unlock()
	if reentrant {
		return ErrReentrant
	}
	err := f.finish(byClose, nil)
	f.rethrow()
	return err
}

// Abort ends the response badly: background work is stopped and joined, the
// rest is dropped, and the client must not take what it has for the whole.
// cause is what [Flusher.Err] and [Cause] say from then on; nil
// stands for a plain error.
//
// Inside [NewHandler] the return of the handler then panics with
// [http.ErrAbortHandler], the server's own way to cut a response; on CGI and
// FastCGI a panic ends the process. With [New] the caller does that. Called by a
// [Filter] it marks the response, which ends with the return of the handler, Close
// or another Abort.
//
// Before the headers have been sent, what was flushed goes out first, for at most
// SendTimeout and a second: a client that gets no byte asks again.
func (f *Flusher) Abort(cause error) { f.finish(byAbort, cause) }

// An ending is what ends a response.
type ending uint8

const (
	byClose ending = iota // or the return of the handler
	byAbort               // a caller's
	byPanic               // or Goexit
)

// finish ends the response. Whoever comes first does; the others wait for that.
func (f *Flusher) finish(how ending, cause error) error {
	if err, done := f.beginEnd(how, cause); done {
		return err
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.partFromGroupsLocked()
	}()
	defer f.partFromHandler()
	defer func() { // a filter may panic while the buffers are unwound
		f.closeWire()
		for _, h := range f.rarely().hooks {
			h.fn(h.r, f.Stats(), f.closeErr())
		}
		if f.cfg.OnClose != nil {
			f.cfg.OnClose(f.req, f.Stats(), f.closeErr())
		}
	}()
	f.complete()
	return f.closeErr()
}

// beginEnd is the first part of finish, up to where nothing new is accepted. If it
// reports that nothing else is to be done, err is what finish returns.
func (f *Flusher) beginEnd(how ending, cause error) (err error, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	abort := how != byClose
	if how == byAbort && !f.ended { // from then on rare is read without the lock
		f.rareLocked().abort = true
	}
	if abort && !f.ended && !f.hijacked {
		if how == byPanic || !f.headersSent {
			f.showBeforeCutLocked(cause, false)
		}
		f.abortLocked(cause)
		if f.filterAbortsLocked() {
			f.endAsideLocked()
			return f.fail, true
		}
	}
	if f.closing {
		if abort && f.stack.running != nil {
			return f.fail, true // it may be the filter that asks: what closes the response sees the mark
		}
		for !f.ended {
			f.waitLocked()
		}
		if f.handlerIs(handlerReturned) && !f.timeout.bounded {
			f.timeout.bounded = true
			if !abort {
				f.boundEndLocked()
			}
		}
		return f.closeErr(), true
	}
	f.closing = true
	f.reasonLocked(ErrClosed)
	if !f.hijacked {
		f.refuseLocked(closedError(f.fail))
	}
	return nil, false
}

// closeErr is what Close returns, once the response has ended; then it
// does not change any more, and needs no lock.
func (f *Flusher) closeErr() error { return joinErrors(f.fail, f.rarely().refused) }

// abortLocked makes cause the failure and ends a call of the server that is
// under way, where that can be done.
func (f *Flusher) abortLocked(cause error) {
	if cause == nil {
		cause = errAborted
	}
	f.aborted = true
	f.failLocked(cause)
	if f.timeout.calling {
		f.cutDrainLocked()
		f.unblockLocked()
	}
}

// complete does the last things to the response, in this order, and then ends
// it, whatever happens on the way.
func (f *Flusher) complete() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var unwound error
	whole := false
	defer func() {
		f.dropStackLocked() // after a filter's panic
		f.joinLocked()
		f.endLocked(whole, unwound)
	}()
	if f.handlerIs(handlerReturned) {
		f.boundDrainLocked()
	}
	f.awaitWritesLocked()
	if !f.aborted && !f.hijacked {
		unwound = f.unwindStackLocked()
	}
	f.dropStackLocked()
	if f.cut && f.fail == nil {
		cause := f.rarely().cutBy
		if cause == nil {
			cause = errCutWrite
		}
		f.showBeforeCutLocked(cause, true)
		f.abortLocked(cause)
	}
	if f.fail == nil && !f.hijacked {
		f.handRestLocked()
	}
	whole = true
}

// mostShown bounds what is handed over before a cut.
const mostShown = time.Second

// showBeforeCutLocked hands over what the client is to see before the response
// is cut, for cause: what is due, by a flush or by itself, and with all everything. A
// client that gets no byte takes a kept connection for stale, and asks again. A panic
// of the server's writer that this meets is kept for the handler's goroutine, as a
// carrier's is: the end goes on.
func (f *Flusher) showBeforeCutLocked(cause error, all bool) {
	switch {
	case f.fail != nil || f.gone,
		!f.srv.deadlines && f.timeout.calling && (f.rarely().abort || !f.handlerIs(handlerReturned)), // who waits behind a call that cannot be ended hears of an Abort at once
		!all && !f.dueLocked():
		return
	}
	bound := mostShown
	if d := f.timeout.d; d > 0 {
		bound = min(bound, d)
	}
	timer := time.AfterFunc(bound, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.ended {
			f.abortLocked(cause)
		}
	})
	defer timer.Stop()
	defer func() {
		if v := recover(); v != nil {
			f.panickedLocked(v)
		}
	}()
	f.lendLocked()
	defer f.takeBackLocked()
	if !f.grabBatonLocked() {
		return
	}
	defer f.releaseLocked()
	f.stopHoldingLocked()
	if all {
		f.askLocked()
	}
	f.doDueLocked()
}

// handRestLocked hands over what is left, with the length of the response if
// nothing went out before, and then the trailers.
func (f *Flusher) handRestLocked() {
	if !f.grabBatonLocked() {
		return
	}
	defer f.releaseLocked()
	early := f.completesLocked()
	f.closeTimeoutLocked(!early && f.srv.ownHeader && f.handedLocked()+int64(f.q.len) <= serverMeasures)
	for f.dueLocked() {
		f.roundLocked()
	}
	f.stopHoldingLocked()
	switch {
	case f.fail != nil:
		return
	case !f.fixed && !early:
		// Nothing was written: the server answers for itself, as it would
		// have without us.
		f.passHeaderLocked()
		if f.srv.netHTTP {
			f.status = http.StatusOK
		}
		f.headersSent = true
	default:
		if !f.fixed {
			f.fixLocked(http.StatusOK)
		}
		measured := !f.headersSent && f.measureLocked(early)
		f.moveLocked()
		if early {
			f.sendBareHeadersLocked(false)
		}
		f.sendHeadersLocked(false)
		prefixed := f.srv.netHTTP && f.http1 && !f.http10 && f.length < 0 && f.hasPrefixedTrailersLocked()
		if prefixed {
			// A whole response would get a length instead of trailers.
			f.timeout.quiet = false
			f.pushLocked()
		}
		f.carryTrailersLocked()
		if early && !prefixed && (measured || !f.measurableLocked()) {
			f.pushLocked()
		}
	}
	f.drainLocked()
	f.boundEndLocked()
	if f.fail == nil {
		f.endWireLocked()
	}
}

// measurableLocked reports whether net/http still holds the whole response, and
// will find its length when the handler returns: a push would make it chunked. On
// HTTP/1 one that declares trailers, or has a Transfer-Encoding, has none.
func (f *Flusher) measurableLocked() bool {
	_, declared := f.below["Content-Length"]
	switch {
	case !f.srv.netHTTP, declared, f.length >= 0, f.head, !f.bodyAllowed(), f.flow.pushes > 0, f.rarely().bare:
		return false
	case f.http1:
		return f.handedLocked() <= serverMeasures && len(f.below["Trailer"]) == 0 && f.below.Get("Transfer-Encoding") == ""
	}
	return f.handedLocked() <= serverMeasuresHTTP2
}

// completesLocked reports whether the response is to be complete before the
// handler has returned, as it goes on: it is the handler that closes it. Where
// nothing says that there is a handler, as under a writer of one's own, nobody
// waits for the end.
func (f *Flusher) completesLocked() bool {
	return (f.context != nil || f.srv.netHTTP) && !f.handlerIs(handlerReturned) && f.detached < kept &&
		f.srv.flushes && f.cfg.SAPI.Headers != OutputOnly
}

// boundEndLocked gives the bytes that the server writes after us SendTimeout to
// leave. If the handler goes on after its Close, that time begins when it
// returns.
func (f *Flusher) boundEndLocked() {
	switch {
	case f.fail != nil || f.hijacked:
	case f.context == nil || f.handlerIs(handlerReturned) || f.detached >= taken:
		f.timeout.bounded = true
		f.setClosingDeadlineLocked(true)
	default:
		f.liftClosingDeadlineLocked()
	}
}

// broken reports whether the client must be shown a cut, once the response has
// ended: it was aborted, or accepted bytes are lost and the connection does not
// tell by itself. It does if it is the server's own writer that failed, or if the
// client has gone. HTTP/3's does not where the call that was too slow has taken all
// its bytes. Where the cut would end the process, and all other responses with it
// (net/http/fcgi), only a caller's Abort does that.
func (f *Flusher) broken() bool {
	switch {
	case f.hijacked, f.srv.oneProcess && !f.rarely().abort:
		return false
	case f.aborted, f.rarely().torn:
		return true
	case f.fail == nil || f.srv.direct && !f.srv.untold:
		return false
	}
	server := f.serverContext()
	return server == nil || server.Err() == nil
}

// joinLocked waits until nobody calls the server any more.
func (f *Flusher) joinLocked() {
	for f.held || f.aside > 0 || f.stack.paying {
		f.waitLocked()
	}
}

// endLocked ends the response: from here on nothing touches the server's
// writer. whole is false when a panic is on its way through.
func (f *Flusher) endLocked(whole bool, unwound error) {
	f.stopTimersLocked()
	if !whole {
		f.aborted = true
		f.failLocked(errUnwound)
	}
	f.ended = true
	if unwound != nil {
		f.noteRefusedLocked(unwound)
	}
	if f.hijacked {
		f.takeAwayLocked(f.refuse)
	} else {
		f.takeAwayLocked(closedError(f.fail))
	}
	f.leaveLocked()
	f.leaveGroupsLocked()
	if f.handlerIs(handlerReturned) || f.detached >= kept {
		f.endContextLocked(nil)
	}
}

// rethrow lets a panic that the carrier met go on, once.
func (f *Flusher) rethrow() {
	if f.rare == nil {
		return
	}
	f.mu.Lock()
	v := f.rare.panicked
	f.rare.panicked = nil
	f.mu.Unlock()
	if v != nil {
		panic(v)
	}
}

// failedLocked has the handler's context end with the failure, and a response
// that has no handler which could see it. Headers are not withheld for a filter
// any more.
func (f *Flusher) failedLocked() {
	f.yieldLocked()
	f.endContextLocked(nil)
	if !f.aborted {
		f.endAsideLocked()
	}
}
