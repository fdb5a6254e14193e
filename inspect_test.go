package flush_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Writers as middleware makes them. They must not be flushed by Inspect.
type (
	onlyFlush struct {
		http.ResponseWriter
		t *testing.T
	}
	onlyFlushError struct {
		http.ResponseWriter
		t *testing.T
	}
	onlyUnwrap struct{ http.ResponseWriter }
	sealed     struct{ http.ResponseWriter }
	circle     struct {
		http.ResponseWriter
		next http.ResponseWriter
	}
	endless struct {
		http.ResponseWriter
		n int
	}
	everything struct{ onlyUnwrap }
)

func (w onlyFlush) Flush()                                        { w.t.Error("Inspect flushed") }
func (w onlyFlush) Unwrap() http.ResponseWriter                   { return w.ResponseWriter }
func (w onlyFlushError) FlushError() error                        { w.t.Error("Inspect flushed"); return nil }
func (w onlyFlushError) Unwrap() http.ResponseWriter              { return w.ResponseWriter }
func (w onlyUnwrap) Unwrap() http.ResponseWriter                  { return w.ResponseWriter }
func (w *circle) Unwrap() http.ResponseWriter                     { return w.next }
func (w endless) Unwrap() http.ResponseWriter                     { return endless{n: w.n + 1} }
func (w everything) SetReadDeadline(time.Time) error              { return nil }
func (w everything) SetWriteDeadline(time.Time) error             { return nil }
func (w everything) Flush()                                       {}
func (w everything) FlushError() error                            { return nil }
func (w everything) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

func TestInspectLayers(t *testing.T) {
	rec := httptest.NewRecorder()
	round := &circle{}
	round.next = onlyUnwrap{round}
	var nilFlusher *flush.Flusher
	var nilCircle *circle
	for _, test := range []struct {
		name  string
		w     http.ResponseWriter
		fate  flush.Fate
		types []string
		fates []flush.Fate
		says  string
	}{
		{"nothing", nil, flush.FateUnknown, nil, nil, "no writer"},
		{"recorder", rec, flush.FateSwallowed, []string{"*httptest.ResponseRecorder"}, []flush.Fate{flush.FateSwallowed}, "recorder"},
		{"only Flush", onlyFlush{sealed{rec}, t}, flush.FateSwallowed, []string{"flush_test.onlyFlush", "flush_test.sealed"},
			[]flush.Fate{flush.FateErrorLost, flush.FateSwallowed}, "Give it a FlushError method"},
		{"only FlushError", onlyFlushError{rec, t}, flush.FateSwallowed, []string{"flush_test.onlyFlushError", "*httptest.ResponseRecorder"},
			[]flush.Fate{flush.FateUnknown, flush.FateSwallowed}, "can report an error"},
		{"only Unwrap", onlyUnwrap{rec}, flush.FateSwallowed, []string{"flush_test.onlyUnwrap", "*httptest.ResponseRecorder"},
			[]flush.Fate{flush.FatePassed, flush.FateSwallowed}, "goes past it"},
		{"sealed", sealed{rec}, flush.FateSwallowed, []string{"flush_test.sealed"}, []flush.Fate{flush.FateSwallowed}, "Give it an Unwrap method"},
		{"circle", round, flush.FateSwallowed, []string{"*flush_test.circle", "flush_test.onlyUnwrap", "*flush_test.circle"},
			[]flush.Fate{flush.FatePassed, flush.FatePassed, flush.FateSwallowed}, "circle"},
		{"unwraps to nil", onlyUnwrap{}, flush.FateSwallowed, []string{"flush_test.onlyUnwrap"}, []flush.Fate{flush.FateSwallowed}, "not supported"},
		{"twice", onlyUnwrap{onlyUnwrap{}}, flush.FateSwallowed, []string{"flush_test.onlyUnwrap", "flush_test.onlyUnwrap"},
			[]flush.Fate{flush.FatePassed, flush.FateSwallowed}, "not supported"},
		{"Flush, and nil below", everything{}, flush.FateUnknown, []string{"flush_test.everything"}, []flush.Fate{flush.FateUnknown}, "its own affair"},
		{"nil Flusher", nilFlusher, flush.FateSwallowed, []string{"*flush.Flusher"}, []flush.Fate{flush.FateSwallowed}, "nil pointer"},
		{"nil below", onlyUnwrap{nilCircle}, flush.FateSwallowed, []string{"flush_test.onlyUnwrap", "*flush_test.circle"},
			[]flush.Fate{flush.FatePassed, flush.FateSwallowed}, "nil pointer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := flush.Inspect(test.w)
			if r.Fate != test.fate {
				t.Errorf("%v, want %v", r.Fate, test.fate)
			}
			var types []string
			var fates []flush.Fate
			for _, l := range r.Layers {
				types, fates = append(types, l.Type), append(fates, l.Fate)
			}
			if !slices.Equal(types, test.types) || !slices.Equal(fates, test.fates) {
				t.Errorf("layers %v %v, want %v %v", types, fates, test.types, test.fates)
			}
			s := r.String()
			if !strings.Contains(s, test.says) || strings.Contains(s, "\n") {
				t.Errorf("String: %q, want one paragraph that says %q", s, test.says)
			}
		})
	}
	if rec.Flushed {
		t.Error("Inspect flushed")
	}
	if n := len(flush.Inspect(endless{}).Layers); n > 100 {
		t.Errorf("%d layers of an endless chain", n)
	}
	want := []string{"Flush", "FlushError", "Unwrap", "SetReadDeadline", "SetWriteDeadline", "Hijack"}
	if got := flush.Inspect(everything{}).Layers[0].Methods; !slices.Equal(got, want) {
		t.Errorf("methods %v, want %v", got, want)
	}
}

