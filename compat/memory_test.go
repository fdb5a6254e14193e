package compat_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/fa492104/flush/flushtest"
)

// A network connects clients and servers of one test in memory. What servers
// send can be held up, as by a client that has stopped reading.
type network struct {
	*flushtest.Listener

	mu      sync.Mutex
	release chan struct{} // nil: nothing is held; closed when that ends
}

// networks are the networks of the test that runs.
var networks []*network

func newNetwork(t *testing.T) *network {
	n := &network{Listener: flushtest.Listen(0)}
	networks = append(networks, n)
	t.Cleanup(func() { networks = nil })
	return n
}

// setHeld stops what servers send, or lets it go on: their Writes wait.
func (n *network) setHeld(held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case held && n.release == nil:
		n.release = make(chan struct{})
	case !held && n.release != nil:
		close(n.release)
		n.release = nil
	}
}

func (n *network) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &heldConn{Conn: c, network: n}, nil
}

// A heldConn is a server's connection. While its network is held, what writes
// to it is a connection that stalls.
type heldConn struct {
	net.Conn
	network *network

	mu sync.Mutex
	wd time.Time
	to net.Conn // the one that stalls, if that was the last to write
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.network.mu.Lock()
	release := c.network.release
	c.network.mu.Unlock()
	to := c.Conn
	if release != nil {
		to = flushtest.NewConn(c.Conn, flushtest.Script{Release: release})
	}
	c.mu.Lock()
	c.to = to
	to.SetWriteDeadline(c.wd)
	c.mu.Unlock()
	return to.Write(p)
}

func (c *heldConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wd = t
	if c.to == nil {
		return nil
	}
	return c.to.SetWriteDeadline(t)
}

func (c *heldConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *heldConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to != nil {
		c.to.Close()
	}
	return c.Conn.Close()
}
