package flush_test

import (
	"bytes"
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
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// newOutput returns a Flusher that moves every write on at once, and where it
// goes.
func newOutput(t *testing.T) (*flush.Flusher, *harness.SafeBuffer) {
	out := new(harness.SafeBuffer)
	f := flush.NewOutput(out, &flush.Options{BufferSize: -1, SendTimeout: -1})
	t.Cleanup(func() { f.Close() })
	return f, out
}

func expectOutput(t *testing.T, out *harness.SafeBuffer, want string) {
	t.Helper()
	if got := out.String(); got != want {
		t.Errorf("out: %q, want %q", harness.Clip([]byte(got)), harness.Clip([]byte(want)))
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
		return fmt.Appendf(nil, "%s(%s:%s)", name, harness.PhaseNames(phase), p), nil
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

// The state of a buffer says what it was opened with.
func TestBufferStatusSaysTheOptions(t *testing.T) {
	for _, test := range []struct {
		opts flush.BufferOptions
		want flush.BufferStatus
	}{
		{flush.BufferOptions{}, flush.BufferStatus{}},
		{flush.BufferOptions{Name: "a", ChunkSize: 3}, flush.BufferStatus{Name: "a", ChunkSize: 3}},
		{flush.BufferOptions{ChunkSize: -3, FollowFlush: true}, flush.BufferStatus{}},
		{flush.BufferOptions{NoClean: true}, flush.BufferStatus{NoClean: true}},
		{flush.BufferOptions{NoFlush: true}, flush.BufferStatus{NoFlush: true}},
		{flush.BufferOptions{NoRemove: true}, flush.BufferStatus{NoRemove: true}},
	} {
		f, _ := newOutput(t)
		if got := f.StartBuffer(&test.opts).Status(); got != test.want {
			t.Errorf("%+v, want %+v", got, test.want)
		}
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

// A filter that fails is told once; a Write has taken all of it.
func TestFilterError(t *testing.T) {
	f, out := newOutput(t)
	b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 3, Filter: func([]byte, flush.Phase) ([]byte, error) {
		return []byte("not this"), harness.ErrFilter
	}})
	f.WriteString("a")
	if n, err := f.WriteString("bcd"); n != 3 || err != harness.ErrFilter {
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
	f.StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) { return nil, harness.ErrFilter }})
	f.WriteString("x")
	expectError(t, "Close", f.Close(), harness.ErrFilter)
	expectOutput(t, out, "[x]")
	expectError(t, "Close again", f.Close(), harness.ErrFilter)
}

// A filter that has failed fails nothing but the call that ran it: whatever goes
// over the whole stack passes its buffer by, and an error page is served. Only
// the buffer's own Flush and Clean run it again, on nothing, as PHP does.
func TestDisabledFilterStaysOut(t *testing.T) {
	over := map[string]func(f *flush.Flusher, b *flush.Buffer) error{
		"Flush":      func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushError() },
		"FlushAsync": func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushAsync() },
		"FlushWait":  func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushWait(harness.NoContext) },
		"FlushAll":   func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushAll(true) },
		"FlushAll, asynchronous": func(f *flush.Flusher, _ *flush.Buffer) error {
			defer f.FlushWait(harness.NoContext)
			return f.FlushAll(false)
		},
		"Clean":   func(f *flush.Flusher, _ *flush.Buffer) error { return f.Clean() },
		"Close":   func(_ *flush.Flusher, b *flush.Buffer) error { return b.Close() },
		"Discard": func(_ *flush.Flusher, b *flush.Buffer) error { return b.Discard() },
		"the end": func(f *flush.Flusher, _ *flush.Buffer) error { return f.Close() },
	}
	own := map[string]func(b *flush.Buffer) error{"Flush": (*flush.Buffer).Flush, "Clean": (*flush.Buffer).Clean}

	for kind, fail := range map[string]func() error{
		"error": func() error { return harness.ErrFilter },
		"panic": func() error { panic(harness.ErrFilter) },
	} {
		// run opens a buffer whose filter has failed, and returns what it got when
		// call then worked on it.
		run := func(t *testing.T, p harness.Proto, call func(f *flush.Flusher, b *flush.Buffer)) (ran []string) {
			srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 4, FollowFlush: true, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					ran = append(ran, fmt.Sprintf("%s %q", harness.PhaseNames(phase), p))
					return nil, fail()
				}})
				caught(t, func() error { _, err := f.WriteString("half"); return err })
				if len(ran) != 1 || !b.Status().Disabled {
					t.Errorf("ran %q, %+v", ran, b.Status())
				}
				ran = nil
				f.WriteString(" a page")
				call(f, b)
				f.Close()
			}), 0)
			harness.Open(t, srv, "GET", "/", nil).Rest()
			synctest.Wait()
			return ran
		}
		for name, op := range over {
			t.Run(kind+"/"+name, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					ran := run(t, p, func(f *flush.Flusher, b *flush.Buffer) { expectError(t, name, op(f, b), nil) })
					if len(ran) > 0 {
						t.Errorf("the filter ran again: %q", ran)
					}
				})
			})
		}
		for name, op := range own {
			t.Run(kind+"/the buffer's own "+name, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					ran := run(t, p, func(_ *flush.Flusher, b *flush.Buffer) { caught(t, func() error { return op(b) }) })
					if want := fmt.Sprintf("%s %q", strings.ToUpper(name), ""); len(ran) != 1 || ran[0] != want {
						t.Errorf("the filter ran on %q, want %q", ran, want)
					}
				})
			})
		}
	}
}

