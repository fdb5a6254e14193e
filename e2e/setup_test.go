package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const setupFile = "../docs/web-servers.md"

// What its blocks have in the place of a run's own.
const (
	setupSocket  = "/run/example.sock"
	setupBackend = "127.0.0.1:8080"
	setupProgram = "/usr/local/bin/example"
	setupListen  = "listen 80;"
)

// A block is a configuration in docs/web-servers.md, below a heading.
type block struct{ heading, text string }

// blocks returns all of them.
func blocks(t *testing.T) (all []block) {
	t.Helper()
	text, err := os.ReadFile(setupFile)
	if err != nil {
		t.Fatal(err)
	}
	_, sections, _ := strings.Cut(string(text), "\n## ")
	for section := range strings.SplitSeq(sections, "\n## ") {
		heading, _, _ := strings.Cut(section, "\n")
		for _, m := range regexp.MustCompile("(?s)\n```(\\S*)\n(.*?)```\n").FindAllStringSubmatch(section, -1) {
			if m[1] != "go" {
				all = append(all, block{heading, m[2]})
			}
		}
	}
	return all
}

// with returns the text with other words in the place of some, which must be
// there.
func (b block) with(t *testing.T, oldnew ...string) string {
	t.Helper()
	for old := range slices.Chunk(oldnew, 2) {
		if !strings.Contains(b.text, old[0]) {
			t.Fatalf("%s has no %q:\n%s", b.heading, old[0], b.text)
		}
	}
	return strings.NewReplacer(oldnew...).Replace(b.text)
}

// setups are how the blocks below a heading are run. Each starts a program of
// its own and what is in front of it, and returns where a client asks. Without a
// process the web server starts the program.
var setups = map[string]func(t *testing.T, name string, b block) (web, *process){
	"nginx": func(t *testing.T, name string, b block) (web, *process) {
		need(t, "nginx")
		app, theirs, ours := setupApp(t, b)
		addrs, err := startNginx(name, nil, 1, func(addrs []string) string {
			return b.with(t, theirs, ours, setupListen, "listen "+addrs[0]+";")
		})
		if err != nil {
			t.Fatal(err)
		}
		return web{addrs[0], "/a/page"}, app
	},
	"Apache with mod_proxy_fcgi": func(t *testing.T, name string, b block) (web, *process) {
		need(t, "apache2")
		app, theirs, ours := setupApp(t, b)
		addr, err := startApache(name, "mpm_event", []string{"proxy", "proxy_fcgi"}, oneChild(16)+b.with(t, theirs, ours))
		if err != nil {
			t.Fatal(err)
		}
		return web{addr, "/a/page"}, app
	},
	"Apache with mod_fcgid": func(t *testing.T, name string, b block) (web, *process) {
		need(t, "apache2", apacheModules+"mod_fcgid.so")
		addr, err := startApache(name, "mpm_event", []string{"alias", "fcgid"}, fmt.Sprintf(`%[1]s
FcgidIPCDir %[2]s/sockets
FcgidProcessTableFile %[2]s/table
FcgidSpawnScoreUpLimit 1000
FcgidInitialEnv %[3]s 1
%[4]s`, oneChild(16), filepath.Join(dir, name), strings.TrimSuffix(graceful, "=1"), b.with(t, setupProgram, stepsProgram.get(t))))
		if err != nil {
			t.Fatal(err)
		}
		return web{addr, "/example/a/page"}, nil
	},
	"lighttpd": func(t *testing.T, name string, b block) (web, *process) {
		need(t, "lighttpd")
		app, theirs, ours := setupApp(t, b)
		addrs, err := launchLighttpd(name, 1, func([]string) string { return b.with(t, theirs, ours) })
		if err != nil {
			t.Fatal(err)
		}
		return web{addrs[0], "/a/page"}, app
	},
}

