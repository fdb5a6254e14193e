package flush_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// aheadRoom is what net/http's own writer keeps by itself.
const aheadRoom = 2048

// aheadStream serves a stream whose flushes have come so close that small Writes go
// ahead of them, and has then do the rest of the handler's work. got returns what the
// client has of the body so far, without its framing.
func aheadStream(t *testing.T, opts flush.Options, then func(f *flush.Flusher, got func() string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts.SendTimeout = briskTimeout
		done := make(chan struct{})
		var mu sync.Mutex
		var body bytes.Buffer
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) {
			defer close(done)
			w.Header().Set("Connection", "close")
			f := harness.Flusher(w)
			for range 40 {
				if opts.Flush == flush.Async {
					harness.MustWrite(t, f, ".")
					harness.Must(t, f.FlushAsync())
					synctest.Wait()
				}
				harness.MustWrite(t, f, ".")
				harness.Must(t, f.FlushWait(harness.NoContext))
			}
			for range 2 { // behind a flush of what went ahead, too
				if n := flush.AheadRoom(f); n != aheadRoom {
					t.Fatalf("%d bytes may go ahead, want %d", n, aheadRoom)
				}
				harness.MustWrite(t, f, ".")
				harness.Must(t, f.FlushWait(harness.NoContext))
			}
			then(f, func() string {
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				return strings.TrimLeft(body.String(), ".")
			})
		}), 1<<20)
		c, err := srv.Dial(t.Context())
		harness.Must(t, err)
		defer c.Close()
		io.WriteString(c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n") // no chunks in the body
		go func() {
			p := make([]byte, 4096)
			var all []byte
			for head := true; ; {
				n, err := c.Read(p)
				if all = append(all, p[:n]...); head {
					_, rest, found := bytes.Cut(all, []byte("\r\n\r\n"))
					if head = !found; found {
						all = rest
					}
				}
				if !head {
					mu.Lock()
					body.Write(all)
					all = nil
					mu.Unlock()
				}
				if err != nil {
					return
				}
			}
		}()
		<-done
	})
}

// What has gone ahead waits for its flush, and whatever comes behind it stays there.
func TestWhatGoesAheadKeepsItsPlace(t *testing.T) {
	large := harness.Numbered(50_000)
	var nothing string
	for name, behind := range map[string]struct {
		do   func(t *testing.T, f *flush.Flusher)
		want string
	}{
		"nothing": {func(*testing.T, *flush.Flusher) {}, nothing},
		"Write":   {func(t *testing.T, f *flush.Flusher) { harness.MustWrite(t, f, "b") }, "b"},
		"as much as there is room for": {func(t *testing.T, f *flush.Flusher) {
			harness.MustWrite(t, f, large[:aheadRoom-1])
			if n := flush.AheadRoom(f); n != 0 {
				t.Errorf("still room for %d bytes", n)
			}
		}, large[:aheadRoom-1]},
		"more than there is room for": {func(t *testing.T, f *flush.Flusher) {
			harness.MustWrite(t, f, large[:aheadRoom])
			harness.MustWrite(t, f, "c")
		}, large[:aheadRoom] + "c"},
		"Write of bytes": {func(t *testing.T, f *flush.Flusher) {
			f.Write([]byte("b"))
			harness.MustWrite(t, f, "c")
		}, "bc"},
		"a large Write": {func(t *testing.T, f *flush.Flusher) {
			harness.MustWrite(t, f, large)
			harness.MustWrite(t, f, "c")
		}, large + "c"},
		"TryWrite": {func(t *testing.T, f *flush.Flusher) {
			harness.Must(t, f.TryWrite([]byte("b")))
			harness.MustWrite(t, f, "c")
		}, "bc"},
		"ReadFrom": {func(t *testing.T, f *flush.Flusher) {
			if _, err := f.ReadFrom(strings.NewReader(large)); err != nil {
				t.Error(err)
			}
			harness.MustWrite(t, f, "c")
		}, large + "c"},
		"a buffer": {func(t *testing.T, f *flush.Flusher) {
			b := f.StartBuffer(nil)
			harness.MustWrite(t, f, "b")
			harness.Must(t, b.Close())
			harness.MustWrite(t, f, "c")
		}, "bc"},
		"implicit flushes": {func(t *testing.T, f *flush.Flusher) {
			f.SetImplicit(flush.Wait)
			harness.MustWrite(t, f, "b")
			f.SetImplicit(flush.Off)
			harness.MustWrite(t, f, "c")
		}, "bc"},
		"a flush that a context ends": {func(t *testing.T, f *flush.Flusher) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			harness.Must(t, f.FlushWait(ctx))
			harness.MustWrite(t, f, "b")
		}, "b"},
		"FlushAsync": {func(t *testing.T, f *flush.Flusher) {
			harness.Must(t, f.FlushAsync())
			harness.MustWrite(t, f, "b")
			harness.Must(t, f.FlushAsync())
			harness.MustWrite(t, f, "c")
		}, "bc"},
		"others": {func(t *testing.T, f *flush.Flusher) {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					harness.MustWrite(t, f, "b")
					harness.Must(t, f.FlushWait(harness.NoContext))
				})
			}
			wg.Wait()
		}, "bbbbbbbbbb"},
		"Detach": {func(t *testing.T, f *flush.Flusher) {
			harness.Must(t, f.Detach())
			harness.MustWrite(t, f, "b")
		}, "b"},
		"who has the server's writer": {func(t *testing.T, f *flush.Flusher) {
			harness.Must(t, f.FlushWait(harness.NoContext))
			io.WriteString(f.Unwrap(), large[:2000])
			harness.MustWrite(t, f, "b")
			harness.Must(t, f.FlushWait(harness.NoContext))
			harness.MustWrite(t, f, "c")
			if n := flush.AheadRoom(f); n != 0 {
				t.Errorf("%d bytes may go ahead", n)
			}
		}, large[:2000] + "bc"},
	} {
		for mode, opts := range map[string]flush.Options{"Wait": {}, "Async": {Flush: flush.Async}, "BufferSize": {BufferSize: 100}} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				aheadStream(t, opts, func(f *flush.Flusher, got func() string) {
					harness.MustWrite(t, f, "a")
					if n := flush.AheadRoom(f); n != aheadRoom-1 {
						t.Errorf("it has not gone ahead: room for %d bytes", n)
					}
					if s := got(); s != "" {
						t.Errorf("the client has %q before the flush", s)
					}
					behind.do(t, f)
					harness.Must(t, f.FlushWait(harness.NoContext))
					if s := got(); s != "a"+behind.want {
						t.Errorf("the client has %.60q (%d bytes), want a%.60q (%d)", s, len(s), behind.want, len(behind.want)+1)
					}
				})
			})
		}
	}
}

