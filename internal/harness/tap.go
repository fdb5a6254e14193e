package harness

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

// A Tap is a server's writer that takes bytes only while it is open, and ends
// a blocked write at a deadline in the past.
type Tap struct {
	Opened chan struct{} // closed: writes go through
	cut    chan struct{} // closed: the deadline has passed
	once   sync.Once
	Pace   time.Duration // how long a write takes
	Stuck  bool          // the deadline does not end a write, as behind a closed TCP window on HTTP/2

	Mu    sync.Mutex
	taken int
}

func NewTap(open bool) *Tap {
	t := &Tap{Opened: make(chan struct{}), cut: make(chan struct{})}
	if open {
		close(t.Opened)
	}
	return t
}

func (t *Tap) Header() http.Header { return http.Header{} }
func (t *Tap) WriteHeader(int)     {}
func (t *Tap) FlushError() error   { return nil }

func (t *Tap) Write(p []byte) (int, error) {
	cut := t.cut
	if t.Stuck {
		cut = nil
	}
	select {
	case <-t.Opened:
	case <-cut:
		return 0, os.ErrDeadlineExceeded
	}
	if t.Pace > 0 {
		select {
		case <-time.After(t.Pace):
		case <-cut:
			return 0, os.ErrDeadlineExceeded
		}
	}
	t.Mu.Lock()
	defer t.Mu.Unlock()
	t.taken += len(p)
	return len(p), nil
}

func (t *Tap) Got() int {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	return t.taken
}

func (t *Tap) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() && !at.After(time.Now()) {
		t.once.Do(func() { close(t.cut) })
	}
	return nil
}

func (t *Tap) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

// BlockBytes is what one block of floor 2 takes.
const BlockBytes = 4096 - 40

// HoldBudget has a response hold n blocks of budget without being stalled: what it
// has written is under its BufferSize.
func HoldBudget(budget *flush.Budget, n int) *flush.Flusher {
	f := flush.New(NewTap(true), nil, &flush.Options{Budget: budget, BufferSize: 1 << 20, SendTimeout: -1})
	f.Write(make([]byte, n*BlockBytes))
	return f
}

// A WriteResult is what a Write returned, and when.
type WriteResult struct {
	N     int
	Err   error
	After time.Duration
}

// WriteBehind has n bytes written in the background, and returns when that waits or
// is done.
func WriteBehind(f *flush.Flusher, n int) <-chan WriteResult {
	done := make(chan WriteResult, 1)
	begin := time.Now()
	go func() {
		n, err := f.Write(make([]byte, n))
		done <- WriteResult{n, err, time.Since(begin)}
	}()
	synctest.Wait()
	return done
}

// ExpectWaiting says how many Writes are to wait for budget now.
func ExpectWaiting(t *testing.T, budget *flush.Budget, n int) {
	t.Helper()
	synctest.Wait()
	if got := budget.Stats().Waiting; got != n {
		t.Fatalf("%d Writes wait, want %d", got, n)
	}
}

// ExpectNothingHeld says that the budget is as it was before, but for those who
// were aborted.
func ExpectNothingHeld(t *testing.T, budget *flush.Budget) {
	t.Helper()
	synctest.Wait()
	got := budget.Stats()
	if got.Aborted = 0; got != (flush.BudgetStats{}) {
		t.Errorf("at the end: %+v", got)
	}
}

// NoDeadlines hides what a tap can besides writing and flushing.
type NoDeadlines struct{ T *Tap }

func (w NoDeadlines) Header() http.Header         { return w.T.Header() }
func (w NoDeadlines) WriteHeader(int)             {}
func (w NoDeadlines) FlushError() error           { return nil }
func (w NoDeadlines) Write(p []byte) (int, error) { return w.T.Write(p) }
