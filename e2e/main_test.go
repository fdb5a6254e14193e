package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bound ends a wait for something that ought to come. It is generous: no test
// judges speed by it.
const bound = 30 * time.Second

var update = flag.Bool("update", false, "write ../docs/servers.md, the pictures in ../docs and the table of ../BENCHMARKS.md from this run")

// dir is the folder of this run. Servers keep their configuration and sockets
// in it; it is removed at the end.
var dir string

func TestMain(m *testing.M) {
	flag.Parse()
	if name := os.Getenv(roleIs); name != "" {
		if err := play(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(func() int {
		var err error
		// A short path: the name of a socket has 107 bytes.
		if dir, err = os.MkdirTemp(os.Getenv("E2E_DIR"), "e2e"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// Servers that leave root's rights behind must get in.
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		// A parent that ignores the hang-up signal must not make the programs
		// started here ignore it too.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		code := m.Run()
		if code != 0 {
			printLogs(os.Stderr)
		}
		for _, err := range stopAll() {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}())
}

// lazy is a server that is started when a test first asks for it, and kept for
// those that follow.
type lazy[T any] struct {
	once  sync.Once
	start func() (T, error)
	needs []string // programs
	v     T
	err   error
}

// get starts what it must. A program that is not installed is a failure under
// CI and a skip elsewhere.
func (l *lazy[T]) get(t testing.TB) T {
	t.Helper()
	need(t, l.needs...)
	v, err := l.ensure()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (l *lazy[T]) ensure() (T, error) {
	l.once.Do(func() { l.v, l.err = l.start() })
	return l.v, l.err
}

func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if program(p) != "" {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed; e2e/run installs it", p)
		}
		t.Skipf("%s is not installed; e2e/run installs it where it may", p)
	}
}

// program finds name in PATH and where Debian keeps servers. A name with a
// slash is a file; a * in it stands for a version, of which the last counts.
func program(name string) string {
	if strings.Contains(name, "/") {
		files, _ := filepath.Glob(name)
		if len(files) == 0 {
			return ""
		}
		slices.Sort(files)
		return files[len(files)-1]
	}
	for _, n := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	return ""
}

// built is a program of ours.
func built(name, pkg string) *lazy[string] {
	return &lazy[string]{start: func() (string, error) {
		bin := filepath.Join(dir, "cgi-bin", name)
		out, err := exec.Command("go", "build", "-o", bin, pkg).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
		}
		return bin, nil
	}}
}

var (
	// stepsProgram is the step language as a program: CGI, FastCGI, command
	// line and HTTP server in one.
	stepsProgram = built("steps", "./cmd/steps")

	sapiProgram       = built("sapi", "github.com/fa492104/flush/examples/sapi")
	flushprobeProgram = built("flushprobe", "github.com/fa492104/flush/cmd/flushprobe")

	progressProgram = built("progress", "github.com/fa492104/flush/examples/progress")
	templateProgram = built("template", "github.com/fa492104/flush/examples/template")
	sseProgram      = built("sse", "github.com/fa492104/flush/examples/sse")
	llmProgram      = built("llm", "github.com/fa492104/flush/examples/llm")
)

// ofRoot is what the configuration of a server says if root starts it. A server
// may leave root's rights behind, but not root's group: the root folder of a
// hardened image is closed to others.
func ofRoot(setting string) string {
	if os.Getuid() == 0 {
		return setting
	}
	return ""
}

// file writes a file into the run's folder.
func file(name string, content []byte, perm os.FileMode) (string, error) {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, content, perm)
}
