package php_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// conformanceFile returns the case file: the one that FLUSH_CONFORMANCE names,
// else the shared one beside a checkout, else the copy in testdata.
func conformanceFile() string {
	if name := os.Getenv("FLUSH_CONFORMANCE"); name != "" {
		return name
	}
	const shared = "../../../../shared/conformance/php.json"
	if _, err := os.Stat(shared); err == nil {
		return shared
	}
	return "../../../testdata/php.json"
}

// phpCase is one case of the file; testdata/php-conformance.md has the format.
type phpCase struct {
	Name    string
	Group   string
	SAPI    string
	Method  string
	Options struct {
		OutputBuffering int  `json:"output_buffering"`
		ImplicitFlush   bool `json:"implicit_flush"`
	}
	Steps  []phpStep
	Expect phpExpect
}

type phpStep struct {
	Op      string
	Data    any // a string, or a list of strings for echo_list
	Repeat  *int
	Name    string
	Value   string
	Replace *bool
	Code    int
	On      bool
	Handler string
	Chunk   int
	Flags   *[]string
	Full    bool

	follow bool // FollowFlush, for FuzzBuffers
}

type phpExpect struct {
	Body      string
	Results   []any
	Emissions []emission
	Trace     [][]any
	Calls     [][]any
	Thrown    [][]any
	Stopped   *int
	HTTP      *struct {
		Status  int
		Headers map[string][]string
	}
}

type emission struct {
	After       int
	HeadersSent bool `json:"headers_sent"`
	Bytes       string
}

func loadConformance(t testing.TB, name string) []phpCase {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Format int
		PHP    string
		Cases  []phpCase
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if file.Format != 1 || len(file.Cases) == 0 {
		t.Fatalf("%s: format %d with %d cases", name, file.Format, len(file.Cases))
	}
	return file.Cases
}

// TestPHPConformance lets each case run on a Flusher and on the model. Both
// must do the same, and what PHP did, save for what the rules of
// testdata/php-differences.md take out.
func TestPHPConformance(t *testing.T) {
	used := map[string]int{}
	for _, c := range loadConformance(t, conformanceFile()) {
		t.Run(c.Name, func(t *testing.T) {
			got := runCase(t, c, false)
			diffOutcomes(t, "model", runCase(t, c, true), got)

			want := phpOutcome(c)
			for _, r := range differences {
				from := r.from(c)
				if from < 0 {
					continue
				}
				used[r.name]++
				t.Logf("rule from step %d: %s", from, r.name)
				want.mask(from, r.of)
				got.mask(from, r.of)
			}
			if c.Expect.Trace == nil {
				want.mask(0, ofTrace|ofStatus)
				got.mask(0, ofTrace|ofStatus)
			}
			if want.Headers == nil {
				got.Headers = nil // a client that has gone saw none
			}
			if stopped := c.Expect.Stopped; stopped != nil && (c.Steps[*stopped].Op == "ob_flush" || c.firstCall("flusher") >= 0) {
				// PHP's stack stays as the client's going left it, half way
				// through the operation, and not every filter gets its end.
				want.mask(len(c.Steps), ofCalls)
				got.mask(len(c.Steps), ofCalls)
			}
			diffOutcomes(t, "PHP", want, got)
		})
	}
	for name, n := range used {
		t.Logf("%d cases under the rule: %s", n, name)
	}
}

// aspect is something that a case shows.
type aspect uint8

const (
	ofResults aspect = 1 << iota
	ofBytes          // what was handed to the server, and when
	ofTrace          // in which calls
	ofSent           // when the headers went out
	ofStatus
	ofHeaders
	ofCalls // of filters
	ofThrown
	ofAll aspect = 1<<iota - 1
)

