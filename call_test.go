//go:build linux && !386 && !s390x

package flush_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
	"github.com/fa492104/flush/internal/tcp"
)

// An askedConn hands each write to the kernel itself, which says whether it has
// room, and notes on whose goroutine that was.
type askedConn struct {
	*net.TCPConn
	kernelAsker *kernelAsker
}

type kernelAsker struct {
	handler atomic.Value // the name of the goroutine that is inside FlushAsync; "": none
	own     atomic.Int64 // writes on it
	others  atomic.Int64
	waits   atomic.Int64 // writes on it for which the kernel had no room
}

func (c askedConn) NetConn() net.Conn { return c.TCPConn }

func (c askedConn) Write(p []byte) (n int, err error) {
	own := c.kernelAsker.handler.Load() == goroutine()
	if own {
		c.kernelAsker.own.Add(1)
	} else {
		c.kernelAsker.others.Add(1)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	werr := raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			m, errno := syscall.Write(int(fd), p[n:])
			switch {
			case errno == syscall.EAGAIN:
				if own {
					c.kernelAsker.waits.Add(1)
				}
				return false
			case errno != nil:
				err = errno
				return true
			}
			n += m
		}
		return true
	})
	if werr != nil {
		err = werr
	}
	return n, err
}

// goroutine returns the name of the one that calls it.
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), " [")
	return name
}

func (a *kernelAsker) flush(f *flush.Flusher) error {
	a.handler.Store(goroutine())
	defer a.handler.Store("")
	return f.FlushAsync()
}

func (a *kernelAsker) known(o flush.ConnOptions) harness.ServeOption {
	return harness.Configure(func(s *http.Server) {
		s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return harness.TrustConn(o.ConnContext(ctx, c))
		}
	})
}

func (a *kernelAsker) wrap() harness.ServeOption {
	return harness.WrapConn(func(c net.Conn) net.Conn { return askedConn{c.(*net.TCPConn), a} })
}

// FlushAsync never waits for a client, wherever in a paced stream it stops: no
// call of the server's is on the caller's goroutine that the kernel has no room
// for. While the client reads, and there is room, the caller's it is.
func TestFlushAsyncAtOnce(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		for _, lowat := range []int{0, 2 << 10} {
			t.Run(fmt.Sprintf("%v/NotSentLowat=%d", p, lowat), func(t *testing.T) {
				var a kernelAsker
				stopped, sent := make(chan int), make(chan struct{})
				h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					random := rand.New(rand.NewPCG(uint64(<-stopped), 1))
					tick := time.NewTicker(100 * time.Microsecond) // the pace
					defer tick.Stop()
					for i := range 40 {
						<-tick.C
						size := 1 + random.IntN(600)
						if i%8 == 7 {
							size = 3000
						}
						fmt.Fprintf(f, "%d%s\n", i, strings.Repeat("x", size))
						if err := a.flush(f); err != nil {
							t.Errorf("FlushAsync: %v", err)
						}
					}
					sent <- struct{}{}
				}), &flush.Options{MaxPending: 1 << 20})
				srv := harness.Serve(t, p, h, harness.SmallBuffers, a.wrap(), a.known(flush.ConnOptions{NotSentLowat: lowat}))
				s := harness.Open(t, srv, "GET", "/", nil)
				for stop := range 50 {
					if stop > 0 {
						s = s.Again("GET", "/", nil)
					}
					stopped <- stop
					s.Take(rand.IntN(16 << 10))
					<-sent
					body, _, end := s.Rest()
					if end != harness.Complete || !strings.HasSuffix(body, "x\n") {
						t.Fatalf("stopped the %d. time: %q, ended %v", stop, harness.Clip([]byte(body)), end)
					}
				}
				if n := a.waits.Load(); n > 0 {
					t.Errorf("FlushAsync has waited %d times for room in the kernel", n)
				}
				t.Logf("%d writes inside FlushAsync, %d by carriers", a.own.Load(), a.others.Load())
				if a.own.Load() == 0 {
					t.Error("nothing went down inside FlushAsync")
				}
			})
		}
	}
}

