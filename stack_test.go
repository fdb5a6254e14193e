package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

func TestBufferFollowFlush(t *testing.T) {
	f, out := newOutput(t)
	f.StartBuffer(&flush.BufferOptions{Filter: named("a"), FollowFlush: true})
	f.StartBuffer(&flush.BufferOptions{Filter: named("b")})
	f.StartBuffer(&flush.BufferOptions{Filter: named("c"), FollowFlush: true})
	f.StartBuffer(&flush.BufferOptions{Filter: named("d"), FollowFlush: true, NoFlush: true})
	f.WriteString("1")
	expectError(t, "FlushWait", f.FlushWait(t.Context()), nil)
	// d keeps what it has; c goes into b, which does not follow.
	expectOutput(t, out, "a(START|FLUSH:)")
	expectError(t, "FlushAll", f.FlushAll(true), flush.ErrForbidden)
	expectOutput(t, out, "a(START|FLUSH:)a(FLUSH:b(START|FLUSH:c(START|FLUSH:)c(FLUSH:)))")
	expectError(t, "Close", f.Close(), nil)
	if got := out.String(); !strings.HasSuffix(got, "a(FINAL:b(FINAL:c(FINAL:d(START|FINAL:1))))") {
		t.Errorf("end: %q", got)
	}
}

func TestBufferDeepStack(t *testing.T) {
	f, out := newOutput(t)
	const depth = 1000
	for range depth {
		f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if len(p) > 0 && phase&flush.PhaseFinal == 0 {
				p = append(slices.Clone(p), '.')
			}
			return p, nil
		}})
	}
	f.WriteString("x")
	if f.Level() != depth {
		t.Errorf("Level %d", f.Level())
	}
	expectError(t, "Close", f.Close(), nil)
	expectOutput(t, out, "x"+strings.Repeat(".", depth))
}

// While a filter runs, everything that would change the stack is refused and
// changes nothing; what only reads works, and so does a response flush.
func TestFilterIsReentrant(t *testing.T) {
	out := harness.NewSink(t)
	f := flush.New(out, httptest.NewRequest("GET", "/", nil), &flush.Options{BufferSize: -1})
	follows := f.StartBuffer(&flush.BufferOptions{Filter: named("lower"), FollowFlush: true})
	f.WriteString("1")
	var b *flush.Buffer
	ran := false
	b = f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		if ran {
			return p, nil
		}
		ran = true
		for name, op := range map[string]func() error{
			"Flush":             b.Flush,
			"Clean":             b.Clean,
			"Close":             b.Close,
			"Discard":           b.Discard,
			"of a lower buffer": follows.Flush,
			"FlushAll(true)":    func() error { return f.FlushAll(true) },
			"FlushAll(false)":   func() error { return f.FlushAll(false) },
			"Flusher.Clean":     f.Clean,
			"Flusher.Close":     f.Close,
			"of a new buffer":   func() error { return f.StartBuffer(nil).Close() },
		} {
			expectError(t, name, op(), flush.ErrReentrant)
		}
		if f.Top() != b || f.Level() != 2 || string(b.Bytes()) != "2" || b.Len() != 1 || b.Status().Level != 1 || follows.Len() != 1 {
			t.Error("a call in the filter changed something")
		}
		if f.HeadersSent() {
			t.Error("headers sent too early")
		}
		f.Header().Set("X-A", "in time")
		expectError(t, "FlushWait", f.FlushWait(t.Context()), nil)
		if !f.HeadersSent() || follows.Len() != 1 {
			t.Error("a flush in the filter should send headers and leave buffers alone")
		}
		return p, nil
	}})
	f.WriteString("2")
	expectError(t, "Flush", b.Flush(), nil)
	expectError(t, "Close", f.Close(), nil)
	if got := out.Body(); got != "lower(START|FINAL:12)" {
		t.Errorf("got %q", got)
	}
	if got := out.Sent.Get("X-A"); got != "in time" {
		t.Errorf("X-A: %q", got)
	}
}

