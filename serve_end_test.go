//go:build unix

package flush_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// A fcgiServer is a child that serves FastCGI and is told to end by SIGTERM.
type fcgiServer struct {
	net.Listener
	cmd    *exec.Cmd
	stderr *safeBuffer
	told   time.Time
}

// startFastCGI starts a child on a socket. inherited hands it over as systemd
// does, and not as standard input.
func startFastCGI(t *testing.T, inherited bool) *fcgiServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	file, err := l.(*net.TCPListener).File()
	must(t, err)
	defer file.Close()
	cmd, stderr := serveCommand(t, serveEnv+"=signal")
	if inherited {
		// LISTEN_PID must be the child's own, which only a shell knows in time.
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.ExtraFiles = []*os.File{file}
	} else {
		cmd.Stdin = file
	}
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &fcgiServer{Listener: l, cmd: cmd, stderr: stderr}
}

func (s *fcgiServer) dial(t *testing.T, keep bool, queries ...string) *bufio.Reader {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(2 * patience()))
	var requests []map[string]string
	for _, q := range queries {
		requests = append(requests, map[string]string{"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/?" + q})
	}
	fcgiRequests(t, c, keep, requests...)
	return bufio.NewReader(c)
}

// terminate sends SIGTERM.
func (s *fcgiServer) terminate(t *testing.T) {
	t.Helper()
	s.told = time.Now()
	must(t, s.cmd.Process.Signal(syscall.SIGTERM))
}

// wait waits for the child's end. Unless it has something to cut it must not wait
// as long as it may.
func (s *fcgiServer) wait(t *testing.T, cuts bool) {
	t.Helper()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the child ended with %v, want the nil of Serve", err)
	}
	if took := time.Since(s.told); cuts != (took >= 10*time.Second) {
		t.Errorf("it took %v", took)
	}
}

// A SIGTERM during responses ends each of them whole: a stream says goodbye, and
// a page is finished. The socket may be standard input or systemd's, and the web
// server may keep its connections.
func TestServeFastCGIEndsWhole(t *testing.T) {
	for _, inherited := range []bool{false, true} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("inherited=%v/keep=%v", inherited, keep), func(t *testing.T) {
				s := startFastCGI(t, inherited)
				g := newDoorway(t)
				page := &fcgiBody{r: s.dial(t, keep, query(g, "write:one", "flush", "park", "write:two"))}
				g.wait(t)
				stream := &fcgiBody{r: s.dial(t, keep, "op=stream")}
				readSome(t, stream, "hello")
				readSome(t, page, "one")
				if keep {
					idle := s.dial(t, true, "op=write:whole")
					readSome(t, &fcgiBody{r: idle}, "whole")
					defer func() {
						if rest, err := io.ReadAll(idle); err != nil || len(rest) > 100 {
							t.Errorf("an idle connection ended with %q, %v", rest, err)
						}
					}()
				}
				s.terminate(t)
				if rest, err := io.ReadAll(stream); err != nil || string(rest) != "goodbye: "+flush.ErrShutdown.Error() {
					t.Errorf("the stream ended with %q, %v", rest, err)
				}
				g.goOn <- struct{}{}
				if rest, err := io.ReadAll(page); err != nil || string(rest) != "two" {
					t.Errorf("the page ended with %q, %v", rest, err)
				}
				s.wait(t, false)
				for _, r := range []*fcgiBody{page, stream} {
					if rest, err := io.ReadAll(r.r); err != nil {
						t.Errorf("the connection ended with %q, %v", rest, err)
					}
				}
			})
		}
	}
}

