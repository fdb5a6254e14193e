package flush

import (
	"compress/gzip"
	"mime"
	"net/http"
	"net/textproto"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Gzip returns a filter that compresses what goes through its buffer, if the
// client accepts that and the response lends itself to it. It is PHP's
// ob_gzhandler. r is the request that is answered; level is one of
// [compress/gzip], -1 for the default.
//
// The filter makes up its mind when it first runs, but not by a flush of nothing
// that no header leaves with. It leaves alone: responses
// with status 204, empty and partial ones; those with a Content-Encoding, or whose
// Cache-Control says no-transform; those whose Content-Type is compressed by
// itself (images but SVG, video, audio, archives, WOFF, PDF); and those that
// end below 512 bytes before a flush. It adds Accept-Encoding to Vary in any
// case. If it compresses, it sets Content-Encoding, and Content-Type if that
// is missing, drops Content-Length, Accept-Ranges and the digests of the plain
// body, and makes a strong ETag a weak one. If r is nil, if headers have been
// sent, or if a part of the body has gone ahead of the buffer, it does nothing
// at all.
//
// A response to HEAD gets the headers that one to GET would have. Without a
// body to go by, its Content-Length tells, or else that it has a Content-Type
// which can be compressed. A 304 gets the ETag of the 200.
//
// Once it compresses, only the end of the response ends its buffer: Clean,
// Close and Discard return [ErrForbidden], as what came behind would not be
// compressed. A buffer that is closed before it has let anything through passes
// all of it unchanged. A response that ends short of the Content-Length that it
// had declared is cut, as it would be without the filter, and no more than that
// length goes out.
//
// After each flush of the buffer the client can decode everything up to there.
// To compress every response of a handler, flushed or not:
//
//	OnStart: func(f *flush.Flusher, r *http.Request) {
//		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
//	}
func Gzip(f *Flusher, r *http.Request, level int) Filter {
	if r == nil {
		return func(p []byte, _ Phase) ([]byte, error) { return p, nil }
	}
	if level < gzip.HuffmanOnly || level > gzip.BestCompression {
		level = gzip.DefaultCompression
	}
	g := &gzipper{
		f:        f,
		level:    level,
		accepted: acceptsGzip(r.Header["Accept-Encoding"]),
		head:     r.Method == http.MethodHead,
	}
	if r.URL != nil {
		g.ext = path.Ext(r.URL.Path)
	}
	return g.filter
}

// minGzip is the size below which a whole response is not compressed.
const minGzip = 512

// A gzipper is the state of one filter that Gzip has returned. Its first call
// decides. Then it passes everything on (z is nil), or everything through z.
// Flusher.Clean, which has found the headers unsent, has it begin anew.
type gzipper struct {
	f        *Flusher
	level    int
	accepted bool
	head     bool
	ext      string // of the path that was asked for

	decided  bool
	flushed  bool // it was, before there was anything to decide by
	z        *gzipStream
	unsaid   bool  // z holds back some of what it was given
	begun    bool  // z was given something: it needs its end
	declared int64 // the handler's Content-Length, or -1
	in       int64 // how much of that came
}

// A gzipStream compresses to memory.
type gzipStream struct {
	*gzip.Writer
	out gzipOutput
}

type gzipOutput []byte

func (o *gzipOutput) Write(p []byte) (int, error) {
	*o = append(*o, p...)
	return len(p), nil
}

// gzipStreams holds idle streams by level, from gzip.HuffmanOnly up.
var gzipStreams [gzip.BestCompression - gzip.HuffmanOnly + 1]sync.Pool

func (g *gzipper) open() {
	z, ok := gzipStreams[g.level-gzip.HuffmanOnly].Get().(*gzipStream)
	if ok {
		z.Reset(&z.out)
	} else {
		z = new(gzipStream)
		z.Writer, _ = gzip.NewWriterLevel(&z.out, g.level) // the level is valid
	}
	g.z = z
}

// release gives the stream back, less its output, which is the last result of
// the filter.
func (g *gzipper) release() {
	if g.z != nil {
		g.z.out = nil
		gzipStreams[g.level-gzip.HuffmanOnly].Put(g.z)
		g.z = nil
	}
}

func (g *gzipper) filter(p []byte, phase Phase) ([]byte, error) {
	if phase&PhaseStart != 0 {
		g.release()
		g.decided, g.flushed, g.unsaid, g.begun, g.declared, g.in = false, false, false, false, -1, 0
	}
	if phase&PhaseClean != 0 {
		return nil, nil
	}
	if !g.decided {
		if len(p) == 0 && phase&PhaseFinal == 0 && g.canWait() {
			g.flushed = true
			return nil, nil
		}
		g.decided = true
		if g.decide(p, phase) {
			g.open()
		}
	}
	if g.z == nil {
		return p, nil
	}
	p, short := g.measure(p, phase)
	if cap(g.z.out) > mostBytes {
		g.z.out = nil
	}
	g.z.out = g.z.out[:0]
	if len(p) > 0 {
		g.unsaid, g.begun = true, true
		if _, err := g.z.Write(p); err != nil {
			return nil, err
		}
	}
	if phase&PhaseFinal != 0 {
		g.dropLateDigests()
	}
	switch {
	case phase&PhaseFinal != 0 && !short:
		return g.end()
	case phase&(PhaseFlush|PhaseFinal) != 0 && g.unsaid:
		g.unsaid = false
		if err := g.z.Flush(); err != nil {
			return nil, err
		}
	}
	if phase&PhaseFinal != 0 {
		defer g.release()
	}
	return g.z.out, nil
}

// measure holds p to the Content-Length that the handler has declared, which
// the client does not see. What is too much is refused, as net/http would.
// What is too little cuts the response: no end is put to the stream either.
func (g *gzipper) measure(p []byte, phase Phase) (fits []byte, short bool) {
	if g.declared < 0 {
		return p, false
	}
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if room := g.declared - g.in; int64(len(p)) > room {
		f.loseLocked(len(p) - int(room))
		f.noteRefusedLocked(http.ErrContentLength)
		p = p[:room]
	}
	g.in += int64(len(p))
	short = phase&PhaseFinal != 0 && g.in < g.declared && !g.head
	if short {
		f.cutAtEndLocked(errShort)
	}
	return p, short
}

// takeLengthLocked takes the Content-Length out of the headers.
func (g *gzipper) takeLengthLocked() {
	h := g.f.headerLocked()
	if len(h["Content-Length"]) > 0 { // nil switches the automatic one off
		g.declared = parseLength(h["Content-Length"], g.f.http1)
		h.Del("Content-Length")
	}
}

// end returns the end of the stream. Of a stream that has not begun nothing is
// left, if its headers can still be taken back, or describe another response.
func (g *gzipper) end() ([]byte, error) {
	defer g.release()
	if !g.begun && (g.head || g.takeBack()) {
		return nil, nil
	}
	if err := g.z.Close(); err != nil {
		return nil, err
	}
	return g.z.out, nil
}

// takeBack removes the Content-Encoding again, and reports whether it could.
func (g *gzipper) takeBack() bool {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	if g.f.headersSent {
		return false
	}
	delete(g.f.headerLocked(), "Content-Encoding")
	return true
}

// canWait reports whether no headers leave before there is some of the body, or its
// end: it is the buffer alone that is flushed, or the response in vain. The handler
// may still set headers then, and the body tells its type.
func (g *gzipper) canWait() bool {
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.headersSent || f.stack.flushing && !f.nothingLeavesLocked() {
		return false
	}
	g.varyLocked()
	return true
}

// varyLocked says that the response depends on what the client accepts.
func (g *gzipper) varyLocked() {
	h := g.f.headerLocked()
	if vary := h["Vary"]; !hasToken(vary, "Accept-Encoding") && !hasToken(vary, "*") {
		h.Add("Vary", "Accept-Encoding")
	}
}

// decide reports whether to compress, and sets the headers for that. What it
// looks at cannot change before they are out: see stack.
func (g *gzipper) decide(p []byte, phase Phase) bool {
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.headersSent || f.cfg.SAPI.Headers == OutputOnly || f.written > 0 {
		return false
	}
	b := f.stack.running
	if b != nil {
		for _, lower := range f.stack.bufs[:min(b.level, len(f.stack.bufs))] {
			if lower.lenLocked() > 0 {
				return false
			}
		}
	}
	g.varyLocked()
	h := f.headerLocked()
	status := http.StatusOK
	if f.fixed {
		status = int(f.status)
	}
	if !g.accepted || status == http.StatusPartialContent || !bodyAllowed(status) && status != http.StatusNotModified ||
		h.Get("Content-Encoding") != "" || h.Get("Content-Range") != "" || hasToken(h["Cache-Control"], "no-transform") {
		return false
	}
	values, typed := h["Content-Type"]
	kind := h.Get("Content-Type")
	switch {
	case typed:
	case status == http.StatusNotModified:
		kind = mime.TypeByExtension(g.ext) // it tells no type
	case len(p) > 0:
		kind = http.DetectContentType(p)
	}
	if compressedType(kind) {
		return false
	}
	if status != http.StatusNotModified && parseLength(h["Content-Length"], f.http1) == 0 {
		return false // there is nothing to compress
	}
	bodiless := status == http.StatusNotModified || g.head && len(p) == 0
	if phase&PhaseFinal != 0 && status != http.StatusNotModified {
		size := int64(len(p))
		if bodiless {
			if size = parseLength(h["Content-Length"], f.http1); size < 0 && len(values) > 0 {
				size = minGzip // its type is all that tells
			}
		}
		// A buffer that is closed before the response ends is not the last
		// word: the rest would not be compressed.
		if size < minGzip && !g.flushed || size == 0 && !g.head || !f.closing {
			return false
		}
	}
	g.takeLengthLocked()
	for _, k := range plainHeaders {
		delete(h, k)
	}
	dropTrailers(h, plainHeaders)
	if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) {
		h.Set("Etag", "W/"+tag)
	}
	if status == http.StatusNotModified {
		return false
	}
	h.Set("Content-Encoding", "gzip")
	if !typed && kind != "" {
		h.Set("Content-Type", kind)
	}
	if bodiless && phase&PhaseFinal != 0 {
		return false
	}
	if b != nil {
		b.pinned = true
		if !typed {
			f.stack.sniffed = kind
		}
	}
	return true
}

