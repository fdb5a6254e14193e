package flush

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
)

// HandlerWriter returns f as its handler would see it.
func HandlerWriter(f *Flusher) http.ResponseWriter { return f.handlerWriter() }

// NewBlock returns a piece of floor 2, which a budget counts as BlockMemory.
func NewBlock() any { return new(block) }

const BlockMemory = blockMemory

// WithAcked returns a context as ConnContext would, of a connection that has
// had acked() bytes acknowledged.
func WithAcked(ctx context.Context, acked func() int64) context.Context {
	return WithConn(ctx, FakeConn{Acked: func() (int64, error) { return acked(), nil }})
}

// A FakeConn is a connection whose kernel the test plays. Where a function is
// nil nothing waits in it, nothing is acknowledged, and its room is not known.
type FakeConn struct {
	Acked  func() (int64, error)
	Queued func() (unsent, unacked int64, err error)
	Room   func() (int64, error)
}

// WithConn returns a context as ConnContext would, of the connection c.
func WithConn(ctx context.Context, c FakeConn) context.Context {
	return withConn(ctx, &knownConn{connection: fakeConn{c}, watcher: new(watcher)})
}

type fakeConn struct{ FakeConn }

func (c fakeConn) acked() (int64, error) {
	if c.Acked == nil {
		return 0, nil
	}
	return c.Acked()
}

func (c fakeConn) queued() (unsent, unacked int64, err error) {
	if c.Queued == nil {
		return 0, 0, nil
	}
	return c.Queued()
}

func (c fakeConn) room() (int64, error) {
	if c.Room == nil {
		return 0, errors.ErrUnsupported
	}
	return c.Room()
}

func (c fakeConn) established() bool { return true }

func (c fakeConn) takes() (kernelRoom, error) { return kernelRoom{}, nil }

func (c fakeConn) hangUp() error { return errors.ErrUnsupported }

// A SharedWrite is what one broadcast has for detached responses.
type SharedWrite = sharedWrite

func NewSharedWrite(p []byte) *SharedWrite { return newSharedWrite(p) }

// WriteShared is what a broadcast does first with each of its members.
func WriteShared(f *Flusher, s *SharedWrite) (taken bool, err error) { return f.writeShared(s) }

// TornChunk returns what a client gets of a broadcast's event of which only n bytes
// could be written at first, when the rest is queued in pieces of size, and the
// response then ends.
func TornChunk(event []byte, n, size int) []byte {
	var out connRecorder
	w := &wire{conn: &out}
	s := newSharedWrite(event)
	out.Write(s.chunk[:n])
	gone := bodyBytes(n, s.head, len(event))
	w.tear(s.chunk, n, s.head, len(event))
	for rest := event[gone:]; len(rest) > 0; {
		k, _ := w.Write(rest[:min(size, len(rest))])
		rest = rest[k:]
	}
	w.FlushError()
	w.end(nil)
	return out.Bytes()
}

type connRecorder struct {
	net.Conn
	bytes.Buffer
}

func (c *connRecorder) Write(p []byte) (int, error) { return c.Buffer.Write(p) }
func (c *connRecorder) Read(p []byte) (int, error)  { return 0, io.EOF }
