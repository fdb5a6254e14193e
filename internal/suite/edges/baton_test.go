package edges_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Who calls the server, and who waits for that.

// A Hijack behind a call that is stuck ends, and leaves the response as it was:
// nobody has the server, and it goes on once the server does.
func TestHijackThatEndsTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := waitSink{harness.NewSink(t)}
		f := flush.New(s, nil, &flush.Options{SendTimeout: time.Minute})
		for range 2 { // and again when it stops once more
			s.Hold(len(s.Body()))
			harness.MustWrite(t, f, "stuck")
			harness.Must(t, f.FlushAsync())
			synctest.Wait()
			began := time.Now()
			if _, _, err := f.Hijack(); !errors.Is(err, flush.ErrTimeout) || time.Since(began) != time.Minute {
				t.Errorf("Hijack: %v after %v", err, time.Since(began))
			}
			harness.Must(t, f.Err())
			s.Release()
			harness.MustWrite(t, f, "goes on")
			harness.Must(t, f.FlushWait(harness.NoContext))
		}
		conn, _, err := f.Hijack()
		harness.Must(t, err)
		conn.Close()
		if want := strings.Repeat("stuckgoes on", 2); s.Body() != want {
			t.Errorf("got %q", s.Body())
		}
		if _, err := f.WriteString("late"); err != http.ErrHijacked {
			t.Errorf("a Write after Hijack: %v", err)
		}
		f.Close()
	})
}

// Two Hijacks wait: one gets the connection, the other is told, and the server
// is asked once.
func TestHijackTwice(t *testing.T) {
	for _, deadlines := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := waitSink{harness.NewSink(t)}
			asked := 0
			var w http.ResponseWriter = countingHijacker{s, &asked}
			if deadlines {
				w = deadlineHijacker{countingHijacker{s, &asked}}
			}
			f := flush.New(w, nil, nil)
			s.Hold(0)
			harness.MustWrite(t, f, "stuck")
			harness.Must(t, f.FlushAsync())
			synctest.Wait()
			var wg sync.WaitGroup
			errs := make(chan error, 2)
			for range 2 {
				wg.Go(func() { errs <- hijack(&waiter{f: f}) })
				synctest.Wait()
			}
			s.Release()
			wg.Wait()
			if a, b := <-errs, <-errs; (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), http.ErrHijacked) || asked != 1 {
				t.Errorf("deadlines %t: %v and %v, the server was asked %d times", deadlines, a, b, asked)
			}
			f.Close()
		})
	}
}

type countingHijacker struct {
	waitSink
	asked *int
}

func (c countingHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	*c.asked++
	return c.waitSink.Hijack()
}

type deadlineHijacker struct{ countingHijacker }

func (d deadlineHijacker) SetWriteDeadline(t time.Time) error { d.WriteDeadline.Set(t); return nil }

// A sendfileSink is inside its ReadFrom until it is let go, as the server is
// during sendfile.
type sendfileSink struct {
	harness.DeadlineSink
	slices chan struct{} // one value lets a call go
}

func (s sendfileSink) ReadFrom(src io.Reader) (int64, error) {
	s.Enter()
	defer s.Leave()
	select {
	case <-s.slices:
	case <-s.WriteDeadline.Passed():
		return 0, os.ErrDeadlineExceeded
	}
	p, err := io.ReadAll(src)
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.Got = append(s.Got, p...)
	return int64(len(p)), err
}

