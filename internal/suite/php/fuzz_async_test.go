package php_test

import (
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// fuzzAsyncHandlers are fuzzHandlers and one while which another goroutine
// flushes.
var fuzzAsyncHandlers = append(slices.Clone(fuzzHandlers), "mate", "mate")

// fuzzModes are how a response of FuzzBuffersAsync moves.
var fuzzModes = []*flush.Options{
	{Flush: flush.Async},
	{Implicit: flush.Async},
	{FlushInterval: time.Nanosecond},
	{Flush: flush.Async, BufferSize: -1},
	{Flush: flush.Async, BufferSize: 3},
	{Implicit: flush.Async, BufferSize: 2},
}

// FuzzBuffersAsync is FuzzBuffers for responses that move in the background,
// over HTTP/1 and HTTP/2. When the headers leave is then the carrier's choice,
// and with that whether a Clean is in time; all else is the model's: what each
// step returns, what the filters are given, and what the client gets. What a
// filter sets while the headers are unsent is sent.
func FuzzBuffersAsync(f *testing.F) {
	op := func(name string) byte { return byte(slices.Index(fuzzOps, name)) }
	with := func(handler string) byte { return byte(slices.Index(fuzzAsyncHandlers, handler)) }
	for mode := range 2 * len(fuzzModes) {
		m := byte(mode)
		f.Add([]byte{m, op("write"), 5, op("flush"), 0, op("ob_start"), with("mate"), op("write"), 3, op("flush_top"), 0, op("write"), 4})
		f.Add([]byte{m, op("ob_start"), with("header"), op("write"), 8, op("flush"), 0, op("header_late"), 1, op("clean_all"), 0, op("write"), 1})
		f.Add([]byte{m, op("status"), 1, op("ob_start"), with("mate"), op("ob_start"), with("bracket"), op("write"), 5, op("flush_all"), 0, op("clean_all"), 0})
		f.Add([]byte{m, op("ob_start"), with("flusher"), op("write"), 5, op("clean_all"), 0, op("write"), 6, op("ob_start"), with("throw"), op("write"), 2})
		f.Add([]byte{m, op("ob_start"), with("noisyfalse"), op("write"), 5, op("flush_top"), 0, op("clean_all"), 0, op("flush"), 0, op("write"), 7})
		f.Add([]byte{m, op("ob_start"), with("flags"), op("ob_start"), with("flags")})                          // only filters write
		f.Add([]byte{m, op("ob_start"), with("throw"), op("ob_start"), with("noisyfalse"), op("flush_all"), 0}) // a panic hides an error
		f.Add([]byte{m, op("ob_start"), with("throw"), op("ob_start"), with("noisyfalse"), op("clean_all"), 0}) // of a filter that was to drop it
		f.Add([]byte{m, op("ob_start"), with("flags"), op("ob_start"), with("flusher"), op("clean_all"), 0})    // none below is told
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) == 0 {
			return
		}
		mode := int(input[0]) % (2 * len(fuzzModes))
		c := fuzzCase(input[1:], fuzzAsyncHandlers)
		c.Steps = slices.DeleteFunc(c.Steps, func(s phpStep) bool { return s.Op == "disconnect" })
		p := []harness.Proto{harness.HTTP1, harness.HTTP2}[mode%2]
		synctest.Test(t, func(t *testing.T) {
			got := &asyncRun{t: t, c: c, done: make(chan struct{})}
			s := harness.Open(t, harness.ServeMemory(t, p, harness.Wrapped(fuzzModes[mode/2], got.handle), 1<<20), "GET", "/", nil)
			got.check(s)
			if t.Failed() {
				t.Logf("%v, %+v", p, fuzzModes[mode/2])
				for i, s := range c.Steps {
					t.Logf("%d: %+v", i, s)
				}
			}
		})
	})
}

// An asyncRun is one case on a Flusher and on the model, step by step.
type asyncRun struct {
	t      *testing.T
	c      phpCase
	model  *model
	bytes  []string    // what the model let through, by step
	header http.Header // what was set in time
	cut    bool
	done   chan struct{} // closed when the model, too, has come to its end

	// compressed has both run above a buffer, which on the Flusher compresses.
	compressed bool
}