// What is written while a filter runs enters the buffer on top once it has
// returned, behind what the filter let through, and does not run it again.
func TestFilterWrites(t *testing.T) {
	f, out := newOutput(t)
	f.StartBuffer(&flush.BufferOptions{Filter: bracket})
	b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 2, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		if n, err := io.WriteString(f, "+"+string(p)); n != 1+len(p) || err != nil {
			t.Errorf("Write in the filter: %d, %v", n, err)
		}
		return p, nil
	}})
	f.WriteString("ab")
	if got := b.Bytes(); string(got) != "+ab" {
		t.Errorf("holds %q", got)
	}
	f.WriteString("c")
	if got := b.Bytes(); string(got) != "++abc" {
		t.Errorf("holds %q", got)
	}
	expectError(t, "Close", b.Close(), nil)
	expectError(t, "Close", f.Close(), nil)
	expectOutput(t, out, "[ab+abc++abc+++abc]")
}

// A filter may write while the response closes: its buffer is gone then, and
// the text goes to the one below.
func TestFilterWritesAtTheEnd(t *testing.T) {
	f, out := newOutput(t)
	for _, name := range []string{"a", "b"} {
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			if _, err := io.WriteString(f, name); err != nil {
				t.Errorf("Write in the filter: %v", err)
			}
			return fmt.Appendf(nil, "[%s]", p), nil
		}})
	}
	f.WriteString("x")
	expectError(t, "Close", f.Close(), nil)
	expectOutput(t, out, "[[x]b]a")
}

// Another goroutine's Write does not wait for a filter. Its stack operations
// are refused.
func TestWriteWhileAFilterRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, out := newOutput(t)
		release := make(chan struct{})
		b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if phase&flush.PhaseFlush != 0 {
				<-release
			}
			return bracket(p, phase)
		}})
		f.WriteString("1")
		flushed := make(chan error, 1)
		go func() { flushed <- b.Flush() }()
		synctest.Wait()
		for _, s := range []string{"2", "3"} {
			if n, err := f.WriteString(s); n != 1 || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		}
		expectError(t, "Clean", b.Clean(), flush.ErrReentrant)
		expectError(t, "FlushWait", f.FlushWait(context.Background()), nil)
		if got := b.Bytes(); string(got) != "1" {
			t.Errorf("holds %q while the filter runs", got)
		}
		close(release)
		expectError(t, "Flush", <-flushed, nil)
		if got := b.Bytes(); string(got) != "23" {
			t.Errorf("holds %q", got)
		}
		expectError(t, "Close", f.Close(), nil)
		expectOutput(t, out, "[1][23]")
	})
}

// NewHandler's own close waits for a filter that another goroutine runs.
func TestHandlerReturnsWhileAFilterRuns(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		running, release := make(chan struct{}), make(chan struct{})
		flushed := make(chan error, 1)
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseFlush != 0 {
					close(running)
					<-release
				}
				return bracket(p, phase)
			}})
			io.WriteString(w, "1")
			go func() { flushed <- b.Flush() }()
			<-running
			io.WriteString(w, "2")
		}), nil), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.ExpectNothing()
		close(release)
		s.ExpectEnd("[1][2]")
		expectError(t, "Flush", <-flushed, nil)
	})
}

// One that waits for its turn when a filter begins must not wait for it: the
// filter may wait for the writer.
func TestFilterWaitsForAWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGate()
		f := flush.NewOutput(w, &flush.Options{BufferSize: -1, SendTimeout: -1})
		wrote := make(chan error, 1)
		calls := 0
		f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			calls++
			if phase == flush.PhaseFlush {
				expectError(t, "Write", <-wrote, nil)
			}
			return p, nil
		}})
		f.StartBuffer(nil)
		f.WriteString("upper ")
		all := make(chan error, 1)
		go func() { all <- f.FlushAll(true) }()
		synctest.Wait() // the upper one's bytes are in the gate
		go func() {
			_, err := f.WriteString("other")
			wrote <- err
		}()
		synctest.Wait()
		w.open()
		expectError(t, "FlushAll", <-all, nil)
		expectError(t, "Close", f.Close(), nil)
		if got := w.String(); got != "upper other" || calls != 4 {
			t.Errorf("got %q after %d calls", got, calls)
		}
	})
}