// While a file is sent nothing else calls the server: whoever would flush waits
// or has it done after, and the bytes keep their order.
func TestNothingCallsTheServerDuringSendfile(t *testing.T) {
	for name, call := range map[string]func(f *flush.Flusher) error{
		"FlushAsync": func(f *flush.Flusher) error { return f.FlushAsync() },
		"FlushWait":  func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"FlushWait and ctx": func(f *flush.Flusher) error {
			return f.FlushWait(context.WithValue(context.Background(), sendfileSink{}, 0))
		},
		"SendHeaders": func(f *flush.Flusher) error { return f.SendHeaders() },
		"Write":       func(f *flush.Flusher) error { _, err := f.Write(make([]byte, 10_000)); return err },
		"WriteHeader": func(f *flush.Flusher) error { f.WriteHeader(103); return nil },
		"ReadFrom": func(f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 10)
			_, err := f.ReadFrom(file)
			return err
		},
		"Close": func(f *flush.Flusher) error { return f.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sendfileSink{harness.DeadlineSink{Sink: harness.NewSink(t)}, make(chan struct{})}
				f := flush.New(s, nil, &flush.Options{FlushInterval: time.Second, BufferSize: 4096})
				harness.MustWrite(t, f, "before ")
				file, text := harness.TempFile(t, 100_000) // 64 KiB and the rest: two slices
				var wg sync.WaitGroup
				wg.Go(func() {
					if n, err := f.ReadFrom(file); n != 100_000 || err != nil {
						t.Errorf("ReadFrom: %d, %v", n, err)
					}
				})
				synctest.Wait()
				wg.Go(func() { harness.Must(t, call(f)) })
				for range 5 {
					<-time.After(2 * time.Second) // the interval's timer, too
				}
				s.slices <- struct{}{}
				<-time.After(time.Second)
				close(s.slices)
				wg.Wait()
				f.Close()
				if got := s.Body(); !strings.HasPrefix(got, "before "+text) {
					t.Errorf("got %s", harness.Clip([]byte(got)))
				}
			})
		})
	}
}

// An asker is a server's writer of another kind, which looks at its response
// whenever it is called, as middleware between may.
type asker struct {
	*httptest.ResponseRecorder
	ask func()
}

func (a asker) WriteHeader(code int)        { a.ask(); a.ResponseRecorder.WriteHeader(code) }
func (a asker) Write(p []byte) (int, error) { a.ask(); return a.ResponseRecorder.Write(p) }
func (a asker) FlushError() error           { a.ask(); a.ResponseRecorder.Flush(); return nil }

// The server is called with no lock held: WriteHeader, Write and Flush of a
// writer that asks its Flusher for its state return.
func TestServerIsCalledWithNoLockHeld(t *testing.T) {
	for name, use := range map[string]func(f *flush.Flusher) error{
		"1xx":         func(f *flush.Flusher) error { f.WriteHeader(103); return nil },
		"SendHeaders": (*flush.Flusher).SendHeaders,
		"FlushWait":   func(f *flush.Flusher) error { f.WriteString("x"); return f.FlushWait(harness.NoContext) },
		"plain": func(f *flush.Flusher) error {
			f.FlushWait(harness.NoContext)
			f.WriteString("x")
			return f.FlushWait(harness.NoContext)
		},
		"FlushAsync": func(f *flush.Flusher) error { f.WriteString("x"); return f.FlushAsync() },
		"Write":      func(f *flush.Flusher) error { _, err := f.Write(make([]byte, 10_000)); return err },
		"nothing":    func(f *flush.Flusher) error { return nil },
		"held":       func(f *flush.Flusher) error { _, err := f.WriteString("x"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			a := asker{ResponseRecorder: httptest.NewRecorder(), ask: func() {}}
			done := make(chan struct{})
			go func() {
				defer close(done)
				h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					f, _ := flush.From(w)
					a.ask = func() {
						f.Stats()
						f.Buffered()
						f.HeadersSent()
						f.Err()
					}
					if err := use(f); err != nil {
						t.Error(err)
					}
				}), nil)
				r := httptest.NewRequest("GET", "/", nil)
				h.ServeHTTP(&a, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, "here")))
			}()
			timer := time.NewTimer(harness.Patience())
			defer timer.Stop()
			select {
			case <-done:
			case <-timer.C:
				t.Fatal("the server's writer waits for a lock that is held while it is called")
			}
		})
	}
}
