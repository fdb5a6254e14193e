package flush_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// A callee is a server's writer that can do everything a server may be asked
// for, and something else first: park, panic, or fail.
type callee struct {
	harness.DeadlineSink
	first func(call string) error
}

func newCallee(t *testing.T, first func(call string) error) *callee {
	return &callee{harness.DeadlineSink{Sink: harness.NewSink(t)}, first}
}

// before does what comes first, as part of the call.
func (c *callee) before(call string) error {
	c.Enter()
	defer c.Leave()
	return c.first(call)
}

func (c *callee) Header() http.Header {
	c.first("Header") // the only one that needs no baton
	return c.DeadlineSink.Header()
}

func (c *callee) WriteHeader(code int) {
	c.before("WriteHeader")
	c.DeadlineSink.WriteHeader(code)
}

func (c *callee) Write(p []byte) (int, error) {
	if err := c.before("Write"); err != nil {
		return 0, err
	}
	return c.DeadlineSink.Write(p)
}

func (c *callee) FlushError() error {
	if err := c.before("FlushError"); err != nil {
		return err
	}
	return c.DeadlineSink.FlushError()
}

func (c *callee) ReadFrom(src io.Reader) (int64, error) {
	if err := c.before("ReadFrom"); err != nil {
		return 0, err
	}
	p, err := io.ReadAll(src)
	if err != nil {
		return 0, err
	}
	n, err := c.DeadlineSink.Write(p)
	return int64(n), err
}

func (c *callee) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := c.before("Hijack"); err != nil {
		return nil, nil, err
	}
	return hijackable{DeadlineSink: c.DeadlineSink}.Hijack()
}

// A parking holds the first call of one kind until it is opened.
type parking struct {
	call   string
	gate   chan struct{}
	once   sync.Once
	inside chan struct{}
}

func newParking(call string) *parking {
	return &parking{call: call, gate: make(chan struct{}), inside: make(chan struct{})}
}

func (p *parking) first(call string) error {
	if call == p.call {
		p.once.Do(func() {
			close(p.inside)
			<-p.gate
		})
	}
	return nil
}

