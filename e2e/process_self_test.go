package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// script is a server made of a shell script, and a pipe that ends its reads.
// What it is said to have failed of comes on the channel.
func script(t *testing.T, text string) (p *process, told chan error, goOn func()) {
	t.Helper()
	need(t, "sh")
	told = make(chan error, 10)
	p = &process{
		name: "script", cmd: exec.Command(program("sh"), "-c", text), signal: syscall.SIGKILL,
		broke: func(err error) { told <- err },
	}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop() })
	return p, told, func() { stdin.Close() }
}

// nobody listens on this address.
func nobody(t *testing.T) string {
	t.Helper()
	addrs, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return addrs[0]
}

// wrote waits until the server's log has text.
func (p *process) wrote(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(bound); !strings.Contains(p.log.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not write %q", p.name, text)
		}
	}
}

func TestServerFailsAtItsStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, why string }{
		"it ends":           {"echo because >&2; exit 3", "has ended: exit status 3"},
		"an error":          {"echo 'because, an ERROR: of mine'; read x", "ERROR: of mine"},
		"its child is dead": {"echo because; echo '[core:notice] AH00052: child pid 7 exit signal Abort (6)'; read x", "exit signal Abort"},
		"half a line":       {"printf 'because [em'; printf 'erg] no\n'; read x", "because [emerg] no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, told, _ := script(t, c.text)
			if err := p.ready("tcp", nobody(t)); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, want %q", err, c.why)
			}
			if err := <-told; !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "because") {
				t.Errorf("the run is told %v, want %q and all that it wrote", err, c.why)
			}
		})
	}
}

func TestServerFailsLater(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, why string }{
		"it ends":           {"exit 3", "has ended: exit status 3"},
		"its child is dead": {"echo '[alert] worker process 7 exited on signal 9'; exec sleep 1000", "worker process 7 exited"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, told, goOn := script(t, "read x; "+c.text)
			if err := p.ready("tcp"); err != nil {
				t.Fatal(err)
			}
			goOn()
			if err := <-told; !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, want %q", err, c.why)
			}
		})
	}
}

// What a server writes about a client that has left is no failure of its own,
// and neither is its end when it is told to.
func TestServerLives(t *testing.T) {
	t.Parallel()
	p, told, goOn := script(t, "read x; echo '[error] upstream prematurely closed'; echo done; exec sleep 1000")
	if err := p.ready("tcp"); err != nil {
		t.Fatal(err)
	}
	goOn()
	p.wrote(t, "done")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-told:
		t.Error(err)
	default:
	}
}

// A port that another process has taken is a reason to try another one.
func TestServerWithoutItsPort(t *testing.T) {
	t.Parallel()
	p, told, _ := script(t, "echo '[emerg] bind: Address already in use'; exit 1")
	if err := p.ready("tcp", nobody(t)); err == nil || !p.wantsOtherPorts() {
		t.Error(err)
	}
	select {
	case err := <-told:
		t.Errorf("the run is told %v", err)
	default:
	}
}

// toStart are the servers that leave root's rights behind, or have children.
// Each returns what can be fetched from it.
var toStart = map[string]struct {
	needs []string
	start func() ([]string, error)
	alone bool // it has no children
}{
	"apache": {apache.needs, func() ([]string, error) {
		addr, err := apache.ensure()
		return []string{addr + "/cgi?s=w:pong", addr + "/http?s=w:pong", addr + "/fpm-flush?s=w:pong"}, err
	}, false},
	"apache-php": {apachePHP.needs, func() ([]string, error) {
		addr, err := apachePHP.ensure()
		return []string{addr + "/php?s=w:pong"}, err
	}, false},
	"nginx": {nginx.needs, func() ([]string, error) {
		addr, err := nginx.ensure()
		return []string{addr + "/proxy10?s=w:pong", addr + "/fpm?s=w:pong", addr + "/lua?s=w:pong"}, err
	}, false},
	"routes-nginx": {append(slices.Clone(routesNginx.needs), routesLighttpd.needs...), func() ([]string, error) {
		addrs, err := routesNginx.ensure()
		addr := append(addrs, "")[0]
		return []string{addr + "/default/endpoint?n=1", addr + "/lighttpd/endpoint?n=1", addr + "/php-flush/"}, err
	}, false},
	"varnish0": {varnish.needs, func() ([]string, error) {
		addrs, err := varnish.ensure()
		return []string{append(addrs, "")[0] + "/?s=w:pong"}, err
	}, false},
	"apache-fcgid": {apacheFcgid.needs, func() ([]string, error) {
		addr, err := apacheFcgid.ensure()
		return []string{addr + "/fcgid?s=w:pong"}, err
	}, false},
	"squid": {squid.needs, func() ([]string, error) {
		addrs, err := squid.ensure()
		return []string{append(addrs, "")[0] + "/?s=w:pong"}, err
	}, true},
	"php-fpm": {fpm.needs, func() ([]string, error) {
		_, err := fpm.ensure()
		return nil, err
	}, false},
}

