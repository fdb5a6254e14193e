package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// A sink is a server's writer for one response. It records what reaches it,
// can be held at an offset, can fail, and sees to it that one goroutine at a
// time calls it. It has no deadlines; a deadlineSink does.
type sink struct {
	t      *testing.T
	inside atomic.Bool
	header http.Header
	wd     deadline

	mu      sync.Mutex
	status  int
	sent    http.Header // as it was at WriteHeader
	got     []byte
	flushed []int                               // how much had been written, at each flush
	held    chan struct{}                       // nil: not held; closed when that ends
	limit   int                                 // held: a Write beyond this many bytes waits
	fault   func(p []byte, at int) (int, error) // instead of taking p, unless it returns -1
	onFlush func() error
}

type deadlineSink struct{ *sink }

func (s deadlineSink) SetWriteDeadline(t time.Time) error { s.wd.set(t); return nil }

func newSink(t *testing.T) *sink { return &sink{t: t, header: make(http.Header)} }

// hold lets Writes wait that go beyond limit bytes in all. It may be moved.
func (s *sink) hold(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		close(s.held)
	}
	s.held, s.limit = make(chan struct{}), limit
}

func (s *sink) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
}

func (s *sink) enter() {
	if !s.inside.CompareAndSwap(false, true) {
		s.t.Error("two goroutines call the server's writer at once")
	}
}

func (s *sink) leave() { s.inside.Store(false) }

func (s *sink) Header() http.Header { return s.header }

func (s *sink) WriteHeader(code int) {
	s.enter()
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if code >= 200 && s.status == 0 {
		s.status, s.sent = code, s.header.Clone()
	}
}

func (s *sink) Write(p []byte) (int, error) {
	s.enter()
	defer s.leave()
	for {
		passed := s.wd.wait()
		if isClosed(passed) {
			return 0, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		held := s.held
		if held == nil || len(s.got)+len(p) <= s.limit {
			break
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-passed:
		}
	}
	defer s.mu.Unlock()
	if s.fault != nil {
		if n, err := s.fault(p, len(s.got)); n >= 0 {
			s.got = append(s.got, p[:n]...)
			return n, err
		}
	}
	s.got = append(s.got, p...)
	return len(p), nil
}

func (s *sink) FlushError() error {
	s.enter()
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushed = append(s.flushed, len(s.got))
	if s.onFlush != nil {
		return s.onFlush()
	}
	return nil
}

func (s *sink) body() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.got)
}

// lastFlush returns how much had been written at the last flush, and how many
// flushes there were.
func (s *sink) lastFlush() (at, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.flushed); n > 0 {
		return s.flushed[n-1], n
	}
	return 0, 0
}

// carriers returns how many goroutines of the package run in the background.
func carriers() int {
	n := 0
	for _, stack := range goroutines() {
		if strings.Contains(stack, ".(*Flusher).carrier") {
			n++
		}
	}
	return n
}

// A closing is what OnClose was told.
type closing struct {
	flush.Stats
	err error
	at  time.Time
}

// tellClosing returns options that are o with an OnClose that sends to the channel.
func tellClosing(o flush.Options) (*flush.Options, chan closing) {
	told := make(chan closing, 8)
	o.OnClose = func(_ *http.Request, s flush.Stats, err error) { told <- closing{s, err, time.Now()} }
	return &o, told
}

// events returns n numbered events of size bytes each.
func events(n, size int) (list []string, all string) {
	for i := range n {
		e := fmt.Sprintf("event %d ", i)
		list = append(list, e+strings.Repeat("x", max(size-len(e)-1, 0))+"\n")
	}
	return list, strings.Join(list, "")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if n, err := io.WriteString(w, s); n != len(s) || err != nil {
		t.Fatalf("write of %d bytes: %d, %v", len(s), n, err)
	}
}

// Flushes asked for while a slow write is under way cost nothing and become one.
func TestAsyncCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink(t)
		f := flush.New(deadlineSink{s}, nil, nil)
		s.hold(0)
		list, all := events(1000, 40)
		for i, e := range list {
			mustWrite(t, f, e)
			must(t, f.FlushAsync())
			if i == 0 {
				synctest.Wait() // the carrier is in its first call
			}
		}
		if n := carriers(); n != 1 {
			t.Errorf("%d carriers", n)
		}
		s.release()
		synctest.Wait()
		if s.body() != all {
			t.Errorf("got %q", clip(s.got))
		}
		if at, n := s.lastFlush(); at != len(all) || n != 2 {
			t.Errorf("%d flushes, the last after %d bytes", n, at)
		}
		if st := f.Stats(); st.Flushes != 1000 || st.Pushes != 2 || st.Waited != 0 {
			t.Errorf("%+v", st)
		}
		if n := carriers(); n != 0 {
			t.Errorf("%d carriers on an idle stream", n)
		}
		must(t, f.Close())
	})
}

