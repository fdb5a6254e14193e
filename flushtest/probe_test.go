package flushtest_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

// ticker returns a handler that writes line n times and flushes each.
func ticker(n int, every time.Duration, line string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := range n {
			if i > 0 {
				select {
				case <-time.After(every):
				case <-r.Context().Done():
					return
				}
			}
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
			flush.Flush(w, true)
		}
	}
}

// noise writes lines that do not compress well.
func noise(n int, every time.Duration, size int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := rand.NewChaCha8([32]byte{})
		p := make([]byte, size/2)
		for range n {
			c.Read(p)
			ticker(1, 0, fmt.Sprintf("%x\n", p))(w, r)
			time.Sleep(every)
		}
	}
}

// A layer is a writer through which a proxy or middleware sends.
type layer struct {
	http.ResponseWriter
	io.Writer
	flush func() error
}

func (l layer) Write(p []byte) (int, error) { return l.Writer.Write(p) }
func (l layer) FlushError() error           { return l.flush() }

func ignore() error { return nil }

// holding is a proxy that passes on whatever fills a buffer of this size, or
// everything at the end if size is 0.
func holding(h http.Handler, size int, header ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if size == 0 {
			var b bytes.Buffer
			h.ServeHTTP(layer{w, &b, ignore}, r)
			w.Write(b.Bytes())
			return
		}
		b := bufio.NewWriterSize(writeAndFlush{w}, size)
		h.ServeHTTP(layer{w, b, ignore}, r)
		b.Flush()
	})
}

type writeAndFlush struct{ http.ResponseWriter }

func (w writeAndFlush) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	return n, errors.Join(err, flush.Flush(w.ResponseWriter, true))
}

// compressing is a middleware that compresses, and flushes the compressor or
// not.
func compressing(h http.Handler, flushes bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		h.ServeHTTP(layer{w, z, func() error {
			if flushes {
				z.Flush()
			}
			return flush.Flush(w, true)
		}}, r)
	})
}

// lagging compresses and flushes before each write instead of after it, so that
// each line comes with the next.
func lagging(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		h.ServeHTTP(layer{w, flushFirst{z}, http.NewResponseController(w).Flush}, r)
	})
}

type flushFirst struct{ *gzip.Writer }

func (z flushFirst) Write(p []byte) (int, error) {
	z.Flush()
	return z.Writer.Write(p)
}

// corking keeps what is flushed in a corked socket: for 200 ms, or to the end.
func corking(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := flush.New(w, r, &flush.Options{BufferSize: 1 << 20, FlushInterval: 200 * time.Millisecond})
		h.ServeHTTP(layer{f, f, ignore}, r)
		f.Close()
	})
}

// dribbling compresses in a way that a decompressor can follow, though no block
// of it ends before the response does.
func dribbling(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		var whole bytes.Buffer
		z := gzip.NewWriter(&whole)
		io.WriteString(z, strings.Repeat("abc def ghi jkl\n", 3)+"and then something else\n")
		z.Close()
		for i := range whole.Len() {
			w.Write(whole.Bytes()[i : i+1])
			flush.Flush(w, true)
			time.Sleep(50 * time.Millisecond)
		}
	})
}

// after waits before it begins.
func after(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			h.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// relaying passes on what comes, and keeps what begins a new part for as long
// as hold says at that time since the start; what comes meanwhile goes with it.
// The end of the response does not wait.
func relaying(h http.Handler, hold func(since time.Duration) time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		came := make(chan []byte, 1000)
		go func() {
			defer close(came)
			h.ServeHTTP(layer{w, sends{came}, ignore}, r)
		}()
		for p := range came {
			timer := time.After(hold(time.Since(start)))
			for more := true; more; {
				var next []byte
				select {
				case <-timer:
					more = false
				case next, more = <-came:
					p = append(p, next...)
				}
			}
			w.Write(p)
			flush.Flush(w, true)
		}
	})
}

type sends struct{ to chan []byte }