// While a call of any kind is in the server, what is written beside it
// enters behind it, and a flush that says nil has had its bytes flushed.
func TestFlushBesideACallOfTheServer(t *testing.T) {
	file, text := harness.TempFile(t, 100_000)
	bulk := harness.Numbered(50_000)
	rewound := func() io.Reader { file.Seek(0, io.SeekStart); return file }
	for _, call := range []struct {
		name, parks string
		do          func(f *flush.Flusher) error
		sends       string
	}{
		{"ReadFrom a file", "ReadFrom", func(f *flush.Flusher) error { _, err := f.ReadFrom(rewound()); return err }, text},
		{"io.Copy of a file", "ReadFrom", func(f *flush.Flusher) error { _, err := io.Copy(f, rewound()); return err }, text},
		{"ReadFrom a limit", "ReadFrom", func(f *flush.Flusher) error {
			_, err := f.ReadFrom(io.LimitReader(rewound(), 10_000))
			return err
		}, text[:10_000]},
		{"ReadFrom a reader", "Write", func(f *flush.Flusher) error {
			_, err := f.ReadFrom(io.NewSectionReader(file, 0, 20_000))
			return err
		}, text[:20_000]},
		{"Write", "Write", func(f *flush.Flusher) error { _, err := f.WriteString(bulk); return err }, bulk},
		{"FlushWait", "FlushError", func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) }, ""},
		{"FlushWait, writing", "Write", func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) }, ""},
		{"FlushAsync", "FlushError", (*flush.Flusher).FlushAsync, ""},
		{"SendHeaders", "FlushError", (*flush.Flusher).SendHeaders, ""},
		{"SendHeaders, writing", "WriteHeader", (*flush.Flusher).SendHeaders, ""},
	} {
		for _, before := range []string{"", "first", "flushed", "flushed twice"} {
			for _, way := range []struct {
				name  string
				flush func(f *flush.Flusher) error
				waits bool
			}{
				{"FlushWait", func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) }, true},
				{"FlushError", (*flush.Flusher).FlushError, true},
				{"FlushAll", func(f *flush.Flusher) error { return f.FlushAll(true) }, true},
				{"FlushAsync", (*flush.Flusher).FlushAsync, false},
			} {
				t.Run(fmt.Sprintf("%s/%s/%s", call.name, before, way.name), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						p := newParking(call.parks)
						parks := !strings.HasPrefix(before, "flushed") // then it is not yet time
						s := newCallee(t, func(call string) error {
							if parks {
								return p.first(call)
							}
							return nil
						})
						f := flush.New(s, nil, nil)
						want := ""
						if before != "" {
							want = before
							harness.MustWrite(t, f, before)
						}
						if !parks {
							harness.Must(t, f.FlushWait(harness.NoContext))
							want += "again"
							harness.MustWrite(t, f, "again")
							if before == "flushed twice" {
								harness.Must(t, f.FlushWait(harness.NoContext)) // the plain way, and nothing is held
							}
							parks = true
						}
						called := harness.Go(func() error { return call.do(f) })
						synctest.Wait()
						if !deadline.Closed(p.inside) {
							close(p.gate) // this one does not come by here
						}
						want += call.sends
						check := func(when string) {
							at, _ := s.LastFlush()
							if held := f.Buffered(); held > 0 || s.Body() != want || at != len(want) {
								t.Errorf("%s %d bytes are held, %d of %d arrived, %d flushed", when, held, len(s.Body()), len(want), at)
							}
						}
						want += "beatbeat"
						beaten := harness.Go(func() error { // beside it
							for range 2 {
								if n, err := f.WriteString("beat"); n != 4 || err != nil {
									return fmt.Errorf("%d: %w", n, err)
								}
							}
							err := way.flush(f)
							if way.waits && err == nil {
								check("a flush says nil, and")
							}
							return err
						})
						synctest.Wait()
						if !deadline.Closed(p.gate) {
							close(p.gate)
						}
						harness.Must(t, <-called)
						harness.Must(t, <-beaten)
						if synctest.Wait(); !way.waits {
							check("it was flushed, and")
						}
						harness.Must(t, f.Close())
						if s.Body() != want {
							t.Errorf("%d bytes arrived of %d, or not in order", len(s.Body()), len(want))
						}
						if st := f.Stats(); st.Bytes != int64(len(want)) || st.Lost != 0 {
							t.Errorf("%+v", st)
						}
					})
				})
			}
		}
	}
}

// The same beside Hijack: what was accepted is on the wire or told, and no
// flush says nil for what went nowhere.
func TestWriteBesideHijack(t *testing.T) {
	for _, before := range []string{"", "first", "flushed twice"} {
		for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
			t.Run(fmt.Sprintf("%q/%v", before, mode), func(t *testing.T) {
				edge(t, func(t *testing.T) {
					p := newParking("Hijack")
					s := newCallee(t, p.first)
					f := flush.New(s, nil, &flush.Options{Flush: mode})
					if before != "" {
						harness.MustWrite(t, f, before)
					}
					want := before
					if before == "flushed twice" {
						harness.Must(t, f.FlushWait(harness.NoContext))
						harness.MustWrite(t, f, before)
						harness.Must(t, f.FlushWait(harness.NoContext))
						want += before
					}
					hijacked := harness.Go(func() error { _, _, err := f.Hijack(); return err })
					<-p.inside
					var n int
					wrote := harness.Go(func() (err error) { n, err = f.WriteString("beat"); return err })
					synctest.Wait()
					flushed := harness.Go(func() error { return f.FlushWait(harness.NoContext) })
					synctest.Wait()
					close(p.gate)
					harness.Must(t, <-hijacked)
					if err := <-wrote; n == 0 && !errors.Is(err, http.ErrHijacked) {
						t.Errorf("Write: %v", err)
					}
					if err := <-flushed; !errors.Is(err, http.ErrHijacked) {
						t.Errorf("FlushWait: %v", err)
					}
					f.Close()
					if st := f.Stats(); st.Bytes+st.Lost != int64(len(want)+n) || st.Bytes != int64(len(s.Body())) {
						t.Errorf("%d bytes accepted, %+v", len(want)+n, st)
					}
				})
			})
		}
	}
}

