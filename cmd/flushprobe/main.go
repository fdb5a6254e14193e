// Flushprobe fetches a stream, shows what arrives when, and says what held it
// on its way: a proxy, a compressor, a buffer.
//
//	flushprobe [-json] [-for 30s] [-H 'Name: value'] URL
//	flushprobe -serve 127.0.0.1:8080
//
// It prints a line for each arrival as it comes and a verdict at the end; with
// -json, the finding alone. The exit status is 0 if the stream came as it was
// sent, 1 if it was held, and 2 if that cannot be told.
//
// It makes one request or a few, and all of them end after the time that -for
// says, or with an interrupt; the verdict is then about what had come. -H
// 'Host: name' asks for that name. The proxy that the environment names, in
// HTTP_PROXY and the like, is used, and named in the verdict.
//
// With -serve it is an endpoint that is known to stream, to be put behind a
// proxy and probed through it. The query of the URL may say how many lines it
// sends, how far apart and how long each is, and of which content type:
// /?n=10&every=300ms&size=64&type=text/event-stream. With hints=1 it asks
// proxies not to hold them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/visible"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second interrupt needs nobody's consent
	p := program{stdout: printer{os.Stdout}, stderr: printer{os.Stderr}, listen: net.Listen}
	os.Exit(p.run(ctx, os.Args[1:]))
}

// A printer prints what strangers may have sent. No terminal takes it for a
// command.
type printer struct{ io.Writer }

func (p printer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.Writer, visible.String(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

const (
	statusStreamed = iota
	statusHeld
	statusUnclear
)

type program struct {
	stdout, stderr io.Writer
	client         *http.Client // nil: that of the Prober
	listen         func(network, address string) (net.Listener, error)
}

// run is the command. It returns the exit status.
func (p *program) run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("flushprobe", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() {
		fmt.Fprintln(p.stderr, "usage: flushprobe [-json] [-for 30s] [-H 'Name: value'] URL")
		fmt.Fprintln(p.stderr, "       flushprobe -serve 127.0.0.1:8080")
		flags.PrintDefaults()
		fmt.Fprintln(p.stderr, "exit status: 0 streamed, 1 held, 2 cannot be told")
	}
	asJSON := flags.Bool("json", false, "print the finding as JSON")
	most := flags.Duration("for", 30*time.Second, "end an endless stream after this `time`")
	address := flags.String("serve", "", "serve a stream on this `address`, to be put behind a proxy")
	header := make(http.Header)
	flags.Func("H", "send this `header`, such as 'Accept: text/event-stream'", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("want Name: value")
		}
		header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		return nil
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return statusUnclear
	}
	switch {
	case *address != "" && flags.NArg() == 0:
		return p.serve(ctx, *address)
	case *address != "" || flags.NArg() != 1:
		flags.Usage()
		return statusUnclear
	}
	url := flags.Arg(0)
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	return p.probe(ctx, url, header, *most, *asJSON)
}

// grace is how long the end of a probe may take, once its time is over.
const grace = 2 * time.Second

// probe probes and prints. Who does not read what it prints cannot keep it.
func (p *program) probe(ctx context.Context, url string, header http.Header, most time.Duration, asJSON bool) int {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	over := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, func() { close(over) }) })()
	status := make(chan int, 1)
	go func() { status <- p.probeAndPrint(ctx, url, header, asJSON) }()
	select {
	case s := <-status:
		return s
	case <-over:
		return statusUnclear
	}
}

func (p *program) probeAndPrint(ctx context.Context, url string, header http.Header, asJSON bool) int {
	prober := flushtest.Prober{Client: p.client, Header: header}
	if !asJSON {
		var last time.Duration
		prober.OnArrival = func(a flushtest.Arrival) {
			fmt.Fprintf(p.stdout, "%9.3fs  %+8.3fs  %7d bytes\n", a.At.Seconds(), (a.At - last).Seconds(), a.Size)
			last = a.At
		}
	}
	f, err := prober.Probe(ctx, url)
	if err != nil {
		fmt.Fprintln(p.stderr, "flushprobe:", err)
		return statusUnclear
	}
	if asJSON {
		e := json.NewEncoder(p.stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(f)
	} else {
		_, err = fmt.Fprintln(p.stdout, f)
	}
	switch {
	case err != nil:
		fmt.Fprintln(p.stderr, "flushprobe:", err)
		return statusUnclear
	case f.Held():
		return statusHeld
	case f.Verdict == flushtest.Streamed:
		return statusStreamed
	}
	return statusUnclear
}

// serve serves the endpoint until ctx ends.
func (p *program) serve(ctx context.Context, address string) int {
	l, err := p.listen("tcp", address)
	if err != nil {
		fmt.Fprintln(p.stderr, "flushprobe:", err)
		return statusUnclear
	}
	s := &http.Server{Handler: flushtest.Endpoint(), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	fmt.Fprintf(p.stdout, "http://%s/ streams; try flushprobe on it, then on the proxy in front of it\n", l.Addr())
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(p.stderr, "flushprobe:", err)
		return statusUnclear
	}
	return 0
}