// Several requests may share a connection: the last one ends it.
func TestServeFastCGIEndsWithTheLastRequest(t *testing.T) {
	s := startFastCGI(t, false)
	g := newDoorway(t)
	r := s.dial(t, true, "op=stream", query(g, "park", "write:page"))
	g.wait(t)
	var seen bytes.Buffer
	for signalled := false; !strings.Contains(seen.String(), "goodbye"); {
		if !signalled && strings.Contains(seen.String(), "hello") {
			signalled = true
			s.terminate(t)
		}
		p := make([]byte, 4096)
		n, err := r.Read(p)
		if seen.Write(p[:n]); err != nil {
			t.Fatalf("%q, %v", &seen, err)
		}
	}
	g.goOn <- struct{}{}
	rest, err := io.ReadAll(r)
	if !bytes.Contains(rest, []byte("page")) || err != nil {
		t.Errorf("after the stream: %q, %v", rest, err)
	}
	s.wait(t, false)
}

// What does not end within 10 s is cut: no last record is written.
func TestServeFastCGICutsWhatIsLeft(t *testing.T) {
	s := startFastCGI(t, false)
	deaf := &fcgiBody{r: s.dial(t, false, "op=write:half&op=flush&op=sleep")}
	readSome(t, deaf, "half")
	s.terminate(t)
	if rest, err := io.ReadAll(deaf); err == nil || len(rest) > 0 {
		t.Errorf("it ended with %q as if it were whole", rest)
	}
	s.wait(t, true)
}

// On FastCGI a cut is the end of the process, and of all its other responses. Only
// a caller's Abort, or a panic, is worth that: a response that fails otherwise ends,
// as it does there without us, and the others go on.
func TestServeFastCGIAbort(t *testing.T) {
	for _, c := range []struct {
		name, query string
		dies        bool
	}{
		{"a filter that gives more than it declared", "op=resize&op=write:half", false},
		{"Abort", "op=write:half&op=flush&op=abort", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startFastCGI(t, false)
			g := newDoorway(t)
			other := &fcgiBody{r: s.dial(t, false, query(g, "write:one", "flush", "park", "write:two"))}
			g.wait(t)
			readSome(t, other, "one")
			got, err := io.ReadAll(&fcgiBody{r: s.dial(t, false, c.query)})
			if !bytes.Contains(got, []byte("\r\n\r\n")) || c.dies != (err != nil) {
				t.Errorf("got %q, %v", got, err)
			}
			if c.dies {
				if rest, err := io.ReadAll(other); err == nil || len(rest) > 0 {
					t.Errorf("the other got %q, %v from a process that has ended", rest, err)
				}
				return
			}
			g.goOn <- struct{}{}
			if rest, err := io.ReadAll(other); err != nil || string(rest) != "two" {
				t.Errorf("the other ended with %q, %v", rest, err)
			}
		})
	}
}

// A command, and a CGI program, end their one response, too.
func TestServeOneResponseEndsWhole(t *testing.T) {
	for _, env := range [][]string{nil, {"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1", "REQUEST_URI=/?op=stream"}} {
		cmd, _ := serveCommand(t, append(env, serveEnv+"=signal")...)
		cmd.Args = append(cmd.Args, "/?op=stream")
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		readSome(t, out, "hello")
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		if rest, err := io.ReadAll(out); err != nil || string(rest) != "goodbye: "+flush.ErrShutdown.Error() {
			t.Errorf("%q, %v", rest, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// LISTEN_FDS is another process's unless LISTEN_PID says otherwise; what it names
// must be sockets.
func TestServeListenFDs(t *testing.T) {
	cmd, _ := serveCommand(t, "LISTEN_PID=1", "LISTEN_FDS=1")
	cmd.Args = append(cmd.Args, "/?op=write:command")
	if out, err := cmd.Output(); err != nil || string(out) != "command" {
		t.Errorf("%q, %v", out, err)
	}
	for _, fds := range []string{"1", "x", "-1", "1000000"} {
		cmd, stderr := serveCommand(t)
		cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=` + fds + ` exec "$0"`, cmd.Path}
		cmd.Path = "/bin/sh"
		_, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(stderr.String(), "LISTEN_FDS") {
			t.Errorf("%s: %v", fds, err)
		}
	}
}
