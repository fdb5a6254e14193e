package edges_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

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
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			harness.MustWrite(t, f, "first")
			harness.Must(t, f.FlushWait(harness.NoContext))
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

// What is written while a plain FlushWait is under way is not its own: it
// returns without, and that stays held until it moves by itself.
func TestPlainFlushWaitIsForItsOwnBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		harness.MustWrite(t, f, "first")
		harness.Must(t, f.FlushWait(harness.NoContext))
		s.Hold(5)
		harness.MustWrite(t, f, "own")
		var wg sync.WaitGroup
		wg.Go(func() { harness.Must(t, f.FlushWait(harness.NoContext)) })
		synctest.Wait()
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
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		harness.MustWrite(t, f, "first")
		harness.Must(t, f.FlushWait(harness.NoContext))
		s.Hold(5)
		harness.MustWrite(t, f, "own")
		var wg sync.WaitGroup
		wg.Go(func() { harness.Must(t, f.FlushWait(harness.NoContext)) })
		synctest.Wait()
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
