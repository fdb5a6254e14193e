package compat_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// A network connects clients and servers of one test in memory. What servers
// send can be held up, as by a client that has stopped reading.
type network struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	held  bool
	halfs []*half // from server to client
}

// networks are the networks of the test that runs.
var networks []*network

func newNetwork(t *testing.T) *network {
	n := &network{conns: make(chan net.Conn), done: make(chan struct{})}
	networks = append(networks, n)
	t.Cleanup(func() { networks = nil })
	return n
}

// setHeld stops what servers send, or lets it go on: their Writes wait.
func (n *network) setHeld(held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = held
	for _, h := range n.halfs {
		h.mu.Lock()
		h.held = held
		h.changeLocked()
		h.mu.Unlock()
	}
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	toServer, toClient := newHalf(), newHalf()
	n.mu.Lock()
	toClient.held = n.held
	n.halfs = append(n.halfs, toClient)
	n.mu.Unlock()
	select {
	case n.conns <- &conn{in: toServer, out: toClient}:
		return &conn{in: toClient, out: toServer}, nil
	case <-n.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept makes the network a net.Listener.
func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { n.once.Do(func() { close(n.done) }); return nil }
func (n *network) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "memory:80" }

// A conn is one end of a connection. A peer that has closed gives io.EOF to
// Read, after what it had sent, and io.ErrClosedPipe to Write.
type conn struct {
	in, out *half
	rd, wd  deadline
	once    sync.Once
}

// capacity is what one direction of a connection takes before a Write waits.
const capacity = 64 << 10

// A half is one direction of a connection.
type half struct {
	mu       sync.Mutex
	buf      []byte
	held     bool          // nothing enters
	finished bool          // no more will be written
	gone     bool          // nobody will read
	changed  chan struct{} // closed and replaced at every change of the above
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) changeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (c *conn) Read(p []byte) (int, error) {
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

func (c *conn) Write(p []byte) (n int, err error) {
	for {
		passed := c.wd.wait()
		if isClosed(passed) {
			return n, os.ErrDeadlineExceeded
		}
		h := c.out
		h.mu.Lock()
		switch {
		case h.finished:
			h.mu.Unlock()
			return n, net.ErrClosed
		case h.gone:
			h.mu.Unlock()
			return n, io.ErrClosedPipe
		}
		if m := min(len(p)-n, capacity-len(h.buf)); m > 0 && !h.held {
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

func (c *conn) Close() error {
	c.once.Do(func() {
		c.out.mu.Lock()
		c.out.finished = true
		c.out.changeLocked()
		c.out.mu.Unlock()
		c.in.mu.Lock()
		c.in.gone = true
		c.in.buf = nil
		c.in.changeLocked()
		c.in.mu.Unlock()
		c.rd.set(time.Time{})
		c.wd.set(time.Time{})
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr                { return address{} }
func (c *conn) RemoteAddr() net.Addr               { return address{} }
func (c *conn) SetReadDeadline(t time.Time) error  { c.rd.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.wd.set(t); return nil }
func (c *conn) SetDeadline(t time.Time) error      { c.rd.set(t); c.wd.set(t); return nil }

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
