package flushtest

import (
	"bytes"
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/fa492104/flush/internal/deadline"
)

// A Script says how a connection misbehaves when it is written to. Offsets
// count the bytes written to the connection since it was made. The zero Script
// does nothing wrong.
type Script struct {
	// MaxWrite is the most bytes handed on at a time. 0 means no limit.
	MaxWrite int

	// Release lets a stalled Write go on: by a value, or for good when it is
	// closed. Nil means that nothing stalls. A stalled Write obeys the write
	// deadline and Close.
	Release <-chan struct{}
	// StallAt is the offset at which Write stalls, unless StallAfter is set.
	StallAt int64
	// StallAfter makes Write stall after each occurrence of this text instead.
	StallAfter string
	// Stalled, if not nil, is called when a stall begins.
	Stalled func()

	// Err, if not nil, is what Write returns at the offset FailAt and from
	// then on. What is before it is handed on.
	Err error
	// FailAt is the offset of the failure.
	FailAt int64

	// Bandwidth is how many bytes a second go through. Write takes as long as
	// its bytes do. 0 means no limit.
	Bandwidth int64
	// Latency is how much later bytes arrive than they were written. Write
	// does not wait for it, unless 64 KiB are under way.
	Latency time.Duration
}

// idle reports whether s changes nothing.
func (s *Script) idle() bool {
	return s.MaxWrite <= 0 && s.Release == nil && s.Err == nil && s.Bandwidth <= 0 && s.Latency <= 0
}

// A Conn is a connection that follows a [Script]. Make one with [NewConn].
// What is under way when it is closed still arrives if the peer takes it in time;
// see Close.
type Conn struct {
	net.Conn
	script Script
	wd     deadline.Deadline
	done   chan struct{} // closed by Close
	once   sync.Once

	mu     sync.Mutex // one Write at a time; guards the following
	offset int64
	tail   []byte    // the end of what was written, to find StallAfter across Writes
	since  time.Time // since when the line has been busy
	busy   int64     // with how many bytes

	line line
}

// A line is what is under way because of a Latency.
type line struct {
	mu      sync.Mutex
	pieces  []piece
	n       int           // bytes in pieces
	running bool          // deliver is at work or will be
	err     error         // what the connection below said
	changed chan struct{} // closed and replaced when pieces get fewer
}

type piece struct {
	p   []byte
	due time.Time
}

const lineCapacity = 64 << 10

// NewConn returns a connection that hands on to c what is written to it as s
// says. Reading is c's.
func NewConn(c net.Conn, s Script) *Conn {
	return &Conn{Conn: c, script: s, done: make(chan struct{}), line: line{changed: make(chan struct{})}}
}