// What comes in a burst is a carrier's, which gathers it; so is everything on a
// connection that is not known, or that something stands around which may wait.
func TestFlushAsyncBurst(t *testing.T) {
	for _, tc := range []struct {
		name string
		opt  func(a *kernelAsker) harness.ServeOption
		pace time.Duration
		own  bool
		away bool // the response is detached
	}{
		{"a burst", func(a *kernelAsker) harness.ServeOption { return a.known(flush.ConnOptions{}) }, 0, false, false},
		{"paced", func(a *kernelAsker) harness.ServeOption { return a.known(flush.ConnOptions{}) }, time.Millisecond, true, false},
		{"paced, detached", func(a *kernelAsker) harness.ServeOption { return a.known(flush.ConnOptions{}) }, time.Millisecond, true, true},
		{"not known", func(*kernelAsker) harness.ServeOption { return harness.Configure(func(*http.Server) {}) }, time.Millisecond, false, false},
		{"around it stands another", func(*kernelAsker) harness.ServeOption {
			return harness.Configure(func(s *http.Server) { s.ConnContext = flush.ConnContext })
		}, time.Millisecond, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var a kernelAsker
			const events = 64
			text := bytes.Repeat([]byte("event\n"), 10)
			h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				send := func() {
					pace := func() {}
					if tc.pace > 0 {
						tick := time.NewTicker(tc.pace)
						defer tick.Stop()
						pace = func() { <-tick.C }
					}
					for range events {
						pace()
						f.Write(text)
						a.flush(f)
					}
				}
				if !tc.away {
					send()
					return
				}
				if err := f.Detach(); err != nil {
					t.Error(err)
				}
				go func() {
					send()
					f.Close()
				}()
			}), nil)
			srv := harness.Serve(t, harness.HTTP1, h, a.wrap(), tc.opt(&a))
			harness.Open(t, srv, "GET", "/", nil).ExpectEnd(strings.Repeat(string(text), events))
			own := a.own.Load()
			t.Logf("%d writes inside FlushAsync, %d by carriers", own, a.others.Load())
			switch {
			case tc.own && own == 0:
				t.Error("nothing went down inside FlushAsync")
			case !tc.own && tc.pace > 0 && own > 0:
				t.Errorf("%d writes went down inside FlushAsync", own)
			case tc.pace == 0 && own > events*3/4:
				t.Errorf("%d of %d events of a burst went down one by one", own, events)
			}
		})
	}
}

// A wait for its own bytes, a write that moves and FlushAsync at once, from
// several goroutines, keep the order.
func TestFlushAsyncAtOnceBesideOthers(t *testing.T) {
	var a kernelAsker
	const each = 200
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				tick := time.NewTicker(100 * time.Microsecond)
				defer tick.Stop()
				for i := range each {
					<-tick.C
					fmt.Fprintf(f, "%d %d%s\n", g, i, strings.Repeat(".", i))
					if g == 0 && i%10 == 0 {
						f.FlushWait(context.Background())
					} else if err := f.FlushAsync(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}), nil)
	srv := harness.Serve(t, harness.HTTP1, h, harness.SmallBuffers, a.wrap(), a.known(flush.ConnOptions{}))
	body, _, end := harness.Open(t, srv, "GET", "/", nil).Rest()
	if end != harness.Complete {
		t.Fatalf("the response ended %v", end)
	}
	var next [4]int
	for line := range strings.Lines(body) {
		var g, i int
		if _, err := fmt.Sscanf(line, "%d %d", &g, &i); err != nil || i != next[g] {
			t.Fatalf("%q, want the %d. of %d (%v)", harness.Clip([]byte(line)), next[g], g, err)
		}
		next[g]++
	}
	if next != [4]int{each, each, each, each} {
		t.Errorf("%v lines of %d each", next, each)
	}
}

// An ownConn notes on whose goroutine each write is.
type ownConn struct {
	net.Conn
	*kernelAsker
}

func (c ownConn) Write(p []byte) (int, error) {
	if c.handler.Load() == goroutine() {
		c.own.Add(1)
	}
	return c.Conn.Write(p)
}

// An onIt stands on a server's writer.
type onIt struct{ http.ResponseWriter }