// Where Flush says that a flush is not supported, Inspect does not say that it
// is passed on, and the other way round.
func TestInspectAgreesWithFlush(t *testing.T) {
	for name, w := range map[string]http.ResponseWriter{
		"nil":                  nil,
		"a writer over nil":    onlyUnwrap{},
		"two":                  onlyUnwrap{onlyUnwrap{}},
		"one without end":      endless{},
		"a writer that cannot": sealed{httptest.NewRecorder()},
		"one that can":         writerThatFlushes{},
		"one below":            onlyUnwrap{writerThatFlushes{}},
	} {
		f := flush.New(w, nil, nil)
		g := flush.New(w, nil, nil)
		g.StartBuffer(&flush.BufferOptions{FollowFlush: true})
		for what, w := range map[string]http.ResponseWriter{name: w, name + ", a Flusher": f, name + ", a Flusher with a buffer": g} {
			err := flush.Flush(w, true)
			r := flush.Inspect(w)
			if errors.Is(err, http.ErrNotSupported) != (r.Fate == flush.FateSwallowed || w == nil) {
				t.Errorf("%s: Flush says %v; %v", what, err, r)
			}
		}
		f.Abort(nil)
		g.Abort(nil)
	}
}

type writerThatFlushes struct{ http.ResponseWriter }

func (writerThatFlushes) Header() http.Header         { return http.Header{} }
func (writerThatFlushes) Write(p []byte) (int, error) { return len(p), nil }
func (writerThatFlushes) WriteHeader(int)             {}
func (writerThatFlushes) FlushError() error           { return nil }

type panickyWriter struct{ http.ResponseWriter }

func (panickyWriter) Unwrap() http.ResponseWriter { panic("half built") }

func TestInspectDoesNotPanic(t *testing.T) {
	if s := flush.Inspect(onlyUnwrap{panickyWriter{}}).String(); !strings.Contains(s, "half built") {
		t.Errorf("%q", s)
	}
}