func (s sends) Write(p []byte) (int, error) {
	s.to <- bytes.Clone(p)
	return len(p), nil
}

// pausing passes on at once, but for one pause: what comes from then on is late
// by so much.
func pausing(h http.Handler, at, pause time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paused := false
		relaying(h, func(since time.Duration) time.Duration {
			if since < at || paused {
				return 0
			}
			paused = true
			return pause
		}).ServeHTTP(w, r)
	})
}

// slowing keeps each part for so long.
func slowing(h http.Handler, d time.Duration) http.Handler {
	return relaying(h, func(time.Duration) time.Duration { return d })
}

// stalling keeps every nth part for 100 ms.
func stalling(h http.Handler, n int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		part := 0
		relaying(h, func(time.Duration) time.Duration {
			part++
			if part%n != 0 {
				return 0
			}
			return 100 * time.Millisecond
		}).ServeHTTP(w, r)
	})
}

// counting counts the requests.
func counting(h http.Handler, n *int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*n++
		h.ServeHTTP(w, r)
	})
}

// swallowing is a compressor that sends the headers and keeps all the rest.
func swallowing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		flush.Flush(w, true)
		h.ServeHTTP(layer{w, io.Discard, ignore}, r)
	})
}

func with(h http.Handler, key, value string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(key, value)
		h.ServeHTTP(w, r)
	})
}

// quiet hides the writer's Flush: what a handler without flushes does.
func quiet(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(layer{w, w, ignore}, r) })
}

