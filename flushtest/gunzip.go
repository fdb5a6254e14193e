package flushtest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
)

// A gunzip decodes a gzip body as it comes: after each part, all that can be
// decoded of it.
//
// The decompressor of the standard library hands out all that it has only when
// its input ends, and cannot go on after that. So it begins anew with each part,
// from the last place where one can: behind the mark with which a flush of the
// compressor ends. What a compressor that is never flushed sends is decoded
// again and again, and all work is bounded.
type gunzip struct {
	in     []byte // what has come since that place
	done   int    // how many bytes in has been decoded to
	recent []byte // the last that was decoded, as much as the format refers to
	before []byte // recent, at that place
	inside bool   // the header of a member is behind
	skip   int    // how much is left of a member's trailer
	work   int    // how many bytes have been read and decoded, again and again
	z      io.Reader
	buf    []byte
}

const (
	mostWork    = 16 << 20 // of a gunzip
	mostKept    = 1 << 20  // of in: blocks need not decode to anything
	windowSize  = 32 << 10
	trailerSize = 8
)

var errTooMuch = errors.New("it decompresses to more than is looked at")

// syncMark is the end of a block without content, which is how a compressor is
// flushed.
var syncMark = []byte{0, 0, 0xff, 0xff}

// feed decodes what p adds to w. After an error, of w's too, it must not be
// called again.
func (g *gunzip) feed(p []byte, w io.Writer) error {
	g.in = append(g.in, p...)
	for len(g.in) > 0 {
		if g.skip > 0 {
			n := min(g.skip, len(g.in))
			g.in, g.skip = g.in[n:], g.skip-n
			continue
		}
		if !g.inside {
			ok, err := g.header()
			if !ok {
				return err
			}
		}
		ended, err := g.member(w)
		if !ended {
			return err
		}
	}
	return nil
}

// header takes the header of a member, if it is there as a whole.
func (g *gunzip) header() (ok bool, err error) {
	r := bytes.NewReader(g.in)
	switch _, err := gzip.NewReader(r); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return false, nil // the format bounds it
	case err != nil:
		return false, err
	}
	g.in = g.in[len(g.in)-r.Len():]
	g.inside, g.done, g.recent, g.before = true, 0, nil, nil
	return true, nil
}

// member decodes what is there of a member and reports whether it ended.
func (g *gunzip) member(w io.Writer) (ended bool, err error) {
	r := bytes.NewReader(g.in)
	if g.z == nil {
		g.z, g.buf = flate.NewReader(r), make([]byte, 32<<10)
	}
	if err := g.z.(flate.Resetter).Reset(r, g.before); err != nil {
		return false, err
	}
	if g.work += len(g.in); len(g.in) > mostKept {
		return false, errTooMuch
	}
	known := g.done
	for err == nil {
		if g.work >= mostWork {
			return false, errTooMuch
		}
		var n int
		n, err = g.z.Read(g.buf)
		g.work += n
		fresh := g.buf[min(known, n):n]
		known -= n - len(fresh)
		g.done += len(fresh)
		g.recent = append(g.recent, fresh...)
		g.recent = g.recent[max(0, len(g.recent)-windowSize):]
		if _, err := w.Write(fresh); err != nil {
			return false, err
		}
	}
	switch {
	case err == io.EOF:
		g.in, g.inside, g.skip = g.in[len(g.in)-r.Len():], false, trailerSize
		return true, nil
	case !errors.Is(err, io.ErrUnexpectedEOF):
		return false, err
	case bytes.HasSuffix(g.in, syncMark):
		g.in, g.done, g.before = nil, 0, bytes.Clone(g.recent)
	}
	return false, nil
}
