package flush

import (
	"context"
	"errors"
	"sync"
)

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

// WithConn returns a context as ConnContext would, with c as the connection.
func (c *KernelConn) WithConn(ctx context.Context) context.Context {
	return withConn(ctx, &knownConn{connection: c, watcher: new(watcher)})
}

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

func (c *KernelConn) acked() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.is.Acked, c.is.Err
}

func (c *KernelConn) queued() (unsent, unacked int64, err error) {
	s := c.now()
	if s.Err == nil {
		s.Err = s.QueuedErr
	}
	return s.Unsent, s.Unacked, s.Err
}

func (c *KernelConn) room() (int64, error) {
	s := c.now()
	if s.Err == nil {
		s.Err = s.RoomErr
	}
	return s.Room, s.Err
}

func (c *KernelConn) established() bool { return true }

func (c *KernelConn) takes() (kernelRoom, error) { return kernelRoom{}, nil }

// TrustConn says of the connection that ConnContext has left in ctx that only
// the kernel can make its writes wait, whatever stands around it.
func TrustConn(ctx context.Context) context.Context {
	ctx.Value(connKey{}).(*knownConn).plain = true
	return ctx
}

func (c *KernelConn) hangUp() error { return errors.ErrUnsupported }
