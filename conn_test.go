//go:build linux && !386 && !s390x

package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// known makes the connections of a server known, with a send buffer that takes
// a whole response at once.
func known(s *http.Server) {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		raw := c
		if n, ok := c.(interface{ NetConn() net.Conn }); ok {
			raw = n.NetConn()
		}
		raw.(*net.TCPConn).SetWriteBuffer(1 << 20)
		return flush.ConnContext(ctx, c)
	}
}

// FlushAcked returns when the client's kernel has every byte, and not before.
func TestFlushAcked(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			park := harness.NewPark(t)
			var unread reading
			body := make([]byte, 40<<10)
			h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				unread.pause()
				w.Write(body)
				if err := flush.Flush(w, true); err != nil {
					t.Errorf("the kernel has no room: %v", err)
				}
				ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
				defer cancel()
				if err := f.FlushAcked(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("FlushAcked before the client read: %v", err)
				}
				if unsent, unacked, err := f.Backlog(); unsent+unacked == 0 || err != nil {
					t.Errorf("Backlog before the client read: %d, %d, %v", unsent, unacked, err)
				}
				park.Here()
				unread.goOn()
				if err := f.FlushAcked(t.Context()); err != nil {
					t.Errorf("FlushAcked: %v", err)
				}
				if unsent, unacked, err := f.Backlog(); unsent+unacked != 0 || err != nil {
					t.Errorf("Backlog after FlushAcked: %d, %d, %v", unsent, unacked, err)
				}
			}), nil)
			srv := harness.Serve(t, p, h, harness.SmallBuffers, harness.Configure(known))
			unread.of(srv)
			s := harness.Open(t, srv, "GET", "/", nil)
			park.Next()
			s.ExpectEnd(string(body))
		})
	}
}

// A client that leaves ends the wait, and the failure sticks; one that stays
// and reads nothing ends it after SendTimeout, and that does not stick.
func TestFlushAckedFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		leave bool
		want  error
		stick bool
	}{
		{"the client leaves", true, flush.ErrClientGone, true},
		{"the client stays", false, flush.ErrTimeout, false},
	} {
		for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
			t.Run(tc.name+" "+p.String(), func(t *testing.T) {
				park := harness.NewPark(t)
				var unread reading
				done := make(chan struct{})
				opts := &flush.Options{SendTimeout: time.Second} // of the flush before as well
				if tc.leave {
					opts.SendTimeout = harness.Patience()
				}
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(done)
					f, _ := flush.From(w)
					unread.pause()
					w.Write(make([]byte, 40<<10))
					if err := flush.Flush(w, true); err != nil {
						t.Errorf("the kernel has no room: %v", err)
					}
					park.Here()
					if err := f.FlushAcked(t.Context()); !errors.Is(err, tc.want) {
						t.Errorf("FlushAcked: %v, want %v", err, tc.want)
					}
					if err := f.Err(); errors.Is(err, tc.want) != tc.stick {
						t.Errorf("Err: %v", err)
					}
				}), opts), harness.SmallBuffers, harness.Configure(known))
				unread.of(srv)
				s := harness.Open(t, srv, "GET", "/", nil)
				park.Wait()
				if tc.leave {
					unread.leave()
					s.Leave()
				}
				park.Resume()
				<-done
				unread.leave()
				s.Leave()
			})
		}
	}
}

// A reading is what an HTTP/2 client does by itself, and others only when the
// test says so. The zero reading has nothing to pause.
type reading struct {
	mu     sync.Mutex
	conn   net.Conn
	paused chan struct{} // closed: it goes on
}

// of makes the connection of srv's HTTP/2 client one that can be paused.
func (r *reading) of(srv *harness.Server) {
	if srv.Proto != harness.HTTP2 {
		return
	}
	tr := srv.Client()
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.conn, r.paused = c, make(chan struct{})
		close(r.paused)
		return pausedConn{c, r}, nil
	}
}

func (r *reading) pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = make(chan struct{})
}

func (r *reading) goOn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !deadline.Closed(r.paused) {
		close(r.paused)
	}
}

// leave closes the connection.
func (r *reading) leave() {
	r.mu.Lock()
	c := r.conn
	r.mu.Unlock()
	if c != nil {
		c.Close()
	}
	r.goOn()
}

type pausedConn struct {
	net.Conn
	reading *reading
}