// Abort does not wait for a filter, and nothing of it comes out.
func TestAbortWhileAFilterRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, out := newOutput(t)
		release := make(chan struct{})
		b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			<-release
			return p, nil
		}})
		f.WriteString("lost")
		flushed := make(chan error, 1)
		go func() { flushed <- b.Flush() }()
		synctest.Wait()
		f.WriteString("late")
		f.Abort(harness.ErrBoom)
		close(release)
		expectError(t, "Flush", <-flushed, harness.ErrBoom)
		expectError(t, "Close of the buffer", b.Close(), flush.ErrBufferClosed)
		expectOutput(t, out, "")
		if got := f.Stats().Lost; got != 8 {
			t.Errorf("Lost: %d, want 8", got)
		}
	})
}

func TestAbortInAFilter(t *testing.T) {
	f, out := newOutput(t)
	b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		f.Abort(harness.ErrBoom)
		return p, nil
	}})
	f.WriteString("x")
	expectError(t, "Flush", b.Flush(), harness.ErrBoom)
	expectOutput(t, out, "")
	if f.Top() != nil {
		t.Error("a buffer is left")
	}
}

// Once the headers are out a filter keeps nothing back but its own bytes: others
// flush beside it.
func TestFlushBesideAFilterBehindTheHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		harness.Must(t, f.SendHeaders())
		f.WriteString("before")
		goOn := make(chan bool)
		b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			<-goOn
			return p, nil
		}})
		f.WriteString(" behind")
		flushed := harness.Go(b.Flush)
		synctest.Wait()
		waited := harness.Go(func() error { return f.FlushWait(harness.NoContext) })
		synctest.Wait()
		if at, _ := s.LastFlush(); at != len("before") || len(waited) == 0 {
			t.Errorf("flushed up to %d, and the wait has ended: %v", at, len(waited) > 0)
		}
		close(goOn)
		harness.Must(t, <-flushed)
		harness.Must(t, <-waited)
		harness.Must(t, f.Close())
		if s.Body() != "before behind" {
			t.Errorf("got %q", s.Body())
		}
	})
}

// What a filter writes itself to a response that has failed is taken, and the filter
// is told.
func TestFilterWritesToAFailedResponse(t *testing.T) {
	f, out := newOutput(t)
	b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		f.Abort(harness.ErrBoom)
		if n, err := f.WriteString("own"); n != 3 || err != harness.ErrBoom {
			t.Errorf("%d, %v", n, err)
		}
		return p, nil
	}})
	f.WriteString("x")
	expectError(t, "Flush", b.Flush(), harness.ErrBoom)
	expectOutput(t, out, "")
	if s := f.Stats(); s.Lost != 4 {
		t.Errorf("%d bytes are lost", s.Lost)
	}
}

// An Abort by a filter only marks the response: it ends once the filter has
// returned, with whoever ends it.
func TestAbortInAFilterDoesNotEndTheResponse(t *testing.T) {
	for name, end := range map[string]func(*flush.Flusher) error{
		"Close":         (*flush.Flusher).Close,
		"another Abort": func(f *flush.Flusher) error { f.Abort(io.ErrNoProgress); return f.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			ends := make(chan error, 2)
			f := flush.NewOutput(io.Discard, &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { ends <- err }})
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				f.Abort(harness.ErrBoom)
				if len(ends) > 0 {
					t.Error("OnClose ran while the filter did")
				}
				return p, nil
			}})
			f.WriteString("x")
			expectError(t, "Flush", b.Flush(), harness.ErrBoom)
			if len(ends) > 0 {
				t.Error("the filter has ended the response")
			}
			expectError(t, name, end(f), harness.ErrBoom)
			expectError(t, "OnClose", <-ends, harness.ErrBoom)
			if len(ends) > 0 {
				t.Error("it ended twice")
			}
		})
	}
}

