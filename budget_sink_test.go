package flush_test

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// A tap is a server's writer that takes bytes only while it is open, and ends
// a blocked write at a deadline in the past.
type tap struct {
	opened chan struct{} // closed: writes go through
	cut    chan struct{} // closed: the deadline has passed
	once   sync.Once
	pace   time.Duration // how long a write takes
	stuck  bool          // the deadline does not end a write, as behind a closed TCP window on HTTP/2

	mu    sync.Mutex
	taken int
}

func newTap(open bool) *tap {
	t := &tap{opened: make(chan struct{}), cut: make(chan struct{})}
	if open {
		close(t.opened)
	}
	return t
}

func (t *tap) Header() http.Header { return http.Header{} }
func (t *tap) WriteHeader(int)     {}
func (t *tap) FlushError() error   { return nil }

func (t *tap) Write(p []byte) (int, error) {
	cut := t.cut
	if t.stuck {
		cut = nil
	}
	select {
	case <-t.opened:
	case <-cut:
		return 0, os.ErrDeadlineExceeded
	}
	if t.pace > 0 {
		select {
		case <-time.After(t.pace):
		case <-cut:
			return 0, os.ErrDeadlineExceeded
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken += len(p)
	return len(p), nil
}

func (t *tap) got() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}

func (t *tap) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() && !at.After(time.Now()) {
		t.once.Do(func() { close(t.cut) })
	}
	return nil
}

func (t *tap) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

// blockBytes is what one block of floor 2 takes.
const blockBytes = 4096 - 40

// hold has a response hold n blocks of budget without being stalled: what it
// has written is under its BufferSize.
func hold(budget *flush.Budget, n int) *flush.Flusher {
	f := flush.New(newTap(true), nil, &flush.Options{Budget: budget, BufferSize: 1 << 20, SendTimeout: -1})
	f.Write(make([]byte, n*blockBytes))
	return f
}

// A result is what a Write returned, and when.
type result struct {
	n     int
	err   error
	after time.Duration
}

// writes has n bytes written in the background, and returns when that waits or
// is done.
func writes(f *flush.Flusher, n int) <-chan result {
	done := make(chan result, 1)
	begin := time.Now()
	go func() {
		n, err := f.Write(make([]byte, n))
		done <- result{n, err, time.Since(begin)}
	}()
	synctest.Wait()
	return done
}

// expectWaiting says how many Writes are to wait for budget now.
func expectWaiting(t *testing.T, budget *flush.Budget, n int) {
	t.Helper()
	synctest.Wait()
	if got := budget.Stats().Waiting; got != n {
		t.Fatalf("%d Writes wait, want %d", got, n)
	}
}

// expectNothingHeld says that the budget is as it was before, but for those who
// were aborted.
func expectNothingHeld(t *testing.T, budget *flush.Budget) {
	t.Helper()
	synctest.Wait()
	got := budget.Stats()
	if got.Aborted = 0; got != (flush.BudgetStats{}) {
		t.Errorf("at the end: %+v", got)
	}
}