func (c pausedConn) Read(p []byte) (int, error) {
	c.reading.mu.Lock()
	paused := c.reading.paused
	c.reading.mu.Unlock()
	<-paused
	return c.Conn.Read(p)
}

// Without ConnContext, and on connections that the kernel does not count, the
// calls say so.
func TestConnNotKnown(t *testing.T) {
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for name, ctx := range map[string]context.Context{
		"no ConnContext": t.Context(),
		"a pipe":         flush.ConnContext(t.Context(), pipe),
	} {
		f := flush.New(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil), nil)
		if err := f.FlushAcked(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: FlushAcked: %v", name, err)
		}
		if _, _, err := f.Backlog(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: Backlog: %v", name, err)
		}
		f.Close()
	}
}

// ConnOptions reach the socket.
func TestConnOptions(t *testing.T) {
	options := flush.ConnOptions{NotSentLowat: 16 << 10, UserTimeout: 5 * time.Second}
	srv := harness.Serve(t, harness.HTTP1, http.NotFoundHandler(), harness.Configure(func(s *http.Server) {
		s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			ctx = options.ConnContext(ctx, c)
			raw, err := c.(*net.TCPConn).SyscallConn()
			harness.Must(t, err)
			harness.Must(t, raw.Control(func(fd uintptr) {
				for option, want := range map[int]int{0x19: 16 << 10, 0x12: 5000} { // TCP_NOTSENT_LOWAT, TCP_USER_TIMEOUT
					if got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option); got != want || err != nil {
						t.Errorf("option %#x is %d, %v; want %d", option, got, err, want)
					}
				}
			}))
			return ctx
		}
	}))
	harness.Open(t, srv, "GET", "/", nil).Response()
}

// While one write blocks, acknowledged bytes are progress: a client that moves
// lives, and dies SendTimeout after it stopped. Without a source the whole
// time counts.
func TestSendTimeoutTrueToProgress(t *testing.T) {
	const timeout = 16 * time.Second
	for _, tc := range []struct {
		name  string
		known bool
		moves time.Duration // the client moves each 10 s until then
		want  time.Duration // when the write dies
	}{
		{"not known", false, time.Minute, timeout},
		{"known, never moves", true, 0, timeout},
		{"known, moves for a minute", true, time.Minute, time.Minute + timeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				ctx := t.Context()
				if tc.known {
					ctx = harness.WithAcked(ctx, func() int64 { return int64(min(time.Since(begin), tc.moves) / (10 * time.Second)) })
				}
				f := flush.New(harness.NewTap(false), httptest.NewRequestWithContext(ctx, "GET", "/", nil), &flush.Options{SendTimeout: timeout})
				f.Write([]byte("x"))
				err := f.FlushWait(context.Background())
				// The kernel is asked every 50 ms.
				if took := time.Since(begin); !errors.Is(err, flush.ErrTimeout) || took < tc.want || took > tc.want+50*time.Millisecond {
					t.Errorf("after %v: %v; want ErrTimeout after %v", took, err, tc.want)
				}
				f.Abort(nil)
				time.Sleep(time.Second) // of synctest: the watcher sees that nobody blocks and ends
			})
		})
	}
}

// The twin lives: it takes the bytes just before the time is up.
func TestSendTimeoutTrueToProgressLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx := harness.WithAcked(t.Context(), func() int64 { return int64(min(time.Since(begin), time.Minute) / (10 * time.Second)) })
		client := harness.NewTap(false)
		f := flush.New(client, httptest.NewRequestWithContext(ctx, "GET", "/", nil), &flush.Options{SendTimeout: 16 * time.Second})
		time.AfterFunc(76*time.Second-time.Nanosecond, func() { close(client.Opened) })
		f.Write([]byte("x"))
		if err := f.FlushWait(context.Background()); err != nil {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // of synctest, as above
	})
}

