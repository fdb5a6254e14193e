package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// newOutput returns a Flusher that moves every write on at once, and where it
// goes.
func newOutput(t *testing.T) (*flush.Flusher, *safeBuffer) {
	out := new(safeBuffer)
	f := flush.NewOutput(out, &flush.Options{BufferSize: -1, SendTimeout: -1})
	t.Cleanup(func() { f.Close() })
	return f, out
}

func expectOutput(t *testing.T, out *safeBuffer, want string) {
	t.Helper()
	if got := out.String(); got != want {
		t.Errorf("out: %q, want %q", clip([]byte(got)), clip([]byte(want)))
	}
}

func expectError(t *testing.T, what string, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func bracket(p []byte, _ flush.Phase) ([]byte, error) { return fmt.Appendf(nil, "[%s]", p), nil }

// named is a filter that shows its name and its phase.
func named(name string) flush.Filter {
	return func(p []byte, phase flush.Phase) ([]byte, error) {
		return fmt.Appendf(nil, "%s(%s:%s)", name, phaseNames(phase), p), nil
	}
}

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

func TestBufferErrors(t *testing.T) {
	f, out := newOutput(t)
	lower := f.StartBuffer(&flush.BufferOptions{NoClean: true, NoFlush: true, NoRemove: true})
	top := f.StartBuffer(nil)
	f.WriteString("x")
	ops := func(b *flush.Buffer, want error) {
		t.Helper()
		expectError(t, "Flush", b.Flush(), want)
		expectError(t, "Clean", b.Clean(), want)
		expectError(t, "Close", b.Close(), want)
		expectError(t, "Discard", b.Discard(), want)
	}
	ops(lower, flush.ErrNotTop)
	if got := top.Bytes(); string(got) != "x" || lower.Len() != 0 {
		t.Errorf("%q and %d bytes, nothing should have moved", got, lower.Len())
	}
	expectError(t, "Close", top.Close(), nil)
	ops(top, flush.ErrBufferClosed)
	if s := top.Status(); s.Level != -1 || s.Len != 0 || top.Bytes() != nil {
		t.Errorf("ended: %+v", s)
	}
	ops(lower, flush.ErrForbidden)
	if f.Top() != lower || f.Level() != 1 || lower.Len() != 1 {
		t.Error("a forbidden call changed something")
	}
	expectError(t, "Close", f.Close(), nil)
	expectOutput(t, out, "x")
	ops(lower, flush.ErrBufferClosed)
	ops(f.StartBuffer(nil), flush.ErrBufferClosed)
	if f.Top() != nil || f.Level() != 0 {
		t.Error("StartBuffer after the end left a buffer on the stack")
	}
	if n, err := f.WriteString("late"); n != 0 || !errors.Is(err, flush.ErrClosed) {
		t.Errorf("Write after the end: %d, %v", n, err)
	}
}

func TestBufferBytesAreCopied(t *testing.T) {
	f, out := newOutput(t)
	b := f.StartBuffer(nil)
	p := []byte("abc")
	f.Write(p)
	p[0] = 'x'
	b.Bytes()[1] = 'x'
	expectError(t, "Close", b.Close(), nil)
	expectOutput(t, out, "abc")
}

func TestBufferReadFrom(t *testing.T) {
	f, out := newOutput(t)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, bytes.Repeat([]byte("x"), 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	calls := 0
	f.StartBuffer(&flush.BufferOptions{ChunkSize: 64 << 10, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		calls++
		return bytes.ToUpper(p), nil
	}})
	if n, err := io.Copy(f, file); n != 100<<10 || err != nil {
		t.Errorf("io.Copy: %d, %v", n, err)
	}
	expectError(t, "Close", f.Close(), nil)
	expectOutput(t, out, strings.Repeat("X", 100<<10))
	if calls != 2 {
		t.Errorf("the filter ran %d times, want 2", calls)
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

// A filter that fails is told once; a Write has taken all of it.
func TestFilterError(t *testing.T) {
	f, out := newOutput(t)
	b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 3, Filter: func([]byte, flush.Phase) ([]byte, error) {
		return []byte("not this"), errFilter
	}})
	f.WriteString("a")
	if n, err := f.WriteString("bcd"); n != 3 || err != errFilter {
		t.Errorf("Write: %d, %v", n, err)
	}
	if n, err := f.WriteString("e"); n != 1 || err != nil {
		t.Errorf("next Write: %d, %v", n, err)
	}
	expectOutput(t, out, "abcde")
	if s := b.Status(); !s.Started || !s.Disabled || s.Processed {
		t.Errorf("%+v", s)
	}
	expectError(t, "Close", b.Close(), nil)
	expectError(t, "Err", f.Err(), nil)
}

func TestFilterErrorAtTheEnd(t *testing.T) {
	f, out := newOutput(t)
	f.StartBuffer(&flush.BufferOptions{Filter: bracket})
	f.StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) { return nil, errFilter }})
	f.WriteString("x")
	expectError(t, "Close", f.Close(), errFilter)
	expectOutput(t, out, "[x]")
	expectError(t, "Close again", f.Close(), errFilter)
}