// Nor is it left behind where the connection is taken over.
func TestHijackBehindWhatWentAhead(t *testing.T) {
	aheadStream(t, flush.Options{}, func(f *flush.Flusher, got func() string) {
		harness.MustWrite(t, f, "a")
		c, _, err := f.Hijack()
		harness.Must(t, err)
		io.WriteString(c, "b")
		if s := got(); s != "ab" {
			t.Errorf("the client has %q", s)
		}
		c.Close()
	})
}

// Where its maker has the server's writer, too, nothing goes ahead: what he writes to it
// would have it flow over.
func TestNothingGoesAheadOfNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f := flush.New(w, r, &flush.Options{SendTimeout: briskTimeout})
			defer f.Close()
			flushOften(t, f)
			if n := flush.AheadRoom(f); n != 0 {
				t.Errorf("%d bytes may go ahead", n)
			}
		}), 1<<20)
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd(strings.Repeat("event", 40))
	})
}

// A client that stops is noticed as ever, whether its event has gone ahead or not, and
// one that goes on in time is not.
func TestClientStopsBehindWhatWentAhead(t *testing.T) {
	for _, goesOn := range []bool{false, true} {
		for _, looked := range []bool{false, true} {
			stops := &stoppingConn{}
			var sink *harness.Sink
			synctest.Test(t, func(t *testing.T) {
				sink = harness.NewSink(t)
				stops.Sink = sink
				f := flush.New(stops, nil, &flush.Options{SendTimeout: briskTimeout})
				flush.KeepAhead(f)
				flushOften(t, f)
				stops.held = make(chan struct{})
				harness.MustWrite(t, f, "last")
				if n := flush.AheadRoom(f); n != aheadRoom-len("last") {
					t.Errorf("it has not gone ahead: room for %d bytes", n)
				}
				if looked {
					if n := f.Stats().Behind; n != 1 {
						t.Errorf("behind for %v at once", n)
					}
				}
				wait := briskTimeout / 2
				if goesOn {
					time.AfterFunc(wait, func() { close(stops.held) })
				}
				began, done := time.Now(), make(chan error, 1)
				go func() { done <- f.FlushWait(harness.NoContext) }()
				time.Sleep(wait - 1)
				if n := f.Stats().Behind; n < wait-1-briskTick || n > wait-1 || looked && n != wait-1 {
					t.Errorf("behind for %v after %v", n, wait-1)
				}
				err := <-done
				switch took := time.Since(began); {
				case goesOn && (err != nil || took != wait):
					t.Errorf("%v after %v", err, took)
				case !goesOn && (!errors.Is(err, flush.ErrTimeout) || took < briskTimeout || took > briskTimeout+briskTimeout/16):
					t.Errorf("%v after %v", err, took)
				}
				if n := f.Stats().Behind; goesOn && n != 0 {
					t.Errorf("behind for %v when all is flushed", n)
				}
				f.Close()
				time.Sleep(2 * briskTimeout)
			})
		}
	}
}