func (w onIt) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// An event that comes alone goes down inside FlushAsync, and of many such the kernel
// is asked for a few: it has said how much room there is. What comes in a burst is a
// carrier's, be it behind an event of whose end the clock has not been read, and so
// is what may find no room.
func TestFlushAsyncAsksTheKernelSeldom(t *testing.T) {
	const room, events = 64 << 10, 100
	const far = 10 * time.Millisecond
	for _, tc := range []struct {
		name  string
		gaps  [2]time.Duration // before events, in turn
		room  int64
		own   int64 // of the events
		asked int   // at most

		between  bool // something stands on the server's writer
		buffered bool // what a flush brings down comes from a buffer
	}{
		{"paced", [2]time.Duration{far, far}, room, events, 10, false, false},
		{"paced, through a buffer", [2]time.Duration{far, far}, room, events, 10, false, true},
		{"closer", [2]time.Duration{400 * time.Microsecond, 600 * time.Microsecond}, room, events, 10, false, false},
		{"close", [2]time.Duration{120 * time.Microsecond, 120 * time.Microsecond}, room, events, 10, false, false},
		{"pairs", [2]time.Duration{far, 350 * time.Microsecond}, room, events, 10, false, false},
		{"a burst", [2]time.Duration{80 * time.Microsecond, 80 * time.Microsecond}, room, 0, 0, false, false},
		{"an end not seen", [2]time.Duration{far, 250 * time.Microsecond}, room, events / 2, events / 2, false, false},
		{"bursts of two", [2]time.Duration{far, 80 * time.Microsecond}, room, events / 2, events / 2, false, false},
		{"no room", [2]time.Duration{far, far}, 100, 0, events, false, false},
		{"something between", [2]time.Duration{far, far}, room, 0, 0, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a kernelAsker
				asked := 0
				h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					if tc.buffered {
						f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
					}
					send := func() {
						io.WriteString(f, "event\n")
						harness.Must(t, a.flush(f))
						synctest.Wait() // the carrier's, if there is one
					}
					send() // the clock of the bubble begins anew
					send()
					a.own.Store(0)
					asked = 0
					for i := range events {
						time.Sleep(tc.gaps[i%2])
						send()
					}
				}), nil)
				if tc.between {
					inner := h
					h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(onIt{w}, r) })
				}
				known := harness.FakeConn{TakesFunc: func() (tcp.Space, error) {
					asked++
					return tcp.Space{Memory: tc.room, Unsent: tc.room}, nil
				}}
				srv := harness.ServeMemory(t, harness.HTTP1, h, 0,
					harness.WrapConn(func(c net.Conn) net.Conn { return ownConn{c, &a} }),
					harness.Configure(func(s *http.Server) {
						s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
							return harness.TrustConn(harness.WithConn(ctx, known))
						}
					}))
				harness.Open(t, srv, "GET", "/", nil).ExpectEnd(strings.Repeat("event\n", events+2))
				if own := a.own.Load(); own != tc.own || asked > tc.asked {
					t.Errorf("%d of %d events went down inside FlushAsync, want %d; the kernel was asked %d times, want at most %d", own, events, tc.own, asked, tc.asked)
				}
			})
		})
	}
}

// An event that goes down inside FlushAsync does so beside a buffer that does not
// follow too, and the response goes on behind it.
func TestFlushAsyncAtOnceBesideABuffer(t *testing.T) {
	edge(t, func(t *testing.T) {
		known := harness.FakeConn{TakesFunc: func() (tcp.Space, error) { return tcp.Space{Memory: 1 << 20, Unsent: 1 << 20}, nil }}
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			for range 3 {
				io.WriteString(w, "event")
				harness.Must(t, f.FlushAsync())
				time.Sleep(time.Second)
			}
			io.WriteString(w, "event")
			f.StartBuffer(nil)
			harness.Must(t, f.FlushAsync())
			if n := f.Buffered(); n > 0 {
				t.Errorf("%d bytes are left to others", n)
			}
			io.WriteString(w, "end")
		}), 0, harness.Configure(func(s *http.Server) {
			s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
				return harness.TrustConn(harness.WithConn(ctx, known))
			}
		}))
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd(strings.Repeat("event", 4) + "end")
	})
}