func (a *asyncRun) handle(w http.ResponseWriter, r *http.Request) {
	defer close(a.done)
	f := harness.Flusher(w)
	end := len(a.c.Steps)
	real, want := newOutcome(end), newOutcome(end)
	a.header, a.bytes = http.Header{}, want.Bytes
	onFlusher := &phpRun{t: a.t, layer: flusherLayer{f}, rec: &record{out: real}, out: real, counts: map[string]int{}}
	onFlusher.mate = func() {
		done := make(chan error)
		go func() { done <- f.FlushAsync() }()
		<-done
	}
	onFlusher.unsent = a.header.Set
	rec := &record{header: http.Header{}, out: want}
	a.model = &model{method: http.MethodGet, rec: rec, header: rec.header, async: true}
	onModel := &phpRun{t: a.t, layer: a.model, rec: rec, out: want, counts: map[string]int{}}
	onModel.mate = func() { a.model.FlushError() }

	var zip *flush.Buffer
	var plain *modelBuffer
	if a.compressed {
		o := flush.BufferOptions{ChunkSize: 1000, FollowFlush: true}
		plain = a.model.StartBuffer(&o).(*modelBuffer)
		o.Filter = flush.Gzip(f, r, 1)
		zip = f.StartBuffer(&o)
		onFlusher.open, onModel.open = []buffer{zip}, []buffer{plain}
	}
	for i, step := range append(slices.Clone(a.c.Steps), phpStep{Op: "end"}) {
		onFlusher.rec.step, rec.step = i, i
		do := func(s *phpRun) any {
			return s.try(i, func() any {
				if step.Op == "end" {
					return errorKinds(s.Close())
				}
				return s.do(step)
			})
		}
		fixed := a.model.fixed != nil
		if plain != nil {
			plain.o.NoClean, plain.o.NoRemove = zip.Status().NoClean, zip.Status().NoRemove
		}
		real.Results[i] = do(onFlusher)
		if kinds, _ := real.Results[i].(string); step.Op == "clean_all" {
			switch {
			case !strings.Contains(kinds, flush.ErrHeadersSent.Error()):
				a.model.clean = cleaned
				if real.Thrown[i] == "" {
					clear(a.bytes)
				}
			case len(real.Calls[i]) == 0:
				a.model.clean = refused
			default:
				a.model.clean, a.model.told = overtaken, len(real.Calls[i])
			}
		}
		want.Results[i] = do(onModel)
		switch {
		case step.Op == "clean_all" && real.Thrown[i] == "" && a.model.clean == cleaned:
			a.header.Set("X-Handler", f.Header().Get("X-Handler"))
		case step.Op == "header" && step.Name == "X-Handler" && !fixed:
			a.header.Set(step.Name, step.Value)
		case step.Op == "headers_sent":
			want.Results[i] = real.Results[i]
		}
	}
	a.cut = real.Thrown[end] != ""
	want.Bytes, want.Trace, want.Sent, want.Statuses = real.Bytes, real.Trace, real.Sent, real.Statuses
	diffOutcomes(a.t, "model", want, real)
}

// check reads the response and compares it with what the model let through. A
// handler's Close completes a response: the client can have all of it before the
// model has done that step.
func (a *asyncRun) check(s *harness.Stream) {
	resp, err := s.Head()
	body, _, end := s.Rest()
	<-a.done
	want := strings.Join(a.bytes, "")
	if err == nil && resp.Header.Get("Content-Encoding") == "gzip" {
		var plain []byte
		zr, err := gzip.NewReader(strings.NewReader(body))
		if err == nil {
			plain, err = io.ReadAll(zr)
		}
		if err != nil && !a.cut {
			a.t.Errorf("%v in %q, after %q", err, harness.Clip([]byte(body)), harness.Clip(plain))
		}
		body = string(plain)
	}
	if a.cut {
		if end != harness.Cut && err == nil && resp.StatusCode != http.StatusNoContent || !strings.HasPrefix(want, body) {
			a.t.Errorf("got %q, %s, want a part of %q, cut", harness.Clip([]byte(body)), end, harness.Clip([]byte(want)))
		}
		return
	}
	if err != nil {
		a.t.Fatal(err)
	}
	if body != want || end != harness.Complete {
		a.t.Errorf("got %q, %s, want %q", harness.Clip([]byte(body)), end, harness.Clip([]byte(want)))
	}
	if resp.StatusCode != a.model.status {
		a.t.Errorf("status %d, want %d", resp.StatusCode, a.model.status)
	}
	if got, want := resp.Header.Get("X-A"), a.model.fixed.Get("X-A"); got != want {
		a.t.Errorf("X-A: %q, want %q", got, want)
	}
	if got, want := resp.Header.Get("X-Handler"), a.header.Get("X-Handler"); got != want {
		a.t.Errorf("X-Handler: %q, want %q", got, want)
	}
}

var gzipScripts = flag.Int("gzip-scripts", 200, "random handlers that TestGzipOracle runs")

// Whatever a handler does, the body that the client decodes under Gzip is the
// body without, in every mode and over HTTP/1 and HTTP/2.
func TestGzipOracle(t *testing.T) {
	modes := append([]*flush.Options{nil, {BufferSize: -1}, {Implicit: flush.Wait}}, fuzzModes...)
	encoded := 0
	for seed := range *gzipScripts {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		input := make([]byte, 2*(5+random.IntN(30)))
		for i := range input {
			input[i] = byte(random.Uint32())
		}
		c := fuzzCase(input, fuzzAsyncHandlers)
		c.Steps = slices.DeleteFunc(c.Steps, func(s phpStep) bool {
			// A 204 leaves nothing to compare.
			return s.Op == "disconnect" || s.Op == "status" && s.Code == http.StatusNoContent
		})
		for i := range c.Steps {
			switch s := &c.Steps[i]; s.Op {
			case "write":
				s.Data = strings.Repeat(s.Data.(string), random.IntN(500))
			case "ob_start":
				s.Chunk *= random.IntN(500)
			}
		}
		p, opts := []harness.Proto{harness.HTTP1, harness.HTTP2}[seed%2], modes[seed/2%len(modes)]
		synctest.Test(t, func(t *testing.T) {
			run := &asyncRun{t: t, c: c, compressed: true, done: make(chan struct{})}
			s := harness.Open(t, harness.ServeMemory(t, p, harness.Wrapped(opts, run.handle), 1<<20), "GET", "/", nil, harness.AcceptGzip)
			run.check(s)
			if r, err := s.Head(); err == nil && r.Header.Get("Content-Encoding") == "gzip" {
				encoded++
			}
			if t.Failed() {
				t.Logf("script %d: %v, %+v", seed, p, opts)
				for i, s := range c.Steps {
					t.Logf("%d: %s", i, harness.Clip(fmt.Append(nil, s)))
				}
			}
		})
	}
	t.Logf("%d scripts, %d of them compressed, in %d modes over HTTP/1 and HTTP/2", *gzipScripts, encoded, len(modes))
	if 2*encoded < *gzipScripts {
		t.Errorf("only %d of %d were compressed", encoded, *gzipScripts)
	}
}
