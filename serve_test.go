//go:build unix

package flush_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Serve owns its process, so these tests run it in one of its own: the test
// binary with FLUSH_TEST_SERVE set. Its handler does what the query says.
const serveEnv = "FLUSH_TEST_SERVE"

func init() {
	if os.Getenv(serveEnv) == "" {
		return
	}
	opts := &flush.Options{
		OnStart: func(*flush.Flusher, *http.Request) { fmt.Fprintln(os.Stderr, "start") },
		OnClose: func(_ *http.Request, s flush.Stats, err error) {
			fmt.Fprintf(os.Stderr, "close %d bytes, gone %t\n", s.Bytes, errors.Is(err, flush.ErrClientGone))
		},
	}
	if os.Getenv(serveEnv) == "embed" {
		opts.SAPI = flush.Embed()
	}
	var ctx context.Context // nil unless the test sends signals
	if os.Getenv(serveEnv) == "signal" {
		ctx, _ = signal.NotifyContext(context.Background(), syscall.SIGTERM)
	}
	err := flush.Serve(ctx, http.HandlerFunc(serveChild), opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "Serve:", err)
		os.Exit(3)
	}
	os.Exit(0)
}

// serveChild does one thing for each value of op.
func serveChild(w http.ResponseWriter, r *http.Request) {
	f, ok := flush.From(w)
	if !ok {
		panic("no Flusher")
	}
	var err error
	for _, op := range r.URL.Query()["op"] {
		name, arg, _ := strings.Cut(op, ":")
		switch name {
		case "write":
			_, err = io.WriteString(w, arg)
		case "flush":
			err = flush.Flush(w, true)
		case "close":
			err = f.Close()
		case "abort":
			f.Abort(errors.New("abort"))
		case "resize":
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				w.Header().Set("Content-Length", "1") // more follows
				return p, nil
			}})
		case "header":
			w.Header().Set("X-Test", arg)
		case "body":
			_, err = io.Copy(w, r.Body)
		case "request":
			_, err = fmt.Fprintf(w, "%s %s host=%s uri=%s sent=%t", r.Method, r.URL.Path, r.Host, r.RequestURI, f.HeadersSent())
		case "stream":
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "hello")
			if err = flush.Flush(w, true); err == nil {
				<-r.Context().Done()
				_, err = fmt.Fprintf(w, "goodbye: %v", flush.Cause(r.Context()))
			}
		case "work":
			io.WriteString(w, "accepted\n")
			if err = f.Close(); err == nil {
				fmt.Fprintln(os.Stderr, "worked")
			}
		case "sleep":
			<-r.Context().Done()
			err = flush.Cause(r.Context())
		case "park":
			var resp *http.Response
			if resp, err = http.Get(r.URL.Query().Get("doorway")); err == nil {
				resp.Body.Close()
			}
		case "fill":
			for range 1 << 10 {
				if _, err = w.Write(make([]byte, 4096)); err == nil {
					err = flush.Flush(w, true)
				}
				if err != nil {
					break
				}
			}
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
}

// A doorway is where the child parks: it says that it is there, and goes on when
// told to.
type doorway struct {
	url           string
	arrived, goOn chan struct{}
}

func newDoorway(t *testing.T) *doorway {
	g := &doorway{arrived: make(chan struct{}), goOn: make(chan struct{})}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case g.arrived <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		select {
		case <-g.goOn:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL
	return g
}

// wait waits until the child has arrived.
func (g *doorway) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.arrived:
	case <-time.After(harness.Patience()):
		t.Fatal("the child does not get to the doorway")
	}
}

