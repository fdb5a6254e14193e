package flush

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/fa492104/flush/internal/workers"
)

// A handover is what only matters between Detach and the return of the handler.
type handover struct {
	header http.Header // what the handler's writer shows
	stop   func() bool // has the end of the server's context not end the response; nil: it does not
}

// Detach has the response outlive its handler. It is called in the handler,
// before headers are out: from then on the response belongs to whoever holds f,
// and ends by Close, Abort, a failure, or the client's leaving. Everything else
// goes on working as before. Detaching again does nothing.
//
// Buffers with FollowFlush are flushed first; then status and headers go out,
// with Connection: close on HTTP/1, and what is pending.
//
// On HTTP/1, with net/http's own writer right below [NewHandler], the connection
// is taken over: the handler returns, and no goroutine and none of the server's
// buffers remain; [Stats].Detached says so. [http.Server]'s Shutdown, Close and
// ConnState do not see it any more. Everywhere else (HTTP/2, CGI, FastCGI, a
// writer of middleware outside, HEAD, 204, 304, a request body that has not been
// read to its end, full duplex, a Transfer-Encoding of one's own) the return of
// the handler waits for the end of the response, so that the handler's code is
// the same.
//
// The handler's writer refuses from then on with [ErrClosed]; write to f, which
// [From] finds. The handler's context goes on, and ends with the response;
// deadlines and cancels of middleware outside are gone once the handler has
// returned. When the client leaves, be it only with its half of the connection,
// the context ends, with ErrClientGone as its [Cause], and the response is
// closed: what was accepted still goes out. The server's WriteTimeout ends here.
// SendTimeout holds, 60 s if it was left at zero, and so does a deadline that was
// set with [Flusher.SetWriteDeadline]. Trailers that were not declared before are
// set in the map that f.Header returns afterwards.
//
// It is refused with [ErrHeadersSent] if headers went out without Connection:
// close, as the client could use the connection again; with [ErrReentrant] while
// a filter runs; with [http.ErrNotSupported] on a Flusher of [New] or
// [NewOutput]; and with what sticks, [ErrClosed] and [http.ErrHijacked].
func (f *Flusher) Detach() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.detached == detaching && f.refuse == nil {
		f.waitLocked()
	}
	switch {
	case f.refuse != nil:
		return f.refuse
	case f.detached >= kept:
		return nil
	case f.stack.running != nil:
		return ErrReentrant
	case f.context == nil:
		return errCannotDetach
	case f.headersSent && !f.saidClose && f.cfg.SAPI.Headers != OutputOnly:
		return ErrHeadersSent
	}
	f.detached = detaching
	defer func() {
		if f.detached == detaching {
			f.detached = attached
		}
		f.wakeLocked() // the return of the handler
	}()
	return f.detachLocked()
}

var errCannotDetach = fmt.Errorf("flush: response ends with its handler: %w", http.ErrNotSupported)

// detachLocked sends what there is and lets go of the handler.
func (f *Flusher) detachLocked() error {
	if err := f.flushStackLocked(false, false); err != nil {
		if f.refuse != nil || err == ErrReentrant {
			return err
		}
		f.noteRefusedLocked(err)
	}
	f.lendLocked()
	defer f.takeBackLocked()
	if err := f.takeBatonLocked(f.stack.busy); err != nil {
		return err
	}
	defer f.releaseLocked()
	f.countAskLocked()
	f.stopHoldingLocked()
	if !f.fixed {
		f.fixLocked(http.StatusOK)
	}
	f.askLocked()
	f.doDueLocked()
	for f.aside > 0 {
		f.waitLocked()
	}
	if f.refuse != nil {
		return f.refuse
	}
	var conn net.Conn
	if f.letsGoLocked() {
		var err error
		if conn, err = f.takeConnectionLocked(); err != nil {
			return err
		}
	}
	f.rareLocked().handover = &handover{header: f.header}
	if conn == nil || f.rare.framing != nil {
		f.rare.handover.header = f.header.Clone() // the map itself is for trailers
	}
	f.handler.Or(handlerShutOut)
	if conn != nil {
		f.takeOverLocked(conn)
	} else {
		f.detached = kept
		f.rare.handover.stop = context.AfterFunc(f.context.server, f.endAlone)
	}
	f.liftWriteTimeoutLocked()
	if f.fail != nil {
		f.endAsideLocked()
	}
	f.endLateStreamLocked()
	return nil
}

// letsGoLocked reports whether the server hands over its connection, with
// nothing on the way in or out that we do not know.
func (f *Flusher) letsGoLocked() bool {
	fr := f.rarely().framing
	return f.srv.ownHeader && f.http1 && !f.head && f.bodyAllowed() && !f.fullDuplex &&
		(f.body == nil || f.body.whole.Load()) && (fr == nil || !fr.odd)
}

// takeConnectionLocked hijacks the connection, which letsGoLocked has said can be
// done. An error says that it is not the server's any more.
func (f *Flusher) takeConnectionLocked() (conn net.Conn, err error) {
	f.parkLocked(true)
	defer f.parkLocked(false)
	conn, _, err = f.hijackConnLocked(f.srv.w.(http.Hijacker))
	if err != nil && f.fail == nil {
		f.failLocked(f.classifyLocked(err))
	}
	if conn == nil {
		return nil, f.refuse
	}
	return conn, nil
}

