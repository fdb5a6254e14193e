package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A client that takes a file slowly lives, though the server's call that sends it
// lasts longer than SendTimeout: each part that the connection takes is progress.
// One that stops dies, in time.
func TestSendTimeoutOfASlowFile(t *testing.T) {
	const size, limit = 400_000, 12 * time.Second
	for _, test := range []struct {
		name   string
		takes  int  // bytes; then it stops
		closed bool // the file is, meanwhile: that is no progress
	}{
		{"lives", size, false},
		{"stops at once", 0, false},
		{"stops in the middle", size / 2, false},
		{"stops, and the file is closed", size / 2, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				file, text := harness.TempFile(t, size)
				clock := harness.NewClock()
				type end struct {
					err error
					at  time.Duration
				}
				ended := make(chan end, 1)
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
					_, err := io.Copy(w, file)
					ended <- end{err, clock.Now()}
				}), 4096)
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Response()
				for taken := 0; taken < test.takes; taken += size / 50 {
					time.Sleep(time.Second)
					if got := string(s.Take(size / 50)); got != text[taken:taken+len(got)] {
						t.Fatalf("other bytes after %d", taken)
					}
				}
				stopped := clock.Now()
				if test.closed {
					time.Sleep(limit * 3 / 4)
					harness.Must(t, file.Close())
				}
				e := <-ended
				if test.takes == size {
					s.ExpectEnd("")
					if e.err != nil || e.at < 3*limit {
						t.Errorf("%v after %v", e.err, e.at)
					}
					return
				}
				// A piece of the server's own 32 KiB may have been complete seconds before.
				if !errors.Is(e.err, flush.ErrTimeout) || e.at < stopped+limit-10*time.Second || e.at > stopped+grain(limit) {
					t.Errorf("%v after %v, it had stopped after %v", e.err, e.at, stopped)
				}
			})
		})
	}
}

// A copier counts what of files the server's own ReadFrom is asked for.
type copier struct {
	http.ResponseWriter
	calls *atomic.Int64
}

func (c copier) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c copier) ReadFrom(src io.Reader) (int64, error) {
	c.calls.Add(1)
	return c.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

// A file goes to the server in slices of 1, 2, 4 and 8 MiB from the start, where
// progress within one can be seen, or need not be.
func TestFileGoesInLargeSlices(t *testing.T) {
	const size = 15 << 20
	file, _ := harness.TempFile(t, size)
	for _, test := range []struct {
		name  string
		opts  flush.Options
		known bool
		seen  bool // on every system
	}{
		{"unknown", flush.Options{}, false, false},
		{"known", flush.Options{}, true, false},
		{"no timeout", flush.Options{SendTimeout: -1}, false, true},
		{"asynchronous", flush.Options{Flush: flush.Async}, false, false},
		{"budget", flush.Options{Budget: flush.NewBudget(1<<20, 1<<20)}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var calls atomic.Int64
			var options []harness.ServeOption
			if test.opts.SendTimeout == 0 {
				test.opts.SendTimeout = time.Hour // a busy machine is not a slow client
			}
			if test.known {
				options = append(options, func(s *harness.Server) { s.ConnContext = flush.ConnContext })
			}
			h := harness.Wrapped(&test.opts, func(w http.ResponseWriter, r *http.Request) {
				http.ServeFile(w, r, file.Name())
			})
			srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(copier{w, &calls}, r)
			}), options...)
			s := harness.Open(t, srv, "GET", "/", nil)
			if n, err := io.Copy(io.Discard, s.Response().Body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			most := int64(4)
			if runtime.GOOS != "linux" && !test.seen {
				most = 32
			}
			if n := calls.Load(); n > most {
				t.Errorf("%d calls, want at most %d", n, most)
			}
		})
	}
}

// A brokenFile cannot be read beyond some of it.
type brokenFile struct {
	*os.File
	left int
}

func (b *brokenFile) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, &fs.PathError{Op: "read", Path: b.Name(), Err: syscall.EIO}
	}
	n, err := b.File.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// A file that cannot be read is the caller's trouble: the client is there, and the
// response goes on.
func TestFileThatCannotBeRead(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		if p == harness.HTTP10 {
			return // without chunks the kernel reads
		}
		for _, where := range []string{"attached", "detached"} {
			t.Run(where, func(t *testing.T) {
				file, text := harness.TempFile(t, 1000)
				fill := func(f *flush.Flusher) {
					if n, err := f.ReadFrom(&brokenFile{file, 100}); n != 100 || !errors.Is(err, syscall.EIO) || errors.Is(err, flush.ErrClientGone) {
						t.Errorf("%d, %v", n, err)
					}
					harness.MustWrite(t, f, "rest")
				}
				h, out := detacher(t, nil, nil)
				if where == "attached" {
					h = harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) { fill(harness.Flusher(w)) })
				}
				s := harness.Open(t, harness.Serve(t, p, h), "GET", "/", nil)
				if where == "detached" {
					d := harness.Next(t, out)
					fill(d.Flusher)
					harness.Must(t, d.Close())
				}
				s.ExpectEnd(text[:100] + "rest")
			})
		}
	})
}

// A file that has been sent is the handler's again: what is read of it later is no
// progress of the client's. While it is sent, it is.
func TestFileIsWatchedOnlyWhileItIsSent(t *testing.T) {
	const limit, size = 16 * time.Second, 100_000
	cases := []bool{false}
	if runtime.GOOS == "linux" { // elsewhere the position of a file is not looked at
		cases = append(cases, true)
	}
	for _, sends := range cases {
		t.Run(fmt.Sprint(sends), func(t *testing.T) {
			edge(t, func(t *testing.T) {
				file, _ := harness.TempFile(t, size)
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
					first := int64(10)
					if sends {
						first = size
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					clock := harness.NewClock()
					sent := harness.Go(func() error {
						_, err := io.Copy(w, io.LimitReader(file, first))
						if err == nil && !sends {
							_, err = w.Write(make([]byte, harness.Much))
						}
						return err
					})
					synctest.Wait()
					for at := int64(20); at < 60 && ctx.Err() == nil; at++ { // a second each
						file.Seek(at, io.SeekStart)
						err, came := clock.By(time.Duration(at-19)*time.Second, sent)
						if !came {
							continue
						}
						if sends || !errors.Is(err, flush.ErrTimeout) || clock.Now() > grain(limit) {
							t.Errorf("%v after %v", err, clock.Now())
						}
						return
					}
					if !sends {
						t.Error("it has no end")
					}
					harness.Flusher(w).Abort(harness.ErrBoom)
					<-sent
				}), 4096)
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Response()
				time.Sleep(time.Hour)
				s.Leave()
			})
		})
	}
}
