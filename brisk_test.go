package flush_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// What a brisk response looks at only from time to time it looks at so often.
const (
	briskTimeout = 64 * time.Second
	briskTick    = briskTimeout / 32
)

// brisk returns a response whose flushes have come so close that it is brisk.
func brisk(t *testing.T, buffer int) (*flush.Flusher, *harness.Sink) {
	s := harness.NewSink(t)
	f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: briskTimeout, BufferSize: buffer})
	flushOften(t, f)
	if n := flush.Blocks(f); n != 1 {
		t.Fatalf("a stream of flushes has %d blocks, want the one that it keeps", n)
	}
	return f, s
}

func flushOften(t *testing.T, f *flush.Flusher) {
	t.Helper()
	for range 40 {
		harness.MustWrite(t, f, "event")
		harness.Must(t, flush.Flush(f, true))
	}
}

// A stream of flushes keeps one block, as long as they go on. What is idle, or ends
// however, owns none.
func TestIdleStreamOwnsNoBlock(t *testing.T) {
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		then func(t *testing.T, f *flush.Flusher, s *harness.Sink)
		keep int // blocks
	}{
		"goes on": {func(t *testing.T, f *flush.Flusher, _ *harness.Sink) {
			time.Sleep(briskTick / 40) // no tick finds a flush under way
			for range 200 {
				time.Sleep(briskTick / 20)
				harness.MustWrite(t, f, "event")
				harness.Must(t, flush.Flush(f, true))
			}
		}, 1},
		"idle": {func(*testing.T, *flush.Flusher, *harness.Sink) { time.Sleep(2*briskTick + 1) }, 0},
		"seldom": {func(t *testing.T, f *flush.Flusher, _ *harness.Sink) {
			for range 5 {
				time.Sleep(briskTick)
				harness.MustWrite(t, f, "event")
				harness.Must(t, flush.Flush(f, true))
			}
		}, 0},
		"Close": {func(t *testing.T, f *flush.Flusher, _ *harness.Sink) { harness.Must(t, f.Close()) }, 0},
		"Abort": {func(_ *testing.T, f *flush.Flusher, _ *harness.Sink) { f.Abort(gone) }, 0},
		"failure": {func(t *testing.T, f *flush.Flusher, s *harness.Sink) {
			s.Mu.Lock()
			s.Fault = func([]byte, int) (int, error) { return 0, gone }
			s.Mu.Unlock()
			f.WriteString("event")
			if err := flush.Flush(f, true); !errors.Is(err, flush.ErrClientGone) {
				t.Error(err)
			}
		}, 0},
		"timeout": {func(t *testing.T, f *flush.Flusher, s *harness.Sink) {
			s.Hold(0)
			f.WriteString("event")
			if err := flush.Flush(f, true); !errors.Is(err, flush.ErrTimeout) {
				t.Error(err)
			}
		}, 0},
		"panic": {func(t *testing.T, f *flush.Flusher, s *harness.Sink) {
			s.Mu.Lock()
			s.OnFlush = func() error { s.OnFlush = nil; panic("the server's") }
			s.Mu.Unlock()
			f.WriteString("event")
			func() {
				defer func() { recover() }()
				flush.Flush(f, true)
			}()
			f.Abort(gone)
		}, 0},
		"stalls, and goes on": {func(t *testing.T, f *flush.Flusher, s *harness.Sink) {
			s.Hold(0)
			time.AfterFunc(briskTimeout/2, s.Release)
			harness.MustWrite(t, f, "event")
			harness.Must(t, flush.Flush(f, true))
			time.Sleep(2 * briskTimeout)
		}, 0},
		"turns asynchronous": {func(t *testing.T, f *flush.Flusher, _ *harness.Sink) {
			harness.MustWrite(t, f, "event")
			harness.Must(t, flush.Flush(f, false))
			synctest.Wait()
		}, 0},
		"a large write": {func(t *testing.T, f *flush.Flusher, _ *harness.Sink) {
			harness.MustWrite(t, f, strings.Repeat("a", 2*harness.BlockBytes))
			harness.Must(t, flush.Flush(f, true))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := brisk(t, 0)
				c.then(t, f, s)
				synctest.Wait()
				if n := flush.Blocks(f); n != c.keep {
					t.Errorf("%d blocks, want %d", n, c.keep)
				}
				s.Release()
				f.Close()
				time.Sleep(2 * briskTimeout)
			})
		})
	}
}

