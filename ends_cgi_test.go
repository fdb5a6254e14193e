//go:build unix

package flush_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/textproto"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// A CGI program is its process, so a cell runs in one of its own: the test binary
// with FLUSH_TEST_END set to the cell and the end.
const endEnv = "FLUSH_TEST_END"

// cgiLimit is the SendTimeout of cells that set some: no call under CGI ends by it.
const cgiLimit = 50 * time.Millisecond

func init() {
	openEndCGI = startEndCGI
	name, end, _ := strings.Cut(os.Getenv(endEnv), "/")
	if name == "" {
		return
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	here := func() {
		if resp, err := http.Get(os.Getenv("DOORWAY")); err == nil {
			resp.Body.Close()
		}
	}
	e := &endHost{here: here, limit: time.Minute}
	e.log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "NOTE "+format+"\n", args...) }
	e.later = func() {
		<-e.called
		time.AfterFunc(4*e.limit, here)
	}
	for _, cell := range endCells {
		if cell.name != name || !slices.Contains(cell.ends, end) {
			continue
		}
		if cell.limits != nil {
			e.limit = cgiLimit
		}
		status := make(chan int)
		go func() {
			code := 4 // Goexit
			defer func() { status <- code }()
			if err := cgi.Serve(cell.handler(e, end, flush.CGI())); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 3
				return
			}
			code = 0
		}()
		os.Exit(<-status)
	}
}

// A cgiEnd is a cell's client under CGI: what the web server sees.
type cgiEnd struct {
	*doorway
	t      *testing.T
	cmd    *exec.Cmd
	pipe   io.ReadCloser
	out    *bufio.Reader // behind the headers, once headed
	stderr *safeBuffer
	headed bool
	ran    bool // to its end
}

func startEndCGI(t *testing.T, cell *endCell, end string) *endCheck {
	c := &cgiEnd{doorway: newDoorway(t), t: t}
	c.cmd, c.stderr = serveCommand(t, "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1",
		"REQUEST_URI=/", endEnv+"="+cell.name+"/"+end, "DOORWAY="+c.url)
	c.cmd.Env = append(c.cmd.Env, serveEnv+"=")
	var err error
	if c.pipe, err = c.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.exit)
	c.out = bufio.NewReader(c.pipe)
	return &endCheck{T: t, endClient: c, end: end, limit: cgiLimit}
}

func (c *cgiEnd) wait()   { c.doorway.wait(c.t) }
func (c *cgiEnd) resume() { c.goOn <- struct{}{} }
func (c *cgiEnd) leave()  { c.pipe.Close() }

// head reads the headers, unless there are none.
func (c *cgiEnd) head() {
	if !c.headed {
		c.headed = true
		textproto.NewReader(c.out).ReadMIMEHeader()
	}
}

func (c *cgiEnd) expect(want string) {
	c.t.Helper()
	c.head()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.out, got); string(got) != want {
		c.t.Fatalf("got %q, %v, want %q", clip(got[:n]), err, clip([]byte(want)))
	}
}

// ended reads to the end. A program that fails is the only cut that CGI knows.
func (c *cgiEnd) ended() (body string, how ending) {
	c.t.Helper()
	c.head()
	rest, err := io.ReadAll(c.out)
	if err != nil && !c.ran {
		c.t.Error(err)
	}
	c.exit()
	if c.cmd.ProcessState.Success() {
		return string(rest), complete
	}
	return string(rest), cut
}

func (c *cgiEnd) exit() {
	if !c.ran {
		c.ran = true
		c.cmd.Wait()
	}
}

func (c *cgiEnd) noted() (all []string) {
	for l := range strings.Lines(c.stderr.String()) {
		if l, ok := strings.CutPrefix(l, "NOTE "); ok {
			all = append(all, strings.TrimSuffix(l, "\n"))
		}
	}
	return all
}

func (c *cgiEnd) over() []string {
	if !c.ran {
		io.Copy(io.Discard, c.out)
	}
	c.exit()
	return c.noted()
}