// differences are the rules under which we differ from PHP by intent. from
// returns the first step that a rule touches, or -1. They go by what a case
// does, never by its name.
var differences = []struct {
	name string
	of   aspect
	from func(phpCase) int
}{
	{
		"a filter writes", ofResults | ofBytes | ofTrace | ofSent | ofStatus | ofHeaders | ofCalls,
		func(c phpCase) int { return c.firstCall("noisy", "noisyfalse") },
	},
	{
		"a filter works on the stack", ofAll,
		func(c phpCase) int { return c.firstCall("reenter", "reread") },
	},
	{
		"the status is set twice", ofStatus | ofHeaders,
		func(c phpCase) int {
			code := 0
			for i, s := range c.Steps {
				switch {
				case s.Op == "status" && code != 0, s.Op == "throw" && code == http.StatusOK:
					return i
				case s.Op == "status":
					code = s.Code
				}
			}
			return -1
		},
	},
	{
		"a filter panics during unwinding", ofAll,
		func(c phpCase) int {
			for _, call := range c.Expect.Calls {
				if call[1] == "throw" && int(call[0].(float64)) == len(c.Steps) {
					return len(c.Steps)
				}
			}
			return -1
		},
	},
	{
		"a filter panics above one that its data makes run", ofAll,
		func(c phpCase) int {
			chunked, above := false, len(c.Steps) // above: where one that throws is put on a chunked one
			for i, s := range c.Steps {
				if chunked && s.Handler == "throw" {
					above = min(above, i)
				}
				chunked = chunked || s.Chunk > 0 && s.Handler != ""
			}
			for _, call := range c.Expect.Calls {
				if step := int(call[0].(float64)); call[1] == "throw" && step > above {
					return step
				}
			}
			return -1
		},
	},
	{
		"headers are set after the status", ofHeaders,
		func(c phpCase) int {
			set := false
			for i, s := range c.Steps {
				if set && strings.HasPrefix(s.Op, "header") && s.Op != "headers_sent" {
					return i
				}
				set = set || s.Op == "status"
			}
			return -1
		},
	},
	{
		"the request is HEAD", ofBytes | ofTrace,
		func(c phpCase) int {
			if c.Method == http.MethodHead {
				return 0
			}
			return -1
		},
	},
	{
		"the status allows no body", ofResults | ofBytes | ofTrace | ofSent,
		func(c phpCase) int {
			for i, s := range c.Steps {
				if s.Op == "status" && (s.Code < 200 || s.Code == 204 || s.Code == 304) {
					return i
				}
			}
			return -1
		},
	},
}

// firstCall returns the step in which one of the handlers ran first, or -1.
func (c phpCase) firstCall(handlers ...string) int {
	for _, call := range c.Expect.Calls {
		if slices.Contains(handlers, call[1].(string)) {
			return int(call[0].(float64))
		}
	}
	return -1
}

// outcome is what a case did, step by step. The last step is the end.
type outcome struct {
	Body     string
	Results  []any
	Bytes    []string
	Trace    [][]string
	Sent     []bool
	Calls    [][][]any
	Thrown   []string
	Headers  map[string][]string
	Statuses []int
}

func newOutcome(steps int) *outcome {
	n := steps + 1
	return &outcome{
		Results:  make([]any, n),
		Bytes:    make([]string, n),
		Trace:    make([][]string, n),
		Sent:     make([]bool, n),
		Calls:    make([][][]any, n),
		Thrown:   make([]string, n),
		Statuses: make([]int, n),
	}
}

// mask takes out what differs from a step on.
func (o *outcome) mask(from int, of aspect) {
	if of&ofResults != 0 {
		clear(o.Results[from:])
	}
	if of&ofBytes != 0 {
		o.Body = ""
		clear(o.Bytes[from:])
	}
	if of&ofTrace != 0 {
		clear(o.Trace[from:])
	}
	if of&ofSent != 0 {
		clear(o.Sent[from:])
	}
	if of&ofStatus != 0 {
		clear(o.Statuses[from:])
	}
	if of&ofCalls != 0 {
		clear(o.Calls[from:])
	}
	if of&ofThrown != 0 {
		clear(o.Thrown[from:])
	}
	if of&ofHeaders != 0 {
		o.Headers = nil
	}
}

