package flush

import (
	"context"
	"errors"
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
	return withConn(ctx, &knownConn{connection: ackedConn(acked), watcher: new(watcher)})
}

type ackedConn func() int64

func (c ackedConn) acked() (int64, error)                      { return c(), nil }
func (c ackedConn) queued() (unsent, unacked int64, err error) { return 0, 0, nil }
func (c ackedConn) room() (int64, error)                       { return 0, errors.ErrUnsupported }
func (c ackedConn) established() bool                          { return true }
