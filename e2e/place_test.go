package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// place is somewhere a script can be run: a path on a server, or a program on
// the command line.
type place interface {
	// open starts script as r and returns what it answers.
	open(t *testing.T, r *run, script string, o ask) *stream
}

// ask varies a request.
type ask struct {
	method string // GET
	proto  string // HTTP/1.1
	header map[string]string
	small  bool // receive buffer of 4 KiB
}

func query(r *run, script string) string {
	q := url.Values{"s": {script}}
	if r != nil {
		q.Set("run", r.id)
		q.Set("ctl", r.ctl.addr)
	}
	return q.Encode()
}

// web is a path on an HTTP server.
type web struct{ addr, path string }

func (p web) open(t *testing.T, r *run, script string, o ask) *stream {
	t.Helper()
	s := p.dial(t, r, script, o)
	s.pings = func() {
		for range 3 {
			pong := p.dial(t, nil, "w:pong", ask{})
			if v := pong.reach(func(v view) bool { return v.ended }); v.String() != "200 pong end" {
				t.Fatalf("ping: %s", v)
			}
			pong.close()
		}
	}
	return s
}

func (p web) dial(t *testing.T, r *run, script string, o ask) *stream {
	t.Helper()
	return p.request(t, query(r, script), o)
}

// request sends a request with the given query.
func (p web) request(t *testing.T, query string, o ask) *stream {
	t.Helper()
	d := net.Dialer{}
	if o.small {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			return first(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			}), err)
		}
	}
	c, err := d.DialContext(context.Background(), "tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	method, proto := first(o.method, http.MethodGet), first(o.proto, "HTTP/1.1")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s?%s %s\r\nHost: e2e.test\r\nConnection: close\r\n", method, p.path, query, proto)
	for _, k := range slices.Sorted(maps.Keys(o.header)) {
		fmt.Fprintf(&b, "%s: %s\r\n", k, o.header[k])
	}
	b.WriteString("\r\n")
	if _, err := c.Write([]byte(b.String())); err != nil {
		t.Fatal(err)
	}
	return &stream{src: c.(*net.TCPConn), http: true, method: method}
}

// first returns the first that is not zero.
func first[T comparable](v ...T) (zero T) {
	for _, x := range v {
		if x != zero {
			return x
		}
	}
	return zero
}

// cli is a program whose first argument names the script.
type cli struct {
	argv []string
	env  []string // beside the test's own
	tty  bool     // standard output is a terminal; else a pipe
}

func (p cli) open(t *testing.T, r *run, script string, _ ask) *stream {
	t.Helper()
	cmd := exec.Command(p.argv[0], append(slices.Clone(p.argv[1:]), "/?"+query(r, script))...)
	cmd.Env = append(os.Environ(), p.env...)
	var ours, theirs *os.File
	var err error
	if p.tty {
		ours, theirs, err = openTerminal()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	} else {
		ours, theirs, err = os.Pipe()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	if err != nil {
		t.Fatal(err)
	}
	var stderr logBuffer
	cmd.Stdout, cmd.Stderr = theirs, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	remember(cmd.Process.Pid)
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		ours.Close()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
	})
	return &stream{src: ours, wait: func() string {
		<-done
		return cmd.ProcessState.String()
	}}
}

// openTerminal opens a pseudo-terminal whose master side has read deadlines.
func openTerminal() (master, slave *os.File, err error) {
	m, slave, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer m.Close()
	fd, err := unix.FcntlInt(m.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		slave.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "terminal"), slave, nil
}
