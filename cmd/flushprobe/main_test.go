package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
)

func held(w http.ResponseWriter, r *http.Request) {
	time.Sleep(3 * time.Second)
	w.Header().Set("Server", "nginx")
	io.WriteString(w, strings.Repeat("an event for "+r.Header.Get("X-Name")+"\n", 10))
}

// pausing keeps the second line of h's for 211 ms.
func pausing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&pauser{ResponseWriter: w}, r)
	})
}

type pauser struct {
	http.ResponseWriter
	lines int
}

func (p *pauser) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *pauser) Write(b []byte) (int, error) {
	if p.lines++; p.lines == 2 {
		time.Sleep(211 * time.Millisecond) // within the time to the next line
	}
	return p.ResponseWriter.Write(b)
}

func TestProbe(t *testing.T) {
	nothing := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, test := range []struct {
		name   string
		h      http.Handler
		args   []string
		status int
		lines  int
		says   []string
	}{
		{"streamed", flushtest.Endpoint(), []string{"http://memory/?n=5"}, statusStreamed, 6, []string{"0.300s    +0.300s       64 bytes", "streamed"}},
		{"no scheme", flushtest.Endpoint(), []string{"memory/?n=5"}, statusStreamed, 6, []string{"http://memory/?n=5: streamed"}},
		{"held", http.HandlerFunc(held), []string{"-H", "X-Name: me", "http://memory/"}, statusHeld, 2, []string{"held to the end", "nginx", "X-Accel-Buffering", "160 bytes"}},
		{"one line late", pausing(flushtest.Endpoint()), []string{"http://memory/?n=60"}, statusStreamed, 61, []string{"streamed, one line came late, by 211ms"}},
		{"another name", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", "of "+r.Host)
			flushtest.Endpoint().ServeHTTP(w, r)
		}), []string{"-H", "host: example.org", "http://memory/?n=5"}, statusStreamed, 6, []string{"of example.org"}},
		{"unclear", http.NotFoundHandler(), []string{"http://memory/"}, statusUnclear, 2, []string{"unclear", "404"}},
		{"endless", flushtest.Endpoint(), []string{"-for", "2s", "http://memory/?n=1000"}, statusStreamed, 8, []string{"went on when the probe stopped"}},
		{"nothing", http.HandlerFunc(nothing), []string{"-for", "2s", "http://memory/"}, statusHeld, 1, []string{"No response came within 2s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out, complaints bytes.Buffer
				p := program{stdout: &out, stderr: &complaints, client: flushtest.Serve(t, test.h, nil).Client()}
				status := p.run(t.Context(), test.args)
				if n := strings.Count(out.String(), "\n"); status != test.status || n != test.lines || complaints.Len() > 0 {
					t.Errorf("status %d, %d lines:\n%s%s", status, n, &out, &complaints)
				}
				for _, want := range test.says {
					if !strings.Contains(out.String(), want) {
						t.Errorf("does not say %q:\n%s", want, &out)
					}
				}
			})
		})
	}
}

