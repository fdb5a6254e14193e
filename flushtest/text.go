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
	gzip    *decoder // nil: not compressed
	opaque  bool     // compressed in a way that is not known here
	line    []byte   // the line that has not ended; only its beginning
	inLine  bool
	onLine  func(string)
	n, ends int
}

func newText(h http.Header) *text {
	t := new(text)
	switch strings.ToLower(h.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip", "x-gzip":
		t.gzip = newDecoder(t)
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
	case t.gzip != nil:
		t.gzip.feed(p)
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

// close ends decoding, and returns how many bytes could be read only with the
// end. It may be called twice.
func (t *text) close() int {
	t.n = 0
	if t.gzip != nil {
		t.gzip.close()
		t.gzip = nil
	}
	return t.n
}

// A decoder decompresses what it is fed, step by step: feed returns once all
// that can be read has been written.
type decoder struct {
	chunks chan []byte
	hungry chan struct{} // the reader wants another chunk; closed at its end
	rest   []byte
	closed bool
}

func newDecoder(w io.Writer) *decoder {
	d := &decoder{chunks: make(chan []byte), hungry: make(chan struct{})}
	go func() {
		defer close(d.hungry)
		z, err := gzip.NewReader(d)
		if err != nil {
			return
		}
		io.Copy(w, z)
	}()
	<-d.hungry
	return d
}

// Read is for the decompressor.
func (d *decoder) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		d.hungry <- struct{}{}
		var ok bool
		if d.rest, ok = <-d.chunks; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *decoder) feed(p []byte) {
	if d.closed || len(p) == 0 {
		return
	}
	d.chunks <- p
	if _, ok := <-d.hungry; !ok {
		d.closed = true
	}
}

func (d *decoder) close() {
	if d.closed {
		return
	}
	d.closed = true
	close(d.chunks)
	for range d.hungry {
	}
}
