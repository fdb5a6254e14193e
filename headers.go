package flush

import (
	"fmt"
	"log"
	"maps"
	"net/http"
	"net/textproto"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// headers are the status and the headers of a response. They are in one of
// three states, and go on from each to the next; Clean goes back to the first,
// unless they have been sent.
//
//	open   what the handler's map says will be sent
//	fixed  the status and what below says, or noted, will be sent. The handler's map
//	       counts for trailers only, or for a filter that runs: see stack
//	sent   they have gone to the server
//
// Invariants, whenever mu is free:
//
//  1. Fixed headers have a status. What the handler's map said when they were
//     fixed is in below, or else in noted, or, while a filter is at the map, will
//     be in below once it has returned.
//  2. Only who has the baton makes them sent, in the critical section in which
//     it has looked at everything else.
//  3. While a filter runs that found them unsent, the baton belongs to who runs
//     it: stack.withheld. So they leave by a call of that filter's or after it.
//  4. length is the Content-Length that below has, or noted, or -1.
//
// There are two maps because fixed headers go out later, and from any
// goroutine, while the handler may still change its own. Where the server reads
// its map only inside WriteHeader (net/http on HTTP/1), the handler has that
// one and below is a copy, which is gone once the headers are out: shared.
// WriteHeader then runs on a caller's goroutine, see readyCarrierLocked.
// Elsewhere the server has below and the handler a copy.
type headers struct {
	length  int64       // the declared Content-Length, or -1
	written int64       // body bytes that were offered to floor 2, refused ones included
	header  http.Header // the handler's; nil until it asked
	below   http.Header // the fixed ones; nil until they were needed
	noted   *headerNote // the fixed ones instead; nil: below has them

	http1, http10 bool // the client's protocol. Never changed
	head          bool // no body goes on this wire: a HEAD request. Never changed
	fixed         bool
	headersSent   bool
	shared        bool
	eventStream   bool // they are fixed, and those of an event stream
	saidClose     bool // they went out with Connection: close
}

// Header returns the header map, as [http.ResponseWriter.Header]. Changes after
// the headers have been fixed (by WriteHeader or the first byte on floor 2)
// count only for trailers.
func (f *Flusher) Header() http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.headerLocked()
}

func (f *Flusher) headerLocked() http.Header {
	switch {
	case f.header != nil:
	case f.ended:
		f.header = make(http.Header)
	case f.srv.ownHeader && !f.fixed && f.rarely().interval == nil:
		f.shared = true
		f.header = f.srv.w.Header()
	default:
		f.header = make(http.Header)
		copyHeader(f.header, f.belowLocked())
	}
	return f.header
}

// belowLocked returns the map of the fixed headers. The server's is asked for
// once and kept: after WriteHeader on another goroutine the server's Header is
// not safe to call.
func (f *Flusher) belowLocked() http.Header {
	switch {
	case f.below != nil:
	case f.shared:
		f.below = headerMaps.Get().(http.Header)
		if f.noted != nil {
			f.noted.fill(f.below)
			f.dropNoteLocked()
		}
	default:
		f.below = f.askHeaderLocked()
	}
	return f.below
}

// readNoteLocked has below say what was noted, if anything was.
func (f *Flusher) readNoteLocked() {
	if f.noted != nil {
		f.belowLocked()
	}
}

// askHeaderLocked asks the server for its map. A writer that has none has nowhere to
// send what is set; one that panics here has failed, as in every other call of it:
// whoever was about to hand bytes down has counted them already.
func (f *Flusher) askHeaderLocked() (h http.Header) {
	returned := false
	defer func() {
		if !returned {
			f.failLocked(errPanicked)
		}
	}()
	h = f.srv.w.Header()
	if returned = true; h == nil {
		h = make(http.Header)
	}
	return h
}

var headerMaps = sync.Pool{New: func() any { return make(http.Header) }}

// copyHeader makes dst equal to src, with values of its own.
func copyHeader(dst, src http.Header) {
	if len(dst) > 0 {
		for k := range dst {
			if _, ok := src[k]; !ok {
				delete(dst, k)
			}
		}
	}
	values := make([]string, 0, len(src)) // most have one
	for k, vv := range src {
		if vv == nil {
			dst[k] = nil // switches an automatic header off
			continue
		}
		if cap(values)-len(values) < len(vv) {
			values = make([]string, 0, len(vv)+len(src))
		}
		n := len(values)
		values = append(values, vv...)
		dst[k] = values[n:len(values):len(values)]
	}
}

// WriteHeader fixes the status and the headers, as
// [http.ResponseWriter.WriteHeader]: the first call wins. They go out later;
// see [Flusher.HeadersSent]. A 1xx other than 101 goes straight through, but
// not to HTTP/1.0, CGI and FastCGI. On a server without deadlines it waits for the
// server's call, however long.
func (f *Flusher) WriteHeader(code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.hijacked:
		f.complainLocked("response.WriteHeader on hijacked connection")
		return
	case f.refusedLocked() != nil:
		return
	case f.fixed:
		f.complainLocked("superfluous response.WriteHeader call")
		return
	case code < 100 || code > 999:
		// net/http panics too; left for later it would do so in the background.
		panic(fmt.Sprintf("invalid WriteHeader code %v", code))
	}
	if code < 200 && (code != http.StatusSwitchingProtocols || !f.http1) {
		f.informLocked(code)
		return
	}
	f.fixEarlyLocked(code)
	if !f.fixed {
		f.fixLocked(code)
	}
	f.watchIntervalLocked()
}

