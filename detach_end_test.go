package flush_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

var detachFor = flag.Duration("detach", time.Second, "for how long descriptors of detached responses are reused")

// clientsAtOnce is how many connections a test opens: as many as descriptors
// allow, on both sides, and more than a few.
func clientsAtOnce(most int) int { return min(most, harness.OpenFiles()/2-100) }

// serving calls do with each response that was let go of, on n goroutines, until
// it is told to stop.
func serving(n int, out <-chan detached, do func(detached)) (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range n {
		wg.Go(func() {
			for {
				select {
				case f := <-out:
					do(f)
				case <-done:
					return
				}
			}
		})
	}
	return func() {
		close(done)
		wg.Wait()
	}
}

// 1,000 POSTs over connections that the client would keep, each detached and
// closed from elsewhere: none fails, although a client does not repeat a POST.
func TestDetachedPostsOnKeptConnections(t *testing.T) {
	h, out := detacher(t, nil, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	srv := harness.Serve(t, harness.HTTP1, h)
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	defer serving(4, out, func(f detached) {
		io.WriteString(f, "done")
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})()
	var posters sync.WaitGroup
	for range 10 {
		posters.Go(func() {
			for range 100 {
				r, err := client.Post(srv.URL("/"), "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(r.Body)
				r.Body.Close()
				if string(body) != "done" || err != nil {
					t.Errorf("got %q, %v", body, err)
				}
			}
		})
	}
	posters.Wait()
}

// descriptors counts the open files of this process; 0 where that is not known.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(names)
}

// Descriptors are reused at full speed by responses that come and go; none of
// those that stay is ended by what happens to the others.
func TestDetachedDescriptorsReused(t *testing.T) {
	const stay, come = 200, 32
	var ended atomic.Int64
	h, out := detacher(t, nil, nil)
	srv := harness.Serve(t, harness.HTTP1, h)
	staying := make([]detached, 0, stay)
	for range stay {
		c, err := srv.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /stay HTTP/1.1\r\nHost: x\r\n\r\n")
		f := harness.Next(t, out)
		context.AfterFunc(f.ctx, func() { ended.Add(1) })
		staying = append(staying, f)
	}
	stop := serving(4, out, func(f detached) {
		switch rand.IntN(3) {
		case 0:
			f.Close()
		case 1:
			f.Abort(nil)
		}
	})
	var clients sync.WaitGroup
	var came atomic.Int64
	until := time.Now().Add(*detachFor)
	for range come {
		clients.Go(func() {
			for time.Now().Before(until) {
				c, err := srv.Dial(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				if rand.IntN(2) == 0 {
					c.Read(make([]byte, 1))
				}
				c.(*net.TCPConn).SetLinger(0) // leaves no socket in TIME_WAIT
				c.Close()
				came.Add(1)
			}
		})
	}
	clients.Wait()
	stop()
	t.Logf("%d came and went", came.Load())
	if n := ended.Load(); n > 0 {
		t.Errorf("%d of %d that stayed were ended", n, stay)
	}
	for _, f := range staying {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What the client sends is read and dropped: it neither ends the response nor
// costs the client the end of it.
func TestDetachedClientSends(t *testing.T) {
	eachWatch(t, func(t *testing.T) {
		for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
			t.Run(p.String(), func(t *testing.T) {
				h, out := detacher(t, nil, nil)
				srv := harness.Serve(t, p, h)
				s := harness.Open(t, srv, "GET", "/", nil)
				f := harness.Next(t, out)
				s.Response()
				for range 10 {
					fmt.Fprintf(s.Conn, "GET /again HTTP/1.1\r\nHost: x\r\n\r\n")
					io.WriteString(f, "event")
					if err := f.FlushWait(harness.NoContext); err != nil {
						t.Fatal(err)
					}
					s.Expect("event")
				}
				if f.ctx.Err() != nil {
					t.Errorf("it was ended: %v", flush.Cause(f.ctx))
				}
				f.Close()
				s.ExpectEnd("")
			})
		}
	})
}

// A client that sends without end is not read without end, and its leaving is
// still noticed.
func TestDetachedClientFloods(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			h, out := detacher(t, nil, nil)
			srv := harness.Serve(t, p, h, harness.SmallBuffers)
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			socket := s.Conn
			if t, ok := socket.(*tls.Conn); ok {
				socket = t.NetConn()
			}
			socket.(*net.TCPConn).SetWriteBuffer(4 << 10) // what is unsent hides the leaving
			s.Conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			if n, err := io.Copy(s.Conn, io.LimitReader(zeros{}, 64<<20)); err == nil {
				t.Errorf("all of %d bytes were taken", n)
			}
			if f.ctx.Err() != nil {
				t.Errorf("it was ended: %v", flush.Cause(f.ctx))
			}
			s.Leave()
			harness.Next(t, f.ctx.Done())
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TLS: the goodbye of a client that keeps its connection open ends the response.
func TestDetachedTLSGoodbye(t *testing.T) {
	eachWatch(t, func(t *testing.T) {
		h, out := detacher(t, nil, nil)
		srv := harness.Serve(t, harness.HTTPS1, h)
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Response()
		s.Conn.(*tls.Conn).CloseWrite()
		s.ExpectEnd("")
		harness.Next(t, f.ctx.Done())
	})
}

// Over a Unix socket as over TCP.
func TestDetachedUnixSocket(t *testing.T) {
	harness.CheckGoroutines(t)
	dir, err := os.MkdirTemp("", "detach") // t.TempDir is too long for a socket
	harness.Must(t, err)
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	harness.Must(t, err)
	h, out := detacher(t, nil, nil)
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	defer srv.Close()
	for _, leaves := range []bool{false, true} {
		c, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		f := harness.Next(t, out)
		if !f.Stats().Detached {
			t.Error("it is not detached")
		}
		if leaves {
			c.Close()
			harness.Next(t, f.ctx.Done())
			continue
		}
		io.WriteString(f, "event")
		harness.Must(t, f.FlushWait(harness.NoContext))
		if taken, err := flush.WriteShared(f.Flusher, flush.NewSharedWrite([]byte("shared"))); !taken {
			if err != nil || runtime.GOOS == "linux" {
				t.Errorf("a broadcast's write was not taken: %v", err)
			}
			io.WriteString(f, "shared")
		}
		f.Close()
		all, err := io.ReadAll(c)
		if err != nil || !bytes.HasSuffix(all, []byte("\r\n\r\n5\r\nevent\r\n6\r\nshared\r\n0\r\n\r\n")) {
			t.Errorf("got %q, %v", all, err)
		}
	}
}

// The files of a multipart request go with the response, wherever it ends.
func TestDetachedMultipartFiles(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		for _, how := range []string{"closed after the handler", "closed in the handler", "panic"} {
			t.Setenv("TMPDIR", t.TempDir())
			names := make(chan string, 1)
			out := make(chan detached, 1)
			srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := r.ParseMultipartForm(1); err != nil {
					t.Error(err)
				}
				io.Copy(io.Discard, r.Body)
				file, err := r.MultipartForm.File["f"][0].Open()
				if err != nil {
					t.Error(err)
					return
				}
				file.Close()
				names <- file.(*os.File).Name()
				f, _ := flush.From(w)
				if err := f.Detach(); err != nil {
					t.Error(err)
				}
				out <- detached{f, r.Context(), r}
				switch how {
				case "closed in the handler":
					f.Close()
				case "panic":
					panic(http.ErrAbortHandler)
				}
			}), nil))
			var body bytes.Buffer
			m := multipart.NewWriter(&body)
			part, _ := m.CreateFormFile("f", "f")
			io.WriteString(part, harness.Text(1<<20))
			m.Close()
			s := harness.Open(t, srv, "POST", "/", &body, "Content-Type: "+m.FormDataContentType())
			s.Start()
			name, f := harness.Next(t, names), harness.Next(t, out)
			if how == "closed after the handler" {
				if _, err := os.Stat(name); err != nil {
					t.Errorf("%s: the file went before the response: %v", how, err)
				}
				f.Close()
			}
			harness.WaitFor(t, func() bool { _, err := os.Stat(name); return os.IsNotExist(err) })
			s.Rest()
		}
	})
}

