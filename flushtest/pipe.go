package flushtest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fa492104/flush/internal/deadline"
)

// Pipe returns the two ends of a connection in memory. Unlike those of
// [net.Pipe] they have buffers, as the kernel's connections do: each direction
// holds up to capacity bytes, and a Write beyond waits for the peer to read.
// A capacity below 1 means 64 KiB.
//
// Deadlines work. A peer that has closed gives io.EOF to Read, after what it
// had sent, and io.ErrClosedPipe to Write. Both ends have a method CloseWrite.
func Pipe(capacity int) (a, b net.Conn) {
	if capacity < 1 {
		capacity = 64 << 10
	}
	x, y := newHalf(capacity), newHalf(capacity)
	return &pipeConn{in: x, out: y}, &pipeConn{in: y, out: x}
}

type pipeConn struct {
	in, out *half
	rd, wd  deadline.Deadline
	closed  sync.Once
}

// A half is one direction of a pipe.
type half struct {
	capacity int

	mu       sync.Mutex
	buf      []byte
	finished bool          // no more will be written
	gone     bool          // nobody will read
	changed  chan struct{} // closed and replaced at every change of the above
}

func newHalf(capacity int) *half {
	return &half{capacity: capacity, changed: make(chan struct{})}
}

func (h *half) changeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (c *pipeConn) Read(p []byte) (int, error) {
	for {
		passed := c.rd.Passed()
		if deadline.Closed(passed) {
			return 0, os.ErrDeadlineExceeded
		}
		h := c.in
		h.mu.Lock()
		switch {
		case h.gone:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case len(p) == 0 || len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[:copy(h.buf, h.buf[n:])]
			h.changeLocked()
			h.mu.Unlock()
			return n, nil
		case h.finished:
			h.mu.Unlock()
			return 0, io.EOF
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-passed:
		}
	}
}

func (c *pipeConn) Write(p []byte) (n int, err error) {
	for {
		passed := c.wd.Passed()
		if deadline.Closed(passed) {
			return n, os.ErrDeadlineExceeded
		}
		h := c.out
		h.mu.Lock()
		if h.finished || h.gone {
			defer h.mu.Unlock()
			if h.finished {
				return n, net.ErrClosed
			}
			return n, io.ErrClosedPipe
		}
		if m := min(len(p)-n, h.capacity-len(h.buf)); m > 0 {
			h.buf = append(h.buf, p[n:n+m]...)
			n += m
			h.changeLocked()
		}
		changed := h.changed
		h.mu.Unlock()
		if n == len(p) {
			return n, nil
		}
		select {
		case <-changed:
		case <-passed:
		}
	}
}

func (c *pipeConn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.out.finished {
		c.out.finished = true
		c.out.changeLocked()
	}
	return nil
}

func (c *pipeConn) Close() error {
	c.closed.Do(func() {
		// A Read of ours ends before the peer sees the end: it must not get what
		// the peer answers to that.
		defer c.CloseWrite()
		c.in.mu.Lock()
		defer c.in.mu.Unlock()
		c.in.gone = true
		c.in.buf = nil
		c.in.changeLocked()
	})
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr                { return memoryAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr               { return memoryAddr{} }
func (c *pipeConn) SetReadDeadline(t time.Time) error  { c.rd.Set(t); return nil }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { c.wd.Set(t); return nil }
func (c *pipeConn) SetDeadline(t time.Time) error      { c.rd.Set(t); c.wd.Set(t); return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory:80" }
