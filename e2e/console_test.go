package e2e

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestConsole is the command line without a flush in the handler: implicit
// flush is on, as in PHP, and a line that has not ended is there too.
func TestConsole(t *testing.T) {
	for _, tty := range []bool{false, true} {
		for name, p := range map[string]place{"PHP": phpCLI(t, tty), "Go": goCLI(t, tty)} {
			if tty {
				name += " on a terminal"
			} else {
				name += " on a pipe"
			}
			t.Run(name, func(t *testing.T) {
				scenario{script: "w:50%,p,w:60%,p,n:done,p,z,p"}.run(t, p,
					[]string{"50%", "50%60%", `50%60%done\n`, `50%60%done\n`, `50%60%done\n end`})
			})
		}
	}
}

// TestLineBufferedConsole puts a console that passes on whole lines behind the
// pipe (sed -u): there a flush shows nothing before the newline, whoever flushes.
func TestLineBufferedConsole(t *testing.T) {
	need(t, "sed")
	for name, p := range map[string]cli{"PHP": phpCLI(t, false), "Go": goCLI(t, false)} {
		t.Run(name, func(t *testing.T) {
			scenario{script: "w:50%,f,p,n:,f,p,w:60%,f,p,n:,f,p"}.run(t, filtered{p, []string{program("sed"), "-u", ""}},
				[]string{"nothing", `50%\n`, `50%\n`, `50%\n60%\n`, `50%\n60%\n end`})
		})
	}
}

// filtered is a command line whose output goes through another program.
type filtered struct {
	cli
	filter []string
}

func (p filtered) open(t *testing.T, r *run, script string, o ask) *stream {
	t.Helper()
	s := p.cli.open(t, r, script, o)
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.filter[0], p.filter[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.src.(*os.File), theirs, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	s.src.Close()
	remember(cmd.Process.Pid)
	t.Cleanup(func() {
		ours.Close()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	// What was written can still be on its way through the filter: it is a
	// process of its own. It has had its turn once it sleeps on an empty pipe.
	return &stream{src: ours, wait: s.wait, pings: func() { asleep(t, cmd.Process.Pid) }}
}
