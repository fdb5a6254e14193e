package flush

import (
	"compress/gzip"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
)

// Gzip returns a filter that compresses what goes through its buffer, if the
// client accepts that and the response lends itself to it. It is PHP's
// ob_gzhandler. r is the request that is answered; level is one of
// [compress/gzip], -1 for the default.
//
// The filter makes up its mind when it first runs. It leaves alone: responses
// to HEAD, with status 204 or 304, and partial ones; those with a
// Content-Encoding, or whose Cache-Control says no-transform; and those that
// end below 512 bytes before a flush. It adds Accept-Encoding to Vary in any
// case. If it compresses, it sets Content-Encoding, and Content-Type if that
// is missing, drops Content-Length and Accept-Ranges, and makes a strong ETag
// a weak one. If r is nil, if headers have been sent, or if a part of the body
// has gone ahead of the buffer, it does nothing at all.
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
	return g.filter
}

// minGzip is the size below which a whole response is not compressed.
const minGzip = 512

// A gzipper is the state of one filter that Gzip has returned.
type gzipper struct {
	f        *Flusher
	level    int
	accepted bool
	head     bool

	decided bool
	z       *gzipStream // nil: what comes passes unchanged
	unsaid  bool        // z holds back some of what it was given
	begun   bool        // z was given something: it needs its end
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
		g.decided, g.unsaid, g.begun = false, false, false
	}
	if phase&PhaseClean != 0 {
		if phase&PhaseFinal != 0 {
			return nil, g.discard()
		}
		return nil, nil // what was compressed before is on its way
	}
	if !g.decided {
		g.decided = true
		if g.decide(p, phase) {
			g.open()
		}
	}
	if g.z == nil {
		return p, nil
	}
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
	switch {
	case phase&PhaseFinal != 0:
		return g.end()
	case phase&PhaseFlush != 0 && g.unsaid:
		g.unsaid = false
		if err := g.z.Flush(); err != nil {
			return nil, err
		}
	}
	return g.z.out, nil
}

// end returns the end of the stream. Of a stream that has not begun nothing is
// left, if its headers can still be taken back.
func (g *gzipper) end() ([]byte, error) {
	defer g.release()
	if !g.begun && g.takeBack() {
		return nil, nil
	}
	if err := g.z.Close(); err != nil {
		return nil, err
	}
	return g.z.out, nil
}

// discard ends a stream of which the client may have a part: its end goes to
// where that went, although the filter's result is thrown away.
func (g *gzipper) discard() error {
	if g.z == nil {
		return nil
	}
	g.z.out = g.z.out[:0]
	out, err := g.end()
	if err == nil {
		_, err = g.f.Write(out)
	}
	return err
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

// decide reports whether to compress, and sets the headers for that.
func (g *gzipper) decide(p []byte, phase Phase) bool {
	f := g.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.headersSent || f.cfg.SAPI.Headers == OutputOnly || f.written > 0 {
		return false
	}
	if b := f.stack.running; b != nil {
		for _, lower := range f.stack.bufs[:b.level] {
			if lower.lenLocked() > 0 {
				return false
			}
		}
	}
	h := f.headerLocked()
	fixed := h
	if f.fixed {
		fixed = f.below
	}
	if vary := fixed["Vary"]; !hasToken(vary, "Accept-Encoding") && !hasToken(vary, "*") {
		h.Add("Vary", "Accept-Encoding")
	}
	switch {
	case !g.accepted, g.head,
		phase&PhaseFinal != 0 && len(p) < minGzip,
		f.fixed && (!bodyAllowed(f.status) || f.status == http.StatusPartialContent),
		fixed.Get("Content-Encoding") != "",
		fixed.Get("Content-Range") != "",
		hasToken(fixed["Cache-Control"], "no-transform"):
		return false
	}
	h.Set("Content-Encoding", "gzip")
	if len(h["Content-Length"]) > 0 { // nil switches the automatic one off
		h.Del("Content-Length")
	}
	h.Del("Accept-Ranges")
	if tag := fixed.Get("Etag"); strings.HasPrefix(tag, `"`) {
		h.Set("Etag", "W/"+tag)
	}
	if _, ok := fixed["Content-Type"]; !ok && len(p) > 0 {
		h.Set("Content-Type", http.DetectContentType(p))
	}
	return true
}

// acceptsGzip reports whether an Accept-Encoding wants gzip, and no less than
// the bare response.
func acceptsGzip(values []string) bool {
	gzip, star, identity := -1.0, -1.0, -1.0
	for _, v := range values {
		for item := range strings.SplitSeq(v, ",") {
			coding, params, _ := strings.Cut(item, ";")
			q := quality(params)
			switch strings.ToLower(textproto.TrimString(coding)) {
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

// quality returns the q of a list item's parameters: 1 if there is none, 0 if
// it makes no sense.
func quality(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if !strings.EqualFold(textproto.TrimString(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(textproto.TrimString(value), 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}