// caught runs what makes a filter fail with errFilter, returned or thrown.
func caught(t *testing.T, do func() error) {
	t.Helper()
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = v.(error)
			}
		}()
		return do()
	}()
	expectError(t, "the filter's call", err, harness.ErrFilter)
}

// What its filter was given goes down even if it panics or ends its goroutine.
func TestFilterPanicsOrExits(t *testing.T) {
	for name, leave := range map[string]func(){
		"panic":  func() { panic(harness.ErrBoom) },
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
			if v := <-left; name == "panic" && v != harness.ErrBoom || name == "Goexit" && v != nil {
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

// A gate is an output that lets nothing through until it is opened.
type gate struct {
	harness.SafeBuffer
	opened chan struct{}
}

func newGate() *gate  { return &gate{opened: make(chan struct{})} }
func (g *gate) open() { close(g.opened) }
func (g *gate) Write(p []byte) (int, error) {
	<-g.opened
	return g.SafeBuffer.Write(p)
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

// A client that does not read bounds what a buffer with a ChunkSize takes.
func TestBufferBackpressure(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		var taken int
		ended := make(chan error, 1)
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Take(1000)
		expectError(t, "Write", <-ended, flush.ErrTimeout)
		if most := 300 << 10; taken > most {
			t.Errorf("%d bytes were taken for a client that does not read, want at most %d", taken, most)
		}
	})
}

// The order of flushing and buffering decides what a client sees, and when.
func TestFlushAndBufferInterfere(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		park := harness.NewPark(t)
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
				park.Here()
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
				park.Here()
			},
			// FollowFlush is the cure.
			"/follow": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w), FollowFlush: true})
				io.WriteString(w, "x")
				flush.Flush(w, true)
				park.Here()
			},
			// FlushAll is the other.
			"/all": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w)})
				io.WriteString(w, "x")
				f.FlushAll(true)
				park.Here()
			},
			// What a buffer swallows does not flush; what it lets through does.
			"/implicit": func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.SetImplicit(flush.Wait)
				f.StartBuffer(&flush.BufferOptions{Filter: late(w)})
				io.WriteString(w, "x")
				park.Here()
				f.Top().Flush()
				park.Here()
			},
		}
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
			s := harness.Open(t, srv, "GET", path, nil)
			park.Wait()
			if got := s.Header().Get("X-Filter"); got != want.header {
				t.Errorf("%s: X-Filter %q, want %q", path, got, want.header)
			}
			s.Expect(want.now)
			s.ExpectNothing()
			park.Resume()
			s.ExpectEnd("x"[len(want.now):])
		}
		s := harness.Open(t, srv, "GET", "/implicit", nil)
		park.Wait()
		s.ExpectNothing()
		park.Resume()
		park.Wait()
		s.Expect("x")
		if got := s.Header().Get("X-Filter"); got != "ran" {
			t.Errorf("/implicit: X-Filter %q", got)
		}
		park.Resume()
		s.ExpectEnd("")
	})
}