// informLocked sends a 1xx. It overtakes nothing: as headers have not been
// fixed, no byte has been accepted.
func (f *Flusher) informLocked(code int) {
	if f.http10 || !f.srv.takesInfo || f.cfg.SAPI.Headers == OutputOnly {
		return
	}
	f.lendLocked()
	defer f.takeBackLocked()
	if f.takeBatonLocked(f.stack.busy) != nil {
		return
	}
	defer f.releaseLocked()
	if f.headersSent {
		return
	}
	f.passHeaderLocked()
	f.callLocked(func() { f.srv.w.WriteHeader(code) })
}

// passHeaderLocked has the server see the handler's headers as they are now,
// without fixing them.
func (f *Flusher) passHeaderLocked() {
	if f.header != nil && !f.shared {
		copyHeader(f.belowLocked(), f.header)
	}
}

// fixLocked fixes the status and the headers as they are now. While a filter is
// at the map, as they are when it has returned.
func (f *Flusher) fixLocked(status int) {
	f.fixed = true
	f.status = int16(status)
	if !f.stack.atHeader() {
		f.freezeLocked()
	}
	if !bodyAllowed(status) {
		f.stopHoldingLocked()
	}
}

// isEventStream reports whether h is that of server-sent events.
func isEventStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// freezeLocked has below say what the handler's map says.
func (f *Flusher) freezeLocked() {
	if f.groups != nil {
		defer f.noteStreamLocked()
	}
	if f.header == nil {
		return
	}
	if !f.noteHeaderLocked() {
		if below := f.belowLocked(); !sameHeader(f.header, below) {
			copyHeader(below, f.header)
		}
	}
	f.length = -1
	if values := f.header["Content-Length"]; len(values) > 0 && values[0] != "" {
		f.length = parseLength(values, f.http1)
		if f.length < 0 && !f.http1 {
			delete(f.below, "Content-Length") // as the server does
		}
	}
	if f.stack.resized && !f.stack.ownLength && f.length >= 0 {
		f.voidLengthLocked()
	}
	if f.length >= 0 {
		f.stopHoldingLocked()
	}
}

// parseLength returns the length that a Content-Length declares, or -1. The
// server deletes one that is not a number, and HTTP/2 and HTTP/1 differ in what
// that is.
func parseLength(values []string, http1 bool) int64 {
	if len(values) == 0 || values[0] == "" {
		return -1
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil || n < 0 || !http1 && values[0][0] == '+' {
		return -1
	}
	return n
}

// declaredLocked returns the length that the headers declare as they are now.
// Nobody else may be at the handler's map.
func (f *Flusher) declaredLocked() int64 {
	h := f.header
	if h == nil {
		h = f.below
	}
	return parseLength(h["Content-Length"], f.http1)
}

// voidLengthLocked does away with a Content-Length of the handler's that a
// filter has made wrong.
func (f *Flusher) voidLengthLocked() {
	f.length = -1
	delete(f.header, "Content-Length")
	if f.fixed {
		f.readNoteLocked()
		delete(f.below, "Content-Length")
	}
}

func sameHeader(a, b http.Header) bool { return maps.EqualFunc(a, b, slices.Equal) }

// holdsLocked reports whether the response is held for a Content-Length.
func (f *Flusher) holdsLocked() bool { return f.http10 && f.cfg.HTTP10Buffer > 0 && !f.head }

// measureLocked sets the exact Content-Length of a response that ends before
// anything went out, where net/http would for a small one. With early it is
// complete before net/http could. It reports whether it has.
func (f *Flusher) measureLocked(early bool) (measured bool) {
	n := f.q.len
	if n == 0 && (!early || f.head) || !f.bodyAllowed() || f.cfg.SAPI.Headers == OutputOnly {
		return false
	}
	trailers := f.hasTrailersLocked()
	if !early && f.srv.netHTTP && n <= serverMeasures && !f.head && !trailers {
		return false
	}
	if trailers && f.http1 && (n == 0 || !f.http10) {
		return false // HTTP/2 has both; an HTTP/1.0 client is sent no trailers
	}
	h := f.belowLocked()
	if _, ok := h["Content-Length"]; ok || h.Get("Transfer-Encoding") != "" {
		return false
	}
	if !f.srv.direct && h.Get("Content-Encoding") != "" {
		return false // a compressor may stand between, which knows of no length that it would have to take away
	}
	h.Set("Content-Length", strconv.Itoa(n))
	return true
}

// hasToken reports whether a comma-separated list has the token.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// complainLocked logs a mistake of the handler's where net/http would, with
// the handler's line.
func (f *Flusher) complainLocked(what string) {
	if !f.srv.netHTTP || !f.http1 {
		return
	}
	logf := log.Printf
	if srv, ok := f.req.Context().Value(http.ServerContextKey).(*http.Server); ok && srv.ErrorLog != nil {
		logf = srv.ErrorLog.Printf
	}
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	for {
		frame, more := frames.Next()
		if !more || !strings.HasPrefix(frame.Function, ownPackage) && !strings.HasPrefix(frame.Function, "net/http.") {
			logf("http: %s from %s (%s:%d)", what, frame.Function, path.Base(frame.File), frame.Line)
			return
		}
	}
}

// ownPackage is how this package's functions begin in a stack trace.
var ownPackage = func() string {
	pc, _, _, _ := runtime.Caller(0)
	name := runtime.FuncForPC(pc).Name()
	slash := strings.LastIndexByte(name, '/')
	return name[:slash+1+strings.IndexByte(name[slash+1:], '.')+1]
}()

// noteStreamLocked notes whether the headers, which have just been fixed, are
// those of an event stream. One whose Group has been shut down ends at once.
func (f *Flusher) noteStreamLocked() {
	f.eventStream = isEventStream(f.belowLocked())
	if !f.eventStream {
		return
	}
	f.endLateStreamLocked()
}