// What its filter was given goes down even if it panics or ends its goroutine.
func TestFilterPanicsOrExits(t *testing.T) {
	for name, leave := range map[string]func(){
		"panic":  func() { panic(errBoom) },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			f, out := newOutput(t)
			f.StartBuffer(&flush.BufferOptions{Filter: bracket, ChunkSize: 1})
			b := f.StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) {
				leave()
				return nil, nil
			}})
			f.WriteString("x")
			left := make(chan any)
			go func() {
				returned := false
				defer func() {
					if v := recover(); returned {
						left <- "returned"
					} else {
						left <- v
					}
				}()
				b.Flush()
				returned = true
			}()
			if v := <-left; name == "panic" && v != errBoom || name == "Goexit" && v != nil {
				t.Errorf("left with %v", v)
			}
			expectOutput(t, out, "[x]")
			f.WriteString("y")
			expectOutput(t, out, "[x][y]")
			expectError(t, "Close of the buffer", b.Close(), nil)
			expectError(t, "Close", f.Close(), nil)
			expectOutput(t, out, "[x][y][]")
		})
	}
}

// While a filter runs, everything that would change the stack is refused and
// changes nothing; what only reads works, and so does a response flush.
func TestFilterIsReentrant(t *testing.T) {
	out := &recordWriter{record: &record{header: http.Header{}, out: newOutcome(0)}}
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
	if got := strings.Join(out.out.Bytes, ""); got != "lower(START|FINAL:12)" {
		t.Errorf("got %q", got)
	}
	if got := out.final.Get("X-A"); got != "in time" {
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
	bubble(t, func(t *testing.T, p proto) {
		running, release := make(chan struct{}), make(chan struct{})
		flushed := make(chan error, 1)
		srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		s := open(t, srv, "GET", "/", nil)
		s.expectNothing()
		close(release)
		s.expectEnd("[1][2]")
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
		lower := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			if calls++; calls == 1 {
				return nil, errFilter // what is written passes it by from now on
			}
			expectError(t, "Write", <-wrote, nil)
			return p, nil
		}})
		expectError(t, "Flush", lower.Flush(), errFilter)
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
		if got := w.String(); got != "upper other" || calls != 2 {
			t.Errorf("got %q after %d calls", got, calls)
		}
	})
}

// A gate is an output that lets nothing through until it is opened.
type gate struct {
	safeBuffer
	opened chan struct{}
}

func newGate() *gate  { return &gate{opened: make(chan struct{})} }
func (g *gate) open() { close(g.opened) }
func (g *gate) Write(p []byte) (int, error) {
	<-g.opened
	return g.safeBuffer.Write(p)
}

// Close lets a Write that has begun finish, and then unwinds.
func TestCloseWaitsForABegunWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGate()
		f := flush.NewOutput(w, &flush.Options{BufferSize: -1, SendTimeout: -1})
		f.StartBuffer(&flush.BufferOptions{ChunkSize: 4, Filter: bracket})
		wrote := make(chan error, 2)
		closed := make(chan error, 1)
		for range 2 {
			go func() {
				_, err := f.WriteString("12345")
				wrote <- err
			}()
			synctest.Wait() // the first is in the gate, the second waits its turn
		}
		go func() { closed <- f.Close() }()
		synctest.Wait()
		if n, err := f.WriteString("late"); n != 0 || !errors.Is(err, flush.ErrClosed) {
			t.Errorf("late Write: %d, %v", n, err)
		}
		w.open()
		expectError(t, "Close", <-closed, nil)
		expectError(t, "Write", <-wrote, nil)
		expectError(t, "Write", <-wrote, nil)
		if got := w.String(); got != "[12345][12345][]" {
			t.Errorf("got %q", got)
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
		f.Abort(errBoom)
		close(release)
		expectError(t, "Flush", <-flushed, errBoom)
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
		f.Abort(errBoom)
		return p, nil
	}})
	f.WriteString("x")
	expectError(t, "Flush", b.Flush(), errBoom)
	expectOutput(t, out, "")
	if f.Top() != nil {
		t.Error("a buffer is left")
	}
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

