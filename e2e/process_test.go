package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a server of ours, leader of a process group of its own. It fails
// if it ends, or writes that it or a child of it cannot work, before it is told
// to stop.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    logBuffer
	done   chan struct{} // closed when it has been waited for
	signal syscall.Signal
	broke  func(error)   // is told that it has failed
	failed chan struct{} // closed after that

	mu               sync.Mutex
	line             []byte // that it has not ended yet
	started, stopped bool   // it is ready; it has been told to stop
	err              error  // why it has failed
}

// logBuffer keeps what a process prints, for the message of a failure.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 1<<20 {
		l.b.Reset()
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var started struct {
	mu      sync.Mutex
	all     []*process
	stopped bool // there will be no more
}

// launch starts cmd; stopAll ends it with sig. Should the server fail, the run
// ends.
func launch(name string, cmd *exec.Cmd, sig syscall.Signal) (*process, error) {
	p := &process{name: name, cmd: cmd, signal: sig, broke: endRun}
	return p, p.launch()
}

func (p *process) launch() error {
	started.mu.Lock()
	defer started.mu.Unlock()
	if started.stopped {
		return nil
	}
	if err := p.start(); err != nil {
		return err
	}
	started.all = append(started.all, p)
	return nil
}

func (p *process) start() error {
	p.done, p.failed = make(chan struct{}), make(chan struct{})
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	// Grandchildren may hold the pipe of the log open.
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return err
	}
	remember(p.cmd.Process.Pid)
	go func() {
		p.cmd.Wait()
		close(p.done)
		p.fail("has ended: " + p.cmd.ProcessState.String())
	}()
	return nil
}

// Write takes what the server writes, and heeds it.
func (p *process) Write(b []byte) (int, error) {
	p.log.Write(b)
	p.mu.Lock()
	starting := !p.started
	var lines [][]byte
	lines, p.line = wholeLines(append(p.line, b...))
	p.mu.Unlock()
	for _, l := range lines {
		if cannotWork.Match(l) || starting && isError.Match(l) {
			p.fail("writes: " + string(l))
		}
	}
	return len(b), nil
}

func wholeLines(b []byte) (lines [][]byte, rest []byte) {
	lines = bytes.Split(b, []byte("\n"))
	last := len(lines) - 1
	return lines[:last], lines[last]
}

var (
	// cannotWork is what servers write, at any time, when they or a child of
	// theirs have died or never will work.
	cannotWork = regexp.MustCompile(strings.Join([]string{
		`\[(\w+:)?(emerg|alert|crit)\]`,    // nginx, Apache
		`AH0005[12]: child pid .* exit`,    // Apache
		`child \d+ exited on signal`,       // PHP-FPM
		`\bALERT\b`,                        // HAProxy, PHP-FPM
		`\bFATAL\b`,                        // squid
		`Child .*(died|Panic|not respond)`, // Varnish
	}, "|"))

	// isError is what they write when they begin badly. Later it need not be
	// theirs: a client or a server behind them has left.
	isError = regexp.MustCompile(`(?i)\berror:|\bERROR\b|\[(\w+:)?error\]|"level":"(error|fatal)"`)
)

// afterwards is how long a server that fails has to say more.
const afterwards = 300 * time.Millisecond

// fail tells that the server has failed, unless it has been told to stop. One
// that has not got its port may be started again.
func (p *process) fail(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || p.err != nil {
		return
	}
	p.err = fmt.Errorf("%s %s", p.name, why)
	starting := !p.started
	go func() {
		select {
		case <-p.done:
		case <-time.After(afterwards):
		}
		if !starting || !p.wantsOtherPorts() {
			p.broke(p.failure())
		}
		close(p.failed)
	}()
}

func (p *process) wantsOtherPorts() bool {
	return strings.Contains(strings.ToLower(p.log.String()), "in use")
}

// endRun ends the run at once: no test has to find out for itself that a server
// has failed.
func endRun(err error) {
	running.Lock() // and nobody else gets here
	fmt.Fprintf(os.Stderr, "\nthe run ends: %v\n", err)
	for _, group := range running.groups {
		syscall.Kill(-group, syscall.SIGKILL)
	}
	os.RemoveAll(dir)
	os.Exit(1)
}

// running are the process groups of this run.
var running struct {
	sync.Mutex
	groups []int
}