// http.Server's Shutdown does not see a detached response, and Close does not end
// it.
func TestDetachedOutlivesItsServer(t *testing.T) {
	h, out := detacher(t, nil, nil)
	srv := harness.Serve(t, harness.HTTP1, h)
	s := harness.Open(t, srv, "GET", "/", nil)
	f := harness.Next(t, out)
	s.Response()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv.Server.Close()
	io.WriteString(f, "event")
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	s.ExpectEnd("event")
}

// A panic of OnClose's, where no handler is there any more, is logged as the
// server logs one, and harms nobody else.
func TestDetachedPanicInOnClose(t *testing.T) {
	var standard harness.SafeBuffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&standard)
	h, out := detacher(t, &flush.Options{OnClose: func(*http.Request, flush.Stats, error) { panic("in OnClose") }}, nil)
	own := harness.Serve(t, harness.HTTP1, h)
	none := harness.Serve(t, harness.HTTP1, h, harness.Configure(func(s *http.Server) { s.ErrorLog = nil }))
	for srv, logged := range map[*harness.Server]func() string{own: own.Logged, none: standard.String} {
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Response()
		s.Leave()
		harness.Next(t, f.ctx.Done())
		harness.WaitFor(t, func() bool { return strings.Contains(logged(), "in OnClose") })
	}
}