func TestProbe(t *testing.T) {
	lines := ticker(20, 100*time.Millisecond, "an event of some length\n")
	many := ticker(1000, 25*time.Millisecond, "an event of sixty-one bytes, which no buffer can divide by..\n")
	event := strings.Repeat("x", 1023) + "\n"
	sse := "id: 1\ndata: something\n\n"
	for _, test := range []struct {
		name    string
		h       http.Handler
		script  flushtest.Script
		query   string
		verdict flushtest.Verdict
		step    int
		delay   time.Duration
		layer   string
		remedy  string
	}{
		{name: "the endpoint", h: flushtest.Endpoint(), verdict: flushtest.Streamed},
		{name: "lines", h: lines, verdict: flushtest.Streamed},
		{name: "lines of 1024 bytes", h: ticker(10, time.Second, event), verdict: flushtest.Streamed},
		{name: "several lines of odd size", h: ticker(10, time.Second, strings.Repeat(event[1:], 4)), verdict: flushtest.Streamed},
		{name: "dots", h: ticker(10, time.Second, "."), verdict: flushtest.Streamed},
		{name: "events", h: with(ticker(10, time.Second, sse), "Content-Type", "text/event-stream"), verdict: flushtest.Streamed},
		{name: "a late start", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			lines(w, r)
		}), verdict: flushtest.Streamed},
		{name: "first a little, then nothing", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "working\n")
			flush.Flush(w, true)
			time.Sleep(time.Second)
		}), verdict: flushtest.Streamed},
		{name: "a slow line", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 100 {
				io.WriteString(w, event)
			}
		}), script: flushtest.Script{Bandwidth: 400_000}, verdict: flushtest.Streamed},

		{name: "a proxy that holds", h: holding(lines, 0), verdict: flushtest.Held, layer: "application", remedy: "flush.Inspect"},
		{name: "the endpoint behind it", h: holding(flushtest.Endpoint(), 0, "Server", "nginx/1.22"), verdict: flushtest.Held, layer: "nginx", remedy: "X-Accel-Buffering"},
		{name: "one that sends the headers", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			flush.Flush(w, true)
			holding(lines, 0, "Via", "1.1 odd").ServeHTTP(w, r)
		}), verdict: flushtest.Held},
		{name: "one that says Via", h: holding(lines, 0, "Via", "1.1 odd"), verdict: flushtest.Held, layer: "Via: 1.1 odd", remedy: "buffering"},
		{name: "one that says who it is", h: holding(lines, 0, "Server", "odd/2.0"), verdict: flushtest.Held, layer: "Server: odd/2.0", remedy: "buffering"},
		{name: "the application behind one", h: with(quiet(lines), "Server", "nginx"), verdict: flushtest.Held, layer: "nginx, or what is behind it", remedy: "flush.Inspect"},
		{name: "never a flush, little", h: quiet(lines), verdict: flushtest.Held, layer: "application"},
		{name: "compression in front of it", h: compressing(holding(lines, 0, "Server", "Apache"), true), verdict: flushtest.Held, layer: "Apache", remedy: "flushpackets"},

		{name: "steps", h: holding(many, 4096, "Server", "openresty"), verdict: flushtest.Stepped, step: 4096, layer: "OpenResty", remedy: "proxy_buffering"},
		{name: "large steps", h: holding(many, 32768), verdict: flushtest.Stepped, step: 32768, layer: "application"},
		{name: "steps of whole lines", h: holding(ticker(100, 100*time.Millisecond, event), 8192), verdict: flushtest.Unclear},
		{name: "blocks of a picture", h: with(ticker(10, time.Second, strings.Repeat("\n..\n.\n.x", 512)+"more"), "Content-Type", "image/png"), verdict: flushtest.Streamed},
		{name: "blocks of a picture, as large as a buffer", h: with(ticker(10, time.Second, strings.Repeat("\n..\n.\n.x", 512)), "Content-Type", "image/png"), verdict: flushtest.Unclear},
		{name: "never a flush, much", h: quiet(many), verdict: flushtest.Stepped, step: 4096},
		{name: "the endpoint in steps", h: holding(flushtest.Endpoint(), 500), verdict: flushtest.Stepped, step: 512},

		{name: "compressor that holds", h: compressing(lines, false), verdict: flushtest.CompressorHolds, layer: "gzip", remedy: "flush the compressor"},
		{name: "that of a known server", h: with(compressing(lines, false), "Server", "Apache/2.4"), verdict: flushtest.CompressorHolds, layer: "Apache", remedy: "no-gzip"},
		{name: "one behind a known server", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") == "gzip" {
				holding(compressing(lines, false), 0, "Server", "nginx").ServeHTTP(w, r)
				return
			}
			lines(w, r)
		}), verdict: flushtest.CompressorHolds, layer: "behind nginx", remedy: "flush the compressor"},
		{name: "one in a proxy that compresses for all", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") == "gzip" {
				compressing(lines, false).ServeHTTP(w, r)
				return
			}
			holding(lines, 0).ServeHTTP(w, r)
		}), verdict: flushtest.CompressorHolds, layer: "gzip", remedy: "flush the compressor"},
		{name: "one that is a line late", h: lagging(flushtest.Endpoint()), verdict: flushtest.CompressorHolds, layer: "gzip", remedy: "flush the compressor"},
		{name: "one that is a line late behind a delay", h: corking(lagging(flushtest.Endpoint())),
			verdict: flushtest.Delayed, delay: 500 * time.Millisecond, layer: "HAProxy does, and a compressor (gzip) that adds 300ms", remedy: "http-no-delay"},
		{name: "one that sends what it has, without a flush", h: dribbling(lines), verdict: flushtest.Streamed},
		{name: "one with much to hold", h: compressing(noise(250, 100*time.Millisecond, 500), false), verdict: flushtest.CompressorHolds, layer: "gzip"},
		{name: "much that is flushed", h: compressing(noise(10, time.Second, 5000), true), verdict: flushtest.Streamed},
		{name: "compressor that flushes", h: compressing(lines, true), verdict: flushtest.Streamed},
		{name: "our own", h: flush.NewHandler(with(lines, "Content-Type", "text/plain"), &flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
			f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
		}}), verdict: flushtest.Streamed},
		{name: "our own, not following", h: flush.NewHandler(with(lines, "Content-Type", "text/plain"), &flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
			f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1)})
		}}), verdict: flushtest.Held},

		{name: "latency", h: flushtest.Endpoint(), script: flushtest.Script{Latency: 2 * time.Second}, verdict: flushtest.Delayed, delay: 2 * time.Second},
		{name: "the kernel's latency before a known server", h: corking(with(flushtest.Endpoint(), "Server", "Apache")),
			verdict: flushtest.Delayed, delay: 200 * time.Millisecond, layer: "HAProxy", remedy: "http-no-delay"},
		{name: "another latency before it", h: with(flushtest.Endpoint(), "Server", "Apache"), script: flushtest.Script{Latency: 200 * time.Millisecond},
			verdict: flushtest.Delayed, delay: 200 * time.Millisecond, layer: "Apache", remedy: "RATE_LIMIT"},
		{name: "bunches", h: holding(flushtest.Endpoint(), 128), query: "?every=50ms&n=30", verdict: flushtest.Delayed, delay: 100 * time.Millisecond},
		{name: "little latency", h: flushtest.Endpoint(), script: flushtest.Script{Latency: 100 * time.Millisecond}, verdict: flushtest.Streamed},
		{name: "events by the clock", h: with(ticker(10, time.Second, strings.Repeat(sse, 5)), "Content-Type", "text/event-stream"), verdict: flushtest.Streamed},
		{name: "events by the clock, after a tick", h: after(time.Second, with(ticker(10, time.Second, strings.Repeat(sse, 5)), "Content-Type", "text/event-stream")),
			verdict: flushtest.Unclear},

		{name: "lines in a corked socket", h: corking(ticker(38, 45*time.Millisecond, "event\n")),
			verdict: flushtest.Delayed, delay: 225 * time.Millisecond, layer: "HAProxy", remedy: "http-no-delay"},
		{name: "lines in a corked socket, on a busy machine", h: stalling(corking(ticker(50, 45*time.Millisecond, "event\n")), 4),
			verdict: flushtest.Unclear},
		{name: "several lines now and then", h: stalling(after(200*time.Millisecond, ticker(10, 200*time.Millisecond, strings.Repeat("event\n", 4))), 2),
			verdict: flushtest.Streamed},
		{name: "lines by the clock, after a tick", h: after(200*time.Millisecond, ticker(10, 200*time.Millisecond, strings.Repeat("event\n", 4))), verdict: flushtest.Unclear},
		{name: "the same without a pause", h: ticker(10, 200*time.Millisecond, strings.Repeat("event\n", 4)), verdict: flushtest.Streamed},

		{name: "quick", h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") }), verdict: flushtest.Unclear},
		{name: "empty", h: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) }), verdict: flushtest.Unclear},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, http2 := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					s := flushtest.Serve(t, test.h, &flushtest.ServeOptions{HTTP2: http2, Script: test.script})
					p := flushtest.Prober{Client: s.Client()}
					f, err := p.Probe(t.Context(), s.URL+"/"+test.query)
					if err != nil {
						t.Fatal(err)
					}
					if f.Verdict != test.verdict || f.Step != test.step || (f.Delay-test.delay).Abs() > 10*time.Millisecond {
						t.Errorf("HTTP/2 %t: %s, step %d, delay %v; want %s, %d, %v\n%v\n%v", http2,
							f.Verdict, f.Step, f.Delay, test.verdict, test.step, test.delay, f, f.Arrivals)
					}
					if !strings.Contains(f.Layer, test.layer) || !strings.Contains(f.Remedy, test.remedy) {
						t.Errorf("layer %q, remedy %q; want %q, %q", f.Layer, f.Remedy, test.layer, test.remedy)
					}
					held := test.verdict != flushtest.Streamed && test.verdict != flushtest.Unclear
					if f.Held() != held || held != (f.Layer != "") {
						t.Errorf("held %t, layer %q", f.Held(), f.Layer)
					}
					if text := f.String(); strings.Contains(text, "\n") || !strings.HasPrefix(text, s.URL) {
						t.Errorf("%q", text)
					}
				})
			}
		})
	}
}

