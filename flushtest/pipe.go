package flushtest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
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
	rd, wd  deadline
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
		passed := c.rd.wait()
		if isClosed(passed) {
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
		passed := c.wd.wait()
		if isClosed(passed) {
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
		c.CloseWrite()
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
func (c *pipeConn) SetReadDeadline(t time.Time) error  { c.rd.set(t); return nil }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { c.wd.set(t); return nil }
func (c *pipeConn) SetDeadline(t time.Time) error      { c.rd.set(t); c.wd.set(t); return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory:80" }

// A deadline is a point in time that can be moved while others wait for it.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed once the deadline has passed
}

func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the timer has fired: let it close its channel first
	}
	d.timer = nil
	if d.passed == nil || isClosed(d.passed) {
		d.passed = make(chan struct{})
	}
	if at.IsZero() {
		return
	}
	passed := d.passed
	if left := time.Until(at); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(passed) })
	} else {
		close(passed)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
