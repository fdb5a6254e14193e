package flushtest

import (
	"bytes"
	"context"
	"net/http"
	"strings"
)

// A text is the body as it can be read: it decodes what arrives as far as that
// goes.
type text struct {
	ctx    context.Context // its end ends a long part
	gzip   *gunzip         // nil: it is not compressed, or no longer decoded
	opaque bool            // it cannot be decoded, or no longer
	err    error           // why it no longer is

	line    []byte // the line that has not ended; only its beginning
	inLine  bool
	onLine  func(string)
	n, ends int // since feed began
}

func newText(ctx context.Context, h http.Header) *text {
	t := &text{ctx: ctx}
	switch strings.ToLower(strings.TrimSpace(h.Get("Content-Encoding"))) {
	case "", "identity":
	case "gzip", "x-gzip":
		t.gzip = new(gunzip)
	default:
		t.opaque = true
	}
	return t
}

// feed takes what has arrived. It returns how many bytes can be read now that
// could not before, how many lines end in them, and whether they end within
// a line. It calls onLine for each line that is not empty.
func (t *text) feed(p []byte, onLine func(string)) (n, lines int, cut bool) {
	t.n, t.ends, t.onLine = 0, 0, onLine
	switch {
	case t.opaque:
		return len(p), 0, false
	case t.gzip != nil:
		if err := t.gzip.feed(p, t); err != nil {
			t.gzip, t.opaque = nil, true
			if t.ctx.Err() == nil {
				t.err = err
			}
		}
	default:
		t.Write(p)
	}
	return t.n, t.ends, t.inLine
}

const longLine = 256 // the rest of a longer line is not kept

// Write takes bytes that can be read. It returns an error if nobody wants more.
func (t *text) Write(p []byte) (int, error) {
	t.n += len(p)
	for rest := p; len(rest) > 0; {
		if len(t.line) == 0 {
			// What decompresses to very much is often nothing but empty lines.
			text := bytes.TrimLeft(rest, "\n")
			t.ends += len(rest) - len(text)
			if t.inLine = false; len(text) == 0 {
				break
			}
			rest = text
		}
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		t.line = append(t.line, line[:min(len(line), max(0, longLine-len(t.line)))]...)
		t.inLine = !ended
		if ended {
			t.ends++
			if len(t.line) > 0 {
				t.onLine(string(t.line))
			}
			t.line = t.line[:0]
		}
		rest = after
	}
	return len(p), t.ctx.Err()
}