// A call of the server that panics, fails, or fails and then panics leaves
// the response one that can be asked and ended, whichever way it was called.
// Real time, as what hangs may hang in a mutex.
func TestServerThatPanics(t *testing.T) {
	file, _ := harness.TempFile(t, 10_000)
	boom := errors.New("boom")
	refuses := func(call string) error {
		switch call {
		case "Write":
			return http.ErrContentLength
		case "FlushError":
			panic(boom)
		}
		return nil
	}
	breaks := func(call string) error {
		switch call {
		case "Write":
			return io.ErrClosedPipe
		case "FlushError":
			panic(boom)
		}
		return nil
	}
	in := func(where string) func(string) error {
		return func(call string) error {
			if call == where {
				panic(boom)
			}
			return nil
		}
	}
	exits := func(where string) func(string) error {
		return func(call string) error {
			if call == where {
				runtime.Goexit()
			}
			return nil
		}
	}
	for _, way := range []struct {
		name  string
		opts  flush.Options
		plain bool // headers are out first
		do    func(f *flush.Flusher)
	}{
		{"plain FlushWait", flush.Options{}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushWait(harness.NoContext) }},
		{"plain FlushError", flush.Options{}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushError() }},
		{"FlushWait", flush.Options{}, false, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushWait(harness.NoContext) }},
		{"FlushWait of much", flush.Options{BufferSize: 20_000}, true, func(f *flush.Flusher) { f.Write(make([]byte, 15_000)); f.FlushWait(harness.NoContext) }},
		{"implicit", flush.Options{Implicit: flush.Wait}, true, func(f *flush.Flusher) { io.WriteString(f, "x") }},
		{"FlushAll", flush.Options{}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushAll(true) }},
		{"Write", flush.Options{}, true, func(f *flush.Flusher) { f.Write(make([]byte, 10_000)); f.FlushWait(harness.NoContext) }},
		{"Write with the headers", flush.Options{}, false, func(f *flush.Flusher) { f.Write(make([]byte, 10_000)) }},
		{"Write onto held", flush.Options{}, true, func(f *flush.Flusher) {
			io.WriteString(f, "x")
			f.Write(make([]byte, 10_000))
			f.FlushWait(harness.NoContext)
		}},
		{"every write", flush.Options{BufferSize: -1}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushWait(harness.NoContext) }},
		{"FollowFlush", flush.Options{}, true, func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			io.WriteString(f, "x")
			f.FlushWait(harness.NoContext)
		}},
		{"Buffer.Flush", flush.Options{BufferSize: -1}, true, func(f *flush.Flusher) {
			b := f.StartBuffer(nil)
			io.WriteString(f, "x")
			b.Flush()
			f.FlushWait(harness.NoContext)
		}},
		{"SendHeaders", flush.Options{}, false, func(f *flush.Flusher) { f.SendHeaders() }},
		{"SendHeaders, held", flush.Options{}, false, func(f *flush.Flusher) { io.WriteString(f, "x"); f.SendHeaders() }},
		{"ReadFrom", flush.Options{}, true, func(f *flush.Flusher) { file.Seek(0, io.SeekStart); f.ReadFrom(file); f.FlushWait(harness.NoContext) }},
		{"ReadFrom, implicit", flush.Options{Implicit: flush.Wait}, true, func(f *flush.Flusher) { file.Seek(0, io.SeekStart); f.ReadFrom(file) }},
		{"Hijack", flush.Options{}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.Hijack() }},
		{"carrier", flush.Options{Flush: flush.Async}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushAsync() }},
		{"carrier and wait", flush.Options{Flush: flush.Async}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushAsync(); f.FlushWait(harness.NoContext) }},
		{"interval", flush.Options{FlushInterval: time.Nanosecond}, false, func(f *flush.Flusher) { io.WriteString(f, "x"); f.FlushWait(harness.NoContext) }},
		{"Close", flush.Options{}, true, func(f *flush.Flusher) { io.WriteString(f, "x"); f.Close() }},
	} {
		for _, fault := range []struct {
			name  string
			first func(string) error
		}{
			{"refused, then a panic", refuses},
			{"broken, then a panic", breaks},
			{"Write panics", in("Write")},
			{"FlushError panics", in("FlushError")},
			{"WriteHeader panics", in("WriteHeader")},
			{"Header panics", in("Header")},
			{"Header exits", exits("Header")},
			{"ReadFrom panics", in("ReadFrom")},
			{"Hijack panics", in("Hijack")},
			{"Write exits", exits("Write")},
			{"FlushError exits", exits("FlushError")},
		} {
			t.Run(way.name+"/"+fault.name, func(t *testing.T) {
				broken := false
				s := newCallee(t, func(call string) error {
					if broken || !way.plain {
						return fault.first(call)
					}
					return nil
				})
				budget := flush.NewBudget(1<<20, 1<<20)
				opts := way.opts
				opts.Budget = budget
				f := flush.New(s, nil, &opts)
				if way.plain {
					harness.MustWrite(t, f, "first")
					harness.Must(t, f.FlushWait(harness.NoContext))
				}
				broken = true
				step := "the call itself"
				var mu sync.Mutex
				at := func(name string) { mu.Lock(); defer mu.Unlock(); step = name }
				done := make(chan struct{})
				go func() {
					defer close(done)
					alone := func(name string, call func()) {
						at(name)
						over := make(chan struct{})
						go func() { // on its own: the call may end its goroutine
							defer close(over)
							defer func() {
								if v := recover(); v != nil && v != any(boom) && !strings.Contains(fmt.Sprint(v), "Goexit") {
									t.Errorf("%s: panic %v", name, v)
								}
							}()
							call()
						}()
						<-over
					}
					alone("the call itself", func() { way.do(f) })
					for _, later := range []struct {
						name string
						call func()
					}{
						{"Err", func() { f.Err() }},
						{"Stats", func() { f.Stats() }},
						{"Write", func() { f.Write([]byte("late")) }},
						{"large Write", func() { f.Write(make([]byte, 20_000)) }},
						{"ReadFrom", func() { file.Seek(0, io.SeekStart); f.ReadFrom(file) }},
						{"FlushAsync", func() { f.FlushAsync() }},
						{"FlushWait", func() { f.FlushWait(harness.NoContext) }},
						{"FlushAll", func() { f.FlushAll(true) }},
						{"SendHeaders", func() { f.SendHeaders() }},
						{"Clean", func() { f.Clean() }},
						{"SetWriteDeadline", func() { f.SetWriteDeadline(time.Now().Add(time.Hour)) }},
						{"Close", func() { f.Close() }},
						{"Close again", func() { f.Close() }},
						{"Abort", func() { f.Abort(nil) }},
					} {
						alone(later.name, later.call)
					}
				}()
				timer := time.NewTimer(harness.Patience() / 2)
				defer timer.Stop()
				select {
				case <-done:
					if held := budget.Stats().Held; held != 0 {
						t.Errorf("%d bytes are still counted", held)
					}
				case <-timer.C:
					mu.Lock()
					defer mu.Unlock()
					t.Errorf("%s hangs", step)
				}
			})
		}
	}
}

