package harness

import (
	"context"
	"errors"
	"sync"

	"github.com/fa492104/flush/internal/tcp"
)

// WithConn returns a context as ConnContext would, of the connection c.
func WithConn(ctx context.Context, c tcp.Conn) context.Context {
	return tcp.With(ctx, &tcp.Known{Conn: c, Watcher: new(tcp.Watcher)})
}

// WithAcked is WithConn of a connection that has had acked() bytes acknowledged.
func WithAcked(ctx context.Context, acked func() int64) context.Context {
	return WithConn(ctx, FakeConn{AckedFunc: func() (int64, error) { return acked(), nil }})
}

// TrustConn says of the connection that ConnContext has left in ctx that only
// the kernel can make its writes wait, whatever stands around it.
func TrustConn(ctx context.Context) context.Context {
	tcp.From(ctx).Plain = true
	return ctx
}

// A FakeConn is a connection whose kernel the test plays. Where a function is
// nil nothing waits in it, nothing is acknowledged, and its room is not known.
type FakeConn struct {
	AckedFunc  func() (int64, error)
	QueuedFunc func() (unsent, unacked int64, err error)
	RoomFunc   func() (int64, error)
	TakesFunc  func() (tcp.Space, error)
}

func (c FakeConn) Acked() (int64, error) {
	if c.AckedFunc == nil {
		return 0, nil
	}
	return c.AckedFunc()
}

func (c FakeConn) Queued() (unsent, unacked int64, err error) {
	if c.QueuedFunc == nil {
		return 0, 0, nil
	}
	return c.QueuedFunc()
}

func (c FakeConn) Room() (int64, error) {
	if c.RoomFunc == nil {
		return 0, errors.ErrUnsupported
	}
	return c.RoomFunc()
}

func (c FakeConn) Takes() (tcp.Space, error) {
	if c.TakesFunc == nil {
		return tcp.Space{}, nil
	}
	return c.TakesFunc()
}

func (c FakeConn) Established() bool { return true }
func (c FakeConn) HangUp() error     { return errors.ErrUnsupported }

// A KernelConn is what the kernel says of a connection that is not there. Its
// queue is empty until Set puts something into it.
type KernelConn struct {
	mu    sync.Mutex
	is    ConnState
	asked int
}

// A ConnState is a moment of a KernelConn.
type ConnState struct {
	Acked, Unsent, Unacked, Room int64
	Err                          error // of every call, unless nil
	QueuedErr, RoomErr           error // of one, beside it
}

// WithConn is the function of that name with c.
func (c *KernelConn) WithConn(ctx context.Context) context.Context { return WithConn(ctx, c) }

// Set changes what the kernel says.
func (c *KernelConn) Set(change func(*ConnState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.is)
}

// Asked returns how often somebody has asked for the acknowledged bytes.
func (c *KernelConn) Asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *KernelConn) now() ConnState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.is
}

func (c *KernelConn) Acked() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.is.Acked, c.is.Err
}

func (c *KernelConn) Queued() (unsent, unacked int64, err error) {
	s := c.now()
	if s.Err == nil {
		s.Err = s.QueuedErr
	}
	return s.Unsent, s.Unacked, s.Err
}

func (c *KernelConn) Room() (int64, error) {
	s := c.now()
	if s.Err == nil {
		s.Err = s.RoomErr
	}
	return s.Room, s.Err
}

func (c *KernelConn) Takes() (tcp.Space, error) { return tcp.Space{}, nil }
func (c *KernelConn) Established() bool         { return true }
func (c *KernelConn) HangUp() error             { return errors.ErrUnsupported }