// takeOverLocked puts a wire in the place of the server.
func (f *Flusher) takeOverLocked(conn net.Conn) {
	w := f.newWire(conn)
	f.detached = taken
	f.leaveServerLocked()
	f.srv = server{w: w, flushes: true, deadlines: true}
	f.body = nil
	f.shared, f.below = false, nil
	if w.with == nil {
		f.header = nil // for trailers that were not declared there will be another
	}
	f.renewHandlersDeadlineLocked()
	w.watch()
}

// handlerIs reports whether that has become of the handler.
func (f *Flusher) handlerIs(what uint32) bool { return f.handler.Load()&what != 0 }

// lastHeader is what the handler's writer shows once it refuses: what the
// handler's map said at Detach, and nothing after the handler's return.
func (f *Flusher) lastHeader() http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.rarely().handover; h != nil && h.header != nil {
		return h.header
	}
	return make(http.Header)
}

// serverHasIt reports whether the connection is still the server's.
func (f *Flusher) serverHasIt() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.detached <= kept
}

// outlives is the return of the handler whose request was own. It waits for the
// end of a response that was kept, and reports whether the response lives on.
func (f *Flusher) outlives(own *http.Request) bool {
	f.mu.Lock()
	for f.detached == detaching || f.detached == kept && !f.ended {
		f.waitLocked()
	}
	if f.detached != taken {
		f.mu.Unlock()
		return false
	}
	goesOn := f.context.cutOffServer()
	f.detached = released
	f.dropHandlerLocked(own)
	f.mu.Unlock()
	if !goesOn {
		f.endAlone()
	}
	return true
}

// dropHandlerLocked lets go of what a response needs of its handler only while
// that runs. Of the request, that is all but what OnClose is to see.
func (f *Flusher) dropHandlerLocked(own *http.Request) {
	w := f.srv.w.(*wire)
	if own.MultipartForm != nil {
		with := w.extra()
		with.form = own.MultipartForm
		w.with = &with
	}
	if f.closing {
		return // what ends it looks at these, without the lock
	}
	f.dropTimerLocked()
	r := f.rare
	r.handover, r.framing = nil, nil
	if len(r.hooks) == 0 && f.cfg.OnClose == nil {
		f.req = nil
	} else if f.req == own && own.Body != http.NoBody {
		f.req = own.WithContext(own.Context())
		f.req.Body = http.NoBody // the server's leads to its buffers
	}
	if r.handlerDeadline.IsZero() && r.lastPush == nil && r.refused == nil && r.panicked == nil && r.cutBy == nil && len(r.hooks) == 0 && r.interval == nil {
		f.rare = nil
	}
}

// partFromHandler does the last thing to a detached response that has ended, or
// leaves it to the return of the handler.
func (f *Flusher) partFromHandler() {
	f.mu.Lock()
	var stop func() bool
	if h := f.rarely().handover; h != nil {
		stop = h.stop
	}
	state := f.detached
	if state == taken {
		f.detached = over
	}
	f.mu.Unlock()
	if stop != nil {
		stop()
	}
	if state == released {
		f.context.leave()
		f.removeFiles()
	}
}

// removeFiles removes the multipart files of a request whose connection was taken
// over: the server does not.
func (f *Flusher) removeFiles() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w, ok := f.srv.w.(*wire); ok && w.extra().form != nil {
		w.extra().form.RemoveAll()
	}
}

// endAsideLocked ends a response that has nobody else to do that.
func (f *Flusher) endAsideLocked() {
	if f.detached >= kept && !f.closing {
		closers.Do(f.endAlone)
	}
}

// clientLeft ends a response whose client has left. It does not wait. Where the
// end may have to wait for the client, which may have ended only its own half,
// others must not wait behind it.
func (f *Flusher) clientLeft(writable bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endSoonLocked(writable)
}

// endSoonLocked has a detached response end on another goroutine.
func (f *Flusher) endSoonLocked(writable bool) {
	if !writable || f.held || f.q.len > 0 || f.penTakenLocked() || f.stack.active() {
		waitingClosers.Do(f.endAlone)
	} else {
		closers.Do(f.endAlone)
	}
}

// They end responses whose clients have left, and run OnClose, which may take its
// time. What may have to wait for its client is apart, so that nothing else does.
var (
	closers        = workers.Pool{Most: 256}
	waitingClosers = workers.Pool{Most: 128, Stuck: 50 * time.Millisecond}
)

// endAlone ends a detached response on a goroutine that is nobody's: its client
// has left, or it has failed. A panic, of a filter or of OnClose, is logged as the
// server logs one of a handler.
func (f *Flusher) endAlone() {
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			f.logPanic(v)
		}
	}()
	f.mu.Lock()
	f.endContextLocked(ErrClientGone)
	f.mu.Unlock()
	f.finish(byClose, nil)
	f.rethrow()
}

func (f *Flusher) logPanic(v any) {
	logf := log.Printf
	if srv, ok := f.context.server.Value(http.ServerContextKey).(*http.Server); ok && srv.ErrorLog != nil {
		logf = srv.ErrorLog.Printf
	}
	stack := make([]byte, 64<<10)
	stack = slices.Clip(stack[:runtime.Stack(stack, false)])
	logf("http: panic ending a detached response: %v\n%s", v, stack)
}