// A relay that pauses once passes the stream on, and one that keeps each line
// does not, however many lines there are, compressed or not.
func TestProbeJudgesByMajority(t *testing.T) {
	endpoint := flushtest.Endpoint()
	const kernel = "HAProxy does"
	for _, test := range []struct {
		name  string
		relay func(http.Handler) http.Handler
		says  string
		layer string
	}{
		{"on time", func(h http.Handler) http.Handler { return h }, "streamed. ", ""},
		{"a pause", func(h http.Handler) http.Handler { return pausing(h, time.Second, 211*time.Millisecond) }, "streamed, one line came late, by 211ms. ", ""},
		{"a pause at the beginning", func(h http.Handler) http.Handler { return pausing(h, 0, 211*time.Millisecond) }, "streamed, one line came late, by 211ms. ", ""},
		{"a pause at the end", func(h http.Handler) http.Handler { return pausing(h, 2*time.Second, 300*time.Millisecond) }, "streamed, one line came late, by 300ms. ", ""},
		{"a long pause", func(h http.Handler) http.Handler { return pausing(h, 600*time.Millisecond, 800*time.Millisecond) }, "lines came late, by up to 800ms. ", ""},
		{"each line", func(h http.Handler) http.Handler { return slowing(h, 200*time.Millisecond) }, "delayed by about 200ms. ", kernel},
		{"each line and a pause", func(h http.Handler) http.Handler {
			return pausing(slowing(h, 200*time.Millisecond), time.Second, 300*time.Millisecond)
		}, "delayed by about 200ms. ", kernel},
		{"every second line", func(h http.Handler) http.Handler {
			return relaying(h, func(since time.Duration) time.Duration {
				if since%(600*time.Millisecond) < 300*time.Millisecond {
					return 0
				}
				return 200 * time.Millisecond
			})
		}, "sometimes it is held, and sometimes not", ""},
	} {
		for _, zipped := range []bool{false, true} {
			for _, n := range []int{10, 60} {
				t.Run(fmt.Sprintf("%s, gzip %t, %d lines", test.name, zipped, n), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := endpoint
						if zipped {
							h = compressing(h, true)
						}
						requests := 0
						s := flushtest.Serve(t, counting(test.relay(h), &requests), nil)
						p := flushtest.Prober{Client: s.Client()}
						f, err := p.Probe(t.Context(), fmt.Sprintf("%s/?n=%d", s.URL, n))
						if err != nil {
							t.Fatal(err)
						}
						if !strings.Contains(f.String(), test.says) || !strings.Contains(f.Layer, test.layer) || f.Held() != (test.layer != "") {
							t.Errorf("%v, want %q and %q", f, test.says, test.layer)
						}
						if f.Lines != n || requests > 1 != f.Held() {
							t.Errorf("%d lines, %d requests", f.Lines, requests)
						}
					})
				})
			}
		}
	}
}