// phpOutcome is what PHP did.
func phpOutcome(c phpCase) *outcome {
	e := c.Expect
	o := newOutcome(len(c.Steps))
	copy(o.Results, e.Results)
	o.Body = e.Body
	sent := false
	for i := range o.Sent {
		for _, m := range e.Emissions {
			if m.After == i {
				o.Bytes[i], sent = m.Bytes, m.HeadersSent
			}
		}
		o.Sent[i] = sent
	}
	begun := false
	for _, event := range e.Trace {
		i := int(event[0].(float64))
		what := event[1].(string)
		switch {
		case what == "headers":
			o.Statuses[i] = int(event[2].(float64))
			begun = true
		case what == "write":
			what += " " + event[2].(string)
			begun = true
		case !begun:
			continue // an output that has got nothing is not flushed
		}
		o.Trace[i] = append(o.Trace[i], what)
	}
	for _, call := range e.Calls {
		i := int(call[0].(float64))
		o.Calls[i] = append(o.Calls[i], call[1:])
	}
	for _, th := range e.Thrown {
		o.Thrown[int(th[0].(float64))] = th[1].(string)
	}
	if e.HTTP != nil {
		o.Headers = e.HTTP.Headers
	}
	return o
}

func diffOutcomes(t *testing.T, name string, want, got *outcome) {
	t.Helper()
	w, g := reflect.ValueOf(want).Elem(), reflect.ValueOf(got).Elem()
	for i := range w.NumField() {
		field := w.Type().Field(i).Name
		a, b := w.Field(i), g.Field(i)
		if a.Kind() != reflect.Slice {
			if x, y := asJSON(a.Interface()), asJSON(b.Interface()); x != y {
				t.Errorf("%s: got %s, %s %s", field, y, name, x)
			}
			continue
		}
		for step := range a.Len() {
			if x, y := asJSON(a.Index(step).Interface()), asJSON(b.Index(step).Interface()); x != y {
				t.Errorf("step %d: %s: got %s, %s %s", step, field, y, name, x)
			}
		}
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// latin1 decodes the bytes of a case file, toLatin1 encodes them.
func latin1(s string) []byte {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}

func toLatin1(p []byte) string {
	r := make([]rune, len(p))
	for i, b := range p {
		r[i] = rune(b)
	}
	return string(r)
}

// layer is what the steps of a case work on: a Flusher or the model.
type layer interface {
	io.Writer
	Header() http.Header
	WriteHeader(code int)
	HeadersSent() bool
	FlushError() error
	FlushAll(wait bool) error
	SetImplicit(flush.Mode)
	StartBuffer(*flush.BufferOptions) buffer
	Top() buffer
	Level() int
	Clean() error
	Err() error
	Close() error
}

type buffer interface {
	Flush() error
	Clean() error
	Close() error
	Discard() error
	Bytes() []byte
	Len() int
	Status() flush.BufferStatus
}

// flusherLayer makes a Flusher a layer.
type flusherLayer struct{ *flush.Flusher }

func (f flusherLayer) StartBuffer(o *flush.BufferOptions) buffer { return f.Flusher.StartBuffer(o) }
func (f flusherLayer) Top() buffer {
	if b := f.Flusher.Top(); b != nil {
		return b
	}
	return nil
}

// record is the server below: an http.ResponseWriter, or standard output, that
// writes down what it gets.
type record struct {
	header http.Header // live
	step   int
	out    *outcome
	final  http.Header
	gone   bool // writes and flushes fail
}

func (r *record) trace(what string) {
	r.out.Trace[r.step] = append(r.out.Trace[r.step], what)
}

func (r *record) headers(status int, h http.Header) {
	r.trace("headers")
	r.out.Statuses[r.step] = status
	r.final = h.Clone()
}

func (r *record) write(p []byte) bool {
	if len(p) > 0 && !r.gone {
		r.trace("write " + toLatin1(p))
		r.out.Bytes[r.step] += toLatin1(p)
	}
	return !r.gone
}

func (r *record) flush() bool {
	if !r.gone {
		r.trace("flush")
	}
	return !r.gone
}

// recordWriter is a record as an http.ResponseWriter; without headers and as
// an io.Writer it is the standard output of the CLI.
type recordWriter struct {
	*record
	wrote bool
}

var errDisconnected = errors.New("the client has gone")

func (w *recordWriter) Header() http.Header { return w.header }

func (w *recordWriter) WriteHeader(status int) {
	if !w.wrote && status >= 200 {
		w.wrote = true
		w.headers(status, w.header)
	}
}

func (w *recordWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if !w.write(p) {
		return 0, errDisconnected
	}
	return len(p), nil
}

func (w *recordWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	if !w.record.flush() {
		return errDisconnected
	}
	return nil
}

type recordOutput struct{ *record }

func (w recordOutput) Write(p []byte) (int, error) {
	if !w.write(p) {
		return 0, errDisconnected
	}
	return len(p), nil
}

func (w recordOutput) FlushError() error {
	if !w.flush() {
		return errDisconnected
	}
	return nil
}

// A phpRun runs the steps of a case on a layer.
type phpRun struct {
	layer
	t       testing.TB
	rec     *record
	out     *outcome
	ignore  bool
	stopped bool
	open    []buffer // all that were opened; Level says how many are left
	counts  map[string]int
	mate    func() // another goroutine's flush, for FuzzBuffersAsync
	unsent  func(name, value string)
}

func runCase(t testing.TB, c phpCase, onModel bool) *outcome {
	t.Helper()
	out := newOutcome(len(c.Steps))
	rec := &record{header: http.Header{}, out: out}
	s := &phpRun{t: t, rec: rec, out: out, counts: map[string]int{}}
	cli := c.SAPI == "cli"
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	abort := func() {}
	switch {
	case onModel:
		s.layer = &model{method: method, cli: cli, rec: rec, header: http.Header{}, implicit: cli}
	case cli:
		s.layer = flusherLayer{flush.NewOutput(recordOutput{rec}, &flush.Options{SAPI: flush.CLI(), BufferSize: -1})}
	default:
		r := httptest.NewRequest(method, "/", nil)
		f := flush.New(&recordWriter{record: rec}, r, &flush.Options{BufferSize: -1})
		abort = func() { f.Abort(harness.ErrBoom) }
		s.layer = flusherLayer{f}
	}
	switch {
	case c.Options.OutputBuffering == 1: // either makes PHP ignore the other option
		s.start(phpStep{})
	case c.Options.OutputBuffering > 1:
		s.start(phpStep{Chunk: c.Options.OutputBuffering})
	case c.Options.ImplicitFlush:
		s.SetImplicit(flush.Wait)
	}
	for i, step := range c.Steps {
		rec.step = i
		if !s.stopped {
			out.Results[i] = s.try(i, func() any { return s.do(step) })
			if s.Err() != nil && !s.ignore && !s.stopped {
				s.stopped = true
				out.Results[i] = nil
			}
		}
		out.Sent[i] = s.HeadersSent()
	}
	end := len(c.Steps)
	rec.step = end
	s.try(end, func() any { return s.Close() })
	if out.Thrown[end] != "" {
		abort()
	}
	out.Sent[end] = s.HeadersSent()
	if !cli && rec.final == nil && out.Thrown[end] == "" {
		rec.headers(http.StatusOK, rec.header) // as a server does of itself
	}
	out.Body = strings.Join(out.Bytes, "")
	if !cli {
		out.Headers = map[string][]string{}
		for _, step := range c.Steps {
			if step.Op == "header" || step.Op == "header_remove" {
				out.Headers[step.Name] = append([]string{}, rec.final.Values(step.Name)...)
			}
			if step.Handler == "header" {
				out.Headers["X-Handler"] = append([]string{}, rec.final.Values("X-Handler")...)
			}
		}
	}
	return out
}

// try notes the panic of a filter that throws, and lets others through.
func (s *phpRun) try(step int, do func() any) (result any) {
	defer func() {
		if v := recover(); v == harness.ErrBoom {
			s.out.Thrown[step] = harness.ErrBoom.Error()
			result = nil
		} else if v != nil {
			panic(v)
		}
	}()
	return do()
}

// phpBool is what PHP's function would have returned: false if the buffer was
// left as it was. What its filter or the server below said is not PHP's
// result.
func phpBool(err error) bool {
	return !errors.Is(err, flush.ErrForbidden) && !errors.Is(err, flush.ErrReentrant) &&
		!errors.Is(err, flush.ErrNotTop) && !errors.Is(err, flush.ErrBufferClosed)
}

// do runs one step and returns PHP's result.
func (s *phpRun) do(step phpStep) any {
	top := s.Top()
	// onTop is for functions that fail without a buffer.
	onTop := func(f func() any) any {
		if top == nil {
			return false
		}
		return f()
	}
	switch step.Op {
	case "echo":
		n := 1
		if step.Repeat != nil {
			n = *step.Repeat
		}
		s.Write(bytes.Repeat(latin1(step.Data.(string)), n))
	case "echo_list":
		for _, data := range step.Data.([]any) {
			s.Write(latin1(data.(string)))
		}
	case "header":
		if step.Replace != nil && !*step.Replace {
			s.Header().Add(step.Name, step.Value)
		} else {
			s.Header().Set(step.Name, step.Value)
		}
	case "header_remove":
		s.Header().Del(step.Name)
	case "status":
		s.WriteHeader(step.Code)
	case "headers_sent":
		return s.HeadersSent()
	case "flush":
		s.FlushError()
	case "implicit_flush":
		if step.On {
			s.SetImplicit(flush.Wait)
		} else {
			s.SetImplicit(flush.Off)
		}
	case "ob_start":
		return s.start(step)
	case "ob_flush":
		return onTop(func() any { return phpBool(top.Flush()) })
	case "ob_clean":
		return onTop(func() any { return phpBool(top.Clean()) })
	case "ob_end_flush":
		return onTop(func() any { return phpBool(top.Close()) })
	case "ob_end_clean":
		return onTop(func() any { return phpBool(top.Discard()) })
	case "ob_get_clean":
		return onTop(func() any { p := top.Bytes(); top.Discard(); return toLatin1(p) })
	case "ob_get_flush":
		return onTop(func() any { p := top.Bytes(); top.Close(); return toLatin1(p) })
	case "ob_get_contents":
		return onTop(func() any { return toLatin1(top.Bytes()) })
	case "ob_get_length":
		return onTop(func() any { return top.Len() })
	case "ob_get_level":
		return s.Level()
	case "ob_list_handlers":
		names := []string{}
		for _, b := range s.buffers() {
			names = append(names, b.Status().Name)
		}
		return names
	case "ob_get_status":
		all := []any{}
		for _, b := range s.buffers() {
			all = append(all, phpStatus(b.Status()))
		}
		if n := len(all); n > 0 && !step.Full {
			return all[n-1]
		}
		return all
	case "ignore_user_abort":
		s.ignore = step.On
	case "connection_aborted":
		return s.Err() != nil
	case "disconnect":
		s.rec.gone = true
	case "exit":
		s.stopped = true
	case "throw":
		// A handler that fails says so, as far as it still can.
		s.WriteHeader(http.StatusInternalServerError)
		s.stopped = true
	default:
		if result, ok := s.doMore(step); ok {
			return result
		}
		s.t.Fatalf("unknown op %q", step.Op)
	}
	return nil
}

const defaultHandler = "default output handler"

func (s *phpRun) start(step phpStep) bool {
	o := &flush.BufferOptions{Name: defaultHandler, ChunkSize: step.Chunk, FollowFlush: step.follow}
	if step.Handler != "" {
		o.Name = step.Handler
		o.Filter = s.filter(step.Handler)
	}
	if step.Flags != nil {
		o.NoClean = !slices.Contains(*step.Flags, "cleanable")
		o.NoFlush = !slices.Contains(*step.Flags, "flushable")
		o.NoRemove = !slices.Contains(*step.Flags, "removable")
	}
	before := s.buffers()
	b := s.StartBuffer(o)
	s.open = append(before, b)
	return s.Top() == b
}

// buffers returns the open buffers, the lowest first.
func (s *phpRun) buffers() []buffer {
	s.open = slices.DeleteFunc(s.open, func(b buffer) bool { return b.Status().Level < 0 })
	if n := s.Level(); n != len(s.open) {
		s.t.Errorf("Level is %d with %d buffers open", n, len(s.open))
	}
	return s.open
}

func phpStatus(s flush.BufferStatus) any {
	flags := []string{}
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"cleanable", !s.NoClean},
		{"flushable", !s.NoFlush},
		{"removable", !s.NoRemove},
		{"started", s.Started},
		{"disabled", s.Disabled},
		{"processed", s.Processed},
	} {
		if f.on {
			flags = append(flags, f.name)
		}
	}
	return map[string]any{
		"name":        s.Name,
		"user":        s.Name != defaultHandler,
		"level":       s.Level,
		"chunk_size":  s.ChunkSize,
		"buffer_used": s.Len,
		"flags":       flags,
	}
}

