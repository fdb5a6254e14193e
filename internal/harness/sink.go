package harness

import (
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush/internal/deadline"
)

// A Sink is a server's writer for one response. It records what reaches it,
// can be held at an offset, can fail, and sees to it that one goroutine at a
// time calls it. It has no deadlines; a deadlineSink does.
type Sink struct {
	t             *testing.T
	inside        atomic.Bool
	header        http.Header
	WriteDeadline deadline.Deadline

	Mu      sync.Mutex
	Status  int
	Sent    http.Header // as it was at WriteHeader
	Got     []byte
	Flushed []int                               // how much had been written, at each flush
	Held    chan struct{}                       // nil: not held; closed when that ends
	Limit   int                                 // held: a Write beyond this many bytes waits
	Fault   func(p []byte, at int) (int, error) // instead of taking p, unless it returns -1
	OnFlush func() error
}

type DeadlineSink struct{ *Sink }

func (s DeadlineSink) SetWriteDeadline(t time.Time) error { s.WriteDeadline.Set(t); return nil }

func NewSink(t *testing.T) *Sink { return &Sink{t: t, header: make(http.Header)} }

// Hold lets Writes wait that go beyond limit bytes in all. It may be moved.
func (s *Sink) Hold(limit int) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Held != nil {
		close(s.Held)
	}
	s.Held, s.Limit = make(chan struct{}), limit
}

func (s *Sink) Release() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Held != nil {
		close(s.Held)
		s.Held = nil
	}
}

func (s *Sink) Enter() {
	if !s.inside.CompareAndSwap(false, true) {
		s.t.Error("two goroutines call the server's writer at once")
	}
}

func (s *Sink) Leave() { s.inside.Store(false) }

func (s *Sink) Header() http.Header { return s.header }

func (s *Sink) WriteHeader(code int) {
	s.Enter()
	defer s.Leave()
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if code >= 200 && s.Status == 0 {
		s.Status, s.Sent = code, s.header.Clone()
	}
}

func (s *Sink) Write(p []byte) (int, error) {
	s.Enter()
	defer s.Leave()
	for {
		passed := s.WriteDeadline.Passed()
		if deadline.Closed(passed) {
			return 0, os.ErrDeadlineExceeded
		}
		s.Mu.Lock()
		held := s.Held
		if held == nil || len(s.Got)+len(p) <= s.Limit {
			break
		}
		s.Mu.Unlock()
		select {
		case <-held:
		case <-passed:
		}
	}
	defer s.Mu.Unlock()
	if s.Fault != nil {
		if n, err := s.Fault(p, len(s.Got)); n >= 0 {
			s.Got = append(s.Got, p[:n]...)
			return n, err
		}
	}
	s.Got = append(s.Got, p...)
	return len(p), nil
}

func (s *Sink) FlushError() error {
	s.Enter()
	defer s.Leave()
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.Flushed = append(s.Flushed, len(s.Got))
	if s.OnFlush != nil {
		return s.OnFlush()
	}
	return nil
}

func (s *Sink) Body() string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return string(s.Got)
}

// LastFlush returns how much had been written at the last flush, and how many
// flushes there were.
func (s *Sink) LastFlush() (at, count int) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if n := len(s.Flushed); n > 0 {
		return s.Flushed[n-1], n
	}
	return 0, 0
}
