package flush_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Implicit flush as a script: what the server has seen after each step.
func TestImplicit(t *testing.T) {
	type step struct {
		do   func(f *flush.Flusher)
		want string
	}
	set := func(m flush.Mode) func(*flush.Flusher) { return func(f *flush.Flusher) { f.SetImplicit(m) } }
	put := func(s string) func(*flush.Flusher) {
		return func(f *flush.Flusher) {
			if n, err := f.WriteString(s); n != len(s) || err != nil {
				t.Errorf("%q: %d, %v", s, n, err)
			}
			synctest.Wait() // for the background
		}
	}
	for _, test := range []struct {
		name  string
		opts  flush.Options
		steps []step
	}{
		{"off by default", flush.Options{}, []step{{put("a"), ""}}},
		{"every write", flush.Options{Implicit: flush.Wait}, []step{{put("a"), "200 a flush"}, {put("b"), "200 a flush b flush"}}},
		{"in the background", flush.Options{Implicit: flush.Async}, []step{{put("a"), "200 a flush"}, {put("b"), "200 a flush b flush"}}},
		{"as the SAPI says", flush.Options{SAPI: flush.SAPI{Name: "own", Implicit: flush.Wait}}, []step{{put("a"), "200 a flush"}}},
		{"off where the SAPI says on", flush.Options{SAPI: flush.SAPI{Name: "own", Implicit: flush.Wait}, Implicit: flush.Off}, []step{{put("a"), ""}}},
		{"switching on flushes nothing", flush.Options{}, []step{
			{put("a"), ""}, {set(flush.Wait), ""}, {put("b"), "200 ab flush"},
		}},
		{"switching off", flush.Options{Implicit: flush.Wait}, []step{
			{put("a"), "200 a flush"}, {set(flush.Off), "200 a flush"}, {put("b"), "200 a flush"},
			{set(0), "200 a flush"}, {put("c"), "200 a flush bc flush"},
		}},
		{"another mode", flush.Options{Implicit: flush.Wait}, []step{{set(flush.Async), ""}, {put("a"), "200 a flush"}}},
		{"empty writes and headers", flush.Options{Implicit: flush.Wait}, []step{
			{put(""), ""},
			{func(f *flush.Flusher) { f.Header().Set("X", "1") }, ""},
			{func(f *flush.Flusher) { f.WriteHeader(201) }, ""},
			{func(f *flush.Flusher) { f.Write(nil) }, ""},
			{func(f *flush.Flusher) { f.ReadFrom(strings.NewReader("")) }, ""},
		}},
		{"control characters", flush.Options{Implicit: flush.Wait}, []step{
			{put("\x00"), "200 \x00 flush"}, {put("\n"), "200 \x00 flush \n flush"},
		}},
		{"large writes", flush.Options{Implicit: flush.Wait, BufferSize: 2}, []step{{put("abc"), "200 abc flush"}}},
		{"what a buffer swallows", flush.Options{Implicit: flush.Wait}, []step{
			{func(f *flush.Flusher) { f.StartBuffer(nil) }, ""},
			{put("a"), ""},
			{func(f *flush.Flusher) { f.Top().Flush() }, "200 a flush"},
			{put("b"), "200 a flush"},
			{func(f *flush.Flusher) { f.Top().Discard() }, "200 a flush"},
			{put("c"), "200 a flush c flush"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := harness.NewPlain()
				f := flush.New(harness.Flushable{Plain: p}, nil, &test.opts)
				for i, s := range test.steps {
					s.do(f)
					if got := p.String(); got != s.want {
						t.Fatalf("step %d: server saw %q, want %q", i, got, s.want)
					}
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Only a failure that sticks is an error of the write, and the bytes count as
// accepted all the same.
func TestImplicitErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		make func(p *harness.Plain) http.ResponseWriter
		err  error
	}{
		{"failing", func(p *harness.Plain) http.ResponseWriter { return harness.Failing{Plain: p, Err: broken} }, broken},
		{"unflushable", func(p *harness.Plain) http.ResponseWriter { return p }, nil},
	} {
		f := flush.New(test.make(harness.NewPlain()), nil, &flush.Options{Implicit: flush.Wait})
		n, err := io.WriteString(f, "abc")
		if n != 3 || !errors.Is(err, test.err) || test.err != nil && !errors.Is(err, flush.ErrClientGone) {
			t.Errorf("%s: %d, %v", test.name, n, err)
		}
		if n, err := io.WriteString(f, "def"); !errors.Is(err, test.err) || test.err != nil && n != 0 {
			t.Errorf("%s, next: %d, %v", test.name, n, err)
		}
		if err := f.Close(); !errors.Is(err, test.err) {
			t.Errorf("%s: Close: %v", test.name, err)
		}
	}
}