// What OnClose sees of the request is what the handler saw, but for the body.
func TestDetachedOnCloseRequest(t *testing.T) {
	type key struct{}
	requests := make(chan *http.Request, 1)
	h, out := detacher(t, &flush.Options{OnClose: func(r *http.Request, _ flush.Stats, _ error) { requests <- r }},
		func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			r.ParseForm()
		})
	mux := http.NewServeMux()
	mux.Handle("/a/{b}", h)
	over := make(chan struct{})
	srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "v")))
	}))
	s := harness.Open(t, srv, "POST", "/a/x?q=1", strings.NewReader("body"), "X-Y: z")
	s.Start()
	f := harness.Next(t, out)
	s.Response()
	harness.Next(t, over)
	f.Close()
	r := harness.Next(t, requests)
	if r.Method != "POST" || r.URL.Path != "/a/x" || r.Header.Get("X-Y") != "z" || r.PathValue("b") != "x" || r.FormValue("q") != "1" || r.Context().Value(key{}) != "v" {
		t.Errorf("got %+v", r)
	}
	if r.Body != http.NoBody {
		t.Errorf("a body of %T, which leads to the server's buffers", r.Body)
	}
}

// Middleware inside that has something to write once its handler has returned, as
// a compressor has, cannot write into the stream.
func TestDetachedMiddlewareInside(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		out := make(chan *flush.Flusher, 1)
		late := make(chan error, 1)
		inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			if err := f.Detach(); err != nil {
				t.Error(err)
			}
			out <- f
		})
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(unwrapped{w}, r)
			w.Header().Del("Content-Length")
			_, err := w.Write([]byte("the footer of a compressor"))
			late <- err
		}), nil))
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		if err := harness.Next(t, late); err != flush.ErrClosed {
			t.Errorf("the late Write: %v", err)
		}
		io.WriteString(f, "event")
		f.Close()
		s.ExpectEnd("event")
	})
}

// A broadcast's write comes whole and in order whatever the kernel takes of it,
// and the client's slowness costs nobody else anything.
func TestDetachedSharedWrite(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			h, out := detacher(t, &flush.Options{MaxPending: 8 << 20}, nil)
			srv := harness.Serve(t, p, h, harness.SmallBuffers)
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			var want strings.Builder
			direct, ordinary := 0, 0
			for i := range 3000 {
				event := fmt.Appendf(nil, "event %d %s\n", i, strings.Repeat("x", rand.IntN(300)))
				want.Write(event)
				taken, err := flush.WriteShared(f.Flusher, flush.NewSharedWrite(event))
				if err != nil {
					t.Fatal(err)
				}
				if taken {
					direct++
				} else {
					ordinary++
					if err := f.TryWrite(event); err != nil {
						t.Fatal(err)
					}
					f.FlushAsync()
				}
				if i%300 == 299 { // the client catches up
					s.Expect(want.String())
					want.Reset()
					harness.WaitFor(t, func() bool { return f.Buffered() == 0 })
				}
			}
			if direct == 0 || ordinary == 0 {
				t.Errorf("%d events went at once and %d were queued: the test shows nothing", direct, ordinary)
			}
			if st := f.Stats(); st.Lost > 0 || st.Flushes < st.Pushes {
				t.Errorf("%+v", st)
			}
			f.Close()
			s.ExpectEnd(want.String())
		})
	}
}

