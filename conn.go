package flush

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// ConnContext lets the responses of a server know their connection. Set it as
// [http.Server.ConnContext], or call it from one's own:
//
//	srv := &http.Server{Handler: h, ConnContext: flush.ConnContext}
//
// On Linux, over TCP and over TLS on TCP, that makes [Flusher.FlushAcked] and
// [Flusher.Backlog] work. On HTTP/1 it also makes SendTimeout true to progress:
// while one write blocks, bytes that the client's kernel acknowledges count. A
// client that moves lives, if SendTimeout is longer than the steps in which its
// kernel acknowledges: docs/timeouts.md has them. Without ConnContext the grain
// is about a third of the kernel's send buffer.
//
// On other systems and connections it changes nothing.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return ConnOptions{}.ConnContext(ctx, c)
}

// ConnOptions are set on a connection by [ConnOptions.ConnContext]. They bound
// what the kernel hoards for a client that does not read, so that what a slow
// client sees is fresh. Systems that do not know an option go without.
type ConnOptions struct {
	// NotSentLowat is TCP_NOTSENT_LOWAT, in bytes: with more than this unsent
	// the kernel takes no more. 0 leaves the system's default.
	NotSentLowat int

	// UserTimeout is TCP_USER_TIMEOUT, in whole milliseconds: how long bytes
	// may stay unacknowledged before the kernel ends the connection. 0 leaves
	// the system's default.
	UserTimeout time.Duration
}

// ConnContext is the function [ConnContext] with o set on the connection:
//
//	srv.ConnContext = flush.ConnOptions{NotSentLowat: 16 << 10}.ConnContext
func (o ConnOptions) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if k := tcp.Know(c, tcp.Options(o)); k != nil {
		return tcp.With(ctx, k)
	}
	return ctx
}

var errNoConn = fmt.Errorf("flush: connection is not known: set ConnContext on the server: %w", errors.ErrUnsupported)

// Backlog returns how many bytes of the connection wait in the kernel: unsent,
// and sent but not acknowledged by the client's. What waits on floor 2 is
// [Flusher.Buffered]. Streams of one HTTP/2 connection share the numbers.
//
// It needs [ConnContext]; without it, and where the kernel does not tell, the
// error matches [errors.ErrUnsupported].
func (f *Flusher) Backlog() (unsent, unacked int64, err error) {
	if f.conn == nil {
		return 0, 0, errNoConn
	}
	if err := f.openErr(); err != nil {
		return 0, 0, err
	}
	unsent, unacked, err = f.conn.Queued()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	return unsent, unacked, nil
}

// stalledFor reports whether d without progress is too long.
func (f *Flusher) stalledFor(d time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.timeout.passed(d)
}

// lost makes err, by which the kernel said that the connection is no more, the
// failure that sticks.
func (f *Flusher) lost(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failLocked(fmt.Errorf("%w: %w", ErrClientGone, err))
	return f.refuse
}

// position is how many bytes the connection has been given since its start, on
// the scale of acked. The two readings are not one: it is exact if nothing was
// acknowledged between.
func (f *Flusher) position() (int64, error) {
	for {
		before, err := f.conn.Acked()
		if err != nil {
			return 0, f.lost(err)
		}
		unsent, unacked, err := f.conn.Queued()
		if err != nil {
			return 0, f.lost(err)
		}
		after, err := f.conn.Acked()
		if err != nil {
			return 0, f.lost(err)
		}
		if before == after {
			return after + unsent + unacked, nil
		}
	}
}

// drainLocked waits, while the client moves, until the kernel has room for the
// bytes that the server writes after us. Nobody could tell there that a client
// who reads slowly is alive.
func (f *Flusher) drainLocked() {
	if f.timeout.progress == nil || !f.timeout.progress.looked || f.handedLocked() < smallBody {
		return
	}
	room, err := f.conn.Room()
	if err != nil {
		return
	}
	full := func() bool {
		unsent, unacked, err := f.conn.Queued()
		return err == nil && unsent+unacked > room/4
	}
	if !full() {
		return
	}
	f.pushLocked()
	wait := tcp.LastPoll
	if f.timeout.d > 0 {
		wait = pollEvery(f.timeout.d) // longer than that it would be a call that makes no progress
	}
	acked, err := f.conn.Acked()
	for at := now(); err == nil && f.fail == nil && !f.deadlinePassedLocked() && full(); {
		f.callLocked(func() { time.Sleep(wait) })
		var n int64
		if n, err = f.conn.Acked(); n != acked {
			acked, at = n, now()
		}
		if f.timeout.passed(now() - at) {
			f.timeout.expired = true
			f.failLocked(ErrTimeout)
			f.unblockLocked()
		}
	}
}

// smallBody is a body that fits into any send buffer with what the server adds.
const smallBody = 1 << 10
