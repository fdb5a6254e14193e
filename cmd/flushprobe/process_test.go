//go:build !windows

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fa492104/flush/flushtest"
)

// asCommand makes a process of these tests the command itself.
const asCommand = "FLUSHPROBE_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// start starts the command, with its output in a pipe.
func start(t *testing.T, env []string, args ...string) (cmd *exec.Cmd, out io.Reader) {
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1"), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// The first interrupt ends the command, whatever a server sends, and the
// verdict is about what had come.
func TestInterrupt(t *testing.T) {
	var bomb bytes.Buffer
	z, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	for range 20 {
		z.Write(bytes.Repeat([]byte("\n"), 1<<20))
	}
	z.Close()
	for name, h := range map[string]http.HandlerFunc{
		"a stream": flushtest.Endpoint().ServeHTTP,
		"a bomb": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			for r.Context().Err() == nil {
				w.Write(bomb.Bytes())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(h)
			defer s.Close()
			cmd, out := start(t, nil, "-for", "1h", s.URL+"/?n=100000&every=10ms")
			r := bufio.NewReader(out)
			if _, err := r.ReadString('\n'); err != nil {
				t.Error(err)
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(r)
			if err != nil || !strings.Contains(string(rest), "when the probe stopped (") {
				t.Errorf("%v: %.1000s", err, rest)
			}
			cmd.Wait()
			if !cmd.ProcessState.Exited() {
				t.Errorf("it did not end by itself: %v", cmd.ProcessState)
			}
		})
	}
}

// The proxy that the environment names is used, and named.
func TestProxyFromEnvironment(t *testing.T) {
	s := httptest.NewServer(flushtest.Endpoint())
	defer s.Close()
	cmd, out := start(t, []string{"HTTP_PROXY=" + s.URL, "NO_PROXY=", "no_proxy=", "http_proxy="}, "http://flush.invalid/?n=3&every=1ms")
	said, err := io.ReadAll(out)
	if err != nil || !strings.Contains(string(said), "through the proxy "+s.URL) {
		t.Errorf("%v: %s", err, said)
	}
	cmd.Wait()
}
