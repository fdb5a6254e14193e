package edges_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// tryWrite is TryWrite, where there is one.
func tryWrite(f *flush.Flusher, p []byte) error {
	if w, ok := any(f).(interface{ TryWrite(p []byte) error }); ok {
		return w.TryWrite(p)
	}
	return errors.New("there is no TryWrite")
}

// Whichever way output comes onto floor 2, it waits for a flush no longer
// than FlushInterval, and not at all with implicit flush; headers that
// WriteHeader has fixed are output, too.
func TestIntervalOfEveryWayIn(t *testing.T) {
	const d = 50 * time.Millisecond
	wrote := func(_ int, err error) error { return err }
	copied := func(_ int64, err error) error { return err }
	for _, way := range []struct {
		name string
		n    int // bytes to come
		do   func(t *testing.T, f *flush.Flusher) error
	}{
		{"Write", 1000, func(_ *testing.T, f *flush.Flusher) error { return wrote(f.Write(make([]byte, 1000))) }},
		{"WriteString", 1, func(_ *testing.T, f *flush.Flusher) error { return wrote(f.WriteString("x")) }},
		{"small writes", 3000, func(_ *testing.T, f *flush.Flusher) error {
			var err error
			for range 30 {
				err = errors.Join(err, wrote(f.Write(make([]byte, 100))))
			}
			return err
		}},
		{"large Write", 10_001, func(_ *testing.T, f *flush.Flusher) error { return wrote(f.Write(make([]byte, 10_001))) }},
		{"TryWrite", 1000, func(_ *testing.T, f *flush.Flusher) error { return tryWrite(f, make([]byte, 1000)) }},
		{"ReadFrom a file", 1000, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return copied(f.ReadFrom(file))
		}},
		{"io.Copy of a file", 1000, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return copied(io.Copy(f, file))
		}},
		{"io.CopyN of a file", 700, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return copied(io.CopyN(f, file, 700))
		}},
		{"a large file", 100_001, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 100_001)
			return copied(io.Copy(f, file))
		}},
		{"a file behind a Write", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(wrote(f.Write(make([]byte, 10))), copied(io.Copy(f, file)))
		}},
		{"a file before a Write", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(copied(io.Copy(f, file)), wrote(f.Write(make([]byte, 10))))
		}},
		{"a file behind a flush", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(wrote(f.Write(make([]byte, 10))), f.FlushWait(harness.NoContext), copied(io.Copy(f, file)))
		}},
		{"a file behind an asynchronous flush", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(wrote(f.Write(make([]byte, 10))), f.FlushAsync(), copied(io.Copy(f, file)))
		}},
		{"ReadFrom a reader", 1000, func(_ *testing.T, f *flush.Flusher) error {
			return copied(f.ReadFrom(strings.NewReader(harness.Numbered(1000))))
		}},
		{"Buffer.Flush", 1000, func(_ *testing.T, f *flush.Flusher) error {
			b := f.StartBuffer(nil)
			return errors.Join(wrote(f.Write(make([]byte, 1000))), b.Flush())
		}},
		{"Buffer.Close", 1000, func(_ *testing.T, f *flush.Flusher) error {
			b := f.StartBuffer(nil)
			return errors.Join(wrote(f.Write(make([]byte, 1000))), b.Close())
		}},
		{"ChunkSize", 1000, func(_ *testing.T, f *flush.Flusher) error {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 100})
			return wrote(f.Write(make([]byte, 1000)))
		}},
		{"two buffers", 1000, func(_ *testing.T, f *flush.Flusher) error {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 100})
			b := f.StartBuffer(nil)
			return errors.Join(wrote(f.Write(make([]byte, 1000))), b.Flush())
		}},
		{"a filter's own write", 5, func(_ *testing.T, f *flush.Flusher) error {
			b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				if len(p) == 3 {
					io.WriteString(f, "de")
				}
				return p, nil
			}})
			return errors.Join(wrote(f.WriteString("abc")), b.Flush())
		}},
		{"a file through a buffer", 1000, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1})
			return copied(io.Copy(f, file))
		}},
		{"headers", 0, func(_ *testing.T, f *flush.Flusher) error { f.WriteHeader(202); return nil }},
		{"headers of an error", 0, func(_ *testing.T, f *flush.Flusher) error { f.WriteHeader(404); return nil }},
		{"headers without a body", 0, func(_ *testing.T, f *flush.Flusher) error { f.WriteHeader(204); return nil }},
	} {
		for _, mode := range []struct {
			name     string
			opts     flush.Options
			implicit bool
		}{
			{"interval", flush.Options{FlushInterval: d}, false},
			{"asynchronous interval", flush.Options{FlushInterval: d, Flush: flush.Async}, false},
			{"interval, every write moves", flush.Options{FlushInterval: d, BufferSize: -1}, false},
			{"implicit wait", flush.Options{Implicit: flush.Wait}, true},
			{"implicit ask", flush.Options{Implicit: flush.Async}, true},
		} {
			if way.n == 0 && mode.implicit {
				continue // setting headers never flushes
			}
			t.Run(way.name+"/"+mode.name, func(t *testing.T) {
				edges(t, func(t *testing.T, p harness.Proto) {
					clock := harness.NewClock()
					srv := harness.ServeMemory(t, p, harness.Wrapped(&mode.opts, func(w http.ResponseWriter, _ *http.Request) {
						f := harness.Flusher(w)
						for range 2 { // silence, and again
							if err := way.do(t, f); err != nil {
								t.Error(err)
							}
							<-time.After(time.Hour)
							if f.Top() != nil {
								f.Top().Close()
							}
						}
					}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					s.Header()
					by := clock.Now()
					if way.n > 0 {
						s.Take(way.n)
						by = clock.Now()
					}
					if mode.implicit && by != 0 || by > d {
						t.Errorf("%d bytes have come after %v", way.n, by)
					}
					if way.n > 0 {
						clock.Until(max(by, time.Hour))
						s.Take(way.n)
						if again := clock.Now() - time.Hour; by <= d && (mode.implicit && again != 0 || again > d) {
							t.Errorf("the second time %d bytes have come after %v", way.n, again)
						}
					}
					s.Leave()
					<-time.After(2 * time.Hour)
				})
			})
		}
	}
}

// The twin: without either nothing comes before its time.
func TestNoIntervalHoldsWhatIsWritten(t *testing.T) {
	edges(t, func(t *testing.T, p harness.Proto) {
		clock := harness.NewClock()
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			w.Write(make([]byte, 1000))
			<-time.After(time.Hour)
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Header()
		if s.Take(1000); clock.Now() != time.Hour {
			t.Errorf("it came after %v", clock.Now())
		}
		s.ExpectEnd("")
	})
}