// Bytes written after a FlushAsync are not part of that flush, however they
// enter and whatever the carrier is doing.
func TestAsyncFlushEndsWhereItWasAsked(t *testing.T) {
	big := strings.Repeat("b", 10000)
	ask := map[string]func(f *flush.Flusher) error{
		"FlushAsync":      (*flush.Flusher).FlushAsync,
		"Flush":           func(f *flush.Flusher) error { return flush.Flush(f, false) },
		"FlushWait ended": func(f *flush.Flusher) error { return endedWait(f) },
	}
	write := map[string]func(f *flush.Flusher, s string) (int, error){
		"Write":       func(f *flush.Flusher, s string) (int, error) { return f.Write([]byte(s)) },
		"WriteString": (*flush.Flusher).WriteString,
		"ReadFrom": func(f *flush.Flusher, s string) (int, error) {
			n, err := f.ReadFrom(strings.NewReader(s))
			return int(n), err
		},
	}
	for an, ask := range ask {
		for wn, write := range write {
			for _, size := range []int{1, 100, 4071, 4072, 10000} {
				for _, after := range []int{0, 1, 5000} {
					t.Run(fmt.Sprintf("%s/%s/%d/%d", an, wn, size, after), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							s := newSink(t)
							f := flush.New(deadlineSink{s}, nil, &flush.Options{BufferSize: 1 << 20, MaxPending: 1 << 20})
							s.hold(0)
							mustWrite(t, f, "a")
							must(t, f.FlushAsync())
							synctest.Wait()
							for range 2 { // a flush before the write under test, and one after
								if n, err := write(f, big[:size]); n != size || err != nil {
									t.Fatal(n, err)
								}
								must(t, ask(f))
							}
							want := 1 + 2*size
							if after > 0 {
								if n, err := write(f, big[:after]); n != after || err != nil {
									t.Fatal(n, err)
								}
							}
							s.release()
							synctest.Wait()
							if at, _ := s.lastFlush(); at != want || len(s.body()) != want || f.Buffered() != after {
								t.Errorf("flushed %d of %d written, %d held; want %d, %d held", at, len(s.body()), f.Buffered(), want, after)
							}
							must(t, f.Close())
							if len(s.body()) != want+after {
								t.Errorf("%d bytes in the end", len(s.body()))
							}
						})
					})
				}
			}
		}
	}
}

// endedWait is a FlushWait whose context has ended already.
func endedWait(f *flush.Flusher) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.FlushWait(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// The first asynchronous flush makes the response asynchronous, even if it finds
// a carrier at work that was started for a wait.
func TestAsyncFromTheFirstFlushOn(t *testing.T) {
	for _, wait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSink(t)
			f := flush.New(deadlineSink{s}, nil, nil)
			s.hold(0)
			mustWrite(t, f, "a")
			if wait {
				ctx, cancel := context.WithCancel(t.Context())
				go func() { f.FlushWait(ctx) }()
				synctest.Wait()
				cancel()
				synctest.Wait()
			}
			must(t, f.FlushAsync())
			s.hold(1) // the carrier ends
			synctest.Wait()
			if n := carriers(); n != 0 {
				t.Fatalf("%d carriers", n)
			}
			big := strings.Repeat("b", 20000)
			written := false
			go func() {
				mustWrite(t, f, big)
				written = true
			}()
			synctest.Wait()
			if !written {
				t.Error("a Write after the first asynchronous flush works on the network")
			}
			s.release()
			must(t, f.Close())
			if s.body() != "a"+big {
				t.Errorf("got %q", clip(s.got))
			}
		})
	}
}

// FlushWait waits for its own bytes and not for what others write behind it.
func TestFlushWaitForItsOwnBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink(t)
		f := flush.New(deadlineSink{s}, nil, nil)
		s.hold(0)
		mustWrite(t, f, "x")
		must(t, f.FlushAsync())
		synctest.Wait()
		mustWrite(t, f, "own")
		var done atomic.Bool
		go func() {
			if err := f.FlushWait(context.Background()); err != nil {
				t.Error(err)
			}
			done.Store(true)
		}()
		synctest.Wait()
		s.hold(1) // the carrier comes to them
		synctest.Wait()
		later := strings.Repeat("l", 10000)
		mustWrite(t, f, later)
		must(t, f.FlushAsync())
		synctest.Wait()
		if done.Load() {
			t.Fatal("FlushWait returned before its bytes were sent")
		}
		s.hold(4)
		synctest.Wait()
		if !done.Load() || s.body() != "xown" || f.Buffered() != len(later) {
			t.Errorf("returned: %v, sent: %q, held: %d", done.Load(), s.body(), f.Buffered())
		}
		s.release()
		must(t, f.Close())
	})
}