// serveCommand is the child, with a clean environment. What it says is shown
// if the test fails.
func serveCommand(t *testing.T, env ...string) (*exec.Cmd, *harness.SafeBuffer) {
	t.Helper()
	stderr := new(harness.SafeBuffer)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the child said:\n%s", stderr)
		}
	})
	// A child that never comes to an end is killed: reading from it then ends.
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append([]string{serveEnv + "=1", "PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + t.TempDir(), "GORACE=atexit_sleep_ms=0"}, env...)
	cmd.Stderr = stderr
	return cmd, stderr
}

func query(g *doorway, ops ...string) string {
	s := "op=" + strings.Join(ops, "&op=")
	if g != nil {
		s += "&doorway=" + g.url
	}
	return s
}

// readSome reads until the bytes read so far end in want.
func readSome(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	var b []byte
	buf := make([]byte, 4096)
	for !strings.HasSuffix(string(b), want) {
		n, err := r.Read(buf)
		b = append(b, buf[:n]...)
		if err != nil {
			t.Fatalf("read %q, want it to end in %q: %v", b, want, err)
		}
	}
	return string(b)
}

func TestServeCommandLine(t *testing.T) {
	for _, test := range []struct{ name, arg, want string }{
		{"none", "", ""},
		{"path", "/a/b?op=request", "GET /a/b host=localhost uri=/a/b?op=request sent=false"},
		{"no slash", "a?op=request", "GET /a host=localhost uri=/a?op=request sent=false"},
		{"absolute", "http://h.test/x?op=request", "GET /x host=h.test uri=/x?op=request sent=false"},
		{"headers and flushes are no output", "/?op=header:1&op=flush", ""},
		{"output only", "/?op=header:1&op=write:one&op=flush&op=write:two", "onetwo"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, stderr := serveCommand(t)
			if test.arg != "" {
				cmd.Args = append(cmd.Args, test.arg)
			}
			out, err := cmd.Output()
			if err != nil || string(out) != test.want {
				t.Errorf("%q, %v; want %q", out, err, test.want)
			}
			if n := strings.Count(stderr.String(), "start\n"); n != 1 {
				t.Errorf("OnStart ran %d times", n)
			}
			if want := fmt.Sprintf("close %d bytes, gone false\n", len(test.want)); strings.Count(stderr.String(), want) != 1 {
				t.Errorf("OnClose: want once %q", want)
			}
		})
	}
}