// With a known connection the end of the server's context is not taken for the
// client's leaving where the client is there: it is, and gets everything.
func TestCauseWithTheClientThere(t *testing.T) {
	for _, test := range []struct {
		name string
		not  []harness.Proto
		end  func(w http.ResponseWriter, r *http.Request, base context.CancelFunc) *http.Request // what ends the context
	}{
		{"BaseContext", nil, func(_ http.ResponseWriter, r *http.Request, base context.CancelFunc) *http.Request {
			base()
			return r
		}},
		{"read deadline", []harness.Proto{harness.HTTP2}, func(w http.ResponseWriter, r *http.Request, _ context.CancelFunc) *http.Request {
			http.NewResponseController(w).SetReadDeadline(time.Now())
			return r
		}},
		{"cancel outside", []harness.Proto{harness.HTTP2}, func(_ http.ResponseWriter, r *http.Request, _ context.CancelFunc) *http.Request {
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			return r.WithContext(ctx)
		}},
	} {
		for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
			if slices.Contains(test.not, p) {
				continue // of an HTTP/2 stream the connection says nothing
			}
			t.Run(test.name+" "+p.String(), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				atClose := make(chan error, 1)
				h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if test.name != "cancel outside" {
						test.end(w, r, cancel)
					}
					<-r.Context().Done()
					if err := flush.Cause(r.Context()); err != context.Canceled {
						t.Errorf("the reason is %v", err)
					}
					for range 3 {
						io.WriteString(w, "x")
						if err := flush.Flush(w, true); err != nil {
							t.Error(err)
						}
					}
				}), &flush.Options{OnClose: func(r *http.Request, _ flush.Stats, _ error) { atClose <- flush.Cause(r.Context()) }})
				srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if test.name == "cancel outside" {
						r = test.end(w, r, cancel)
					}
					h.ServeHTTP(w, r)
				}), harness.Configure(func(s *http.Server) {
					s.BaseContext = func(net.Listener) context.Context { return ctx }
					s.ConnContext = flush.ConnContext
				}))
				harness.Open(t, srv, "GET", "/", nil).ExpectEnd("xxx")
				if err := <-atClose; err != context.Canceled {
					t.Errorf("OnClose: the reason is %v", err)
				}
			})
		}
	}
}

// An upload that stalls ends the context at ReadTimeout, and the client is there.
func TestCauseOfAStalledUpload(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the upload is whole")
		}
		<-r.Context().Done()
		if err := flush.Cause(r.Context()); err != context.Canceled {
			t.Errorf("the reason is %v", err)
		}
		io.WriteString(w, "answer")
	}), nil), harness.Configure(func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout = harness.Patience(), 50*time.Millisecond
		s.ConnContext = flush.ConnContext
	}))
	s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
	if body, _, _ := s.Rest(); body != "answer" {
		t.Errorf("the client got %q", body)
	}
}

// The twin: a client that leaves, all of it or half, is gone.
func TestCauseWithTheClientGone(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		for _, half := range []bool{false, true} {
			if half && p != harness.HTTP1 {
				continue
			}
			t.Run(fmt.Sprint(p, half), func(t *testing.T) {
				done := make(chan error, 2)
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					flush.Flush(w, true)
					<-r.Context().Done()
					done <- flush.Cause(r.Context())
				}), &flush.Options{OnClose: func(r *http.Request, _ flush.Stats, _ error) { done <- flush.Cause(r.Context()) }}),
					harness.Configure(func(s *http.Server) { s.ConnContext = flush.ConnContext }))
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Header()
				if half {
					s.Conn.(*net.TCPConn).CloseWrite()
				} else {
					s.Leave()
				}
				for range 2 {
					if err := <-done; !errors.Is(err, flush.ErrClientGone) {
						t.Errorf("the reason is %v", err)
					}
				}
			})
		}
	}
}

// The end waits for the client's kernel in looks shorter than a short send timeout:
// a client that has acknowledged everything between two of them has not stalled.
func TestEndWithAShortSendTimeout(t *testing.T) {
	for _, acks := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f, s, c := overConn(t, t.Context(), &flush.Options{SendTimeout: 20 * time.Millisecond})
			s.Hold(0)
			harness.MustWrite(t, f, harness.Text(3000))
			harness.Must(t, f.FlushAsync())
			time.Sleep(10 * time.Millisecond)
			grow(c, 0, 1<<20, 3000)
			s.Release()
			synctest.Wait()
			if acks {
				time.AfterFunc(time.Millisecond, func() { grow(c, 0, -1<<20, 1<<20) })
			}
			if err := f.Close(); acks && err != nil || !acks && !errors.Is(err, flush.ErrTimeout) {
				t.Errorf("acknowledged %t: %v", acks, err)
			}
			time.Sleep(time.Second) // of synctest: the watcher ends
		})
	}
}