// The plain way of FlushWait: headers are out, and what is held lies in one
// block. Most waiting flushes take it.

// A plain FlushWait hands its bytes over and flushes the server once, whatever
// the server says to that; what it says comes back.
func TestPlainFlushWaitFlushesOnce(t *testing.T) {
	passing := fmt.Errorf("a layer below: %w", http.ErrNotSupported)
	for _, test := range []struct {
		name          string
		says          error
		want, sticks  error
		wantLastFlush int
	}{
		{"well", nil, nil, nil, 10},
		{"cannot flush this time", passing, passing, nil, 10},
		{"fails", errors.New("broken"), flush.ErrClientGone, flush.ErrClientGone, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, f := plainResponse(t)
			s.OnFlush = func() error { return test.says }
			harness.MustWrite(t, f, "event")
			if err := f.FlushWait(harness.NoContext); !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("FlushWait: %v, want %v", err, test.want)
			}
			if at, n := s.LastFlush(); at != test.wantLastFlush || n != 2 {
				t.Errorf("%d flushes, the last at %d", n, at)
			}
			if st := f.Stats(); st.Flushes != 2 || st.Pushes != 2 || st.Bytes != 10 || st.Lost != 0 {
				t.Errorf("%+v", st)
			}
			if err := f.Err(); !errors.Is(err, test.sticks) || test.sticks == nil && err != nil {
				t.Errorf("what sticks is %v", err)
			}
			s.OnFlush = nil
			// What it said is not said again of a later flush.
			mustGo := test.sticks == nil
			f.WriteString("later")
			if err := f.FlushWait(harness.NoContext); mustGo && err != nil || !mustGo && !errors.Is(err, test.sticks) {
				t.Errorf("the next FlushWait: %v", err)
			}
			f.Close()
		})
	}
}

