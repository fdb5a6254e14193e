package flush

import (
	"net/http"
	"slices"
	"strings"
)

// SendHeaders sends the headers now, the body later (ngx.send_headers). It
// ends the holding back of an HTTP/1.0 response. Headers that have been sent
// already, or have no place on the wire, are no error.
func (f *Flusher) SendHeaders() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refusedLocked(); err != nil {
		return err
	}
	if f.headersSent || f.cfg.SAPI.Headers == OutputOnly {
		return nil
	}
	f.lendLocked()
	defer f.takeBackLocked()
	if f.carrierOnly() {
		if !f.fixed {
			f.fixLocked(http.StatusOK)
		}
		f.stopHoldingLocked()
		return f.awaitFlushLocked(f.askBareLocked(), nil)
	}
	if err := f.takeBatonLocked(f.stack.busy); err != nil {
		return err
	}
	defer f.releaseLocked()
	if !f.headersSent {
		f.rareLocked().bare = true
		f.sendBareHeadersLocked(true)
		f.pushLocked()
	}
	if f.fail == nil && !f.srv.flushes {
		return errCannotFlush
	}
	return f.fail
}

// HeadersSent reports whether the headers have gone to the server, so that
// nothing can be taken back. Under [OutputOnly] it is false before the first
// output and true after; under [Embed] always true.
func (f *Flusher) HeadersSent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sentLocked()
}

func (f *Flusher) sentLocked() bool { return f.headersSent || f.cfg.SAPI.bornSent() }

// readyLocked does what must come before a carrier. The handler may change a
// shared header map as soon as we have returned to it.
func (f *Flusher) readyLocked() {
	if f.shared && !f.headersSent {
		f.absorbLocked()
		f.leadLocked(f.q.len > 0, f.asked.seq > f.done)
	}
}

// leadLocked hands over the headers if bytes follow, or a flush.
func (f *Flusher) leadLocked(bytes, push bool) {
	switch {
	case bytes && !f.skipsLocked():
		f.sendHeadersLocked(push)
	case bytes || push:
		f.sendBareHeadersLocked(push)
	}
}

// skipsLocked reports whether headers go out without the body: the server
// would drop it, or choke on it (HTTP/2).
func (f *Flusher) skipsLocked() bool { return f.head }

// sendHeadersLocked hands the fixed headers to the server; the holder of the
// baton calls it. flushing says that a flush does.
func (f *Flusher) sendHeadersLocked(flushing bool) {
	if f.headersSent {
		return
	}
	if !f.fixed {
		f.fixLocked(http.StatusOK)
	}
	f.headersSent = true
	f.stopHoldingLocked()
	f.wakeLocked() // who is about to run a filter: see withholdLocked
	if f.cfg.SAPI.Headers == OutputOnly {
		return
	}
	if flushing && f.cfg.NoProxyBuffering {
		forbidProxyBuffering(f.belowLocked())
	}
	f.closeConnectionLocked()
	f.writeHeaderLocked()
}

// sendBareHeadersLocked hands over headers that no byte follows now.
func (f *Flusher) sendBareHeadersLocked(flushing bool) {
	if f.headersSent {
		return
	}
	if !f.fixed {
		f.fixLocked(http.StatusOK)
	}
	f.typeLocked()
	f.sendHeadersLocked(flushing)
	if f.srv.netHTTP || f.cfg.SAPI.Headers == OutputOnly || f.fail != nil {
		return
	}
	// CGI and FastCGI write the header block with the first Write, be it
	// empty; their Flush alone sends nothing.
	var err error
	f.callLocked(func() { _, err = f.srv.w.Write(nil) })
	f.verdictLocked(err)
}

// typeLocked sets the Content-Type of headers that leave without a body for
// the server to look at: from the bytes held, or else the profile's.
func (f *Flusher) typeLocked() {
	if !f.bodyAllowed() || f.cfg.SAPI.Headers == OutputOnly {
		return
	}
	held := f.q.front(512)
	if len(held) == 0 && f.cfg.SAPI.ContentType == "" {
		return
	}
	h := f.belowLocked()
	if _, ok := h["Content-Type"]; ok {
		return
	}
	switch {
	case len(held) == 0:
		h.Set("Content-Type", f.cfg.SAPI.ContentType)
	case h.Get("Content-Encoding") == "" && h.Get("Transfer-Encoding") == "": // else it is not the body that they show
		h.Set("Content-Type", http.DetectContentType(held))
	}
}

func forbidProxyBuffering(h http.Header) {
	if _, ok := h["X-Accel-Buffering"]; !ok {
		h.Set("X-Accel-Buffering", "no")
	}
	if !hasToken(h["Cache-Control"], "no-transform") {
		h.Set("Cache-Control", strings.Join(append(slices.Clone(h["Cache-Control"]), "no-transform"), ", "))
	}
}

// closeConnectionLocked comes before headers leave. Those of a response that is
// being detached say that the connection ends with it: a client that had kept it
// would meet its end under the next request. HTTP/2 knows no such header.
func (f *Flusher) closeConnectionLocked() {
	if f.noted != nil {
		if f.detached != detaching {
			return // a note says nothing of it
		}
		f.readNoteLocked()
	}
	if f.detached == detaching && f.http1 && !hasToken(f.below["Connection"], "close") {
		f.belowLocked().Set("Connection", "close")
	}
	if f.saidClose = hasToken(f.below["Connection"], "close"); f.saidClose {
		f.noteFramingLocked()
	}
}

// writeHeaderLocked hands status and fixed headers to the server.
func (f *Flusher) writeHeaderLocked() {
	status := int(f.status)
	if f.noted != nil && f.noted.says(f.header) {
		f.dropNoteLocked()
		f.srv.w.WriteHeader(status)
		f.below = f.header
		return
	}
	below := f.belowLocked() // now or never: the handler may ask for its headers while we write
	if !f.srv.ownHeader {
		f.callLocked(func() { f.srv.w.WriteHeader(status) })
		f.silentLocked()
		return
	}
	// From here on WriteHeader is net/http's own, which only takes notes.
	if !f.shared {
		f.srv.w.WriteHeader(status)
		return
	}
	if sameHeader(f.header, below) {
		f.srv.w.WriteHeader(status)
	} else {
		late := make(http.Header) // what the handler has changed since, for trailers
		copyHeader(late, f.header)
		copyHeader(f.header, below)
		f.srv.w.WriteHeader(status)
		copyHeader(f.header, late)
	}
	clear(below)
	headerMaps.Put(below)
	f.below = f.header
}
