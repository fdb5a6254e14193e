package flush_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A response whose Write is stuck in the harness.Server holds nothing, and is behind all
// the same: most slow clients are of this kind. One that reads on is not.
func TestBehindInAWrite(t *testing.T) {
	const size = 300 << 10
	path := filepath.Join(t.TempDir(), "file")
	harness.Must(t, os.WriteFile(path, make([]byte, size), 0o600))
	file := func(f *flush.Flusher) (int64, error) {
		src, err := os.Open(path)
		harness.Must(t, err)
		defer src.Close()
		return f.ReadFrom(src)
	}
	whole := func(f *flush.Flusher) (int64, error) {
		n, err := f.Write(make([]byte, size))
		return int64(n), err
	}
	for name, test := range map[string]struct {
		mode  flush.Mode
		write func(*flush.Flusher) (int64, error)
	}{
		"Write":        {flush.Wait, whole},
		"Write, async": {flush.Async, whole},
		"ReadFrom":     {flush.Wait, file},
		"a string": {flush.Wait, func(f *flush.Flusher) (int64, error) {
			n, err := f.WriteString(string(make([]byte, size)))
			return int64(n), err
		}},
		"through a buffer": {flush.Wait, func(f *flush.Flusher) (int64, error) {
			f.StartBuffer(nil)
			whole(f)
			return size, f.Top().Flush()
		}},
	} {
		for _, timeout := range []time.Duration{-1, 10 * time.Hour} {
			t.Run(name, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					out := make(chan *flush.Flusher, 1)
					park := harness.NewPark(t)
					srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						f, _ := flush.From(w)
						f.FlushError()
						out <- f
						if n, err := test.write(f); n != size || err != nil {
							t.Errorf("wrote %d, %v", n, err)
						}
						f.FlushWait(harness.NoContext)
						park.Here()
					}), &flush.Options{Flush: test.mode, SendTimeout: timeout}), 4096)
					s := harness.Open(t, srv, "GET", "/", nil)
					s.Response()
					f := harness.Next(t, out)
					synctest.Wait()
					time.Sleep(time.Hour)
					// Of a file that got on it is known when that was seen.
					if got := f.Stats().Behind; got > time.Hour || got < time.Hour-time.Second || got != time.Hour && name != "ReadFrom" {
						t.Errorf("behind for %v harness.Go an hour", got)
					}
					if got := s.Take(size); !bytes.Equal(got, make([]byte, size)) {
						t.Error("other bytes came")
					}
					park.Wait()
					if got := f.Stats().Behind; got != 0 {
						t.Errorf("behind for %v, and all has gone", got)
					}
					park.Resume()
					s.ExpectEnd("")
				})
			})
		}
	}
}