// remember notes a process group in $E2E_DIR/groups, so that e2e/run can end it
// if this process is killed before it has done so itself.
func remember(group int) {
	running.Lock()
	running.groups = append(running.groups, group)
	running.Unlock()
	if os.Getenv("E2E_DIR") == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(os.Getenv("E2E_DIR"), "groups"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, group)
}

// stop asks the process to end, waits for it, and makes sure that nothing of
// its group is left.
func (p *process) stop() error {
	group := -p.cmd.Process.Pid
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.cmd.Process.Signal(p.signal)
	select {
	case <-p.done:
	case <-time.After(bound):
		syscall.Kill(group, syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s did not stop on %v and was killed:\n%s", p.name, p.signal, &p.log)
	}
	if err := gone(p.cmd.Process.Pid); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if p.failure() != nil {
		<-p.failed // it has been told, or ends the run
	}
	return nil
}

// gone makes sure that a process group whose leader has ended is empty.
// Orphans in it are reaped by others, which takes its time.
func gone(group int) error {
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
			return nil
		}
	}
	syscall.Kill(-group, syscall.SIGKILL)
	return errors.New("processes were left behind and killed")
}

func stopAll() (errs []error) {
	started.mu.Lock()
	defer started.mu.Unlock()
	started.stopped = true
	for i := len(started.all) - 1; i >= 0; i-- {
		if err := started.all[i].stop(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// printLogs shows what the servers had to say, the last of it.
func printLogs(w io.Writer) {
	started.mu.Lock()
	defer started.mu.Unlock()
	for _, p := range started.all {
		s := p.log.String()
		fmt.Fprintf(w, "--- %s:\n%s\n", p.name, s[max(0, len(s)-4096):])
	}
}

// ready waits until something accepts connections at every address, or p fails.
func (p *process) ready(network string, addrs ...string) error {
	deadline := time.Now().Add(bound)
	for _, a := range addrs {
		for {
			c, err := net.Dial(network, a)
			if err == nil {
				c.Close()
				if network != "tcp" || p.listens(a) {
					break
				}
			}
			if time.Now().After(deadline) {
				p.fail("does not listen on " + a)
			}
			select {
			case <-p.failed:
				return p.failure()
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	p.mu.Lock()
	p.started = p.err == nil
	p.mu.Unlock()
	if !p.started {
		<-p.failed
	}
	return p.failure()
}

// listens tells whether it is p that has the port, and not another process that
// got it in the meantime.
func (p *process) listens(addr string) bool {
	_, port, _ := strings.Cut(addr, ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		return false
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		const local, state, listening, inode = 1, 3, "0A", 9
		f := strings.Fields(line)
		if len(f) <= inode || f[state] != listening || !strings.HasSuffix(f[local], fmt.Sprintf(":%04X", n)) {
			continue
		}
		fds, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
		for _, fd := range fds {
			to, _ := os.Readlink(fd)
			if to != "socket:["+f[inode]+"]" {
				continue
			}
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			if group, err := syscall.Getpgid(pid); err == nil && group == p.cmd.Process.Pid {
				return true
			}
		}
	}
	return false
}

// failure is why the server has failed, with what it wrote.
func (p *process) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%w\n--- %s wrote:\n%s", p.err, p.name, &p.log)
}

// onPorts starts a server that wants its ports in a configuration file. The
// kernel gives n free ones; should another process take one before the server
// has it, the start is repeated with others.
func onPorts(n int, start func(addrs []string) (*process, error)) (*process, []string, error) {
	var p *process
	var addrs []string
	var err error
	for range 5 {
		if addrs, err = freePorts(n); err != nil {
			return nil, nil, err
		}
		if p, err = start(addrs); err != nil {
			return nil, nil, err
		}
		if err = p.ready("tcp", addrs...); err == nil || !p.wantsOtherPorts() {
			break
		}
	}
	return p, addrs, err
}

func freePorts(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// asleep waits until a process with one thread waits in a read.
func asleep(t testing.TB, pid int) {
	t.Helper()
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return // it has ended
		}
		_, state, _ := bytes.Cut(stat, []byte(") "))
		if bytes.HasPrefix(state, []byte("S")) || bytes.HasPrefix(state, []byte("Z")) {
			return
		}
	}
	t.Fatal("the filter does not come to rest")
}