// plainResponse is one whose next flush is plain: its headers are out, and nothing
// is held.
func plainResponse(t *testing.T) (*harness.Sink, *flush.Flusher) {
	t.Helper()
	s := harness.NewSink(t)
	f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
	harness.MustWrite(t, f, "first")
	harness.Must(t, f.FlushWait(harness.NoContext))
	return s, f
}

// plainFlushUnderWay has a FlushWait of "own" stalled on such a one.
func plainFlushUnderWay(t *testing.T, wg *sync.WaitGroup) (*harness.Sink, *flush.Flusher) {
	t.Helper()
	s, f := plainResponse(t)
	s.Hold(5)
	harness.MustWrite(t, f, "own")
	wg.Go(func() { harness.Must(t, f.FlushWait(harness.NoContext)) })
	synctest.Wait()
	return s, f
}

// What is written while a plain FlushWait is under way is not its own: it
// returns without, and that stays held until it moves by itself.
func TestPlainFlushWaitIsForItsOwnBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		s, f := plainFlushUnderWay(t, &wg)
		harness.MustWrite(t, f, "later")
		s.Hold(8) // its own bytes, and not one more
		wg.Wait()
		if at, n := s.LastFlush(); s.Body() != "firstown" || at != 8 || n != 2 || f.Buffered() != 5 {
			t.Errorf("%q sent, %d flushes, the last at %d, %d held", s.Body(), n, at, f.Buffered())
		}
		s.Release()
		harness.Must(t, f.FlushWait(harness.NoContext))
		harness.Must(t, f.Close())
		if s.Body() != "firstownlater" {
			t.Errorf("%q sent", s.Body())
		}
	})
}

// Flushes that are asked for during a plain FlushWait are done after it, and
// what others wait for is not done before its bytes are down.
func TestPlainFlushWaitThenOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		s, f := plainFlushUnderWay(t, &wg)
		harness.MustWrite(t, f, "asked")
		harness.Must(t, f.FlushAsync())
		harness.MustWrite(t, f, "waited")
		wg.Go(func() {
			harness.Must(t, f.FlushWait(harness.NoContext))
			if at, _ := s.LastFlush(); at < len("firstownaskedwaited") {
				t.Errorf("returned with %d bytes flushed", at)
			}
		})
		synctest.Wait()
		s.Release()
		wg.Wait()
		synctest.Wait()
		if at, _ := s.LastFlush(); at != len("firstownaskedwaited") || f.Buffered() != 0 {
			t.Errorf("flushed to %d, %d held", at, f.Buffered())
		}
		harness.Must(t, f.Close())
	})
}