// filter returns the handler of that name.
func (s *phpRun) filter(name string) flush.Filter {
	return func(p []byte, phase flush.Phase) ([]byte, error) {
		flags := harness.PhaseNames(phase)
		step := s.rec.step
		s.out.Calls[step] = append(s.out.Calls[step], []any{name, flags, toLatin1(p)})
		s.counts[name]++
		bracket := func(p []byte) []byte { return fmt.Appendf(nil, "[%s]", p) }
		switch name {
		case "upper":
			up := bytes.Clone(p)
			for i, c := range up {
				if 'a' <= c && c <= 'z' {
					up[i] -= 'a' - 'A'
				}
			}
			return up, nil
		case "bracket":
			return bracket(p), nil
		case "count":
			return fmt.Appendf(nil, "%d:%s;", s.counts[name], p), nil
		case "flags":
			return fmt.Appendf(nil, "[%s:%s]", flags, p), nil
		case "zero":
			return []byte("0"), nil
		case "null", "empty", "true":
			return nil, nil
		case "false":
			return nil, harness.ErrFilter
		case "false1":
			if s.counts[name] == 1 {
				return nil, harness.ErrFilter
			}
			return fmt.Appendf(nil, "[%s:%s]", flags, p), nil
		case "noisy":
			s.Write([]byte("noise"))
			return bracket(p), nil
		case "noisyfalse":
			s.Write([]byte("noise"))
			return nil, harness.ErrFilter
		case "peek":
			return fmt.Appendf(nil, "<%d,%d>%s", s.Level(), s.Top().Len(), p), nil
		case "flusher":
			s.FlushError()
			return p, nil
		case "mate", "header":
			unsent := !s.HeadersSent()
			if name == "mate" {
				s.mate()
				if unsent && s.HeadersSent() && s.unsent != nil {
					s.t.Error("another goroutine sent the headers while a filter ran")
				}
			}
			if unsent && s.unsent != nil {
				s.unsent("X-Handler", flags)
			}
			s.Header().Set("X-Handler", flags)
			return p, nil
		case "reenter":
			level := s.Level()
			b := s.StartBuffer(&flush.BufferOptions{})
			if err := b.Flush(); !errors.Is(err, flush.ErrReentrant) || s.Level() != level {
				s.t.Errorf("StartBuffer in a filter: %v, and Level is %d after %d", err, s.Level(), level)
			}
			return p, nil
		case "reread":
			top := s.Top()
			before := top.Len()
			if err := top.Discard(); !errors.Is(err, flush.ErrReentrant) || top.Len() != before {
				s.t.Errorf("Discard in a filter: %v, and %d bytes are left of %d", err, top.Len(), before)
			}
			return p, nil
		case "throw":
			panic(harness.ErrBoom)
		}
		s.t.Errorf("unknown handler %q", name)
		return nil, nil
	}
}