// Where one pause takes most of the stream, it cannot be told from a buffer; at
// the end it can.
func TestProbeLongPause(t *testing.T) {
	for _, test := range []struct {
		at, pause time.Duration
		verdict   flushtest.Verdict
	}{
		{300 * time.Millisecond, 2000 * time.Millisecond, flushtest.Unclear},
		{300 * time.Millisecond, time.Minute, flushtest.Held},
		{1500 * time.Millisecond, time.Minute, flushtest.Streamed},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := flushtest.Serve(t, pausing(flushtest.Endpoint(), test.at, test.pause), nil)
			p := flushtest.Prober{Client: s.Client()}
			f, err := p.Probe(t.Context(), s.URL+"/?n=10")
			if err != nil || f.Verdict != test.verdict {
				t.Errorf("%v at %v: %v, %v", test.pause, test.at, f, err)
			}
		})
	}
}

// A stream whose events are the same for all, and rare, shows nothing through a
// compressor because there is nothing, and events to a request without one by
// chance.
func TestProbeRareEvents(t *testing.T) {
	for _, test := range []struct {
		from, to time.Duration // since the beginning of the test
		flushes  bool
		verdict  flushtest.Verdict
	}{
		{40 * time.Second, time.Hour, true, flushtest.Unclear},
		{40 * time.Second, 44 * time.Second, true, flushtest.Unclear},
		{40 * time.Second, 44 * time.Second, false, flushtest.Unclear},
		{time.Second, time.Hour, true, flushtest.Streamed},
		{time.Second, time.Hour, false, flushtest.CompressorHolds},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			hub := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				flush.Flush(w, true)
				tick := time.NewTicker(time.Second)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
					case <-r.Context().Done():
						return
					}
					if d := time.Since(start); d >= test.from && d < test.to {
						io.WriteString(w, "an event\n")
						flush.Flush(w, true)
					}
				}
			})
			s := flushtest.Serve(t, compressing(hub, test.flushes), nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			p := flushtest.Prober{Client: s.Client()}
			f, err := p.Probe(ctx, s.URL)
			if err != nil || f.Verdict != test.verdict || time.Since(start) > time.Minute+10*time.Millisecond {
				t.Errorf("events from %v to %v, flushed %t: %v, %v; want %s", test.from, test.to, test.flushes, f, err, test.verdict)
			}
		})
	}
}

