package flush_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/harness"
)

// What happens where two things meet: a wait and its end, a call of the server
// and another, a buffer and a stalled client. This file has what the others
// share.

// edge runs f in a bubble. What never returns there leaves it deadlocked, which
// would end the run: here it fails the test, and others go on.
func edge(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	defer func() {
		t.Helper()
		if v := recover(); v != nil {
			t.Errorf("something waits for ever: %v", v)
		}
	}()
	synctest.Test(t, f)
}

// edges is bubble with edge's way to fail.
func edges(t *testing.T, f func(t *testing.T, p harness.Proto)) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			edge(t, func(t *testing.T) { f(t, p) })
		})
	}
}

// grain is how much later than SendTimeout a stretch without progress may end.
func grain(limit time.Duration) time.Duration { return limit + limit/16 }

// requestOf returns a request as a server with this WriteTimeout hands it out.
func requestOf(ctx context.Context, writeTimeout time.Duration) *http.Request {
	ctx = context.WithValue(ctx, http.ServerContextKey, &http.Server{WriteTimeout: writeTimeout})
	return httptest.NewRequestWithContext(ctx, "GET", "/", nil)
}

// A link is a server's connection whose kernel the test plays: what is written
// to it is acknowledged a round trip later, and nothing is while the client
// pauses.
type link struct {
	net.Conn
	trip time.Duration

	mu     sync.Mutex
	pause  time.Time // nothing that was written is acknowledged before
	sent   []sending
	writes int
}

// A sending is how much had been written by when.
type sending struct {
	at  time.Time
	all int64
}

func (l *link) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noteLocked(int64(n))
	l.writes++
	return n, err
}

func (l *link) noteLocked(n int64) {
	if len(l.sent) > 0 {
		n += l.sent[len(l.sent)-1].all
	}
	l.sent = append(l.sent, sending{time.Now(), n})
}

func (l *link) numbers() (written, acked int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	paused := time.Now().Before(l.pause)
	for _, s := range l.sent {
		written = s.all
		if !paused && time.Since(s.at) >= l.trip {
			acked = s.all
		}
	}
	return written, acked
}

// room is what the kernel of a link takes.
const linkRoom = 64 << 10

// known returns ctx as ConnContext does, with l known.
func (l *link) known(ctx context.Context) context.Context {
	return harness.WithConn(ctx, harness.FakeConn{
		AckedFunc: func() (int64, error) {
			_, acked := l.numbers()
			return acked, nil
		},
		QueuedFunc: func() (int64, int64, error) {
			written, acked := l.numbers()
			return 0, written - acked, nil
		},
		RoomFunc: func() (int64, error) { return linkRoom, nil },
	})
}

// linked puts l around the connection of a server and makes it known.
func linked(l *link) []harness.ServeOption {
	return []harness.ServeOption{
		harness.WrapConn(func(c net.Conn) net.Conn { l.Conn = c; return l }),
		harness.Configure(func(s *http.Server) {
			s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return l.known(ctx) }
		}),
	}
}
