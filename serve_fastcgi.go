package flush

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"net/http/fcgi"
	"runtime"
	"sync"
	"time"
)

// serveGrace is how long Serve waits for responses once its context has ended.
const serveGrace = 10 * time.Second

// serveFastCGI serves h on all of sockets until one fails, which is its error,
// or until ctx ends.
func serveFastCGI(ctx context.Context, sockets []net.Listener, h http.Handler, g *Group) error {
	var gateway gatewayConns
	h = endQuietly(ctx, h)
	failed := make(chan error, len(sockets))
	for _, l := range sockets {
		defer l.Close()
		go func() { failed <- fcgi.Serve(gatewayListener{l, &gateway}, h) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	for _, l := range sockets {
		l.Close()
	}
	for range sockets {
		<-failed
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), serveGrace)
	defer cancel()
	idle := gateway.drain()
	g.Shutdown(grace)
	select {
	case <-idle:
	case <-grace.Done():
	}
	return nil
}

// endQuietly wraps h so that a response which is aborted after ctx has ended ends
// its goroutine, for a panic would end the process. No last record is written
// then: the web server sees that the response is cut when the process ends.
func endQuietly(ctx context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if ctx.Err() == nil {
				return
			}
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				runtime.Goexit()
			default:
				panic(v)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// gatewayConns are the connections of web servers that are open. A response is
// over when the server's package has written its last record, which is after the
// handler has returned and is seen nowhere else: so the records are watched as
// they pass.
type gatewayConns struct {
	mu       sync.Mutex
	open     map[*gatewayConn]struct{}
	draining bool          // connections are closed once they have no request
	empty    chan struct{} // closed once there is none; nil: not draining
}

// drain closes connections as soon as they have no request under way. One that
// has not begun any yet is given the time to. The channel is closed once there
// are none left.
func (g *gatewayConns) drain() <-chan struct{} {
	g.mu.Lock()
	g.draining, g.empty = true, make(chan struct{})
	if len(g.open) == 0 {
		close(g.empty)
	}
	var idle []*gatewayConn
	for c := range g.open {
		if c.idleLocked() {
			idle = append(idle, c)
		}
	}
	empty := g.empty
	g.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	return empty
}

type gatewayListener struct {
	net.Listener
	conns *gatewayConns
}

func (l gatewayListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &gatewayConn{Conn: c, all: l.conns}
	l.conns.mu.Lock()
	defer l.conns.mu.Unlock()
	if l.conns.open == nil {
		l.conns.open = make(map[*gatewayConn]struct{})
	}
	l.conns.open[g] = struct{}{}
	return g, nil
}

// A gatewayConn is the connection of a web server. Its fields are guarded by
// gatewayConns.mu, but for in, which the one reader uses, and out, which the one
// writer does.
type gatewayConn struct {
	net.Conn
	all      *gatewayConns
	in, out  recordScanner
	begun    bool
	requests map[uint16]gatewayRequest // under way
}

// A gatewayRequest is over when both are true. To close before all input has been
// read would reset the connection under the answer.
type gatewayRequest struct{ received, answered bool }

func (c *gatewayConn) idleLocked() bool { return c.begun && len(c.requests) == 0 }

// The kinds of records that begin and end requests.
const (
	recordBegin = 1
	recordAbort = 2
	recordEnd   = 3
	recordInput = 5 // an empty one is the end of the request's body
)

func (c *gatewayConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.scan(p[:n], c.note)
	return n, err
}

func (c *gatewayConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.scan(p[:n], c.note)
	return n, err
}

func (c *gatewayConn) Close() error {
	c.all.mu.Lock()
	if _, ok := c.all.open[c]; ok {
		delete(c.all.open, c)
		if len(c.all.open) == 0 && c.all.empty != nil {
			close(c.all.empty)
		}
	}
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// note takes note of a record that passes.
func (c *gatewayConn) note(kind byte, id uint16, size int) {
	c.all.mu.Lock()
	r, ok := c.requests[id]
	switch {
	case kind == recordBegin:
		if c.requests == nil {
			c.requests = make(map[uint16]gatewayRequest)
		}
		c.begun, r = true, gatewayRequest{}
	case !ok:
		c.all.mu.Unlock()
		return
	case kind == recordEnd:
		r.answered = true
	case kind == recordAbort, kind == recordInput && size == 0:
		r.received = true
	}
	c.requests[id] = r
	if r.received && r.answered {
		delete(c.requests, id)
	}
	end := c.all.draining && c.idleLocked()
	c.all.mu.Unlock()
	if end {
		c.Close()
	}
}

// A recordScanner finds the records in a stream of bytes.
type recordScanner struct {
	head [8]byte
	n    int // bytes of head that have come
	skip int // bytes of content and padding that have not
}

// scan calls note with the kind, the request and the size of each record whose
// head ends in p.
func (s *recordScanner) scan(p []byte, note func(kind byte, id uint16, size int)) {
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(p))
			s.skip -= n
			p = p[n:]
			continue
		}
		n := copy(s.head[s.n:], p)
		s.n += n
		p = p[n:]
		if s.n < len(s.head) {
			return
		}
		size := int(binary.BigEndian.Uint16(s.head[4:]))
		s.n, s.skip = 0, size+int(s.head[6])
		note(s.head[1], binary.BigEndian.Uint16(s.head[2:]), size)
	}
}
