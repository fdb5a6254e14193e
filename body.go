package flush

import (
	"io"
	"net/http"
	"sync/atomic"
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
//   - On HTTP/1 it tells the Flusher when the body is over: read to its end or
//     closed. Until then the body comes first, see callerOnlyLocked.
//   - No 100 Continue goes out after the final status has been fixed: the server
//     must know of the status before it reads.
//
// [New] leaves the server's own body to its handler, since a server that meets
// another than its own does not know what is left of it, and would take the rest
// for a request. There the trailer is where it belongs, a body that may be unread
// counts as unread until the headers are out (unreadBody), and a status is told
// to the server as soon as it is fixed (expectedBody).
type requestBody struct {
	io.ReadCloser
	f       *Flusher
	server  *http.Request // as NewHandler got it
	own     *http.Request // the handler's
	drained bool          // by the server when headers go out: see callerOnlyLocked
	expects atomic.Bool   // the client waits for a 100 Continue, which the first Read sends
	over    atomic.Bool   // read to its end, or closed
}

// What stands for a body that we do not see: one that the server drains when
// headers go out, and one that it asks for when it is first read.
var unreadBody, expectedBody = requestBody{drained: true}, requestBody{}

// newBody notes what [New] knows of r's body.
func (f *Flusher) newBody(r *http.Request) {
	switch {
	case f.drainsBody(r):
		f.body = &unreadBody
	case f.srv.netHTTP && mayHaveBody(r) && expectsContinue(r):
		f.body = &expectedBody
	}
}

// giveBody gives own, the handler's copy of r, a body of ours, if it has one.
func (f *Flusher) giveBody(own, r *http.Request) {
	if !mayHaveBody(r) {
		return
	}
	b := &requestBody{ReadCloser: r.Body, f: f, server: r, own: own}
	b.expects.Store(expectsContinue(r))
	b.drained = f.drainsBody(r)
	f.body, own.Body = b, b
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
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.carryTrailer()
		b.end()
	}
	return n, err
}

func (b *requestBody) Close() error {
	err := b.ReadCloser.Close()
	b.carryTrailer()
	b.end()
	return err
}

func (b *requestBody) carryTrailer() {
	if t := b.server.Trailer; t != nil {
		b.own.Trailer = t
	}
}

// end lets the carrier and the timers hand over headers from now on.
func (b *requestBody) end() {
	if !b.drained || b.over.Load() || b.over.Swap(true) {
		return
	}
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	b.f.kickLocked()
}

// callerOnlyLocked reports whether handing over the headers would drain a
// request body that the handler may still want to read. Done in the background
// that steals the upload: the handler reads a part of it and then an error, or
// what looks like the end. So only a caller of the Flusher may do it then, as in
// net/http, and no carrier or timer.
func (f *Flusher) callerOnlyLocked() bool {
	return f.body != nil && f.body.drained && !f.headersSent && !f.fullDuplex && !f.body.over.Load()
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
