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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a server of ours, leader of a process group of its own.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    logBuffer
	done   chan struct{} // closed when it has been waited for
	signal syscall.Signal
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
	mu  sync.Mutex
	all []*process
}

// launch starts cmd; stopAll ends it with sig.
func launch(name string, cmd *exec.Cmd, sig syscall.Signal) (*process, error) {
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), signal: sig}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	// Grandchildren may hold the pipe of the log open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	remember(cmd.Process.Pid)
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	started.mu.Lock()
	started.all = append(started.all, p)
	started.mu.Unlock()
	return p, nil
}

// remember notes a process group in $E2E_DIR/groups, so that e2e/run can end it
// if this process is killed before it has done so itself.
func remember(group int) {
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
	syscall.Kill(p.cmd.Process.Pid, p.signal)
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
	return nil
}

// gone makes sure that a process group whose leader has ended is empty.
// Orphans in it are reaped by others, which takes its time.
func gone(group int) error {
	for range 500 {
		if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	syscall.Kill(-group, syscall.SIGKILL)
	return errors.New("processes were left behind and killed")
}

func stopAll() (errs []error) {
	started.mu.Lock()
	defer started.mu.Unlock()
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

// ready waits until something accepts connections at every address, or p ends.
func (p *process) ready(network string, addrs ...string) error {
	deadline := time.Now().Add(bound)
	for _, a := range addrs {
		for {
			c, err := net.Dial(network, a)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-p.done:
				return fmt.Errorf("%s ended at its start:\n%s", p.name, &p.log)
			case <-time.After(5 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not listen on %s:\n%s", p.name, a, &p.log)
			}
		}
	}
	return nil
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
		if err = p.ready("tcp", addrs...); err == nil || !strings.Contains(strings.ToLower(p.log.String()), "in use") {
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
