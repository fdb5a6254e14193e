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

// tryWrite is TryWrite, where there is one.
func tryWrite(f *flush.Flusher, p []byte) error {
	if w, ok := any(f).(interface{ TryWrite(p []byte) error }); ok {
		return w.TryWrite(p)
	}
	return errors.New("there is no TryWrite")
}

// Whichever way output comes onto floor 2, it waits for a flush no longer
// than FlushInterval, and not at all with implicit flush; headers that
// WriteHeader has fixed are output, too.
func TestIntervalOfEveryWayIn(t *testing.T) {
	const d = 50 * time.Millisecond
	wrote := func(_ int, err error) error { return err }
	copied := func(_ int64, err error) error { return err }
	for _, way := range []struct {
		name string
		n    int // bytes to come
		do   func(t *testing.T, f *flush.Flusher) error
	}{
		{"Write", 1000, func(_ *testing.T, f *flush.Flusher) error { return wrote(f.Write(make([]byte, 1000))) }},
		{"WriteString", 1, func(_ *testing.T, f *flush.Flusher) error { return wrote(f.WriteString("x")) }},
		{"small writes", 3000, func(_ *testing.T, f *flush.Flusher) error {
			var err error
			for range 30 {
				err = errors.Join(err, wrote(f.Write(make([]byte, 100))))
			}
			return err
		}},
		{"large Write", 10_001, func(_ *testing.T, f *flush.Flusher) error { return wrote(f.Write(make([]byte, 10_001))) }},
		{"TryWrite", 1000, func(_ *testing.T, f *flush.Flusher) error { return tryWrite(f, make([]byte, 1000)) }},
		{"ReadFrom a file", 1000, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return copied(f.ReadFrom(file))
		}},
		{"io.Copy of a file", 1000, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return copied(io.Copy(f, file))
		}},
		{"io.CopyN of a file", 700, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return copied(io.CopyN(f, file, 700))
		}},
		{"a large file", 100_001, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 100_001)
			return copied(io.Copy(f, file))
		}},
		{"a file behind a Write", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(wrote(f.Write(make([]byte, 10))), copied(io.Copy(f, file)))
		}},
		{"a file before a Write", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(copied(io.Copy(f, file)), wrote(f.Write(make([]byte, 10))))
		}},
		{"a file behind a flush", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(wrote(f.Write(make([]byte, 10))), f.FlushWait(harness.NoContext), copied(io.Copy(f, file)))
		}},
		{"a file behind an asynchronous flush", 1010, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			return errors.Join(wrote(f.Write(make([]byte, 10))), f.FlushAsync(), copied(io.Copy(f, file)))
		}},
		{"ReadFrom a reader", 1000, func(_ *testing.T, f *flush.Flusher) error {
			return copied(f.ReadFrom(strings.NewReader(harness.Numbered(1000))))
		}},
		{"Buffer.Flush", 1000, func(_ *testing.T, f *flush.Flusher) error {
			b := f.StartBuffer(nil)
			return errors.Join(wrote(f.Write(make([]byte, 1000))), b.Flush())
		}},
		{"Buffer.Close", 1000, func(_ *testing.T, f *flush.Flusher) error {
			b := f.StartBuffer(nil)
			return errors.Join(wrote(f.Write(make([]byte, 1000))), b.Close())
		}},
		{"ChunkSize", 1000, func(_ *testing.T, f *flush.Flusher) error {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 100})
			return wrote(f.Write(make([]byte, 1000)))
		}},
		{"two buffers", 1000, func(_ *testing.T, f *flush.Flusher) error {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 100})
			b := f.StartBuffer(nil)
			return errors.Join(wrote(f.Write(make([]byte, 1000))), b.Flush())
		}},
		{"a filter's own write", 5, func(_ *testing.T, f *flush.Flusher) error {
			b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				if len(p) == 3 {
					io.WriteString(f, "de")
				}
				return p, nil
			}})
			return errors.Join(wrote(f.WriteString("abc")), b.Flush())
		}},
		{"a file through a buffer", 1000, func(t *testing.T, f *flush.Flusher) error {
			file, _ := harness.TempFile(t, 1000)
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1})
			return copied(io.Copy(f, file))
		}},
		{"headers", 0, func(_ *testing.T, f *flush.Flusher) error { f.WriteHeader(202); return nil }},
		{"headers of an error", 0, func(_ *testing.T, f *flush.Flusher) error { f.WriteHeader(404); return nil }},
		{"headers without a body", 0, func(_ *testing.T, f *flush.Flusher) error { f.WriteHeader(204); return nil }},
	} {
		for _, mode := range []struct {
			name     string
			opts     flush.Options
			implicit bool
		}{
			{"interval", flush.Options{FlushInterval: d}, false},
			{"asynchronous interval", flush.Options{FlushInterval: d, Flush: flush.Async}, false},
			{"interval, every write moves", flush.Options{FlushInterval: d, BufferSize: -1}, false},
			{"implicit wait", flush.Options{Implicit: flush.Wait}, true},
			{"implicit ask", flush.Options{Implicit: flush.Async}, true},
		} {
			if way.n == 0 && mode.implicit {
				continue // setting headers never flushes
			}
			t.Run(way.name+"/"+mode.name, func(t *testing.T) {
				edges(t, func(t *testing.T, p harness.Proto) {
					clock := harness.NewClock()
					srv := harness.ServeMemory(t, p, harness.Wrapped(&mode.opts, func(w http.ResponseWriter, _ *http.Request) {
						f := harness.Flusher(w)
						for range 2 { // silence, and again
							if err := way.do(t, f); err != nil {
								t.Error(err)
							}
							<-time.After(time.Hour)
							if f.Top() != nil {
								f.Top().Close()
							}
						}
					}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					s.Header()
					by := clock.Now()
					if way.n > 0 {
						s.Take(way.n)
						by = clock.Now()
					}
					if mode.implicit && by != 0 || by > d {
						t.Errorf("%d bytes have come after %v", way.n, by)
					}
					if way.n > 0 {
						clock.Until(max(by, time.Hour))
						s.Take(way.n)
						if again := clock.Now() - time.Hour; by <= d && (mode.implicit && again != 0 || again > d) {
							t.Errorf("the second time %d bytes have come after %v", way.n, again)
						}
					}
					synctest.Wait() // the last byte comes before its Write returns
					s.Leave()
					<-time.After(2 * time.Hour)
				})
			})
		}
	}
}

// The twin: without either nothing comes before its time.
func TestNoIntervalHoldsWhatIsWritten(t *testing.T) {
	edges(t, func(t *testing.T, p harness.Proto) {
		clock := harness.NewClock()
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			w.Write(make([]byte, 1000))
			<-time.After(time.Hour)
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Header()
		if s.Take(1000); clock.Now() != time.Hour {
			t.Errorf("it came after %v", clock.Now())
		}
		s.ExpectEnd("")
	})
}