// starting is a server to start in a run of its own.
type starting struct {
	Dir, Server string
	Kill        bool // its children
	ClosedRoot  bool
}

// startOne starts a server, fetches from it, and stops it. If it has lost its
// children before, the run ends, and this does not return.
func startOne(s starting) (got []string, err error) {
	if s.ClosedRoot {
		if err := closeRoot(filepath.Join(s.Dir, "root")); err != nil {
			return nil, err
		}
	}
	dir = s.Dir
	defer func() { err = errors.Join(append(stopAll(), err)...) }()
	urls, err := toStart[s.Server].start()
	if err != nil {
		return nil, err
	}
	if s.Kill {
		return nil, killChildren(s.Server)
	}
	for _, u := range urls {
		resp, err := http.Get("http://" + u)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s, %w: %s", u, resp.Status, err, body)
		}
		got = append(got, string(body))
	}
	return got, nil
}

// killChildren ends the children of a server as they end by themselves, until the
// run ends of it. Apache says nothing about one that was killed. A server that has
// just got its port may still be about to have the children whose end it tells.
func killChildren(server string) error {
	i := slices.IndexFunc(started.all, func(p *process) bool { return p.name == server })
	pid := started.all[i].cmd.Process.Pid
	killed := make(map[string]bool)
	for deadline := time.Now().Add(2 * bound); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
		if err != nil {
			return err
		}
		for c := range strings.FieldsSeq(string(children)) {
			if !killed[c] {
				killed[c] = true
				var child int
				fmt.Sscan(c, &child)
				syscall.Kill(child, syscall.SIGABRT)
			}
		}
	}
	return fmt.Errorf("the run has not ended though %d children have", len(killed))
}

// closeRoot gives this process, which has a mount namespace of its own, a root
// folder that only root and its group may enter. It is mounted at root.
func closeRoot(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("none", root, "tmpfs", 0, "mode=750"); err != nil {
		return err
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := "/"+e.Name(), filepath.Join(root, e.Name())
		switch {
		case e.IsDir():
			if err := os.Mkdir(to, 0o755); err != nil {
				return err
			}
			err = unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
		case e.Type() == os.ModeSymlink:
			var target string
			if target, err = os.Readlink(from); err == nil {
				err = os.Symlink(target, to)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	work, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	return os.Chdir(work)
}

// started in a run of its own.
func (s starting) run(t *testing.T) (got []string, wrote string, err error) {
	t.Helper()
	need(t, toStart[s.Server].needs...)
	if s.Dir, err = os.MkdirTemp(dir, "s"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd, err := another("start", s)
	if err != nil {
		t.Fatal(err)
	}
	if s.ClosedRoot {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &got)
	}
	return got, stderr.String(), err
}

// TestServersStart starts every server that leaves root's rights behind, as
// root where the root folder is closed to others. Users who are not root have
// servers that keep their rights.
func TestServersStart(t *testing.T) {
	t.Parallel()
	for server := range toStart {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			got, wrote, err := starting{Server: server, ClosedRoot: os.Getuid() == 0}.run(t)
			if err != nil {
				t.Fatalf("%v: %s", err, wrote)
			}
			for _, body := range got {
				if body != "pong" && !strings.HasPrefix(body, "flushprobe 0 ") {
					t.Errorf("%q", body)
				}
			}
		})
	}
}

// TestServerLosesItsChildren kills the children of each server that has some:
// the run ends with what the server writes about it.
func TestServerLosesItsChildren(t *testing.T) {
	t.Parallel()
	for server, s := range toStart {
		if s.alone {
			continue
		}
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			got, wrote, err := starting{Server: server, Kill: true}.run(t)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
				t.Errorf("the run does not end: %v, %v", got, err)
			}
			if !strings.Contains(wrote, "the run ends: "+server+" writes: ") {
				t.Errorf("it does not say why: %s", wrote)
			}
		})
	}
}