// A client that does not read bounds what a buffer with a ChunkSize takes.
func TestBufferBackpressure(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		var taken int
		ended := make(chan error, 1)
		srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1000, Filter: func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }})
			var err error
			for p := make([]byte, 300); err == nil; {
				var n int
				n, err = w.Write(p)
				taken += n
			}
			ended <- err
		}), &flush.Options{Flush: flush.Async, MaxPending: 16 << 10, OnStart: func(f *flush.Flusher, _ *http.Request) {
			f.SetImplicit(flush.Async)
		}}), 4<<10)
		s := open(t, srv, "GET", "/", nil)
		s.take(1000)
		expectError(t, "Write", <-ended, flush.ErrTimeout)
		if most := 300 << 10; taken > most {
			t.Errorf("%d bytes were taken for a client that does not read, want at most %d", taken, most)
		}
	})
}

// Clean takes back what buffers hold; filters begin anew.
func TestCleanWithBuffers(t *testing.T) {
	out := &recordWriter{record: &record{header: http.Header{}, out: newOutcome(0)}}
	f := flush.New(out, httptest.NewRequest("GET", "/", nil), nil)
	var phases []string
	note := func(name string) flush.Filter {
		return func(p []byte, phase flush.Phase) ([]byte, error) {
			phases = append(phases, fmt.Sprintf("%s %s %s", name, phaseNames(phase), p))
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
	if got := strings.Join(out.out.Bytes, ""); got != "sorry" || out.out.Statuses[0] != 500 {
		t.Errorf("%d %q", out.out.Statuses[0], got)
	}
}

func TestCleanIsTooLate(t *testing.T) {
	out := &recordWriter{record: &record{header: http.Header{}, out: newOutcome(0)}}
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
	eachProto(t, func(t *testing.T, p proto) {
		var lower []byte
		told := make(chan error, 1)
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		s := open(t, srv, "GET", "/", nil)
		s.expect("begun ")
		_, _, end := s.rest()
		if want := map[bool]ending{true: closed, false: cut}[p == http10]; end != want {
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

// The order of flushing and buffering decides what a client sees, and when.
func TestFlushAndBufferInterfere(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		park := newPark(t)
		late := func(w http.ResponseWriter) flush.Filter {
			return func(p []byte, _ flush.Phase) ([]byte, error) {
				w.Header().Set("X-Filter", "ran")
				return p, nil
			}
		}
		handlers := map[string]http.HandlerFunc{
			// The flush sends the headers, so the filter comes too late for them.
			"/flush-then-buffer": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				flush.Flush(w, true)
				park.here()
				f.StartBuffer(&flush.BufferOptions{Filter: late(w)})
				io.WriteString(w, "x")
				if err := f.Clean(); !errors.Is(err, flush.ErrHeadersSent) {
					t.Errorf("Clean: %v", err)
				}
			},
			// A flush leaves the buffer alone, but sends the headers.
			"/buffer-then-flush": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w)})
				io.WriteString(w, "x")
				flush.Flush(w, true)
				park.here()
			},
			// FollowFlush is the cure.
			"/follow": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w), FollowFlush: true})
				io.WriteString(w, "x")
				flush.Flush(w, true)
				park.here()
			},
			// FlushAll is the other.
			"/all": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w)})
				io.WriteString(w, "x")
				f.FlushAll(true)
				park.here()
			},
			// What a buffer swallows does not flush; what it lets through does.
			"/implicit": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.SetImplicit(flush.Wait)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w)})
				io.WriteString(w, "x")
				park.here()
				f.Top().Flush()
				park.here()
			},
		}
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers[r.URL.Path](w, r)
		}), nil))
		for path, want := range map[string]struct {
			header string
			now    string // what arrives while the handler is parked
		}{
			"/flush-then-buffer": {"", ""},
			"/buffer-then-flush": {"", ""},
			"/follow":            {"ran", "x"},
			"/all":               {"ran", "x"},
		} {
			s := open(t, srv, "GET", path, nil)
			park.wait()
			if got := s.header().Get("X-Filter"); got != want.header {
				t.Errorf("%s: X-Filter %q, want %q", path, got, want.header)
			}
			s.expect(want.now)
			s.expectNothing()
			park.resume()
			s.expectEnd("x"[len(want.now):])
		}
		s := open(t, srv, "GET", "/implicit", nil)
		park.wait()
		s.expectNothing()
		park.resume()
		park.wait()
		s.expect("x")
		if got := s.header().Get("X-Filter"); got != "ran" {
			t.Errorf("/implicit: X-Filter %q", got)
		}
		park.resume()
		s.expectEnd("")
	})
}

