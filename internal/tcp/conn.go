// Package tcp is what the kernel knows of a connection: what has arrived at the
// client's, what waits, and for how much more there is room.
package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is what the kernel knows of the client. Tests have a fake one.
type Conn interface {
	// Acked is how many bytes the client's kernel has acknowledged.
	Acked() (int64, error)

	// Queued is how many bytes wait in the kernel: not sent yet, and sent but
	// not acknowledged.
	Queued() (unsent, unacked int64, err error)

	// Room is how many bytes the kernel takes in all before a write blocks.
	Room() (int64, error)

	// Takes is how much more a write hands over before one blocks.
	Takes() (Space, error)

	// Established reports whether both sides are there: neither has ended or
	// reset the connection.
	Established() bool

	// HangUp has the client's kernel see the end of the connection after what
	// has been written, though the server keeps it.
	HangUp() error
}

// A Known is a connection that responses know by their context.
type Known struct {
	Conn
	Watcher *Watcher
	Plain   bool // only the kernel can make its writes wait

	base context.Context // what With was given: it ends with the server's BaseContext
}

// used spares responses the search for a connection that nobody has made known.
var used atomic.Bool

type key struct{}

// With returns ctx with k in it.
func With(ctx context.Context, k *Known) context.Context {
	used.Store(true)
	k.base = ctx
	return context.WithValue(ctx, key{}, k)
}

// From returns the connection that is known in ctx; nil: none.
func From(ctx context.Context) *Known {
	if !used.Load() {
		return nil
	}
	k, _ := ctx.Value(key{}).(*Known)
	return k
}

// ServerEnded reports whether the context that With was given has ended, and all
// that come from it by that.
func (k *Known) ServerEnded() bool { return k.base.Err() != nil }

// Options are what can be set on a connection; 0 leaves the system's default.
type Options struct {
	NotSentLowat int           // TCP_NOTSENT_LOWAT, in bytes
	UserTimeout  time.Duration // TCP_USER_TIMEOUT
}

// Know sets o on c, and returns what is to be known of it; nil: the kernel tells
// nothing.
func Know(c net.Conn, o Options) *Known {
	raw := rawConn(c)
	if raw == nil {
		return nil
	}
	k := &kernel{raw}
	k.set(o)
	if _, err := k.Acked(); err != nil {
		return nil
	}
	return &Known{Conn: k, Watcher: &theWatcher, Plain: plain(c)}
}

// A kernel answers for a TCP connection of this process.
type kernel struct{ raw syscall.RawConn }

// mostLayers ends the walk down connections that say what they wrap. No real
// chain is as deep.
const mostLayers = 64

// rawConn looks below TLS, and below whatever else says what it wraps.
func rawConn(c net.Conn) syscall.RawConn {
	for range mostLayers {
		if t, ok := c.(*net.TCPConn); ok {
			raw, err := t.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		n, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = n.NetConn()
	}
	return nil
}

// plain reports whether c is a connection, or TLS on one, with nothing between
// that may make a write wait.
func plain(c net.Conn) bool {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_, ok := c.(*net.TCPConn)
	return ok
}

var errNoCount = fmt.Errorf("flush: system does not count acknowledged bytes: %w", errors.ErrUnsupported)
