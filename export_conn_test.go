package flush

import (
	"context"
	"sync"
)

// A FakeConn is what the kernel says of a connection that is not there. Its
// queue is empty until Set puts something into it.
type FakeConn struct {
	mu    sync.Mutex
	is    ConnState
	asked int
}

// A ConnState is a moment of a FakeConn.
type ConnState struct {
	Acked, Unsent, Unacked, Room int64
	Err                          error // of every call, unless nil
	QueuedErr, RoomErr           error // of one, beside it
}

// WithConn returns a context as ConnContext would, with c as the connection.
func (c *FakeConn) WithConn(ctx context.Context) context.Context {
	return withConn(ctx, &knownConn{c, new(watcher)})
}

// Set changes what the kernel says.
func (c *FakeConn) Set(change func(*ConnState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.is)
}

// Asked returns how often somebody has asked for the acknowledged bytes.
func (c *FakeConn) Asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *FakeConn) now() ConnState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.is
}

func (c *FakeConn) acked() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.is.Acked, c.is.Err
}

func (c *FakeConn) queued() (unsent, unacked int64, err error) {
	s := c.now()
	if s.Err == nil {
		s.Err = s.QueuedErr
	}
	return s.Unsent, s.Unacked, s.Err
}

func (c *FakeConn) room() (int64, error) {
	s := c.now()
	if s.Err == nil {
		s.Err = s.RoomErr
	}
	return s.Room, s.Err
}