// Once the response has failed a flush of it leaves the buffers alone.
func TestFlushOfAFailedResponseLeavesTheBuffers(t *testing.T) {
	s := harness.NewSink(t)
	s.OnFlush = func() error { return harness.ErrBoom }
	f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
	runs := 0
	f.WriteString("x")
	f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		runs++
		return p, nil
	}})
	failed := f.FlushWait(t.Context())
	expectError(t, "FlushWait", failed, harness.ErrBoom)
	f.WriteString("y")
	before := runs
	for name, call := range map[string]func() error{
		"Flush": f.FlushError, "FlushAsync": f.FlushAsync, "FlushWait": func() error { return f.FlushWait(t.Context()) },
		"FlushWait, no end": func() error { return f.FlushWait(context.Background()) },
	} {
		if err := call(); err == nil || err.Error() != failed.Error() {
			t.Errorf("%s: %v, want %v", name, err, failed)
		}
	}
	if runs != before {
		t.Errorf("the filter ran %d times", runs-before)
	}
	f.Close()
}

// Goroutines share a stack of buffers: no line is torn, each one's lines keep
// their order, and none is lost or doubled.
func TestBuffersAreShared(t *testing.T) {
	f, out := newOutput(t)
	same := func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }
	f.StartBuffer(&flush.BufferOptions{ChunkSize: 100, FollowFlush: true})
	f.StartBuffer(&flush.BufferOptions{ChunkSize: 30, FollowFlush: true, Filter: same})
	const writers, lines = 8, 300
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range lines {
				if n, err := fmt.Fprintf(f, "%d %d\n", w, i); n == 0 || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				switch i % 10 {
				case 3:
					expectError(t, "FlushAsync", f.FlushAsync(), nil)
				case 6:
					if err := f.FlushAll(w%2 == 0); err != nil && !errors.Is(err, flush.ErrReentrant) {
						t.Error(err)
					}
				case 8:
					b := f.StartBuffer(&flush.BufferOptions{Filter: same})
					f.Level()
					b.Bytes()
					// Others may have put theirs on top, or be running a filter.
					for err := b.Close(); err != nil && b.Status().Level >= 0; err = b.Close() {
						if !errors.Is(err, flush.ErrNotTop) && !errors.Is(err, flush.ErrReentrant) {
							t.Error(err)
						}
						runtime.Gosched()
					}
				}
			}
		})
	}
	wg.Wait()
	expectError(t, "Close", f.Close(), nil)
	next := make([]int, writers)
	for line := range strings.Lines(out.String()) {
		var w, i int
		if _, err := fmt.Sscanf(line, "%d %d\n", &w, &i); err != nil || w >= writers || next[w] != i {
			t.Fatalf("line %q, want number %d (%v)", line, next[w], err)
		}
		next[w]++
	}
	for w, n := range next {
		if n != lines {
			t.Errorf("writer %d: %d lines", w, n)
		}
	}
}

// Clean takes back what buffers hold; filters begin anew.
func TestCleanWithBuffers(t *testing.T) {
	out := harness.NewSink(t)
	f := flush.New(out, httptest.NewRequest("GET", "/", nil), nil)
	var phases []string
	note := func(name string) flush.Filter {
		return func(p []byte, phase flush.Phase) ([]byte, error) {
			phases = append(phases, fmt.Sprintf("%s %s %s", name, harness.PhaseNames(phase), p))
			return p, nil
		}
	}
	f.StartBuffer(&flush.BufferOptions{Filter: note("a"), ChunkSize: 3, NoClean: true})
	f.StartBuffer(&flush.BufferOptions{Filter: note("b")})
	f.WriteHeader(http.StatusAccepted)
	f.WriteString("half")
	f.Top().Flush()
	f.WriteString("more")
	expectError(t, "Clean", f.Clean(), nil)
	f.WriteHeader(http.StatusInternalServerError)
	f.WriteString("sorry")
	expectError(t, "Close", f.Close(), nil)
	want := []string{
		"b START|FLUSH half", "a START half",
		"b CLEAN more", "a CLEAN ",
		"b START|FINAL sorry", "a START sorry", "a FINAL ",
	}
	if !slices.Equal(phases, want) {
		t.Errorf("got %q, want %q", phases, want)
	}
	if got := out.Body(); got != "sorry" || out.Status != 500 {
		t.Errorf("%d %q", out.Status, got)
	}
}