// What is far away is not late: making the connection takes as long. A dialer
// that says so stands for net.Dialer.
func TestProbeFarAway(t *testing.T) {
	const ms = time.Millisecond
	quick := flushtest.Endpoint()
	for _, test := range []struct {
		away, connect time.Duration
		h             http.Handler
		query         string
		verdict       flushtest.Verdict
	}{
		{400 * ms, 400 * ms, quick, "", flushtest.Streamed},
		{400 * ms, 0, quick, "", flushtest.Delayed},
		// A connection that took long to be made does not excuse what was held.
		{0, 100 * ms, holding(quick, 4096), "?n=40&every=50ms&size=2000", flushtest.Stepped},
		{0, 400 * ms, holding(quick, 4096), "?n=40&every=50ms&size=2000", flushtest.Stepped},
		{100 * ms, 100 * ms, holding(quick, 4096), "?n=40&every=50ms&size=2000", flushtest.Stepped},
		{0, 400 * ms, slowing(quick, 200*ms), "", flushtest.Delayed},
		{0, 400 * ms, quick, "?n=40&every=50ms&size=2000", flushtest.Streamed},
		{400 * ms, 400 * ms, quick, "?n=40&every=50ms&size=2000", flushtest.Streamed},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := flushtest.Serve(t, test.h, &flushtest.ServeOptions{Script: flushtest.Script{Latency: test.away}})
			tr := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				trace := httptrace.ContextClientTrace(ctx)
				trace.ConnectStart(network, address)
				time.Sleep(test.connect)
				c, err := s.Listener.Dial(ctx, network, address)
				trace.ConnectDone(network, address, err)
				return c, err
			}}
			defer tr.CloseIdleConnections()
			p := flushtest.Prober{Client: &http.Client{Transport: tr}}
			f, err := p.Probe(t.Context(), s.URL+test.query)
			if err != nil || f.Verdict != test.verdict {
				t.Errorf("%v away, connected in %v: %v, %v; want %s", test.away, test.connect, f, err, test.verdict)
			}
		})
	}
}

// A way that was busy the first time neither compresses nor delays, and one that
// delays is not blamed for what a busy machine adds.
func TestProbeBusyOnce(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		late   []time.Duration // by which each line of a request is, one request after the other
		zipped bool
		says   string
	}{
		{[]time.Duration{400 * ms, 0}, false, "not the next time"},
		{[]time.Duration{400 * ms, 0}, true, "not the next time"},
		{[]time.Duration{0, 400 * ms}, false, "streamed. "},
		{[]time.Duration{500 * ms, 200 * ms}, false, "delayed by about 200ms. "},
		{[]time.Duration{200 * ms, 500 * ms}, false, "delayed by about 200ms. "},
	} {
		synctest.Test(t, func(t *testing.T) {
			requests := 0
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h := flushtest.Endpoint()
				if test.zipped {
					h = compressing(h, true)
				}
				if requests < len(test.late) {
					h = slowing(h, test.late[requests])
				}
				requests++
				h.ServeHTTP(w, r)
			})
			s := flushtest.Serve(t, h, nil)
			p := flushtest.Prober{Client: s.Client()}
			f, err := p.Probe(t.Context(), s.URL)
			if err != nil || !strings.Contains(f.String(), test.says) || f.Held() != strings.Contains(f.Layer, "HAProxy does") {
				t.Errorf("%v, %t: %v, %v; want %q", test.late, test.zipped, f, err, test.says)
			}
		})
	}
}

