package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A reader is a client in a process of its own, as clients are: in the
// server's process it would compete with it for the scheduler.
type reader struct {
	cmd *exec.Cmd
	in  io.WriteCloser // open as long as the reader is wanted
	out *bufio.Reader
}

func startReader(addr string, http2, paced bool) *reader {
	self, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	r := &reader{cmd: exec.Command(self, "-reader", addr, "-http2="+strconv.FormatBool(http2), "-paced="+strconv.FormatBool(paced))}
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		log.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		log.Fatal(err)
	}
	return r
}

// latencies returns the next line of latencies, in nanoseconds.
func (r *reader) latencies() []float64 {
	line, err := r.out.ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	var all []float64
	for s := range strings.FieldsSeq(line) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			log.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

func (r *reader) stop() {
	r.in.Close()
	r.cmd.Wait()
}

// The events of a paced stream say when they were written; reportLine asks for
// the latencies since the last one.
const (
	pacedPrefix = "data: at "
	reportLine  = "data: report\n"
)

// readStream reads a stream to its end, or until standard input ends. It writes
// the latencies of paced events to standard output when asked to.
func readStream(addr string, http2, paced bool) {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var body io.Reader
	if http2 {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		res, err := (&http.Client{Transport: &http.Transport{Protocols: p}}).Get("http://" + addr)
		if err != nil {
			log.Fatal(err)
		}
		body = res.Body
	} else {
		body = dial(addr)
	}
	buf := make([]byte, 256<<10)
	var latencies []string
	for {
		n, err := body.Read(buf)
		arrived := time.Now()
		if err != nil {
			return
		}
		if !paced {
			continue
		}
		for line := range strings.Lines(string(buf[:n])) {
			if text, ok := strings.CutPrefix(line, pacedPrefix); ok {
				at, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
				if err != nil {
					log.Fatal(err)
				}
				latencies = append(latencies, strconv.FormatInt(arrived.UnixNano()-at, 10))
			} else if line == reportLine {
				fmt.Println(strings.Join(latencies, " "))
				latencies = latencies[:0]
			}
		}
	}
}
