package flush_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// The clients of these tests live in a process of their own: the test binary with
// FLUSH_TEST_CLIENTS set. So they have descriptors of their own, and can leave all
// at once.
const clientsEnv = "FLUSH_TEST_CLIENTS"

func init() {
	if spec := os.Getenv(clientsEnv); spec != "" {
		if err := clientsChild(strings.Fields(spec)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// clientsChild opens connections to an address when it is told to, says that it
// has a head on each, and then, told again, reads each to its end.
func clientsChild(spec []string) error {
	addr, secure := spec[0], spec[1] == "true"
	n, err := strconv.Atoi(spec[2])
	if err != nil {
		return err
	}
	told := bufio.NewReader(os.Stdin)
	responses, failures := make([]*http.Response, n), make([]error, n)
	fmt.Println("here")
	if _, err := told.ReadString('\n'); err != nil {
		return err
	}
	inParallel(n, func(i int) { responses[i], failures[i] = clientsGet(addr, secure) })
	if err := errors.Join(failures...); err != nil {
		return err
	}
	fmt.Println("open")
	want, err := told.ReadString('\n')
	if err != nil {
		return err
	}
	inParallel(n, func(i int) {
		body, err := io.ReadAll(responses[i].Body)
		if want := strings.TrimSuffix(want, "\n"); err != nil || string(body) != want {
			failures[i] = fmt.Errorf("client %d got %q, %v; want %q", i, body, err, want)
		}
	})
	if err := errors.Join(failures...); err != nil {
		return err
	}
	fmt.Println("ended")
	return nil
}

func clientsGet(addr string, secure bool) (*http.Response, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}})
	}
	if _, err := io.WriteString(c, clientsRequest); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
}

// clientsRequest is what a browser sends, about.
const clientsRequest = "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"

// inParallel calls do with 0 to n-1, a few at a time.
func inParallel(n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	wg.Wait()
}

// clients are those of such a process.
type clients struct {
	t     *testing.T
	cmd   *exec.Cmd
	tell  io.Writer
	said  *bufio.Reader
	cries bytes.Buffer
}

// startClients starts the process of n clients of srv.
func startClients(t *testing.T, srv *harness.Server, n int) *clients {
	t.Helper()
	c := &clients{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0])}
	c.cmd.Env = []string{fmt.Sprintf("%s=%s %t %d", clientsEnv, srv.Addr, srv.Tls(), n), "GOCOVERDIR=" + t.TempDir(), "GORACE=atexit_sleep_ms=0"}
	c.cmd.Stderr = &c.cries
	tell, err := c.cmd.StdinPipe()
	harness.Must(t, err)
	said, err := c.cmd.StdoutPipe()
	harness.Must(t, err)
	c.tell, c.said = tell, bufio.NewReader(said)
	harness.Must(t, c.cmd.Start())
	t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
	c.expect("here")
	return c
}

// open has all of them ask for /, and waits until each has a head.
func (c *clients) open() {
	c.t.Helper()
	fmt.Fprintln(c.tell, "open")
	c.expect("open")
}

// expect waits until the process says what.
func (c *clients) expect(what string) {
	c.t.Helper()
	if line, err := c.said.ReadString('\n'); err != nil || line != what+"\n" {
		c.cmd.Wait()
		c.t.Fatalf("the clients said %q, %v, and %s", line, err, harness.Clip(c.cries.Bytes()))
	}
}

// read has all of them read to the end, where each must have got want.
func (c *clients) read(want string) { fmt.Fprintln(c.tell, want) }

// leave ends the process, and with it all connections.
func (c *clients) leave() { c.cmd.Process.Kill() }

// thousands is how many there are of what is promised for 9,000. What a test
// holds has one descriptor.
func thousands(t *testing.T) int {
	n := harness.Count(9000, 500)
	if most := harness.OpenFiles() - 200; n > most {
		if *harness.Full {
			t.Fatalf("%d descriptors are too few for %d clients: see ulimit -n", harness.OpenFiles(), n)
		}
		n = most
	}
	return n
}

// mostGoroutines notes the most that there are at once.
type mostGoroutines struct{ atomic.Int64 }

func (m *mostGoroutines) look() {
	n := int64(runtime.NumGoroutine())
	for was := m.Load(); n > was && !m.CompareAndSwap(was, n); was = m.Load() {
	}
}

// When thousands of clients leave at once, every response ends and is told to
// OnClose, with few goroutines meanwhile, and no descriptor is left. They may owe
// their clients something.
func TestThousandsLeaveAtOnce(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		for _, c := range []struct {
			name string
			do   func(f *flush.Flusher) error
		}{
			{"idle", func(*flush.Flusher) error { return nil }},
			{"with output that nobody has flushed", func(f *flush.Flusher) error { return f.TryWrite([]byte("held")) }},
		} {
			t.Run(fmt.Sprintf("%v/%s", p, c.name), func(t *testing.T) {
				n := thousands(t)
				var most mostGoroutines
				var left atomic.Int64
				ended := make(chan struct{})
				left.Store(int64(n))
				h, out := detacher(t, &flush.Options{OnClose: func(r *http.Request, s flush.Stats, _ error) {
					most.look()
					if cause := flush.Cause(r.Context()); !errors.Is(cause, flush.ErrClientGone) || !s.Detached {
						t.Errorf("Cause is %v, detached %v", cause, s.Detached)
					}
					if left.Add(-1) == 0 {
						close(ended)
					}
				}}, nil)
				srv := harness.Serve(t, p, h)
				all := startClients(t, srv, n)
				before := descriptors(t)
				all.open()
				for range n {
					harness.Must(t, c.do(harness.Next(t, out).Flusher))
				}
				harness.WaitFor(t, func() bool { return runtime.NumGoroutine() <= 100 }) // while all are idle: the last handlers may still return
				began := time.Now()
				all.leave()
				harness.Next(t, ended)
				took := time.Since(began)
				t.Logf("%d responses ended within %v, with at most %d goroutines", n, took, most.Load())
				if *harness.Full && took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
				if most.Load() > 500 {
					t.Errorf("%d goroutines at once", most.Load())
				}
				harness.WaitFor(t, func() bool { return descriptors(t) <= before })
			})
		}
	}
}

// The Shutdown of a Group with thousands of detached streams: each client has the
// goodbye and the last chunk.
func TestShutdownOfThousands(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			n := thousands(t)
			var group flush.Group
			var most mostGoroutines
			h, out := detacher(t, &flush.Options{Group: &group, OnClose: func(_ *http.Request, _ flush.Stats, err error) {
				most.look()
				if err != nil {
					t.Error("OnClose:", err)
				}
			}}, nil)
			srv := harness.Serve(t, p, h)
			all := startClients(t, srv, n)
			all.open()
			for range n {
				harness.Next(t, out)
			}
			all.read("goodbye")
			ctx, cancel := context.WithTimeout(t.Context(), 3*harness.Patience())
			defer cancel()
			began := time.Now()
			if missed := group.Broadcast([]byte("goodbye")); len(missed) > 0 {
				t.Errorf("%d have missed the goodbye", len(missed))
			}
			harness.Must(t, group.Shutdown(ctx))
			shut := time.Since(began)
			all.expect("ended")
			took := time.Since(began)
			t.Logf("%d streams: Shutdown took %v, and all clients had their end after %v; at most %d goroutines", n, shut, took, most.Load())
			if *harness.Full && took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			if n := group.Len(); n > 0 {
				t.Errorf("%d are left", n)
			}
		})
	}
}