// setupApp starts the program that a block expects behind it, and returns what
// is to be put in the place of what.
func setupApp(t *testing.T, b block) (app *process, theirs, ours string) {
	t.Helper()
	if strings.Contains(b.text, setupBackend) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		stdin, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		cmd := exec.Command(stepsProgram.get(t))
		cmd.Env = append(os.Environ(), asHTTP, graceful)
		cmd.Stdin = stdin
		return launchApp(t, cmd, "tcp", l.Addr().String()), setupBackend, l.Addr().String()
	}
	socket, service := units(t)
	sock := unitSetting(t, socket, "ListenStream")
	argv := append([]string{"-l", sock, "-E", graceful}, strings.Fields(unitSetting(t, service, "ExecStart"))...)
	app = launchApp(t, exec.Command(program("systemd-socket-activate"), argv...), "unix", sock)
	// The owner of the socket is systemd's affair.
	if err := os.Chmod(sock, 0o666); err != nil {
		t.Fatal(err)
	}
	return app, setupSocket, sock
}

func launchApp(t *testing.T, cmd *exec.Cmd, network, addr string) *process {
	t.Helper()
	p, err := launch("setup-app", cmd, syscall.SIGTERM)
	if err == nil {
		err = p.ready(network, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// units are those of the document, for the program and a socket of this test.
func units(t *testing.T) (socket, service string) {
	t.Helper()
	need(t, "systemd-analyze", "systemd-socket-activate")
	f, err := os.CreateTemp(dir, "*.sock")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	os.Remove(f.Name())
	for _, b := range blocks(t) {
		switch {
		case b.heading != "systemd":
		case strings.HasPrefix(b.text, "# /etc/systemd/system/example.socket\n"):
			socket = b.with(t, setupSocket, f.Name())
		case strings.HasPrefix(b.text, "# /etc/systemd/system/example.service\n"):
			service = b.with(t, setupProgram, stepsProgram.get(t))
		default:
			t.Fatalf("a unit without a name:\n%s", b.text)
		}
	}
	return socket, service
}

func unitSetting(t *testing.T, unit, name string) string {
	t.Helper()
	m := regexp.MustCompile("(?m)^" + name + "=(.*)$").FindStringSubmatch(unit)
	if m == nil {
		t.Fatalf("no %s in:\n%s", name, unit)
	}
	return m[1]
}

// Each web server of docs/web-servers.md passes a flush on while the handler
// goes on, and a SIGTERM to the program during two responses ends both whole.
func TestSetup(t *testing.T) {
	for i, b := range blocks(t) {
		if b.heading == "systemd" {
			continue // TestSetupUnits
		}
		name := fmt.Sprintf("setup%d", i)
		t.Run(b.heading+" "+name, func(t *testing.T) {
			start := setups[b.heading]
			if start == nil {
				t.Fatalf("nothing runs\n%s", b.text)
			}
			where, app := start(t, name, b)

			stream, left := newRun(t), newRun(t)
			s := where.open(t, stream, "pid,h:Content-Type=text/event-stream,w:hello,f,p,q,w: goodbye", ask{})
			ids := stream.parked(t)[:1]
			expect(t, s, "200 hello")
			stream.goOn()
			stream.parked(t) // in q
			page := where.open(t, left, "pid,w:one,f,p,T,w:two,f,p,w:three", ask{})
			ids = append(ids, left.parked(t)[0])
			expect(t, page, "200 one")
			page.settle(t)
			if got := page.view().String(); got != "200 one" {
				t.Errorf("%s has arrived while the handler waits", got)
			}

			ended := terminate(t, app, ids)
			expect(t, s, "200 hello goodbye end")
			left.goOn()
			left.parked(t)
			expect(t, page, "200 onetwo")
			left.goOn()
			expect(t, page, "200 onetwothree end")
			ended()
		})
	}
}

// expect waits for what is to arrive.
func expect(t *testing.T, s *stream, want string) {
	t.Helper()
	if v := s.reach(func(v view) bool { return v.String() == want }); v.String() != want {
		t.Fatalf("%s has arrived, want %s", brief(v.String()), want)
	}
}

// terminate tells the processes with these ids to stop. If they are app, it must
// then end as one that has no complaint.
func terminate(t *testing.T, app *process, ids []string) (ended func()) {
	t.Helper()
	if app != nil {
		for _, id := range ids {
			if want := strconv.Itoa(app.cmd.Process.Pid); id != want {
				t.Fatalf("process %s answers, want %s", id, want)
			}
		}
		stopped := make(chan error, 1)
		go func() { stopped <- app.stop() }()
		return func() {
			t.Helper()
			if err := <-stopped; err != nil || !app.cmd.ProcessState.Success() {
				t.Errorf("%v, %v\n%s", app.cmd.ProcessState, err, &app.log)
			}
		}
	}
	var pids []int
	for _, id := range ids {
		pid, err := strconv.Atoi(id)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return func() {
		t.Helper()
		for _, pid := range pids {
			for deadline := time.Now().Add(bound); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("process %d goes on", pid)
				}
			}
		}
	}
}

// systemd has nothing to say to the units, and would have to one that is wrong.
func TestSetupUnits(t *testing.T) {
	socket, service := units(t)
	verify := func(service string) string {
		t.Helper()
		var argv []string
		for name, text := range map[string]string{"example.socket": socket, "example.service": service} {
			path, err := file("units/"+name, []byte(text), 0o644)
			if err != nil {
				t.Fatal(err)
			}
			argv = append(argv, path)
		}
		out, err := exec.Command(program("systemd-analyze"), append([]string{"verify"}, argv...)...).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v\n%s", err, out)
		}
		return string(out)
	}
	if said := verify(service); said != "" {
		t.Error(said)
	}
	if wrong := strings.Replace(service, "Restart=always", "Restart=alwais", 1); verify(wrong) == "" {
		t.Error("it says nothing about Restart=alwais")
	}
}

// A deploy, as a restart of example.service is one: the old process ends its
// response, and what comes meanwhile waits in the socket for the new one.
func TestSetupDeploy(t *testing.T) {
	need(t, "nginx")
	bin := stepsProgram.get(t)
	sock := filepath.Join(dir, "deploy.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(sock, 0o666); err != nil {
		t.Fatal(err)
	}
	inherited, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	start := func() *process {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0"`, bin)
		cmd.Env = append(os.Environ(), graceful)
		cmd.ExtraFiles = []*os.File{inherited}
		return launchApp(t, cmd, "unix", sock)
	}
	all := blocks(t)
	i := slices.IndexFunc(all, func(b block) bool { return b.heading == "nginx" && strings.Contains(b.text, setupSocket) })
	addrs, err := startNginx("deploy", nil, 1, func(addrs []string) string {
		return all[i].with(t, setupSocket, sock, setupListen, "listen "+addrs[0]+";")
	})
	if err != nil {
		t.Fatal(err)
	}
	where := web{addrs[0], "/"}

	before := start()
	first, second := newRun(t), newRun(t)
	page := where.open(t, first, "pid,w:one,f,p,w:two", ask{})
	ended := terminate(t, before, first.parked(t)[:1])
	for deadline := time.Now().Add(bound); has(t, before, inherited); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the old process keeps the socket")
		}
	}
	next := where.dial(t, second, "pid,w:next,f,p", ask{})
	first.goOn()
	expect(t, page, "200 onetwo end")
	ended()

	after := start()
	if id := second.parked(t)[0]; id != strconv.Itoa(after.cmd.Process.Pid) {
		t.Errorf("process %s answers, want the new one", id)
	}
	second.goOn()
	expect(t, next, "200 next end")
}

// has tells whether a process has a socket open.
func has(t *testing.T, p *process, socket *os.File) bool {
	t.Helper()
	info, err := socket.Stat()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("socket:[%d]", info.Sys().(*syscall.Stat_t).Ino)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, _ := os.Readlink(fd)
		return to == name
	})
}