// plainHeaders are true of the plain body only: ranges of it, and digests.
// Repr-Digest covers the Content-Encoding too (RFC 9530). What the response
// wants from later requests, as Want-Repr-Digest does, is not about its body.
var plainHeaders = []string{"Accept-Ranges", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"}

// dropTrailers takes names out of the trailers that h announces.
func dropTrailers(h http.Header, names []string) {
	values := h["Trailer"]
	if len(values) == 0 {
		return
	}
	var kept []string
	for k := range trailerNames(values) {
		if !slices.Contains(names, k) {
			kept = append(kept, k)
		}
	}
	if len(kept) == 0 {
		delete(h, "Trailer")
		return
	}
	h["Trailer"] = kept
}

// dropLateDigests takes out of the headers what has become a trailer without an
// announcement.
func (g *gzipper) dropLateDigests() {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	for _, k := range plainHeaders {
		delete(g.f.header, http.TrailerPrefix+k)
	}
}

// compressedType reports whether a Content-Type is of what is compressed by
// itself, which a structured suffix (RFC 6838) tells too.
func compressedType(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(textproto.TrimString(kind))
	family, name, _ := strings.Cut(kind, "/")
	switch family {
	case "image":
		return name != "svg+xml"
	case "video", "audio":
		return true
	case "font":
		return name == "woff" || name == "woff2"
	case "application":
		if i := strings.LastIndexByte(name, '+'); i >= 0 {
			name = name[i+1:]
		}
		switch strings.TrimPrefix(name, "x-") {
		case "zip", "zip-compressed", "gzip", "zstd", "brotli", "font-woff", "font-woff2", "woff", "woff2", "pdf":
			return true
		}
	}
	return false
}

// acceptsGzip reports whether an Accept-Encoding wants gzip, and no less than
// the bare response.
func acceptsGzip(values []string) bool {
	gzip, star, identity := -1, -1, -1
	for _, v := range values {
		for item := range strings.SplitSeq(v, ",") {
			coding, q := weighted(item)
			switch strings.ToLower(coding) {
			case "gzip", "x-gzip":
				gzip = max(gzip, q)
			case "*":
				star = q
			case "identity":
				identity = q
			}
		}
	}
	if gzip < 0 {
		gzip = star
	}
	return gzip > 0 && gzip >= identity
}

// weighted splits an item of an Accept-Encoding into the coding and its weight
// in thousandths: 1000 if there is none, 0 if it is not what RFC 9110 12.4.2
// allows.
func weighted(item string) (coding string, q int) {
	coding, weight, found := strings.Cut(item, ";")
	coding = textproto.TrimString(coding)
	if !found {
		return coding, 1000
	}
	weight = textproto.TrimString(weight)
	if len(weight) < 3 || !strings.EqualFold(weight[:2], "q=") {
		return coding, 0
	}
	whole, fraction, _ := strings.Cut(weight[2:], ".")
	if whole != "0" && whole != "1" || len(fraction) > 3 {
		return coding, 0
	}
	q, err := strconv.Atoi(whole + (fraction + "000")[:3])
	if err != nil || q > 1000 {
		return coding, 0
	}
	return coding, q
}