func TestCleanIsTooLate(t *testing.T) {
	out := harness.NewSink(t)
	f := flush.New(out, httptest.NewRequest("GET", "/", nil), nil)
	b := f.StartBuffer(nil)
	f.WriteString("kept")
	expectError(t, "SendHeaders", f.SendHeaders(), nil)
	expectError(t, "Clean", f.Clean(), flush.ErrHeadersSent)
	if b.Len() != 4 {
		t.Error("a Clean that was refused dropped something")
	}
	expectError(t, "Close", f.Close(), nil)
}

// A filter that panics while the handler's response is completed cuts it. The
// rest of the stack is unwound, and OnClose is told.
func TestFilterPanicsDuringUnwinding(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		var lower []byte
		told := make(chan error, 1)
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			io.WriteString(w, "begun ")
			flush.Flush(w, true)
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				lower = append(lower, p...)
				return p, nil
			}})
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				panic(http.ErrAbortHandler)
			}})
			io.WriteString(w, "rest")
		}), &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { told <- err }}))
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Expect("begun ")
		_, _, end := s.Rest()
		if want := map[bool]harness.Ending{true: harness.Closed, false: harness.Cut}[p == harness.HTTP10]; end != want {
			t.Errorf("ended %s, want %s", end, want)
		}
		if err := <-told; err == nil {
			t.Error("OnClose was told that all is well")
		}
		if string(lower) != "rest" {
			t.Errorf("the lower filter got %q", lower)
		}
	})
}

// The short ways that Write and FlushAsync have do not go past a buffer that
// was opened since.
func TestBufferEndsTheShortWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGate()
		f := flush.NewOutput(w, &flush.Options{SAPI: flush.SAPI{Headers: flush.OutputOnly}, SendTimeout: -1})
		f.WriteString("a")
		f.WriteString("b")
		expectError(t, "FlushAsync", f.FlushAsync(), nil)
		synctest.Wait() // a carrier is in the gate
		f.WriteString("c")
		f.WriteString("d")
		expectError(t, "FlushAsync", f.FlushAsync(), nil)
		b := f.StartBuffer(&flush.BufferOptions{Filter: bracket, FollowFlush: true})
		f.WriteString("e")
		if b.Len() != 1 {
			t.Error("a Write went past the buffer")
		}
		expectError(t, "FlushAsync", f.FlushAsync(), nil)
		if b.Len() != 0 {
			t.Error("a flush went past the buffer")
		}
		w.open()
		synctest.Wait()
		if got := w.String(); got != "abcd[e]" {
			t.Errorf("got %q", got)
		}
		expectError(t, "Close", f.Close(), nil)
	})
}

// FlushAsync does not wait for the network, whatever a buffer that follows
// lets through, and the end of its context ends a FlushWait.
func TestFollowFlushDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, ask := range map[string]struct {
			flush func(f *flush.Flusher) error
			want  error
		}{
			"FlushAsync":      {(*flush.Flusher).FlushAsync, nil},
			"FlushAll(false)": {func(f *flush.Flusher) error { return f.FlushAll(false) }, nil},
			"FlushWait": {func(f *flush.Flusher) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return f.FlushWait(ctx)
			}, context.DeadlineExceeded},
		} {
			w := newGate()
			f := flush.NewOutput(w, &flush.Options{SAPI: flush.SAPI{Headers: flush.OutputOnly}, SendTimeout: -1})
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			f.Write(make([]byte, 20000))
			returned := make(chan error, 1)
			go func() { returned <- ask.flush(f) }()
			time.Sleep(time.Minute)
			select {
			case err := <-returned:
				expectError(t, name, err, ask.want)
			default:
				t.Errorf("%s blocks", name)
			}
			w.open()
			expectError(t, "Close", f.Close(), nil)
			if got := len(w.String()); got != 20000 {
				t.Errorf("%s: %d bytes came out", name, got)
			}
		}
	})
}

