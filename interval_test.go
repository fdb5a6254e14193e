package flush_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

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