// The end of the context ends the wait, at that moment, and the flush goes on.
func TestFlushWaitContext(t *testing.T) {
	reason := errors.New("reason")
	for _, deadlines := range []bool{true, false} {
		for name, ctx := range map[string]func() (context.Context, context.CancelFunc, time.Duration){
			"ended": func() (context.Context, context.CancelFunc, time.Duration) {
				ctx, cancel := context.WithCancelCause(context.Background())
				cancel(reason)
				return ctx, func() {}, 0
			},
			"cancelled": func() (context.Context, context.CancelFunc, time.Duration) {
				ctx, cancel := context.WithCancelCause(context.Background())
				time.AfterFunc(time.Second, func() { cancel(reason) })
				return ctx, func() {}, time.Second
			},
			"timed out": func() (context.Context, context.CancelFunc, time.Duration) {
				ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute-1, reason)
				return ctx, cancel, time.Minute - 1
			},
		} {
			t.Run(fmt.Sprint(name, deadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSink(t)
					w := http.ResponseWriter(s)
					if deadlines {
						w = deadlineSink{s}
					}
					f := flush.New(w, nil, nil)
					s.hold(0)
					mustWrite(t, f, "event")
					began := time.Now()
					ctx, cancel, after := ctx()
					defer cancel()
					err := f.FlushWait(ctx)
					if !errors.Is(err, ctx.Err()) || !errors.Is(err, reason) {
						t.Errorf("error %v", err)
					}
					if took := time.Since(began); took != after {
						t.Errorf("returned after %v, want %v", took, after)
					}
					if f.Err() != nil {
						t.Errorf("the response failed: %v", f.Err())
					}
					s.release()
					synctest.Wait()
					if at, _ := s.lastFlush(); at != 5 {
						t.Errorf("the flush was forgotten: %q sent, %d flushed", s.body(), at)
					}
					must(t, f.FlushWait(context.Background()))
					must(t, f.Close())
				})
			})
		}
	}
}

// nil, Background and the request's own context do not end a wait.
func TestFlushWaitOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		s := newSink(t)
		cancel()
		h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			synctest.Wait()
			if r.Context().Err() == nil {
				t.Error("the context lives on")
			}
			f, _ := flush.From(w)
			for _, ctx := range []context.Context{nil, context.Background(), r.Context()} {
				s.hold(len(s.body()))
				io.WriteString(w, "x")
				time.AfterFunc(time.Second, s.release)
				began := time.Now()
				if err := f.FlushWait(ctx); err != nil || time.Since(began) != time.Second {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			}
		}), nil)
		h.ServeHTTP(deadlineSink{s}, r)
		if s.body() != "xxx" {
			t.Errorf("%q", s.body())
		}
	})
}

// Existing handlers, unchanged, stream in the background with Options.Flush.
func TestAsyncUnchangedHandlers(t *testing.T) {
	list, all := events(500, 100)
	flushers := map[string]func(w http.ResponseWriter) error{
		"http.Flusher":       func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil },
		"ResponseController": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
	}
	for name, flushIt := range flushers {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				last := make(chan time.Time, 1)
				opts, told := tellClosing(flush.Options{Flush: flush.Async})
				srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					for _, e := range list {
						io.WriteString(w, e)
						if err := flushIt(w); err != nil {
							t.Error(err)
						}
					}
					last <- time.Now()
				}), opts), 2<<10)
				began := time.Now()
				s := open(t, srv, "GET", "/", nil)
				<-time.After(time.Second)
				if at := <-last; at != began {
					t.Errorf("the handler was held for %v", at.Sub(began))
				}
				if p == h2 {
					s.header()
				}
				got, _, end := s.rest()
				if got != all || end == cut {
					t.Errorf("%q, %s", clip([]byte(got)), end)
				}
				c := <-told
				if c.err != nil || c.Waited != 0 || c.Pushes >= c.Flushes || c.Flushes != 500 || c.Bytes != int64(len(all)) || c.Lost != 0 {
					t.Errorf("%+v", c)
				}
			})
		})
	}
}

// A ReverseProxy that flushes after every token: the client gets each at once,
// and a slow one does not hold the backend.
func TestAsyncReverseProxy(t *testing.T) {
	list, all := events(300, 100)
	bubble(t, func(t *testing.T, p proto) {
		park, last := newPark(t), make(chan time.Time, 1)
		backend := serveMemory(t, http1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i, e := range list {
				io.WriteString(w, e)
				http.NewResponseController(w).Flush()
				if i < 3 {
					park.here()
				}
			}
			last <- time.Now()
		}), 0)
		to, err := url.Parse(backend.url("/"))
		must(t, err)
		proxy := httputil.NewSingleHostReverseProxy(to)
		proxy.FlushInterval = -1
		tr := &http.Transport{DialContext: backend.listener.(*memListener).dialer()}
		t.Cleanup(tr.CloseIdleConnections)
		proxy.Transport = tr
		opts, told := tellClosing(flush.Options{Flush: flush.Async})
		srv := serveMemory(t, p, flush.NewHandler(proxy, opts), 2<<10)
		began := time.Now()
		s := open(t, srv, "GET", "/", nil)
		for i := range 3 {
			park.wait()
			s.expect(list[i])
			s.expectNothing()
			park.resume()
		}
		<-time.After(time.Second)
		if at := <-last; at != began {
			t.Errorf("the backend was held for %v", at.Sub(began))
		}
		got, _, end := s.rest()
		if got != strings.Join(list[3:], "") || end == cut {
			t.Errorf("%q, %s", clip([]byte(got)), end)
		}
		if c := <-told; c.err != nil || c.Bytes != int64(len(all)) || c.Waited != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// dialer is dial as a transport wants it.
func (l *memListener) dialer() func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) }
}
