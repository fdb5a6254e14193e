package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// A process is this command run as something else: as clients, who would compete
// with the server for the scheduler in one process, or as a server whose memory
// is to be its own. It is told things by lines and answers in JSON.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser // open as long as the process is wanted
	out *json.Decoder
}

// startReader runs this command as clients, with the given arguments.
func startReader(args ...string) *process {
	return startProcess(onReaderCores, self(), args...)
}

// startServer runs this command as a server.
func startServer(args ...string) *process { return startCommand(self(), args...) }

// startCommand runs another command as a server.
func startCommand(name string, args ...string) *process {
	return startProcess(func(start func() error) error { return start() }, name, args...)
}

func self() string {
	name, err := os.Executable()
	check(err)
	return name
}

func startProcess(on func(start func() error) error, name string, args ...string) *process {
	p := &process{cmd: exec.Command(name, args...)}
	p.cmd.Stderr = os.Stderr
	var err error
	p.in, err = p.cmd.StdinPipe()
	check(err)
	out, err := p.cmd.StdoutPipe()
	check(err)
	p.out = json.NewDecoder(out)
	check(on(p.cmd.Start))
	return p
}

func (p *process) stop() {
	p.in.Close()
	p.cmd.Wait()
}

// tell tells the process to do what.
func (p *process) tell(what string) {
	_, err := fmt.Fprintln(p.in, what)
	check(err)
}

// hear waits for what the process has to say.
func (p *process) hear(v any) { check(p.out.Decode(v)) }

// hearAddr waits for the address of a server.
func (p *process) hearAddr() (addr string) {
	p.hear(&addr)
	return addr
}

// cpu asks a server for its processor time, in nanoseconds.
func (p *process) cpu() (ns float64) {
	p.tell("cpu")
	p.hear(&ns)
	return ns
}

// ask has a reader ask for a response.
func (p *process) ask() (a answer) {
	p.tell("")
	p.hear(&a)
	return a
}