// Nothing is kept of a wait that has ended, however it ended.
func TestWaitsLeaveNothingBehind(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const waits, most = 100_000, 256 << 10 // less than three bytes a wait
	for _, test := range []struct {
		name string
		call func(f *flush.Flusher, ctx context.Context) error
	}{
		{"plain", func(f *flush.Flusher, _ context.Context) error { return f.FlushWait(harness.NoContext) }},
		{"with a context", func(f *flush.Flusher, ctx context.Context) error { return f.FlushWait(ctx) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			ctx := t.Context()
			run := func(n int) {
				for range n {
					harness.MustWrite(t, f, "x")
					harness.Must(t, test.call(f, ctx))
					s.Mu.Lock()
					s.Got, s.Flushed = nil, nil // the test's own memory
					s.Mu.Unlock()
				}
			}
			run(1000)
			before := heap()
			run(waits)
			if grown := heap() - before; grown > most {
				t.Errorf("%d waits left %d bytes", waits, grown)
			}
			harness.Must(t, f.Close())
		})
	}
	// In a bubble, where each wait has begun before it is ended.
	const few, little = waits / 5, most / 5
	for _, test := range []struct {
		name string
		call func(f *flush.Flusher, ctx context.Context) error
	}{
		{"ended by its context", (*flush.Flusher).FlushWait},
		{"ended by the send timeout", func(f *flush.Flusher, _ context.Context) error { return f.FlushWait(harness.NoContext) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(s, nil, &flush.Options{SendTimeout: time.Second})
				s.Hold(0)
				harness.MustWrite(t, f, "stuck")
				harness.Must(t, f.FlushAsync())
				run := func(n int) {
					for range n {
						ctx, cancel := context.WithCancel(context.Background())
						done := make(chan error, 1)
						go func() { done <- test.call(f, ctx) }()
						if test.name == "ended by its context" {
							synctest.Wait()
							cancel()
						}
						if err := <-done; err == nil {
							t.Fatal("it waited for nothing")
						}
						cancel()
					}
				}
				run(1000)
				before := heap()
				run(few)
				if grown := heap() - before; grown > little {
					t.Errorf("%d waits left %d bytes", few, grown)
				}
				s.Release()
				harness.Must(t, f.Close())
			})
		})
	}
}

// On a server without deadlines a Write's wait may end and the response goes
// on: those in line keep their place, and no Write is torn.
func TestWritesInLineKeepTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(s, nil, &flush.Options{Flush: flush.Async, MaxPending: 5000, BufferSize: 1000, SendTimeout: time.Minute})
		s.Hold(0)
		harness.MustWrite(t, f, strings.Repeat("-", 4999))
		var mu sync.Mutex
		accepted := map[rune]int{'-': 4999}
		var wg sync.WaitGroup
		begin := func(letter rune, size int, whole bool) {
			wg.Go(func() {
				n, err := f.WriteString(strings.Repeat(string(letter), size))
				if n != size && !errors.Is(err, flush.ErrTimeout) || whole && n != size {
					t.Errorf("%c: %d, %v", letter, n, err)
				}
				mu.Lock()
				defer mu.Unlock()
				accepted[letter] = n
			})
			synctest.Wait()
		}
		sizes := []int{3000, 1, 12000}
		for i := range 6 {
			begin('a'+rune(i), sizes[i%3], false)
		}
		<-time.After(time.Minute + 1) // their waits end
		for i := range 6 {            // and others come
			begin('A'+rune(i), sizes[i%3], true)
		}
		<-time.After(time.Second)
		s.Release()
		wg.Wait()
		harness.Must(t, f.Close())
		var want strings.Builder
		for _, letter := range "-abcdefABCDEF" {
			want.WriteString(strings.Repeat(string(letter), accepted[letter]))
		}
		if s.Body() != want.String() {
			t.Errorf("got %s, want %s", harness.Runs(s.Body()), harness.Runs(want.String()))
		}
	})
}