// A broadcast's write leaves alone whatever has something in its way.
func TestDetachedSharedWriteTakesTheOrdinaryWay(t *testing.T) {
	event := flush.NewSharedWrite([]byte("event"))
	for _, c := range []struct {
		name  string
		proto harness.Proto
		make  func(f *flush.Flusher)
		want  bool
	}{
		{"nothing", harness.HTTP1, func(*flush.Flusher) {}, true},
		{"HTTP/2", harness.HTTP2, func(*flush.Flusher) {}, false},
		{"a buffer", harness.HTTP1, func(f *flush.Flusher) { f.StartBuffer(nil) }, false},
		{"bytes queued", harness.HTTP1, func(f *flush.Flusher) { f.Write([]byte("a")) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, out := detacher(t, nil, nil)
			srv := harness.Serve(t, c.proto, h)
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			c.make(f.Flusher)
			if taken, err := flush.WriteShared(f.Flusher, event); taken != c.want || err != nil {
				t.Errorf("got %v, %v", taken, err)
			}
			f.Close()
			if taken, err := flush.WriteShared(f.Flusher, event); taken || err != nil {
				t.Errorf("after the end: %v, %v", taken, err)
			}
			s.Rest()
		})
	}
	t.Run("the client has gone", func(t *testing.T) {
		h, out := detacher(t, nil, nil)
		srv := harness.Serve(t, harness.HTTP1, h)
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Response()
		s.Conn.(*net.TCPConn).SetLinger(0)
		s.Leave()
		harness.WaitFor(t, func() bool {
			taken, err := flush.WriteShared(f.Flusher, event)
			return err != nil || !taken
		})
		harness.Next(t, f.ctx.Done())
	})
}

// What the client has just sent, and nobody has read, does not cost it the end of
// the response: the kernel resets a connection that is closed over such bytes.
func TestDetachedEndsOverUnreadInput(t *testing.T) {
	h, out := detacher(t, nil, nil)
	srv := harness.Serve(t, harness.HTTP1, h)
	for range 200 {
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Response()
		io.WriteString(f, harness.Text(20_000))
		fmt.Fprintf(s.Conn, "GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		s.ExpectEnd(harness.Text(20_000))
	}
}

// Clients that end their own half and read nothing hold up the end of nobody
// else's response, however many they are; and get what was accepted once they read.
func TestDetachedEndsThatWaitHoldUpNobody(t *testing.T) {
	h, out := detacher(t, &flush.Options{MaxPending: harness.Much}, nil)
	srv := harness.Serve(t, harness.HTTP1, h, harness.SmallBuffers)
	content := harness.Text(harness.Much)
	streams, responses := make([]*harness.Stream, 300), make([]detached, 300)
	for i := range streams {
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Response()
		harness.Must(t, f.TryWrite([]byte(content)))
		harness.Must(t, f.FlushAsync())
		streams[i], responses[i] = s, f
	}
	for _, s := range streams {
		harness.Must(t, s.Conn.(*net.TCPConn).CloseWrite())
	}
	for _, f := range responses {
		harness.Next(t, f.ctx.Done()) // somebody is at its end
	}
	for _, s := range streams[:10] {
		s.ExpectEnd(content)
	}
	for _, s := range streams {
		s.Leave()
	}
}

// Nothing that is broadcast is no chunk: an empty one would be the end of the body.
func TestDetachedBroadcastOfNothing(t *testing.T) {
	var g flush.Group
	h, out := detacher(t, nil, nil)
	s := harness.Open(t, harness.Serve(t, harness.HTTP1, h), "GET", "/", nil)
	f := harness.Next(t, out)
	harness.Must(t, g.Add(f.Flusher))
	for _, event := range []string{"a", "", "b"} {
		if missed := g.Broadcast([]byte(event)); len(missed) > 0 {
			t.Errorf("%q was missed", event)
		}
	}
	f.Close()
	s.ExpectEnd("ab")
}

// What TLS does not take of an event is lost, and counted as such.
func TestDetachedSharedWriteThatTLSRefuses(t *testing.T) {
	conns := make(chan *tls.Conn, 1)
	h, out := detacher(t, nil, nil)
	srv := harness.Serve(t, harness.HTTPS1, h, harness.Configure(func(s *http.Server) {
		s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			conns <- c.(*tls.Conn)
			return ctx
		}
	}))
	s := harness.Open(t, srv, "GET", "/", nil)
	f := harness.Next(t, out)
	s.Response()
	harness.Must(t, harness.Next(t, conns).CloseWrite()) // it takes no more
	taken, err := flush.WriteShared(f.Flusher, flush.NewSharedWrite([]byte("event")))
	if lost := f.Stats().Lost; !taken || err == nil || lost != 5 {
		t.Errorf("taken %t, %v, %d bytes lost", taken, err, lost)
	}
	f.Close()
	s.Leave()
}

