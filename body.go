package flush

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// A requestBody is the request body as a wrapped handler sees it. It gives each
// byte and each error that the server's gives and nothing else: whether the
// server took bytes away for itself cannot be known from outside.
//
// It does three things beside:
//
//   - What the server sets on its own request while the body is read, the
//     trailer, it carries to the handler's: after each Read that returned an
//     error, and after Close.
//   - On HTTP/1 the server drains the body when headers go out: it reads what
//     the handler has left. A Read of the handler's meanwhile would get a part
//     of the upload and then what looks like its end. So the two exclude each
//     other: see excludeBodyLocked.
//   - No 100 Continue goes out after the final status has been fixed: the server
//     must know of the status before it reads.
//
// [New] leaves the server's own body to its handler, since a server that meets
// another than its own does not know what is left of it, and would take the rest
// for a request. There the trailer is where it belongs, a body that may be unread
// counts as unread until the headers are out (unseen), and a status is told
// to the server as soon as it is fixed (expectedBody).
type requestBody struct {
	io.ReadCloser
	f       *Flusher
	server  *http.Request // as NewHandler got it
	own     *http.Request // the handler's
	drained bool          // by the server when headers go out
	unseen  bool          // it is the server's own: who reads it is not known
	expects atomic.Bool   // the client waits for a 100 Continue, which the first Read sends
	over    atomic.Bool   // read to its end or closed, or the server has had its turn
	whole   atomic.Bool   // read to its end

	// Guarded by Flusher.mu.
	reading  int  // Reads and Closes of the handler's, under way
	handing  bool // a call of the server's that may drain is under way
	cutShort bool // a read deadline has ended the drain. It is final
}

// expectedBody stands for a body that we do not see, and that the server asks for
// when it is first read.
var expectedBody requestBody

// newBody notes what [New] knows of r's body.
func (f *Flusher) newBody(r *http.Request) {
	switch {
	case f.hidesBody(r):
		f.body = &requestBody{f: f, drained: true}
	case f.drainsBody(r):
		f.body = &requestBody{f: f, drained: true, unseen: true}
	case f.srv.netHTTP && mayHaveBody(r) && expectsContinue(r):
		f.body = &expectedBody
	}
}

// giveBody gives own, the handler's copy of r, a body of ours, if it has one.
func (f *Flusher) giveBody(own, r *http.Request) {
	switch {
	case f.hidesBody(r):
		f.body = &requestBody{f: f, drained: true}
		return // the handler's is the one that it was given
	case !mayHaveBody(r):
		return
	}
	b := &requestBody{ReadCloser: r.Body, f: f, server: r, own: own}
	b.expects.Store(expectsContinue(r))
	b.drained = f.drainsBody(r)
	f.body, own.Body = b, b
}

// hidesBody reports whether middleware shows none in the place of the body that r
// came with. The server drains that all the same, and who has read it is not known,
// unless a Flusher below has seen it: it counts as unread until the headers are out.
// The handler cannot want to read it, so a carrier may hand them over.
func (f *Flusher) hidesBody(r *http.Request) bool {
	if !f.srv.netHTTP || r.ProtoMajor != 1 || r.Body != nil && r.Body != http.NoBody || !cameWithBody(r) {
		return false
	}
	if below := flusherOn(r.Context()); below != nil && below != f {
		return below.bodyUnread()
	}
	return true
}

// bodyUnread reports whether there may be a request body that has not been read to
// its end.
func (f *Flusher) bodyUnread() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bodyUnreadLocked()
}

func (f *Flusher) bodyUnreadLocked() bool { return f.body != nil && !f.body.over.Load() }

// cameWithBody reports whether the client has sent a body with r, whatever has
// become of that since.
func cameWithBody(r *http.Request) bool {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return true
	}
	length := r.Header["Content-Length"]
	return len(length) > 0 && parseLength(length, true) != 0
}

// mayHaveBody reports whether r has a body, be it an empty one with a trailer.
func mayHaveBody(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return false
	}
	return r.ContentLength != 0 || r.ProtoMajor > 1 && r.Header["Content-Length"] != nil
}

// drainsBody reports whether the server, when headers go out, drains what is
// left of r's body. It does not on HTTP/2, nor if the client waits for a 100
// Continue: then it ends the connection.
func (f *Flusher) drainsBody(r *http.Request) bool {
	return f.srv.netHTTP && r.ProtoMajor == 1 && mayHaveBody(r) && !expectsContinue(r)
}

// expectsContinue reports whether the server sends a 100 Continue when r's body
// is first read.
func expectsContinue(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor > 0 && r.ContentLength != 0 && hasToken(r.Header["Expect"], "100-continue")
}

func (b *requestBody) Read(p []byte) (int, error) {
	if b.expects.Load() && b.expects.Swap(false) {
		b.f.tellStatus()
	}
	defer b.enter()()
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.carryTrailer()
		b.over.Store(true)
		if err == io.EOF {
			b.whole.Store(true)
		}
	}
	return n, err
}

func (b *requestBody) Close() error {
	defer b.enter()()
	err := b.ReadCloser.Close()
	b.carryTrailer()
	b.over.Store(true)
	return err
}

// enter keeps the server's hand-over of headers out until leave is called. It
// waits for the one under way, or asked for.
func (b *requestBody) enter() (leave func()) {
	if !b.drained || b.over.Load() {
		return func() {}
	}
	f := b.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for b.handing || f.fail == nil && f.dueLocked() && !f.stack.withheld {
		f.waitLocked() // a flush was asked for before: read what is left then
	}
	b.reading++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		b.reading--
		f.wakeLocked()
	}
}

func (b *requestBody) carryTrailer() {
	if t := b.server.Trailer; t != nil {
		b.own.Trailer = t
	}
}