// What the arrivals say, to the millisecond.
func TestProbeArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := flushtest.Serve(t, compressing(ticker(3, time.Second, "one\ntwo\nthr"), true), nil)
		var seen []flushtest.Arrival
		p := flushtest.Prober{Client: s.Client(), OnArrival: func(a flushtest.Arrival) { seen = append(seen, a) }, Header: http.Header{"X-One": {"1"}}}
		f, err := p.Probe(t.Context(), s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Arrivals) != 3 || len(seen) < 3 || f.End != 2*time.Second || f.Head != 0 || f.Status != 200 || f.Proto != "HTTP/1.1" {
			t.Fatalf("%+v", f)
		}
		for i, a := range f.Arrivals {
			want := flushtest.Arrival{At: time.Duration(i) * time.Second, Until: time.Duration(i) * time.Second, Plain: 11, Lines: 2, Cut: true}
			if a.Size = 0; a != want {
				t.Errorf("%d: %+v, want %+v", i, a, want)
			}
		}
		out, err := json.Marshal(f)
		if err != nil || !strings.Contains(string(out), `"verdict":"streamed"`) || !strings.Contains(string(out), `"plain":11`) {
			t.Errorf("%s, %v", out, err)
		}
	})
}

func TestProbeEndless(t *testing.T) {
	endless := ticker(1<<30, time.Second, "still there\n")
	nothing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	headers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush.Flush(w, true)
		<-r.Context().Done()
	})
	for _, test := range []struct {
		name    string
		h       http.Handler
		verdict flushtest.Verdict
		says    string
	}{
		{"streaming", endless, flushtest.Streamed, "deadline"},
		{"held", nothing, flushtest.Held, "No response came within 1m0s"},
		{"headers only", headers, flushtest.Held, "no body within 1m0s"},
		{"compressed", compressing(endless, true), flushtest.Streamed, "deadline"},
		{"held by a compressor", compressing(endless, false), flushtest.CompressorHolds, "half of the time"},
		{"held by a compressor that sends not even its header", swallowing(endless), flushtest.CompressorHolds, "half of the time"},
		{"compressed and a line late", lagging(flushtest.Endpoint()), flushtest.CompressorHolds, "half of the time"},
		{"compressed, and nothing to send for a long time", compressing(after(20*time.Second, endless), false), flushtest.Unclear, "could be decoded"},
		{"compressed behind what holds", with(holding(compressing(endless, true), 0), "Content-Encoding", "gzip"), flushtest.Held, "No response came"},
		{"an error that comes late", after(30*time.Second, http.NotFoundHandler()), flushtest.Unclear, "status 404"},
		{"one event", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(59 * time.Second)
			io.WriteString(w, "now")
			headers(w, r)
		}), flushtest.Unclear, "unclear"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := flushtest.Serve(t, test.h, nil)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				p := flushtest.Prober{Client: s.Client()}
				f, err := p.Probe(ctx, s.URL+"/?n=10000")
				if err != nil {
					t.Fatal(err)
				}
				if f.Verdict != test.verdict || f.End < 30*time.Second || time.Since(start) > time.Minute+10*time.Millisecond || !strings.Contains(f.String(), test.says) {
					t.Errorf("%s: %v", f.Verdict, f)
				}
			})
		})
	}
}

func TestProbeErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := flushtest.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), nil)
		p := flushtest.Prober{Client: s.Client()}
		if f, err := p.Probe(t.Context(), s.URL); err == nil {
			t.Errorf("no answer: %v", f)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if f, err := p.Probe(ctx, s.URL); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", f, err)
		}
		if f, err := p.Probe(t.Context(), "http://a b"); err == nil {
			t.Errorf("%v", f)
		}
	})
}

// A body that is not what Content-Encoding says must not hang the probe.
func TestProbeBadEncoding(t *testing.T) {
	for _, encoding := range []string{"gzip", "br", "unknown"} {
		synctest.Test(t, func(t *testing.T) {
			s := flushtest.Serve(t, with(ticker(5, time.Second, "not compressed at all\n"), "Content-Encoding", encoding), nil)
			p := flushtest.Prober{Client: s.Client()}
			f, err := p.Probe(t.Context(), s.URL)
			if err != nil || len(f.Arrivals) != 5 {
				t.Errorf("%v, %v", f, err)
			}
		})
	}
}

// With its own client, on a real socket.
func TestProbeRealServer(t *testing.T) {
	s := httptest.NewServer(flushtest.Endpoint())
	defer s.Close()
	f, err := flushtest.Probe(t.Context(), s.URL+"?n=3&every=1ms&size=100")
	if err != nil || f.Status != 200 || len(f.Arrivals) == 0 || f.End < f.Head {
		t.Errorf("%v, %v", f, err)
	}
}

func TestEndpoint(t *testing.T) {
	for _, test := range []struct {
		query string
		lines int
		took  time.Duration
		size  int // of the first line
		start string
	}{
		{"", 10, 2700 * time.Millisecond, 64, "flushprobe 0 0.000000 ."},
		{"?n=3&every=1s&size=100", 3, 2 * time.Second, 100, "flushprobe 0 "},
		{"?n=2&size=0", 2, 300 * time.Millisecond, 23, "flushprobe 0 "},
		{"?n=0&every=0s", 1, 0, 64, "flushprobe 0 "},
		{"?n=x&every=x&size=x", 10, 2700 * time.Millisecond, 64, "flushprobe 0 "},
		{"?n=2&type=text/event-stream", 4, 300 * time.Millisecond, 63, "data: flushprobe 0 "},
	} {
		t.Run(test.query, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := flushtest.Serve(t, flushtest.Endpoint(), nil)
				start := time.Now()
				resp, err := s.Client().Get(s.URL + "/" + test.query)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				lines := strings.SplitAfter(string(got), "\n")
				if n := len(lines) - 1; err != nil || n != test.lines || time.Since(start) != test.took {
					t.Errorf("%d lines after %v, %v", n, time.Since(start), err)
				}
				if len(lines[0]) != test.size || !strings.HasPrefix(lines[0], test.start) {
					t.Errorf("%d bytes: %q", len(lines[0]), lines[0])
				}
				if resp.Header.Get("X-Accel-Buffering") != "" {
					t.Error("hints unasked")
				}
			})
		})
	}
	rec := httptest.NewRecorder()
	flushtest.Endpoint().ServeHTTP(rec, httptest.NewRequest("GET", "/?hints=1&n=1", nil))
	if h := rec.Header(); h.Get("X-Accel-Buffering") != "no" || !strings.Contains(h.Get("Cache-Control"), "no-transform") {
		t.Errorf("%v", h)
	}
}

// It ends with its client.
func TestEndpointEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		s := flushtest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			flushtest.Endpoint().ServeHTTP(w, r)
		}), nil)
		resp, err := s.Client().Get(s.URL + "/?n=100000&every=1m")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		start := time.Now()
		<-ended
		if d := time.Since(start); d > time.Minute {
			t.Errorf("after %v", d)
		}
	})
}

func ExampleProbe() {
	s := httptest.NewServer(flushtest.Endpoint())
	defer s.Close()
	f, err := flushtest.Probe(context.Background(), s.URL+"/?n=4&every=100ms")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.Status, f.Header.Get("Content-Type"))
	// Output: 200 text/plain; charset=utf-8
}