// A response that fails while the server gives its connection away ends by itself:
// nobody else may ever call.
func TestDetachedFailsDuringTheHandover(t *testing.T) {
	edge(t, func(t *testing.T) {
		const limit = time.Second
		opts, closed := harness.TellClosing(flush.Options{SendTimeout: limit})
		var slow atomic.Bool
		h := harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			slow.Store(true)
			err := harness.Flusher(w).Detach()
			slow.Store(false)
			select {
			case c := <-closed:
				if !errors.Is(c.Err, flush.ErrTimeout) {
					t.Errorf("Detach: %v, ended with %v", err, c.Err)
				}
			case <-time.After(time.Hour):
				t.Errorf("Detach: %v, and no end", err)
			}
		})
		srv := harness.ServeMemory(t, harness.HTTP1, h, 0, harness.WrapConn(func(c net.Conn) net.Conn {
			return slowlyHijacked{c, &slow, 2 * limit}
		}))
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Rest()
		s.Leave()
	})
}

// A slowlyHijacked takes its time to give up the read that net/http has under way.
type slowlyHijacked struct {
	net.Conn
	slow *atomic.Bool
	d    time.Duration
}

func (c slowlyHijacked) SetReadDeadline(at time.Time) error {
	if c.slow.CompareAndSwap(true, false) {
		time.Sleep(c.d)
	}
	return c.Conn.SetReadDeadline(at)
}

// Clients that send over TLS, and stay, keep nobody from seeing that others leave.
func TestDetachedTLSInputHoldsUpNobody(t *testing.T) {
	const readers = 16 // at a time
	h, out := detacher(t, nil, nil)
	srv := harness.Serve(t, harness.HTTPS1, h)
	streams, responses := make([]*harness.Stream, 2*readers), make([]detached, 2*readers)
	for i := range streams {
		streams[i] = harness.Open(t, srv, "GET", "/", nil)
		responses[i] = harness.Next(t, out)
		streams[i].Response()
		io.WriteString(streams[i].Conn, "more")
	}
	for i, s := range streams[readers:] {
		s.Leave()
		harness.Next(t, responses[readers+i].ctx.Done())
	}
	for i, s := range streams[:readers] {
		harness.Must(t, responses[i].Close())
		s.ExpectEnd("")
	}
}

// A large Write of a detached response fails with what its connection says, be it
// within its bytes or behind the last of them.
func TestDetachedLargeWriteFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails func(p []byte) bool // a write of the connection
	}{
		{"nowhere", func([]byte) bool { return false }},
		{"within its bytes", func(p []byte) bool { return len(p) > 10_000 }},
		{"behind its bytes", func(p []byte) bool { return string(p) == "\r\n" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, out := detacher(t, nil, nil)
				srv := harness.ServeMemory(t, harness.HTTP1, h, 0, harness.WrapConn(func(conn net.Conn) net.Conn {
					return pickyConn{conn, c.fails}
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				f := <-out
				want := error(nil)
				if c.name != "nowhere" {
					want = harness.ErrBoom
				}
				if _, err := f.Write(make([]byte, 20_000)); !errors.Is(err, want) || want != nil && !errors.Is(f.Err(), want) {
					t.Errorf("Write: %v; Err: %v", err, f.Err())
				}
				f.Close()
				if body, _, end := s.Rest(); (end == harness.Complete) != (want == nil) || want == nil && len(body) != 20_000 {
					t.Errorf("%d bytes came, %s", len(body), end)
				}
				s.Leave()
			})
		})
	}
}

// A pickyConn refuses some of what is written to it.
type pickyConn struct {
	net.Conn
	refuses func(p []byte) bool
}

func (c pickyConn) Write(p []byte) (int, error) {
	if c.refuses(p) {
		return 0, harness.ErrBoom
	}
	return c.Conn.Write(p)
}