// excludeBodyLocked comes before a call of the server's that hands size bytes
// over, and flushes with push: if headers may go out, and the server may drain
// for that, it keeps further Reads of the handler's out. awaitReadLocked and, after
// the call, admitBodyLocked follow.
//
// A drain, and the Read before it, may last as long as the client does not go on.
// They are reads, which no write deadline ends, but a read deadline does, at once,
// and the client still gets its answer. That is set after the send timeout, by
// Abort, and drainGrace after the return of the handler.
func (f *Flusher) excludeBodyLocked(push bool, size int) {
	b := f.body
	if b == nil || !b.drained || f.fullDuplex || b.over.Load() || !push && !f.overflowsLocked(size) {
		return
	}
	b.handing = true
}

// awaitReadLocked waits for the Read that is under way, but for the end of the
// response, and reports whether the server may have its turn then. It may not if
// the response has failed: that Read may go on.
func (f *Flusher) awaitReadLocked() bool {
	b := f.body
	if b == nil || !b.handing {
		return true
	}
	for b.reading > 0 && f.fail == nil && !f.closing {
		f.waitLocked()
	}
	if f.fail != nil {
		b.handing = false
		return false
	}
	return true
}

// spareBodyLocked comes before admitBodyLocked if the flush was not to be: the
// server has had no turn, unless the bytes made it hand the headers over.
func (f *Flusher) spareBodyLocked(size int) {
	if b := f.body; b != nil && b.handing && !f.overflowsLocked(size) {
		b.handing = false
		f.wakeLocked()
	}
}

// spareBody is spareBodyLocked for who does not hold mu.
func (f *Flusher) spareBody(size int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spareBodyLocked(size)
}

// overflowsLocked reports whether size more bytes make the server hand the
// headers over by itself.
func (f *Flusher) overflowsLocked(size int) bool {
	return f.handedLocked()+int64(size) > serverMeasures
}

func (f *Flusher) admitBodyLocked() {
	if b := f.body; b != nil && b.handing {
		b.handing = false
		b.over.Store(true)
		f.wakeLocked()
	}
}

// bodyFirstLocked reports whether the server would drain the request body if
// headers went out now.
func (f *Flusher) bodyFirstLocked() bool {
	return f.body != nil && f.body.drained && !f.headersSent && !f.fullDuplex && !f.body.over.Load()
}

// drainingLocked reports whether the call of the server that is under way may
// be draining the request body.
func (f *Flusher) drainingLocked() bool {
	return f.body != nil && f.body.handing && !f.body.cutShort
}

// cutDrainLocked ends the server's drain of the request body. The body stays
// unreadable: the handler would read on behind a gap.
func (f *Flusher) cutDrainLocked() {
	if !f.drainingLocked() {
		return
	}
	f.body.cutShort = true
	if d, ok := find[readDeadliner](f.srv.w); ok {
		f.callAsideLocked(func() { d.SetReadDeadline(aLongTimeAgo) })
	}
}

// drainGrace is how long the server may go on to drain after the return of the
// handler: a client that is still sending would otherwise lose the answer with
// the connection.
const drainGrace = 500 * time.Millisecond

// boundDrainLocked ends a drain that is under way as the handler returns, after
// a grace.
func (f *Flusher) boundDrainLocked() {
	if f.drainingLocked() {
		time.AfterFunc(drainGrace, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if !f.ended {
				f.cutDrainLocked()
			}
		})
	}
}

// drainsLateLocked reports whether the server hands over the headers after us, and
// drains the request body for that: nothing of ours could end it any more.
func (f *Flusher) drainsLateLocked() bool {
	b := f.body
	return b != nil && b != &expectedBody && b.drained && !b.over.Load() && !f.fullDuplex
}

// boundLateDrainLocked has such a drain end at t, unless the handler or the server's
// ReadTimeout ends it before: the client still gets its answer then. The server takes
// the deadline away behind it.
func (f *Flusher) boundLateDrainLocked(t time.Time) {
	if at := f.rarely().readDeadline; !at.IsZero() && at.Before(t) {
		return
	}
	srv, ok := f.ownContextLocked().Value(http.ServerContextKey).(*http.Server)
	if ok && srv.ReadTimeout > 0 && epoch.Add(f.began+srv.ReadTimeout).Before(t) {
		return
	}
	if d, ok := find[readDeadliner](f.srv.w); ok && !f.body.cutShort {
		d.SetReadDeadline(t)
	}
}

// callerOnlyLocked reports whether handing over the headers would drain a
// request body that the handler of a New may still want to read. As we do not
// see it read, only a caller of the Flusher may do it then, as in net/http, and
// no carrier or timer.
func (f *Flusher) callerOnlyLocked() bool {
	return f.body != nil && f.body.unseen && !f.headersSent && !f.fullDuplex
}

// tellStatus hands a status that has been fixed to the server.
func (f *Flusher) tellStatus() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tellStatusLocked()
}

// tellStatusLocked is tellStatus: net/http only takes notes, and nothing goes
// out.
func (f *Flusher) tellStatusLocked() {
	if !f.fixed || f.headersSent || f.refuse != nil || f.cfg.SAPI.Headers == OutputOnly || f.takeBatonLocked(f.stack.busy) != nil {
		return
	}
	defer f.releaseLocked()
	f.sendHeadersLocked(false)
}

// fixEarlyLocked fixes the status, and tells the server of it, where a Read that
// we do not see would ask the client for a body.
func (f *Flusher) fixEarlyLocked(status int) {
	if f.body == &expectedBody && !f.fixed {
		f.fixLocked(status)
		f.tellStatusLocked()
	}
}