// Each server's own writer, as a handler meets it, with and without a Flusher
// on it.
func TestInspectServers(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		reports := make(chan flush.Report, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reports <- flush.Inspect(w) })
		mux := http.NewServeMux()
		mux.Handle("/bare", h)
		mux.Handle("/wrapped", flush.NewHandler(h, nil))
		srv := harness.Serve(t, p, mux)
		var special string
		switch p {
		case harness.HTTP10:
			special = "HTTP/1.0"
		case harness.HTTP2:
			special = "frame writer"
		}
		for _, path := range []string{"/bare", "/wrapped"} {
			for _, method := range []string{"GET", "HEAD"} {
				harness.Open(t, srv, method, path, nil).ExpectEnd("")
				r := <-reports
				if r.Fate != flush.FatePassed {
					t.Errorf("%s %s: %v", method, path, r)
				}
				says := special
				if method == "HEAD" {
					says = "HEAD"
				}
				if !strings.Contains(r.String(), says) || strings.Contains(r.String(), "HEAD") != (method == "HEAD") {
					t.Errorf("%s %s: does not say %q: %v", method, path, says, r)
				}
				if got := r.Layers[0].Type == "*flush.Flusher"; got != (path == "/wrapped") {
					t.Errorf("%s %s: %v", method, path, r)
				}
			}
		}
	})
}

func TestInspectTimeoutHandler(t *testing.T) {
	var r flush.Report
	h := http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r = flush.Inspect(w)
	}), time.Minute, "")
	harness.Open(t, harness.Serve(t, harness.HTTP1, h), "GET", "/", nil).ExpectEnd("")
	if r.Fate != flush.FateSwallowed || !strings.Contains(r.String(), "http.TimeoutHandler") {
		t.Errorf("%v", r)
	}
}

func TestInspectFlusher(t *testing.T) {
	request := func(method string, minor int) *http.Request {
		r := httptest.NewRequest(method, "/", nil)
		r.ProtoMinor = minor
		return r
	}
	for _, test := range []struct {
		name string
		opts *flush.Options
		r    *http.Request
		do   func(*flush.Flusher)
		fate flush.Fate // of the Flusher
		says string
	}{
		{"plain", nil, request("GET", 1), nil, flush.FatePassed, ""},
		{"no request", nil, nil, nil, flush.FatePassed, ""},
		{"HEAD", nil, request("HEAD", 1), nil, flush.FatePassed, "HEAD"},
		{"HTTP/1.0 buffering", &flush.Options{HTTP10Buffer: 1234}, request("GET", 0), nil, flush.FateSwallowed, "1234"},
		{"no HTTP/1.0 buffering", nil, request("GET", 0), nil, flush.FatePassed, ""},
		{"off", &flush.Options{Flush: flush.Off}, request("GET", 1), nil, flush.FateSwallowed, "Options.Flush is Off"},
		{"async", &flush.Options{Flush: flush.Async}, request("GET", 1), nil, flush.FatePassed, "Async"},
		{"ended", nil, request("GET", 1), func(f *flush.Flusher) { f.Close() }, flush.FateSwallowed, "has ended"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := flush.New(httptest.NewRecorder(), test.r, test.opts)
			if test.do != nil {
				test.do(f)
			}
			r := flush.Inspect(f)
			if l := r.Layers[0]; l.Fate != test.fate || !strings.Contains(l.Note, test.says) || test.says == "" && l.Note != "" {
				t.Errorf("%v %q, want %v and %q", l.Fate, l.Note, test.fate, test.says)
			}
			f.Close()
		})
	}
}

func TestInspectRequestBody(t *testing.T) {
	reports := make(chan flush.Report, 2)
	srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reports <- flush.Inspect(w)
		io.Copy(io.Discard, r.Body)
		reports <- flush.Inspect(w)
	}), nil))
	harness.Open(t, srv, "POST", "/", strings.NewReader("upload")).ExpectEnd("")
	if r := <-reports; !strings.Contains(r.String(), "request body") {
		t.Errorf("before reading: %v", r)
	}
	if r := <-reports; strings.Contains(r.String(), "request body") {
		t.Errorf("after reading: %v", r)
	}
}