// A line is there as soon as what it tells of has arrived.
func TestLinesComeAsTheyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		p := program{stdout: w, stderr: io.Discard, client: flushtest.Serve(t, flushtest.Endpoint(), nil).Client()}
		start := time.Now()
		go func() {
			p.run(t.Context(), []string{"http://memory/?n=2&every=1m"})
			w.Close()
		}()
		line := make([]byte, 100)
		if n, err := r.Read(line); !strings.Contains(string(line[:n]), "64 bytes") || err != nil || time.Since(start) > time.Second {
			t.Errorf("%q, %v after %v", line[:n], err, time.Since(start))
		}
		go p.client.CloseIdleConnections()
		io.Copy(io.Discard, r)
	})
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := program{stdout: &out, stderr: io.Discard, client: flushtest.Serve(t, http.HandlerFunc(held), nil).Client()}
		if status := p.run(t.Context(), []string{"-json", "http://memory/a?b&c"}); status != statusHeld {
			t.Errorf("status %d", status)
		}
		var f flushtest.Finding
		if err := json.Unmarshal(out.Bytes(), &f); err != nil {
			t.Fatal(err)
		}
		if f.Verdict != flushtest.Held || !strings.HasPrefix(f.Layer, "nginx") || f.URL != "http://memory/a?b&c" || len(f.Arrivals) != 1 {
			t.Errorf("%+v", f)
		}
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestMisuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := flushtest.Serve(t, flushtest.Endpoint(), nil).Client()
		for _, test := range []struct {
			args   []string
			status int
			says   string
		}{
			{nil, statusUnclear, "usage"},
			{[]string{"a", "b"}, statusUnclear, "usage"},
			{[]string{"-serve", "x", "http://memory/"}, statusUnclear, "usage"},
			{[]string{"-h"}, 0, "usage"},
			{[]string{"-h"}, 0, "\tprint the finding as JSON"},
			{[]string{"-what"}, statusUnclear, "-what"},
			{[]string{"-H", "novalue", "x"}, statusUnclear, "want Name: value"},
			{[]string{"http://a b/"}, statusUnclear, "flushprobe: "},
			{[]string{"http://memory/?n=5"}, statusUnclear, "broken pipe"},
			{[]string{"-json", "http://memory/?n=5"}, statusUnclear, "broken pipe"},
			{[]string{"-serve", "x"}, statusUnclear, "no such address"},
		} {
			var complaints bytes.Buffer
			p := program{stdout: brokenWriter{}, stderr: printer{&complaints}, client: client,
				listen: func(string, string) (net.Listener, error) { return nil, errors.New("no such address") }}
			if status := p.run(t.Context(), test.args); status != test.status || !strings.Contains(complaints.String(), test.says) {
				t.Errorf("%q: status %d, %q", test.args, status, &complaints)
			}
		}
	})
}

// A probe ends with its time, whether anybody reads what it prints or not.
func TestNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		p := program{stdout: w, stderr: io.Discard, client: flushtest.Serve(t, flushtest.Endpoint(), nil).Client()}
		start := time.Now()
		if status := p.run(t.Context(), []string{"-for", "3s", "http://memory/?n=100"}); status != statusUnclear || time.Since(start) != 3*time.Second+grace {
			t.Errorf("status %d after %v", status, time.Since(start))
		}
		r.Close()
		time.Sleep(time.Minute) // what had been left waiting ends
	})
}

// What a server sends reaches the terminal as text alone.
func TestPrinter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", "odd\u009b31m\u202e")
			time.Sleep(time.Second)
			io.WriteString(w, "\x1b[2J\n")
		})
		for _, args := range [][]string{{"http://memory/"}, {"-json", "http://memory/"}, {"-json", "http://memory/\x1b"}, {"-x\x1b[2J"}} {
			var out, complaints bytes.Buffer
			p := program{stdout: printer{&out}, stderr: printer{&complaints}, client: flushtest.Serve(t, h, nil).Client()}
			p.run(t.Context(), args)
			if s := out.String() + complaints.String(); strings.ContainsAny(s, "\x1b\u009b\u202e") || s == "" {
				t.Errorf("%q", s)
			}
			if args[0] == "-json" && out.Len() > 0 {
				var f flushtest.Finding
				if err := json.Unmarshal(out.Bytes(), &f); err != nil || f.Header.Get("Server") != "odd\u009b31m\u202e" {
					t.Errorf("%v, %q", err, f.Header)
				}
			}
		}
	})
}

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := flushtest.Listen(0)
		var out bytes.Buffer
		p := program{stdout: &out, stderr: io.Discard, listen: func(_, address string) (net.Listener, error) {
			if address != "here:80" {
				t.Errorf("address %q", address)
			}
			return l, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		status := make(chan int, 1)
		go func() { status <- p.run(ctx, []string{"-serve", "here:80"}) }()
		tr := &http.Transport{DialContext: l.Dial}
		prober := flushtest.Prober{Client: &http.Client{Transport: tr}}
		f, err := prober.Probe(t.Context(), "http://memory/")
		if err != nil || f.Verdict != flushtest.Streamed {
			t.Errorf("%v, %v", f, err)
		}
		tr.CloseIdleConnections()
		cancel()
		if s := <-status; s != 0 || !strings.Contains(out.String(), "http://memory:80/ streams") {
			t.Errorf("status %d, %q", s, &out)
		}
	})
}