// A filter may change headers that WriteHeader has fixed. What the handler
// changes after WriteHeader stays without effect.
func TestFilterChangesFixedHeaders(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		s := harness.Open(t, srv, "GET", "/", nil)
		h := s.Header()
		if got := fmt.Sprint(h.Get("X-Set"), h.Values("X-Added"), h.Values("X-Gone"), h.Values("X-Late")); got != "filter[handler filter] [] []" {
			t.Errorf("got %s", got)
		}
		if got := h.Get("Content-Length"); got != "" && got != "6" {
			t.Errorf("Content-Length %q", got)
		}
		s.ExpectEnd("abcabc")
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
	out := harness.NewSink(t)
	out.Fault = func([]byte, int) (int, error) { return 0, harness.ErrBoom }
	f := flush.NewOutput(out, &flush.Options{BufferSize: -1})
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

// Methods of a nil Buffer do nothing and say so: Top returns one.
func TestNilBuffer(t *testing.T) {
	f, _ := newOutput(t)
	b := f.Top()
	for name, op := range map[string]func(*flush.Buffer) error{
		"Flush": (*flush.Buffer).Flush, "Clean": (*flush.Buffer).Clean, "Close": (*flush.Buffer).Close, "Discard": (*flush.Buffer).Discard,
	} {
		expectError(t, name, op(b), flush.ErrBufferClosed)
	}
	if b.Bytes() != nil || b.Len() != 0 || b.Status() != (flush.BufferStatus{Level: -1}) {
		t.Errorf("holds %q, %d, %+v", b.Bytes(), b.Len(), b.Status())
	}
	expectError(t, "Close", f.Close(), nil)
}

// A slowResponse is a server without deadlines, each of whose Writes takes its
// time.
type slowResponse struct {
	*httptest.ResponseRecorder
	each time.Duration
}

func (s slowResponse) Write(p []byte) (int, error) {
	time.Sleep(s.each)
	return s.ResponseRecorder.Write(p)
}

// What a buffer was passing on when a wait ended is not dropped: it stays, in
// its place, and goes on with what comes behind it or at the end.
func TestBufferOutlivesAWait(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 10000) // more than MaxPending
	upper := func(p []byte, _ flush.Phase) ([]byte, error) { return bytes.ToUpper(p), nil }
	for name, test := range map[string]struct {
		do   func(t *testing.T, f *flush.Flusher, b *flush.Buffer)
		want string
	}{
		"Flush": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {
			expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
		}, "rest"},
		"Flush twice": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {
			expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
			io.WriteString(f, "more")
			expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
		}, "more rest"},
		"Close": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {
			expectError(t, "Close", b.Close(), flush.ErrTimeout)
			// Nothing passes what is left behind.
			if n, err := io.WriteString(f, "lost"); n != 0 || !errors.Is(err, flush.ErrTimeout) {
				t.Errorf("Write: %d, %v", n, err)
			}
		}, ""},
		"FlushAll": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {
			expectError(t, "FlushAll", f.FlushAll(true), flush.ErrTimeout)
		}, "rest"},
		"later": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {
			expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
			time.Sleep(time.Hour)
			if got := f.Buffered(); got > 0 {
				t.Errorf("%d bytes are on floor 2 still", got)
			}
			io.WriteString(f, "more")
			expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
		}, "more rest"},
		"then a flush of the response": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {
			expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
			time.Sleep(time.Hour)
			for f.FlushWait(harness.NoContext) != nil {
			}
			if got := f.Stats().Bytes; got != int64(len(page)) {
				t.Errorf("%d bytes have been flushed", got)
			}
		}, "rest"},
		"the end": {func(t *testing.T, f *flush.Flusher, b *flush.Buffer) {}, "rest"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := make(chan error, 1)
				rec := httptest.NewRecorder()
				f := flush.New(slowResponse{rec, 90 * time.Second}, httptest.NewRequest("GET", "/", nil), &flush.Options{
					SendTimeout: time.Minute,
					OnClose:     func(_ *http.Request, _ flush.Stats, err error) { told <- err },
				})
				b := f.StartBuffer(&flush.BufferOptions{Filter: upper})
				io.WriteString(f, page)
				test.do(t, f, b)
				if strings.HasSuffix(test.want, "rest") {
					io.WriteString(f, "rest")
				}
				expectError(t, "Close", f.Close(), nil)
				expectError(t, "OnClose", <-told, nil)
				want := strings.ToUpper(page + strings.ReplaceAll(test.want, " ", ""))
				if got := rec.Body.String(); got != want {
					t.Errorf("%d bytes came out, want %d: %q", len(got), len(want), harness.Clip([]byte(got)))
				}
				if got := f.Stats(); got.Lost != 0 || got.MaxPending > 64<<10 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
	// With a failure it is lost, and told.
	synctest.Test(t, func(t *testing.T) {
		f := flush.New(slowResponse{httptest.NewRecorder(), 90 * time.Second}, httptest.NewRequest("GET", "/", nil), &flush.Options{SendTimeout: time.Minute})
		b := f.StartBuffer(nil)
		io.WriteString(f, page)
		expectError(t, "Flush", b.Flush(), flush.ErrTimeout)
		f.Abort(harness.ErrBoom)
		if err := f.Close(); !errors.Is(err, harness.ErrBoom) || f.Stats().Bytes+f.Stats().Lost != int64(len(page)) {
			t.Errorf("%v, %+v", err, f.Stats())
		}
	})
}