// What enters a buffer without waiting leaves no licence behind: the next Write
// waits at the mark.
func TestWritesWaitAfterOneThatDidNot(t *testing.T) {
	for name, enter := range map[string]func(f *flush.Flusher) error{
		"TryWrite":   func(f *flush.Flusher) error { return f.TryWrite(make([]byte, 200)) },
		"FlushAsync": (*flush.Flusher).FlushAsync,
		"FlushAll":   func(f *flush.Flusher) error { return f.FlushAll(false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const mark = 8192
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, MaxPending: mark, SendTimeout: time.Hour})
				f.StartBuffer(&flush.BufferOptions{ChunkSize: 100, FollowFlush: true})
				s.Hold(0)
				f.WriteString("x")
				expectError(t, name, enter(f), nil)
				written := harness.Go(func() error { _, err := f.Write(make([]byte, 20*mark)); return err })
				synctest.Wait()
				if n := f.Buffered(); len(written) > 0 || n > 2*mark {
					t.Errorf("the Write has returned: %v; %d bytes are held", len(written) > 0, n)
				}
				s.Release()
				expectError(t, "Write", <-written, nil)
				expectError(t, "Close", f.Close(), nil)
			})
		})
	}
}

// What a wait has left of a buffer goes on with the flush, and the end of the response
// may drop it meanwhile: the flush says why it ended, and each byte counts once. Twin:
// a client that goes on gets all of it.
func TestEndDropsWhatAFlushBringsDown(t *testing.T) {
	const limit = time.Minute
	for name, flushes := range map[string]func(f *flush.Flusher) error{
		"FlushWait": func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"FlushAll":  func(f *flush.Flusher) error { return f.FlushAll(true) },
	} {
		for _, goesOn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", name, goesOn), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					budget := flush.NewBudget(8<<10, 12<<10)
					hog := harness.HoldBudget(budget, 2)
					s := harness.NewSink(t)
					s.Hold(0)
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async, SendTimeout: limit, Budget: budget})
					follow(f)
					all := harness.Numbered(20_000)
					harness.MustWrite(t, f, all)
					flushed := harness.Go(func() error { return flushes(f) })
					synctest.Wait() // it waits for the budget
					closed := harness.Go(f.Close)
					synctest.Wait() // what is left is Close's to hand over, and waits again
					hog.Close()
					if goesOn {
						s.Release()
					}
					err, cerr := <-flushed, <-closed
					if s.Release(); goesOn {
						if cerr != nil || s.Body() != all {
							t.Errorf("%v, Close: %v, %d bytes have come", err, cerr, len(s.Body()))
						}
					} else if !errors.Is(err, flush.ErrOverBudget) || !errors.Is(cerr, flush.ErrOverBudget) {
						t.Errorf("%v, Close: %v", err, cerr)
					}
					if st := f.Stats(); st.Bytes+st.Lost != int64(len(all)) {
						t.Errorf("%d bytes handed over, %d lost of %d", st.Bytes, st.Lost, len(all))
					}
					harness.ExpectNothingHeld(t, budget)
				})
			})
		}
	}
}

// While FlushAll passes on what a buffer between others held, all of them count for
// who asks; what the one on top held comes without that.
func TestLevelDuringFlushAll(t *testing.T) {
	var levels []int
	f := flush.New(harness.NewSink(t), nil, nil)
	f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		if string(p) != "" {
			levels = append(levels, f.Level())
		}
		return p, nil
	}})
	f.StartBuffer(nil)
	harness.MustWrite(t, f, "b")
	f.StartBuffer(nil)
	harness.Must(t, f.FlushAll(true))
	f.Top().Close()
	harness.MustWrite(t, f, "c")
	harness.Must(t, f.FlushAll(true))
	if want := []int{3, 1}; !slices.Equal(levels, want) {
		t.Errorf("got %v, want %v", levels, want)
	}
	harness.Must(t, f.Close())
}
