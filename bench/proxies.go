package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/fa492104/flush"
)

// A standalone is a proxy that runs in a process of its own, between a server in
// another and clients in a third. They are the rows of the fourth table.
type standalone struct {
	name string
	how  string
	ours bool

	// start starts it in front of a server. It says its address, and its processor
	// time when asked.
	start func(upstream string) (*process, error)
}

var standalones = []standalone{
	{name: "ReverseProxy", how: "`httputil.ReverseProxy` with `FlushInterval: -1`", start: ownProxy("bare")},
	{name: "Caddy", how: "its `reverse_proxy` with `flush_interval -1`, without logs", start: startCaddy},
	{name: "ReverseProxy in flush", how: "the first, after `flush.Install` with `Options{Flush: flush.Async}`", ours: true, start: ownProxy("flush")},
}

func ownProxy(kind string) func(string) (*process, error) {
	return func(upstream string) (*process, error) { return startServer("-proxy", kind, "-ask", upstream), nil }
}

// serveProxy is a proxy of ours.
func serveProxy(kind, upstream string) {
	srv := &http.Server{Handler: reverseProxy(upstream, nil)}
	if kind == "flush" {
		flush.Install(srv, &flush.Options{Flush: flush.Async})
	}
	addr, stop := listen(srv, nil)
	defer stop()
	out := json.NewEncoder(os.Stdout)
	check(out.Encode(addr))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		check(out.Encode(float64(cpuTime())))
	}
}

// caddyDir is the module that has Caddy as a program, and caddyBuilt where it has
// been built.
var caddyDir, caddyBuilt = "caddy", ""

// startCaddy builds Caddy first, which takes minutes.
func startCaddy(upstream string) (*process, error) {
	if caddyBuilt == "" {
		dir, err := os.MkdirTemp("", "caddy")
		if err != nil {
			return nil, err
		}
		name := filepath.Join(dir, "caddy")
		if text, err := exec.Command("go", "build", "-C", caddyDir, "-o", name, ".").CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %s", err, text), os.RemoveAll(dir))
		}
		caddyBuilt = name
	}
	return startCommand(caddyBuilt, upstream), nil
}

// forgetCaddy removes what startCaddy has built.
func forgetCaddy() {
	if caddyBuilt != "" {
		os.RemoveAll(filepath.Dir(caddyBuilt))
	}
}

// A standaloneResult is a row of the fourth table: medians.
type standaloneResult struct {
	standalone
	burst float64 // events a second
	event float64 // processor time for an event of it, in nanoseconds
	token float64 // and for a token of many streams
}

func (r *standaloneResult) line() string {
	return fmt.Sprintf("%-28s burst %.4g events/s, %.0f ns CPU each; tokens %.0f ns CPU each", r.name, r.burst, r.event, r.token)
}

// A standaloneRun is a proxy that runs, once for bursts and once for tokens.
type standaloneRun struct {
	standalone
	bursts, tokens       *process
	burstReader, readers *process
	started              []*process // all of them, clients last

	burst, event, token []float64
}

const standaloneRounds = 10

// measureStandalones measures the fourth table, the proxies in turn. One that
// cannot be had is left out.
func measureStandalones(match *regexp.Regexp, repeat float64) []standaloneResult {
	defer forgetCaddy()
	var runs []*standaloneRun
	defer confined(ownAndReaders)()
	for _, s := range standalones {
		if !match.MatchString("proxy: " + s.name) {
			continue
		}
		r, err := s.run()
		if err != nil {
			fmt.Printf("%-28s not measured here: %v\n", s.name, err)
			continue
		}
		defer r.stop()
		runs = append(runs, r)
	}
	for range max(int(standaloneRounds*repeat), 1) {
		for _, r := range runs {
			r.round()
		}
	}
	var results []standaloneResult
	for _, r := range runs {
		result := standaloneResult{r.standalone, quantile(r.burst, 0.5), quantile(r.event, 0.5), quantile(r.token, 0.5)}
		fmt.Println(result.line())
		results = append(results, result)
	}
	return results
}

func (s standalone) run() (r *standaloneRun, err error) {
	r = &standaloneRun{standalone: s}
	front := func(job string) (proxy *process, err error) {
		upstream := startServer("-upstream", job)
		if proxy, err = s.start(upstream.hearAddr()); err != nil {
			upstream.stop()
			return nil, err
		}
		r.started = append(r.started, proxy, upstream)
		return proxy, nil
	}
	if r.bursts, err = front("burst"); err != nil {
		return nil, err
	}
	if r.tokens, err = front("tokens"); err != nil {
		r.stop()
		return nil, err
	}
	r.burstReader = startReader("-ask", r.bursts.hearAddr())
	r.readers = startReader("-ask", r.tokens.hearAddr(), "-clients", strconv.Itoa(tokenStreams))
	r.started = append(r.started, r.burstReader, r.readers)
	r.burstReader.ask()
	r.readers.ask()
	return r, nil
}

func (r *standaloneRun) round() {
	before := r.bursts.cpu()
	a := r.burstReader.ask()
	r.event = append(r.event, (r.bursts.cpu()-before)/burstEvents)
	r.burst = append(r.burst, burstEvents/a.Elapsed*1e9)
	before = r.tokens.cpu()
	r.readers.ask()
	r.token = append(r.token, (r.tokens.cpu()-before)/(tokenStreams*tokensEach))
}

func (r *standaloneRun) stop() {
	for _, p := range slices.Backward(r.started) {
		p.stop()
	}
}