func TestServeCommandLineFlushesImplicitly(t *testing.T) {
	g := newDoorway(t)
	cmd, _ := serveCommand(t)
	cmd.Args = append(cmd.Args, "/?"+query(g, "write:half", "park", "write:other"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.wait(t)
	readSome(t, out, "half") // while the handler waits at the doorway
	g.goOn <- struct{}{}
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "other" {
		t.Errorf("after the doorway: %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// On the command line, as under CGI, what the handler does after Close is done
// before the process ends with the handler.
func TestServeEndsAfterTheWork(t *testing.T) {
	cmd, stderr := serveCommand(t)
	cmd.Args = append(cmd.Args, "/?op=work")
	out, err := cmd.Output()
	if err != nil || string(out) != "accepted\n" || !strings.Contains(stderr.String(), "worked") {
		t.Errorf("%q, %v, %s", out, err, stderr)
	}
}

func TestServeKeepsAProfileThatIsGiven(t *testing.T) {
	// Embed says that headers are sent from the start, CLI does not.
	cmd, _ := serveCommand(t, serveEnv+"=embed")
	cmd.Args = append(cmd.Args, "/?op=request")
	if out, err := cmd.Output(); err != nil || !strings.HasSuffix(string(out), "sent=true") {
		t.Errorf("%q, %v; want the profile Embed", out, err)
	}
}

func TestServeBadArgument(t *testing.T) {
	cmd, _ := serveCommand(t)
	cmd.Args = append(cmd.Args, "%zz")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || len(out) > 0 {
		t.Errorf("%q, %v; want the error of Serve", out, err)
	}
}

// A closed standard output is the client's leaving: an error, not a signal.
func TestServeBrokenPipe(t *testing.T) {
	for _, test := range []struct {
		name string
		env  []string
	}{
		{"command line", nil},
		{"CGI", []string{"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newDoorway(t)
			cmd, stderr := serveCommand(t, append(test.env, "REQUEST_URI=/?"+query(g, "park", "fill"))...)
			cmd.Args = append(cmd.Args, "/?"+query(g, "park", "fill"))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			g.wait(t)
			out.Close()
			g.goOn <- struct{}{}
			cmd.Wait()
			if !cmd.ProcessState.Exited() || cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("the process ended with %v, want the error of Serve", cmd.ProcessState)
			}
			for _, want := range []string{"fill: " + flush.ErrClientGone.Error(), "gone true\n"} {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("the child did not say %q", want)
				}
			}
		})
	}
}

func TestServeCGI(t *testing.T) {
	g := newDoorway(t)
	cmd, _ := serveCommand(t,
		"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1",
		"REQUEST_URI=/?"+query(g, "header:1", "flush", "park", "write:one", "flush", "park", "write:two"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.wait(t)
	head := readSome(t, out, "\r\n\r\n") // headers first, before any output
	if !strings.HasPrefix(head, "Status: 200") || !strings.Contains(head, "X-Test: 1\r\n") || !strings.Contains(head, "text/html") {
		t.Errorf("head %q", head)
	}
	g.goOn <- struct{}{}
	g.wait(t)
	readSome(t, out, "one")
	g.goOn <- struct{}{}
	if rest, err := io.ReadAll(out); err != nil || string(rest) != "two" {
		t.Errorf("rest %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// An early Close hands over the whole answer while the handler goes on; only the
// end of it, which is the server's to write, comes with the return. A web server
// that is told the length need not wait for that.
func TestServeEarlyClose(t *testing.T) {
	for _, c := range []struct {
		name string
		ops  []string
		head string // holds this
		body string
	}{
		{"nothing", nil, "Content-Length: 0\r\n", ""},
		{"short", []string{"write:who", "write:le"}, "Content-Length: 5\r\n", "whole"},
		{"streamed", []string{"write:one", "flush", "write:two"}, "Status: 200", "onetwo"},
	} {
		check := func(t *testing.T, out io.Reader, g *doorway, stderr *harness.SafeBuffer) {
			g.wait(t)
			got := readSome(t, out, "\r\n\r\n"+c.body) // while the handler waits at the doorway
			if !strings.Contains(got, c.head) {
				t.Errorf("got %q, want %q in it", got, c.head)
			}
			says := func(what string) {
				harness.WaitFor(t, func() bool { return strings.Contains(stderr.String(), what+"\n") })
			}
			says(fmt.Sprintf("close %d bytes, gone false", len(c.body)))
			g.goOn <- struct{}{}
			if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
				t.Errorf("after the handler's return: %q, %v", rest, err)
			}
			says("write: " + flush.ErrClosed.Error())
		}
		ops := func(g *doorway) string {
			return query(g, append(slices.Clone(c.ops), "close", "park", "write:late")...)
		}
		t.Run("CGI/"+c.name, func(t *testing.T) {
			g := newDoorway(t)
			cmd, stderr := serveCommand(t,
				"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1", "REQUEST_URI=/?"+ops(g))
			out, err := cmd.StdoutPipe()
			harness.Must(t, err)
			harness.Must(t, cmd.Start())
			check(t, out, g, stderr)
			harness.Must(t, cmd.Wait())
		})
		t.Run("FastCGI/"+c.name, func(t *testing.T) {
			g := newDoorway(t)
			s := startFastCGI(t, false)
			check(t, &fcgiBody{r: s.dial(t, false, ops(g))}, g, s.stderr)
		})
	}
}

// Some servers give a CGI program a connected socket as its standard input. It
// is not a FastCGI socket, and stays blocking.
func TestServeCGIOnASocket(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(pair[0])
	syscall.CloseOnExec(pair[1])
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	g := newDoorway(t)
	cmd, _ := serveCommand(t,
		"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=POST", "SERVER_PROTOCOL=HTTP/1.1", "CONTENT_LENGTH=4",
		"REQUEST_URI=/?"+query(g, "park", "body"))
	cmd.Stdin = theirs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	g.wait(t)
	g.goOn <- struct{}{}
	if _, err := ours.WriteString("ping"); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(out)
	if err != nil || !strings.HasSuffix(string(all), "\r\n\r\nping") {
		t.Errorf("%q, %v", all, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestServeFastCGI(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				dir, err := os.MkdirTemp("", "fcgi") // t.TempDir is too long for a socket
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				addr = dir + "/s"
			}
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			stdin, err := l.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			// GATEWAY_INTERFACE does not matter: the socket comes first.
			cmd, _ := serveCommand(t, "GATEWAY_INTERFACE=CGI/1.1")
			cmd.Stdin = stdin
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()

			for range 2 { // for ever, not once
				g := newDoorway(t)
				c, err := net.Dial(network, l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				fcgiRequest(t, c, map[string]string{
					"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1",
					"REQUEST_URI": "/?" + query(g, "header:1", "flush", "park", "write:one", "flush", "park", "write:two"),
				})
				out := &fcgiBody{r: bufio.NewReader(c)}
				g.wait(t)
				head := readSome(t, out, "\r\n\r\n")
				if !strings.Contains(head, "X-Test: 1\r\n") || !strings.Contains(head, "text/html") {
					t.Errorf("head %q", head)
				}
				g.goOn <- struct{}{}
				g.wait(t)
				readSome(t, out, "one")
				g.goOn <- struct{}{}
				if rest, err := io.ReadAll(out); err != nil || string(rest) != "two" {
					t.Errorf("rest %q, %v", rest, err)
				}
				c.Close()
			}
		})
	}
}

// fcgiRequest writes one FastCGI request without a body, as a web server does.
func fcgiRequest(t *testing.T, w io.Writer, params map[string]string) {
	t.Helper()
	fcgiRequests(t, w, false, params)
}

// fcgiRequests writes requests without bodies, numbered from 1 on. keep says that
// the connection is to stay.
func fcgiRequests(t *testing.T, w io.Writer, keep bool, requests ...map[string]string) {
	t.Helper()
	const begin, paramsType, stdin, responder = 1, 4, 5, 1
	var b bytes.Buffer
	for i, params := range requests {
		record := func(kind byte, content []byte) {
			b.Write([]byte{1, kind, 0, byte(i + 1)})
			binary.Write(&b, binary.BigEndian, uint16(len(content)))
			b.Write([]byte{0, 0})
			b.Write(content)
		}
		flags := byte(0)
		if keep {
			flags = 1
		}
		record(begin, []byte{0, responder, flags, 0, 0, 0, 0, 0})
		var p []byte
		for k, v := range params {
			for _, s := range []string{k, v} {
				p = binary.BigEndian.AppendUint32(p, uint32(len(s))|1<<31)
			}
			p = append(append(p, k...), v...)
		}
		record(paramsType, p)
		record(paramsType, nil)
		record(stdin, nil)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// fcgiBody reads the standard output that FastCGI records carry.
type fcgiBody struct {
	r    *bufio.Reader
	left int
	pad  int
}

func (b *fcgiBody) Read(p []byte) (int, error) {
	for b.left == 0 {
		if _, err := b.r.Discard(b.pad); err != nil {
			return 0, err
		}
		var h [8]byte
		if _, err := io.ReadFull(b.r, h[:]); err == io.EOF {
			return 0, io.ErrUnexpectedEOF // the request has not ended
		} else if err != nil {
			return 0, err
		}
		n := int(binary.BigEndian.Uint16(h[4:]))
		b.pad = int(h[6])
		switch h[1] {
		case 3: // end of the request
			return 0, io.EOF
		case 6: // standard output
			b.left = n
		default:
			if _, err := b.r.Discard(n); err != nil {
				return 0, err
			}
		}
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// What ends the handler of the one response ends the process that serves it, though
// that also waits for its context.
func TestRunUntilEndsAsItsResponse(t *testing.T) {
	broken := errors.New("broken")
	for name, run := range map[string]func() error{
		"error": func() error { return broken },
		"panic": func() error { panic(broken) },
		"exit":  func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			var panicked any
			returned, over := false, make(chan struct{})
			go func() {
				defer close(over)
				defer func() { panicked = recover() }()
				err = flush.RunUntil(t.Context(), new(flush.Group), run)
				returned = true
			}()
			harness.Next(t, over)
			if returned != (name == "error") || returned && err != broken || (panicked == broken) != (name == "panic") {
				t.Errorf("returned %t, %v, panicked %v", returned, err, panicked)
			}
		})
	}
}
