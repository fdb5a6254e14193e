package flush_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// What is written leaves FlushInterval after the oldest byte that no flush was
// asked for: not a nanosecond before, not one after.
func TestIntervalExact(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		const d = 100 * time.Millisecond
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			began := time.Now()
			at := func(x time.Duration) { <-time.After(time.Until(began.Add(x))) }
			io.WriteString(w, "a")
			at(d / 2)
			io.WriteString(w, "b") // leaves with the a
			at(2 * d)
			io.WriteString(w, "c")
			at(2*d + d/2)
			flush.Flush(w, false)
			io.WriteString(w, "d") // counts anew
			at(10 * d)
			io.WriteString(w, "e")
			at(12 * d)
		}), &flush.Options{FlushInterval: d}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		began := time.Now()
		for _, step := range []struct {
			want string
			at   time.Duration
		}{{"ab", d}, {"c", 2*d + d/2}, {"d", 3*d + d/2}, {"e", 11 * d}} {
			s.Expect(step.want)
			if at := time.Since(began); at != step.at {
				t.Errorf("%q after %v, want %v", step.want, at, step.at)
			}
		}
		s.ExpectEnd("")
	})
}

// The timer must arm again whatever became of the bytes it was armed for.
func TestIntervalArmsAgain(t *testing.T) {
	const d = time.Second
	for name, before := range map[string]func(f *flush.Flusher){
		"nothing": func(*flush.Flusher) {},
		"Clean": func(f *flush.Flusher) {
			io.WriteString(f, "half a page")
			f.Clean()
		},
		"Clean and silence": func(f *flush.Flusher) {
			io.WriteString(f, "half a page")
			f.Clean()
			<-time.After(5 * d)
		},
		"FlushAsync": func(f *flush.Flusher) {
			io.WriteString(f, "half a page")
			f.FlushAsync()
			<-time.After(5 * d)
		},
		"FlushWait": func(f *flush.Flusher) {
			io.WriteString(f, "half a page")
			f.FlushWait(context.Background())
		},
		"a large write": func(f *flush.Flusher) {
			f.Write(make([]byte, 20000))
			<-time.After(5 * d)
		},
		"many small writes": func(f *flush.Flusher) {
			for range 5000 {
				f.Write([]byte("x"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{FlushInterval: d})
				before(f)
				synctest.Wait()
				held := f.Buffered()
				harness.MustWrite(t, f, "!")
				<-time.After(d - 1)
				synctest.Wait()
				if held == 0 && f.Buffered() != 1 {
					t.Errorf("%d bytes held before the interval is over", f.Buffered())
				}
				<-time.After(1)
				synctest.Wait()
				if at, _ := s.LastFlush(); f.Buffered() != 0 || at != len(s.Body()) {
					t.Errorf("%d bytes held after the interval, %d of %d flushed", f.Buffered(), at, len(s.Body()))
				}
				harness.Must(t, f.Close())
			})
		})
	}
}

// A response that was held for HTTP/1.0 and outgrew that streams by time.
func TestIntervalAfterHTTP10Buffering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		r := httptest.NewRequest("GET", "/", nil)
		r.ProtoMinor = 0
		f := flush.New(harness.DeadlineSink{Sink: s}, r, &flush.Options{FlushInterval: time.Second, HTTP10Buffer: 100})
		harness.MustWrite(t, f, "held")
		<-time.After(time.Hour)
		if s.Body() != "" {
			t.Fatalf("sent %q", s.Body())
		}
		f.Write(make([]byte, 200))
		<-time.After(time.Second)
		synctest.Wait()
		if at, _ := s.LastFlush(); at != 204 {
			t.Errorf("%d bytes flushed, %d held", at, f.Buffered())
		}
		harness.Must(t, f.Close())
	})
}

// A flush by time counts as one asked for, and none is done when nothing waits.
func TestIntervalIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{FlushInterval: time.Second})
		harness.MustWrite(t, f, "a")
		<-time.After(time.Hour)
		if st := f.Stats(); st.Flushes != 1 || st.Pushes != 1 {
			t.Errorf("%+v", st)
		}
		harness.Must(t, f.Close())
		<-time.After(time.Hour)
		if st := f.Stats(); st.Flushes != 1 || st.Pushes != 1 {
			t.Errorf("after Close: %+v", st)
		}
	})
}