// A filter may change headers that WriteHeader has fixed. What the handler
// changes after WriteHeader stays without effect.
func TestFilterChangesFixedHeaders(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				h := w.Header()
				h.Set("X-Set", "filter")
				h.Add("X-Added", "filter")
				h.Del("X-Gone")
				h.Del("Content-Length")
				return append(slices.Clone(p), p...), nil
			}})
			h := w.Header()
			h.Set("X-Set", "handler")
			h.Set("X-Added", "handler")
			h.Set("X-Gone", "handler")
			h.Set("Content-Length", "3")
			w.WriteHeader(http.StatusAccepted)
			h.Set("X-Late", "handler")
			io.WriteString(w, "abc")
		}), nil))
		s := open(t, srv, "GET", "/", nil)
		h := s.header()
		if got := fmt.Sprint(h.Get("X-Set"), h.Values("X-Added"), h.Values("X-Gone"), h.Values("X-Late")); got != "filter[handler filter] [] []" {
			t.Errorf("got %s", got)
		}
		if got := h.Get("Content-Length"); got != "" && got != "6" {
			t.Errorf("Content-Length %q", got)
		}
		s.expectEnd("abcabc")
	})
}

// A write through a buffer without a filter allocates nothing.
func TestBufferedWriteDoesNotAllocate(t *testing.T) {
	f := newNowhere(nil)
	defer f.Close()
	f.StartBuffer(nil)
	p := []byte("some bytes")
	i := 0
	if got := testing.AllocsPerRun(1000, func() {
		f.Write(p)
		f.WriteString("a string")
		if i++; i%100 == 0 {
			f.Top().Flush()
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
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

// Bytes that a buffer has let through reach the client although Close came
// while they stood in line behind another Write.
func TestCloseWaitsForABegunFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGate()
		f := flush.NewOutput(w, &flush.Options{
			SAPI: flush.SAPI{Headers: flush.OutputOnly}, Flush: flush.Async, BufferSize: -1, MaxPending: 4, SendTimeout: -1,
		})
		wrote, flushed, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := f.WriteString("0123456789")
			wrote <- err
		}()
		synctest.Wait() // for room
		b := f.StartBuffer(nil)
		f.WriteString("x")
		go func() { flushed <- b.Flush() }()
		synctest.Wait() // in line
		go func() { closed <- f.Close() }()
		synctest.Wait()
		w.open()
		expectError(t, "Write", <-wrote, nil)
		expectError(t, "Flush", <-flushed, nil)
		expectError(t, "Close", <-closed, nil)
		if got := w.String(); got != "0123456789x" {
			t.Errorf("got %q", got)
		}
	})
}

// After the client has gone, buffers go on holding what is written, and Write
// says so. What they let through is lost, and counted.
func TestBufferAfterTheClientHasGone(t *testing.T) {
	out := &record{header: http.Header{}, out: newOutcome(0), gone: true}
	f := flush.NewOutput(recordOutput{out}, &flush.Options{BufferSize: -1})
	f.WriteString("x")
	expectError(t, "Err", f.Err(), flush.ErrClientGone)
	before := f.Stats().Lost
	b := f.StartBuffer(&flush.BufferOptions{Filter: bracket})
	n, err := f.WriteString("abc")
	if n != 3 || !errors.Is(err, flush.ErrClientGone) {
		t.Errorf("Write: %d, %v", n, err)
	}
	if got := b.Bytes(); string(got) != "abc" {
		t.Errorf("holds %q", got)
	}
	expectError(t, "Flush", b.Flush(), flush.ErrClientGone)
	if got := f.Stats().Lost - before; got != int64(len("[abc]")) {
		t.Errorf("%d bytes lost", got)
	}
	f.WriteString("abc")
	expectError(t, "Close", f.Close(), flush.ErrClientGone)
	if got := f.Stats().Lost - before; got != int64(len("[abc][abc]")) {
		t.Errorf("%d bytes lost", got)
	}
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