// A stoppingConn is a server's writer whose flush does not return while it is held, until
// its deadline.
type stoppingConn struct {
	*harness.Sink
	held chan struct{}
}

func (c *stoppingConn) SetWriteDeadline(t time.Time) error { c.WriteDeadline.Set(t); return nil }

func (c *stoppingConn) FlushError() error {
	if c.held != nil {
		select {
		case <-c.held:
		case <-c.WriteDeadline.Passed():
			return os.ErrDeadlineExceeded
		}
	}
	return c.Sink.FlushError()
}

// aheadSink returns a response over a Sink before whose flushes small Writes go ahead.
func aheadSink(t *testing.T) (*flush.Flusher, *harness.Sink) {
	s := harness.NewSink(t)
	f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SendTimeout: briskTimeout})
	flush.KeepAhead(f)
	flushOften(t, f)
	return f, s
}

// What the server says of bytes that go ahead their Write says.
func TestServerRefusesWhatGoesAhead(t *testing.T) {
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		n    int
		err  error
		want error
		fail error
	}{
		"fails":              {0, gone, flush.ErrClientGone, flush.ErrClientGone},
		"fails in between":   {2, gone, flush.ErrClientGone, flush.ErrClientGone},
		"takes less":         {2, nil, io.ErrShortWrite, flush.ErrClientGone},
		"refuses":            {0, http.ErrContentLength, http.ErrContentLength, nil},
		"refuses what it is": {0, http.ErrBodyNotAllowed, http.ErrBodyNotAllowed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := aheadSink(t)
				before := f.Stats()
				s.Fault = func([]byte, int) (int, error) { s.Fault = nil; return c.n, c.err }
				n, err := f.Write([]byte("event"))
				if n != c.n || !errors.Is(err, c.want) {
					t.Errorf("Write: %d, %v; want %d, %v", n, err, c.n, c.want)
				}
				if err := f.Err(); !errors.Is(err, c.fail) {
					t.Errorf("Err: %v, want %v", err, c.fail)
				}
				if after := f.Stats(); after.Bytes+after.Lost != before.Bytes+before.Lost+int64(c.n) {
					t.Errorf("%d bytes handed over and %d lost of %d", after.Bytes-before.Bytes, after.Lost-before.Lost, c.n)
				}
				f.Close()
				time.Sleep(2 * briskTimeout)
			})
		})
	}
}

// A server's writer that panics in the flush of what has gone ahead leaves no lock and no
// baton behind.
func TestServerPanicsBehindWhatWentAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := aheadSink(t)
		harness.MustWrite(t, f, "event")
		s.OnFlush = func() error { s.OnFlush = nil; panic("the server's") }
		func() {
			defer func() {
				if v := recover(); v != "the server's" {
					t.Errorf("panic: %v", v)
				}
			}()
			flush.Flush(f, true)
		}()
		if f.Err() == nil {
			t.Error("the response goes on")
		}
		if err := flush.Flush(f, true); err == nil {
			t.Error("a flush behind it went well")
		}
		f.Close()
		time.Sleep(2 * briskTimeout)
	})
}

// What has gone ahead unflushed when the stream becomes idle, or is looked at by a tick,
// counts as waiting from then on.
func TestBehindOfWhatWentAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := aheadSink(t)
		harness.MustWrite(t, f, "event")
		time.Sleep(10 * briskTick)
		if n := f.Stats().Behind; n < 8*briskTick || n > 10*briskTick {
			t.Errorf("behind for %v after %v", n, 10*briskTick)
		}
		if n := flush.AheadRoom(f); n != 0 {
			t.Errorf("an idle stream has room for %d bytes", n)
		}
		harness.MustWrite(t, f, "more")
		harness.Must(t, flush.Flush(f, true))
		if n := f.Stats().Behind; n != 0 || !strings.HasSuffix(s.Body(), "eventmore") {
			t.Errorf("behind for %v, body %q", n, s.Body())
		}
		harness.Must(t, f.Close())
		time.Sleep(2 * briskTimeout)
	})
}