// Nor does a detached response once its handler has returned, or a connection that
// was taken over; and nothing goes ahead there any more.
func TestHandedOverStreamOwnsNoBlock(t *testing.T) {
	for name, handOver := range map[string]func(w http.ResponseWriter, f *flush.Flusher) error{
		"Detach": func(_ http.ResponseWriter, f *flush.Flusher) error { return f.Detach() },
		"Hijack": func(w http.ResponseWriter, _ *flush.Flusher) error {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := make(chan *flush.Flusher, 1)
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: briskTimeout}, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Connection", "close")
					f := harness.Flusher(w)
					flushOften(t, f)
					if flush.AheadRoom(f) <= 0 {
						t.Error("nothing goes ahead in a stream of flushes")
					}
					harness.Must(t, handOver(w, f))
					out <- f
				}), 1<<20)
				c, err := srv.Dial(t.Context())
				harness.Must(t, err)
				go io.Copy(io.Discard, c)
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				f := <-out
				synctest.Wait()
				if n := flush.Blocks(f); n != 0 {
					t.Errorf("%d blocks", n)
				}
				if n := flush.AheadRoom(f); n != 0 {
					t.Errorf("%d bytes may go ahead", n)
				}
				f.Close()
				c.Close()
				time.Sleep(2 * briskTimeout)
			})
		})
	}
}

// The time that bytes of a brisk stream have waited counts from the tick that finds
// them, or from the first look: it is less than a tick too short, and never too long.
func TestBehindOfBriskStream(t *testing.T) {
	for _, held := range []bool{false, true} { // for a flush, or by the client
		for _, early := range []bool{false, true} { // somebody looks at once
			for _, wait := range []time.Duration{0, 1, briskTick - 1, briskTick, briskTick + 1, briskTimeout / 2} {
				synctest.Test(t, func(t *testing.T) {
					f, s := brisk(t, 0)
					time.Sleep(briskTick / 3)
					if n := f.Stats().Behind; n != 0 {
						t.Errorf("behind for %v with nothing held", n)
					}
					s.Hold(0)
					done := make(chan error, 1)
					harness.MustWrite(t, f, "event")
					if !held {
						go func() { done <- flush.Flush(f, true) }()
					}
					synctest.Wait()
					least := max(wait-briskTick, 1)
					if early {
						if n := f.Stats().Behind; n != 1 {
							t.Errorf("behind for %v at once", n)
						}
						least = max(wait, 1)
					}
					time.Sleep(wait)
					synctest.Wait()
					if n := f.Stats().Behind; n < least || n > max(wait, 1) {
						t.Errorf("held %t, looked %t: behind for %v after %v", held, early, n, wait)
					}
					s.Release()
					if !held {
						harness.Must(t, <-done)
					}
					harness.Must(t, flush.Flush(f, true))
					if n := f.Stats().Behind; n != 0 {
						t.Errorf("behind for %v with nothing held", n)
					}
					harness.Must(t, f.Close())
					time.Sleep(2 * briskTimeout)
				})
			}
		}
	}
}

// A large Write of a brisk stream goes down in as many pieces as that of any other:
// the block that is kept does not cut it.
func TestLargeWriteOfABriskStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const buffer = 128 << 10
		text := harness.Numbered(20_000)
		pieces := func(often bool) (n int) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: briskTimeout, BufferSize: buffer})
			if often {
				flushOften(t, f)
			}
			s.Mu.Lock()
			s.Fault = func([]byte, int) (int, error) { n++; return -1, nil }
			s.Mu.Unlock()
			harness.MustWrite(t, f, text)
			harness.Must(t, flush.Flush(f, true))
			if !strings.HasSuffix(s.Body(), text) {
				t.Error("not what was written")
			}
			harness.Must(t, f.Close())
			time.Sleep(2 * briskTimeout)
			return n
		}
		if want, got := pieces(false), pieces(true); got != want {
			t.Errorf("%d pieces, want %d", got, want)
		}
	})
}
