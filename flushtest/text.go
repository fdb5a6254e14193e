package flushtest

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
)

// A text is the body as it can be read: it decodes what arrives as far as that
// goes.
type text struct {
	gzip       bool
	opaque     bool   // compressed in a way that is not known here
	compressed []byte // all of it so far
	decoded    int    // how much of it has been decoded
	plain      int64  // into how many bytes

	line    []byte // the line that has not ended; only its beginning
	inLine  bool
	onLine  func(string)
	n, ends int // since feed began
}

func newText(h http.Header) *text {
	t := new(text)
	switch strings.ToLower(h.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip", "x-gzip":
		t.gzip = true
	default:
		t.opaque = true
	}
	return t
}

// feed takes what has arrived. It returns how many bytes can be read now that
// could not before, how many lines end in them, and whether they end within
// a line. It calls onLine for each line.
func (t *text) feed(p []byte, onLine func(string)) (n, lines int, cut bool) {
	t.n, t.ends, t.onLine = 0, 0, onLine
	switch {
	case t.opaque:
		return len(p), 0, false
	case t.gzip:
		t.decode(p)
	default:
		t.Write(p)
	}
	return t.n, t.ends, t.inLine
}

const longLine = 256 // the rest of a longer line is not kept

// Write takes bytes that can be read.
func (t *text) Write(p []byte) (int, error) {
	t.n += len(p)
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		t.line = append(t.line, line[:min(len(line), max(0, longLine-len(t.line)))]...)
		t.inLine = !ended
		if ended {
			t.ends++
			t.onLine(string(t.line))
			t.line = t.line[:0]
		}
		rest = after
	}
	return len(p), nil
}

// close returns how many bytes can be read only now, at the end.
func (t *text) close() int {
	t.n = 0
	t.finish()
	return t.n
}

// mostCompressed bounds what is kept. What comes later counts as it came.
const mostCompressed = 1 << 20

// decode reads what has come of a compressed body from its beginning. The
// decompressor hands out all that it has only when its input ends, and so it
// has to end after each part. Once there is much of it, that is done when it
// has grown.
func (t *text) decode(p []byte) {
	t.compressed = append(t.compressed, p...)
	if n := len(t.compressed); n > 32<<10 && n < t.decoded+t.decoded/16 {
		return
	}
	t.finish()
	if len(t.compressed) > mostCompressed {
		t.compressed, t.gzip, t.opaque = nil, false, true
	}
}

// finish decodes what is left.
func (t *text) finish() {
	if !t.gzip || t.decoded == len(t.compressed) {
		return
	}
	t.decoded = len(t.compressed)
	z, err := gzip.NewReader(bytes.NewReader(t.compressed))
	if err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, z, t.plain); err != nil {
		return
	}
	n, _ := io.Copy(t, z)
	t.plain += n
}