func TestInspectBuffers(t *testing.T) {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	f.StartBuffer(&flush.BufferOptions{Name: "fixed", NoFlush: true, FollowFlush: true})
	f.StartBuffer(&flush.BufferOptions{Name: "follows", FollowFlush: true})
	b := f.StartBuffer(nil)
	io.WriteString(f, "held")
	r := flush.Inspect(onlyUnwrap{f})
	var got []string
	for _, l := range r.Layers {
		got = append(got, fmt.Sprintf("%s: %v", l.Type, l.Fate))
	}
	want := []string{"flush_test.onlyUnwrap: passed on", "*flush.Flusher: passed on", "buffer: swallowed",
		`buffer "follows": passed on`, `buffer "fixed": swallowed`, "*httptest.ResponseRecorder: swallowed"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if s := r.String(); !strings.Contains(s, "it holds 4 bytes") || !strings.Contains(s, "FollowFlush") || !strings.Contains(s, "NoFlush") {
		t.Errorf("%s", s)
	}
	if b.Len() != 4 {
		t.Error("Inspect moved what the buffer held")
	}
}

// The methods are told apart.
func TestInspectMethods(t *testing.T) {
	type (
		flushErrorer   interface{ FlushError() error }
		readDeadliner  interface{ SetReadDeadline(time.Time) error }
		writeDeadliner interface{ SetWriteDeadline(time.Time) error }
		below          = http.ResponseWriter
	)
	for want, w := range map[string]http.ResponseWriter{
		"":       sealed{},
		"Unwrap": onlyUnwrap{},
		"Flush": struct {
			below
			http.Flusher
		}{},
		"FlushError": struct {
			below
			flushErrorer
		}{},
		"SetReadDeadline": struct {
			below
			readDeadliner
		}{},
		"SetWriteDeadline": struct {
			below
			writeDeadliner
		}{},
		"Hijack": struct {
			below
			http.Hijacker
		}{},
	} {
		if got := strings.Join(flush.Inspect(w).Layers[0].Methods, " "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A filter that has failed is passed by, and the buffer says so.
func TestInspectFailedFilter(t *testing.T) {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Abort(nil)
	b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) { return p, harness.ErrBoom }})
	io.WriteString(f, "x")
	b.Flush()
	if l := flush.Inspect(f).Layers[1]; l.Fate != flush.FatePassed || !strings.Contains(l.Note, "has failed") {
		t.Errorf("%+v", l)
	}
}

// What a response that is over says of a flush.
func TestInspectOver(t *testing.T) {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	f.Abort(harness.ErrBoom)
	if l := flush.Inspect(f).Layers[0]; l.Fate != flush.FateSwallowed || !strings.Contains(l.Note, "It has failed: boom") {
		t.Errorf("%+v", l)
	}
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		f := harness.Flusher(w)
		c, _, err := f.Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if l := flush.Inspect(f).Layers[0]; l.Fate != flush.FateSwallowed || !strings.Contains(l.Note, "hijacked") {
			t.Errorf("%+v", l)
		}
	}))
	harness.Open(t, srv, "GET", "/", nil).Rest()
}

func TestInspectOutput(t *testing.T) {
	for name, out := range map[string]io.Writer{"plain": io.Discard, "with deadlines": new(net.TCPConn)} {
		f := flush.NewOutput(out, nil)
		r := flush.Inspect(f)
		if last := r.Layers[len(r.Layers)-1]; r.Fate != flush.FatePassed || !strings.Contains(last.Note, "plain output") {
			t.Errorf("%s: %v", name, r)
		}
		f.Abort(nil)
	}
}

func TestFateString(t *testing.T) {
	for f, want := range map[flush.Fate]string{
		flush.FateUnknown: "unknown", flush.FatePassed: "passed on", flush.FateErrorLost: "error lost",
		flush.FateSwallowed: "swallowed", 9: "Fate(9)",
	} {
		if f.String() != want {
			t.Errorf("%q, want %q", f, want)
		}
	}
}

func ExampleInspect() {
	h := http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println(flush.Inspect(w))
	}), time.Minute, "")
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	// Output:
	// A flush of *http.timeoutWriter: swallowed by *http.timeoutWriter. Layer 1, *http.timeoutWriter (methods: none of interest): swallowed. http.TimeoutHandler holds the whole response until the handler returns. Keep it off handlers that stream.
}