// Write writes as the script says. It returns how many bytes were handed on,
// or with a Latency are under way.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.script
	for n < len(p) {
		m := len(p) - n
		if s.MaxWrite > 0 {
			m = min(m, s.MaxWrite)
		}
		if s.Err != nil {
			if m = int(min(int64(m), s.FailAt-c.offset)); m <= 0 {
				return n, s.Err
			}
		}
		if s.Release != nil && s.StallAfter == "" {
			if c.offset == s.StallAt {
				if err := c.stall(); err != nil {
					return n, err
				}
			} else if c.offset < s.StallAt {
				m = int(min(int64(m), s.StallAt-c.offset))
			}
		}
		if s.Bandwidth > 0 {
			m = int(min(int64(m), max(1, s.Bandwidth/100)))
		}
		found := false
		if s.Release != nil && s.StallAfter != "" {
			m, found = c.search(p[n : n+m])
		}
		if s.Bandwidth > 0 {
			if err := c.pace(m); err != nil {
				return n, err
			}
		}
		m, err = c.hand(p[n : n+m])
		n += m
		c.offset += int64(m)
		if err != nil {
			return n, err
		}
		if found {
			if err := c.stall(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// search returns how much of p may be written up to the end of the next
// StallAfter, and whether that is in it.
func (c *Conn) search(p []byte) (n int, found bool) {
	pattern := []byte(c.script.StallAfter)
	text := append(c.tail, p...)
	if i := bytes.Index(text, pattern); i >= 0 {
		n = i + len(pattern) - len(c.tail)
		c.tail = nil
		return n, true
	}
	c.tail = bytes.Clone(text[max(0, len(text)-len(pattern)+1):])
	return len(p), false
}

func (c *Conn) stall() error {
	if c.script.Stalled != nil && !deadline.Closed(c.script.Release) {
		c.script.Stalled()
	}
	for {
		passed := c.wd.Passed()
		select {
		case <-c.script.Release:
			return nil
		case <-c.done:
			return net.ErrClosed
		case <-passed:
			if deadline.Closed(c.wd.Passed()) {
				return os.ErrDeadlineExceeded
			}
		}
	}
}

// pace waits until n more bytes have gone through the line.
func (c *Conn) pace(n int) error {
	through := func() time.Time {
		return c.since.Add(time.Duration(float64(c.busy) / float64(c.script.Bandwidth) * float64(time.Second)))
	}
	if now := time.Now(); through().Before(now) {
		c.since, c.busy = now, 0
	}
	c.busy += int64(n)
	timer := time.NewTimer(time.Until(through()))
	defer timer.Stop()
	for {
		passed := c.wd.Passed()
		if deadline.Closed(passed) {
			return os.ErrDeadlineExceeded
		}
		select {
		case <-timer.C:
			return nil
		case <-c.done:
			return net.ErrClosed
		case <-passed:
		}
	}
}

// hand hands p on, now or later.
func (c *Conn) hand(p []byte) (int, error) {
	if c.script.Latency <= 0 {
		return c.Conn.Write(p)
	}
	l := &c.line
	for n := 0; ; {
		passed := c.wd.Passed()
		l.mu.Lock()
		switch {
		case deadline.Closed(c.done):
			l.mu.Unlock()
			return n, net.ErrClosed
		case l.err != nil:
			l.mu.Unlock()
			return n, l.err
		case deadline.Closed(passed):
			l.mu.Unlock()
			return n, os.ErrDeadlineExceeded
		}
		if m := min(len(p)-n, lineCapacity-l.n); m > 0 {
			l.pieces = append(l.pieces, piece{bytes.Clone(p[n : n+m]), time.Now().Add(c.script.Latency)})
			l.n += m
			n += m
			if !l.running {
				l.running = true
				time.AfterFunc(c.script.Latency, c.deliver)
			}
		}
		changed := l.changed
		l.mu.Unlock()
		if n == len(p) {
			return n, nil
		}
		select {
		case <-changed:
		case <-passed:
		case <-c.done:
		}
	}
}

// deliver writes what is due. Between two pieces there is a timer and no
// goroutine, which a bubble could not end without.
func (c *Conn) deliver() {
	l := &c.line
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pieces) > 0 && l.err == nil {
		next := l.pieces[0]
		if left := time.Until(next.due); left > 0 {
			time.AfterFunc(left, c.deliver)
			return
		}
		l.mu.Unlock()
		_, err := c.Conn.Write(next.p)
		l.mu.Lock()
		l.err = err
		l.pieces = l.pieces[1:]
		l.n -= len(next.p)
		close(l.changed)
		l.changed = make(chan struct{})
	}
	l.running = false
	if deadline.Closed(c.done) {
		c.Conn.Close()
	}
}

// Read reads from the connection below.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && deadline.Closed(c.done) {
		err = net.ErrClosed
	}
	return n, err
}

// Close ends a Write and a Read, and closes the connection below: at once, or
// with a Latency after what is under way, for which the peer has twice as long.
func (c *Conn) Close() (err error) {
	c.once.Do(func() {
		close(c.done)
		c.line.mu.Lock()
		defer c.line.mu.Unlock()
		if !c.line.running {
			err = c.Conn.Close()
			return
		}
		c.Conn.SetReadDeadline(time.Unix(1, 0))
		c.Conn.SetWriteDeadline(time.Now().Add(2 * c.script.Latency))
	})
	return err
}

// SetWriteDeadline sets when a Write fails that has not ended.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.wd.Set(t)
	if c.script.Latency > 0 {
		return nil // what is under way is not bound by it
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets the deadlines of reading and writing.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.Conn.SetReadDeadline(t)
}

// A Listener gives every connection that it accepts to a [Script]. Make one in
// memory with [Listen], or put any other into one.
type Listener struct {
	net.Listener
	Script Script // must not be changed once Accept has been called
}

// Listen returns a listener in memory, whose Dial makes the connections. They
// are those of [Pipe] with this capacity.
func Listen(capacity int) *Listener {
	return &Listener{Listener: &memoryListener{capacity: capacity, conns: make(chan net.Conn), done: make(chan struct{})}}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || l.Script.idle() {
		return c, err
	}
	return NewConn(c, l.Script), nil
}

// Dial connects to the listener, whatever the network and the address say. It
// can be the DialContext of an [http.Transport].
func (l *Listener) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if m, ok := l.Listener.(*memoryListener); ok {
		return m.dial(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, l.Addr().Network(), l.Addr().String())
}

type memoryListener struct {
	capacity int
	conns    chan net.Conn
	done     chan struct{}
	once     sync.Once
}

func (l *memoryListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := Pipe(l.capacity)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memoryListener) Addr() net.Addr { return memoryAddr{} }
