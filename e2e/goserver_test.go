package e2e

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/e2e/steps"
)

// direct serves the step language over net/http in this process, so that the
// race detector sees the library too.
func direct(t *testing.T, opts *flush.Options) web {
	t.Helper()
	return web{serveHere(t, flush.NewHandler(steps.Handler, opts)), "/"}
}

func serveHere(t *testing.T, h http.Handler) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// backend is a program with a listening socket as its standard input, which is
// how FastCGI servers have been started since the beginning. Like these it is
// started again when it has ended of an aborted response, which with
// net/http/fcgi ends the process.
func backend(program *lazy[string], env ...string) *lazy[string] {
	return &lazy[string]{start: func() (string, error) {
		bin, err := program.ensure()
		if err != nil {
			return "", err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer l.Close()
		stdin, err := l.(*net.TCPListener).File() // until the process ends
		if err != nil {
			return "", err
		}
		var start func() (*process, error)
		start = func() (*process, error) {
			cmd := exec.Command(bin)
			cmd.Env = append(os.Environ(), env...)
			cmd.Stdin = stdin
			p := &process{name: filepath.Base(bin), cmd: cmd, signal: syscall.SIGTERM}
			p.broke = func(err error) {
				if strings.Contains(p.log.String(), http.ErrAbortHandler.Error()) {
					_, err = start()
				}
				if err != nil {
					endRun(err)
				}
			}
			return p, p.launch()
		}
		p, err := start()
		if err != nil {
			return "", err
		}
		return l.Addr().String(), p.ready("tcp", l.Addr().String())
	}}
}

// What cmd/steps is told by its environment.
const (
	asHTTP           = "STEPS_SERVER=http"
	asBare           = "STEPS_SERVER=bare"
	sendTimeout      = "STEPS_SENDTIMEOUT=2s"
	noProxyBuffering = "STEPS_NOPROXYBUFFERING=1"
	graceful         = "STEPS_GRACEFUL=1" // SIGTERM ends its responses whole
)

var (
	sapiBackend    = backend(sapiProgram)
	httpBackend    = backend(stepsProgram, asHTTP, sendTimeout)
	httpUnbuffered = backend(stepsProgram, asHTTP, sendTimeout, noProxyBuffering)
	fastBackend    = backend(stepsProgram, asHTTP) // all defaults
	bareBackend    = backend(stepsProgram, asBare)
	fcgiBackend    = backend(stepsProgram, sendTimeout)
	fcgiUnbuffered = backend(stepsProgram, sendTimeout, noProxyBuffering)
)

func goCLI(t *testing.T, tty bool) cli {
	return cli{[]string{stepsProgram.get(t)}, []string{sendTimeout}, tty}
}
