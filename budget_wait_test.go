package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A Write that waits for the budget goes on when memory comes back, and ends
// with everything that ends its response: at once, or when its time is over.
// Nothing stays counted.
func TestBudgetWaitEnds(t *testing.T) {
	errOwn := errors.New("own")
	type scene struct {
		f, holder *flush.Flusher
		leave     context.CancelFunc
	}
	back := func(t *testing.T, s scene) { s.holder.FlushWait(harness.NoContext) }
	for _, tc := range []struct {
		name   string
		bare   bool          // the server has no deadlines
		server time.Duration // its WriteTimeout
		opts   flush.Options
		end    func(t *testing.T, s scene)
		n      int
		want   error
		after  time.Duration
		close  error // what Close returns later; nil: nothing
	}{
		{name: "memory comes back", end: back, n: 5},
		{name: "Abort", end: func(_ *testing.T, s scene) { s.f.Abort(errOwn) }, want: errOwn, close: errOwn},
		{
			name: "Close",
			end: func(t *testing.T, s scene) {
				if s.f.Close() == nil {
					t.Error("the response was ended in the middle of a Write, and Close returned nil")
				}
			},
			want: flush.ErrClosed, close: errors.ErrUnsupported, // whatever it is
		},
		{
			name: "Hijack",
			end: func(t *testing.T, s scene) {
				if _, _, err := s.f.Hijack(); err != nil {
					t.Error(err)
				}
			},
			want: http.ErrHijacked,
		},
		{
			name: "Hijack, and memory comes back at the same time",
			end: func(t *testing.T, s scene) {
				go s.holder.FlushWait(harness.NoContext)
				s.f.Hijack()
			},
			want: http.ErrHijacked,
		},
		{name: "the client leaves", end: func(_ *testing.T, s scene) { s.leave() }, n: 5},
		{
			name: "SendTimeout", opts: flush.Options{SendTimeout: time.Second},
			want: flush.ErrTimeout, after: time.Second, close: flush.ErrTimeout,
		},
		{
			name: "SendTimeout without deadlines", bare: true, opts: flush.Options{SendTimeout: time.Second},
			want: flush.ErrTimeout, after: time.Second,
		},
		{
			name: "a deadline of the handler's",
			end: func(_ *testing.T, s scene) {
				s.f.SetWriteDeadline(time.Now().Add(time.Second))
			},
			want: flush.ErrTimeout, after: time.Second, close: flush.ErrTimeout,
		},
		{
			name: "the server's WriteTimeout", server: time.Second,
			want: flush.ErrTimeout, after: time.Second, close: flush.ErrTimeout,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(8<<10, 8<<10)
				opts := tc.opts
				opts.Budget, opts.Flush = budget, flush.Async
				if opts.SendTimeout == 0 && tc.server == 0 {
					opts.SendTimeout = -1
				}
				holder := harness.HoldBudget(budget, 2)
				var w http.ResponseWriter = harness.NewTap(true)
				if tc.bare {
					w = harness.NoDeadlines{T: harness.NewTap(true)}
				}
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				f := flush.New(w, requestOf(ctx, tc.server), &opts)
				done := harness.WriteBehind(f, 5)
				harness.ExpectWaiting(t, budget, 1)
				if f.Available() != 0 {
					t.Errorf("Available says %d while a Write waits", f.Available())
				}
				time.Sleep(0)
				if tc.end != nil {
					tc.end(t, scene{f, holder, leave})
				}
				got := <-done
				if got.N == 5 && tc.want == http.ErrHijacked && strings.Contains(tc.name, "same time") {
					// Which came first is open: either way nothing stays counted.
				} else if got.N != tc.n || !errors.Is(got.Err, tc.want) || got.After != tc.after {
					t.Errorf("Write returned %d, %v after %v; want %d, %v after %v", got.N, got.Err, got.After, tc.n, tc.want, tc.after)
				}
				if err := f.Close(); (err != nil) != (tc.close != nil) && tc.want != http.ErrHijacked {
					t.Errorf("Close: %v, want %v", err, tc.close)
				}
				holder.Close()
				harness.ExpectNothingHeld(t, budget)
			})
		})
	}
}

// What waits for the budget is not what has failed: without deadlines the
// response goes on after the wait.
func TestBudgetWaitThatTimedOutDoesNotStickWithoutDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := harness.HoldBudget(budget, 1)
		client := harness.NewTap(true)
		f := flush.New(harness.NoDeadlines{T: client}, nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second})
		if got := <-harness.WriteBehind(f, 5); !errors.Is(got.Err, flush.ErrTimeout) {
			t.Fatalf("Write: %v", got.Err)
		}
		holder.Close()
		if _, err := f.WriteString("again"); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil || client.Got() != 5 {
			t.Errorf("Close: %v; %d bytes came", err, client.Got())
		}
		harness.ExpectNothingHeld(t, budget)
	})
}

// A response that was given no memory for SendTimeout is cut: the client must
// not take it for whole.
func TestBudgetWaitThatTimedOutCutsTheResponse(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		budget := flush.NewBudget(4<<10, 4<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second}
		var holder *flush.Flusher
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "first")
			f, _ := flush.From(w)
			f.FlushWait(harness.NoContext)
			holder = harness.HoldBudget(budget, 1)
			w.Write(make([]byte, harness.BlockBytes)) // and looks at nothing
		}), opts), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		body, _, end := s.Rest()
		if body != "first" || end == harness.Complete {
			t.Errorf("%q, %v", body, end)
		}
		holder.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// Memory that comes back is handed to one who waits: to those who hold nothing
// first, and among equals in the order in which they came. Nobody waits for a
// clock.
func TestBudgetHandsMemoryOverInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(16<<10, 16<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
		stuck := harness.NewTap(false)
		stuck.Stuck = true
		rich := flush.New(stuck, nil, opts)
		rich.Write(make([]byte, harness.BlockBytes))
		holders := []*flush.Flusher{harness.HoldBudget(budget, 1), harness.HoldBudget(budget, 1), harness.HoldBudget(budget, 1)}
		late := func(w http.ResponseWriter) *flush.Flusher { return flush.New(w, nil, opts) }
		more := harness.WriteBehind(rich, 5)
		first, second := late(harness.NewTap(false)), late(harness.NewTap(false))
		one, two := harness.WriteBehind(first, 5), harness.WriteBehind(second, 5)
		harness.ExpectWaiting(t, budget, 3)

		begin := time.Now()
		for i, done := range []<-chan harness.WriteResult{one, two, more} {
			holders[i].Close()
			harness.ExpectWaiting(t, budget, 2-i)
			select {
			case got := <-done:
				if got.N != 5 || got.Err != nil {
					t.Errorf("Write %d: %d, %v", i, got.N, got.Err)
				}
			default:
				t.Errorf("memory was not handed to Write %d", i)
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("it took %v", d)
		}
		close(stuck.Opened)
		first.Abort(nil)
		second.Abort(nil)
		rich.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// Memory that comes back is for those who wait: nobody who comes then is before them.
func TestBudgetNobodyOvertakes(t *testing.T) {
	for range 20 { // who comes first to the memory is the scheduler's to say
		synctest.Test(t, func(t *testing.T) {
			budget := flush.NewBudget(8<<10, 8<<10)
			opts := &flush.Options{Budget: budget, Flush: flush.Async, BufferSize: 1 << 20, SendTimeout: -1}
			first, last := harness.HoldBudget(budget, 1), harness.HoldBudget(budget, 1)
			waits, tries, comes := flush.New(harness.NewTap(true), nil, opts), flush.New(harness.NewTap(true), nil, opts), flush.New(harness.NewTap(true), nil, opts)
			done := harness.WriteBehind(waits, 5)
			harness.ExpectWaiting(t, budget, 1)
			time.AfterFunc(time.Second, func() { last.FlushWait(harness.NoContext) })
			first.FlushWait(harness.NoContext)
			if err := tries.TryWrite([]byte("event")); err != flush.ErrNoRoom {
				t.Errorf("TryWrite: %v", err)
			}
			comes.WriteString("x")
			synctest.Wait()
			if len(done) == 0 {
				t.Error("one who came later was before the one who waits")
			}
			for _, f := range []*flush.Flusher{waits, tries, comes, first, last} {
				f.Close()
			}
			<-done
			harness.ExpectNothingHeld(t, budget)
		})
	}
}

// A line that moves is progress: those at its end wait longer than SendTimeout,
// and fail only once it has stood still for as long.
func TestBudgetLineThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(12<<10, 12<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second}
		holders := []*flush.Flusher{harness.HoldBudget(budget, 1), harness.HoldBudget(budget, 1), harness.HoldBudget(budget, 1)}
		var waiters []*flush.Flusher
		var done []<-chan harness.WriteResult
		for range 4 {
			f := flush.New(harness.NewTap(true), nil, opts)
			waiters, done = append(waiters, f), append(done, harness.WriteBehind(f, 5))
		}
		for i, h := range holders {
			time.Sleep(600 * time.Millisecond)
			h.Close()
			if got, want := <-done[i], time.Duration(i+1)*600*time.Millisecond; got.Err != nil || got.After != want {
				t.Errorf("Write %d: %+v, want after %v", i, got, want)
			}
		}
		if got, want := <-done[3], 2800*time.Millisecond; !errors.Is(got.Err, flush.ErrTimeout) || got.After != want {
			t.Errorf("the last Write: %+v, want ErrTimeout after %v", got, want)
		}
		for _, f := range waiters {
			f.Close()
		}
		harness.ExpectNothingHeld(t, budget)
	})
}

// HTTP/1.0 buffering ends where the budget does.
func TestBudgetEndsHTTP10Buffering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		srv := harness.ServeMemory(t, harness.HTTP10, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, harness.BlockBytes))
			io.WriteString(w, "more")
			if err := flush.Flush(w, true); err != nil {
				t.Error(err)
			}
		}), &flush.Options{Budget: budget, Flush: flush.Async, HTTP10Buffer: 1 << 20}), 0)
		if body, _, _ := harness.Open(t, srv, "GET", "/", nil).Rest(); len(body) != harness.BlockBytes+4 {
			t.Errorf("%d bytes", len(body))
		}
		harness.ExpectNothingHeld(t, budget)
	})
}

// A Write that waits and holds something comes to the front when that has gone
// down.
func TestBudgetWaiterWhoseOwnBytesWentDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(8<<10, 8<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
		client := harness.NewTap(false)
		a := flush.New(client, nil, opts)
		a.Write(make([]byte, 10)) // one block, which moves on with the next
		holder := harness.HoldBudget(budget, 1)
		done := harness.WriteBehind(a, 3*harness.BlockBytes)
		harness.ExpectWaiting(t, budget, 1)
		close(client.Opened)
		if got := <-done; got.N != 3*harness.BlockBytes || got.Err != nil || got.After != 0 {
			t.Errorf("Write: %+v", got)
		}
		a.Close()
		holder.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// A Write that moves its own bytes down looks again behind that: the context may have
// ended meanwhile, and what it has given back may be another's by now. It goes through
// then, and waits on if nothing has ended.
func TestBudgetContextEndsWhileOwnMemoryGoesDown(t *testing.T) {
	for _, ends := range []bool{true, false} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(4<<10, 4<<10)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := requestOf(ctx, 0)
				r.Proto, r.ProtoMinor = "HTTP/1.0", 0
				client := harness.NewTap(false)
				f := flush.New(client, r, &flush.Options{Budget: budget, HTTP10Buffer: 1 << 20, SendTimeout: -1})
				f.Write(make([]byte, 10)) // held for a length: only another Write moves it
				next := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
				first := harness.WriteBehind(next, 5)
				done := harness.WriteBehind(f, harness.BlockBytes)
				if ends {
					cancel()
				}
				synctest.Wait()
				close(client.Opened)
				harness.Must(t, (<-first).Err) // with what f has given back
				synctest.Wait()
				if waiting := len(done) == 0; waiting == ends {
					t.Errorf("the Write waits: %t", waiting)
				}
				next.Close()
				if got := <-done; got.N != harness.BlockBytes || got.Err != nil {
					t.Errorf("Write: %+v", got)
				}
				harness.Must(t, f.Close())
				harness.ExpectNothingHeld(t, budget)
			})
		})
	}
}

// A synchronous Write needs no memory: it goes to the client instead.
func TestBudgetSynchronousWriteDoesNotWait(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := harness.HoldBudget(budget, 1)
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				if _, err := w.Write(make([]byte, 700)); err != nil {
					t.Error(err)
				}
			}
			if held := budget.Stats().Held; held != 4<<10 {
				t.Errorf("%d bytes are held", held)
			}
		}), &flush.Options{Budget: budget}), 0)
		if body, _, end := harness.Open(t, srv, "GET", "/", nil).Rest(); len(body) != 7000 || end != harness.Complete && p != harness.HTTP10 {
			t.Errorf("%d bytes, %v", len(body), end)
		}
		holder.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// What net/http keeps by itself needs no memory either: the first 2 KiB, and after
// each flush as many. What is more waits.
func TestBudgetSmallWriteAfterAFlushDoesNotWait(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := harness.HoldBudget(budget, 1)
		given, over := make(chan *flush.Flusher), make(chan struct{})
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			given <- harness.Flusher(w)
			<-over
		}), &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		f := <-given
		for range 3 {
			for _, n := range []int{2000, 48} {
				if _, err := f.Write(bytes.Repeat([]byte("x"), n)); err != nil {
					t.Error(err)
				}
			}
			if got := budget.Stats(); got.Held != 4<<10 || got.Waiting != 0 {
				t.Errorf("%+v", got)
			}
			f.FlushAsync()
			s.Expect(strings.Repeat("x", 2048))
			s.Settle()
		}
		f.Write(make([]byte, 2000))
		done := harness.WriteBehind(f, 49)
		harness.ExpectWaiting(t, budget, 1)
		f.FlushAsync()
		synctest.Wait()
		if got := <-done; got.N != 49 || got.Err != nil || got.After != 0 {
			t.Errorf("Write that waited for the flush: %+v", got)
		}
		f.FlushAsync()
		s.Expect(string(make([]byte, 2049)))
		done = harness.WriteBehind(f, 2049)
		harness.ExpectWaiting(t, budget, 1)
		holder.Close()
		if got := <-done; got.N != 2049 || got.Err != nil || got.After != 0 {
			t.Errorf("Write that waited for memory: %+v", got)
		}
		close(over)
		s.Rest()
		harness.ExpectNothingHeld(t, budget)
	})
}

// Who stands between may hand a small Write on to the client at once: it waits for
// memory.
func TestBudgetSmallWriteThroughAWriterInBetweenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := harness.HoldBudget(budget, 1)
		given, over := make(chan *flush.Flusher), make(chan struct{})
		inner := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			given <- harness.Flusher(w)
			<-over
		}), &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		done := harness.WriteBehind(<-given, 5)
		harness.ExpectWaiting(t, budget, 1)
		holder.Close()
		if got := <-done; got.N != 5 || got.Err != nil {
			t.Errorf("%+v", got)
		}
		close(over)
		s.ExpectEnd(string(make([]byte, 5)))
		harness.ExpectNothingHeld(t, budget)
	})
}

// A small synchronous Write goes to the server where the budget has no room,
// which does not have the server drain the body.
func TestBudgetLeavesTheRequestBodyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := harness.HoldBudget(budget, 1)
		srv := harness.ServeMemory(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "got ")
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Write(body)
		}), &flush.Options{Budget: budget}), 0)
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
		s.ExpectEnd("got upload")
		holder.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}

// HTTP/1.0 buffering, an unread body and one large Write: what the response
// holds itself goes down when the budget is used up.
func TestBudgetOwnMemoryGoesDownFirst(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP10, harness.HTTP1} {
		for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
			t.Run(p.String()+" "+mode.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					budget := flush.NewBudget(0, 16<<10)
					opts := &flush.Options{Budget: budget, Flush: mode, HTTP10Buffer: 1 << 20, SendTimeout: time.Hour}
					srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						if n, err := w.Write(make([]byte, 100_000)); n != 100_000 || err != nil {
							t.Errorf("Write: %d, %v", n, err)
						}
					}), opts), 0)
					begin := time.Now()
					if body, _, _ := harness.Open(t, srv, "POST", "/", strings.NewReader("a body that nobody reads")).Rest(); len(body) != 100_000 {
						t.Errorf("%d bytes", len(body))
					}
					if d := time.Since(begin); d >= time.Minute {
						t.Errorf("it took %v", d)
					}
					harness.ExpectNothingHeld(t, budget)
				})
			})
		}
	}
}

// Available counts the budget: what it says, a Write takes without waiting, and
// more waits.
func TestBudgetAvailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(8<<10, 8<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
		// Two stalled uploads that hold one byte each.
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			f, _ := flush.From(w)
			if left := int(8<<10-budget.Stats().Held) / 4096; f.Available() != harness.BlockBytes-1+left*harness.BlockBytes {
				t.Errorf("Available says %d, with one byte and %d blocks left", f.Available(), left)
			}
			park.Here()
			io.Copy(io.Discard, r.Body)
		}), opts), 0)
		var uploads []*harness.Stream
		var bodies []*io.PipeWriter
		for range 2 {
			r, w := io.Pipe()
			uploads, bodies = append(uploads, harness.Open(t, srv, "POST", "/", r)), append(bodies, w)
			park.Wait()
			park.Resume()
		}
		if held := budget.Stats().Held; held != 8<<10 {
			t.Fatalf("%d bytes are held", held)
		}
		f := flush.New(harness.NewTap(true), nil, opts)
		if n := f.Available(); n != 0 {
			t.Errorf("Available says %d", n)
		}
		done := harness.WriteBehind(f, 100)
		harness.ExpectWaiting(t, budget, 1)
		if n := flush.New(harness.NewTap(true), nil, opts).Available(); n != 0 {
			t.Errorf("Available says %d while another waits", n)
		}
		bodies[0].Close()
		if got := <-done; got.Err != nil {
			t.Error(got.Err)
		}
		uploads[0].ExpectEnd("x")
		f.FlushWait(harness.NoContext)
		if n := f.Available(); n != harness.BlockBytes {
			t.Errorf("Available says %d with one block left", n)
		}
		if got := <-harness.WriteBehind(f, f.Available()); got.Err != nil || got.After != 0 {
			t.Errorf("a Write of what is available: %+v", got)
		}
		f.Close()
		bodies[1].Close()
		uploads[1].ExpectEnd("x")
		harness.ExpectNothingHeld(t, budget)
	})
}

// The least budget, and one that nobody made with NewBudget, still let
// everything through.
func TestBudgetOfOneBlock(t *testing.T) {
	for name, budget := range map[string]func() *flush.Budget{
		"NewBudget(0, 0)":   func() *flush.Budget { return flush.NewBudget(0, 0) },
		"NewBudget(-1, -1)": func() *flush.Budget { return flush.NewBudget(-1, -1) },
		"zero":              func() *flush.Budget { return new(flush.Budget) },
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				budget := budget()
				opts := &flush.Options{Budget: budget, Flush: flush.Async, HTTP10Buffer: 10_000}
				srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for range 30 {
						if n, err := w.Write(make([]byte, 1000)); n != 1000 || err != nil {
							t.Errorf("Write: %d, %v", n, err)
						}
						flush.Flush(w, false)
						if held := budget.Stats().Held; held > 4<<10 {
							t.Errorf("%d bytes are held", held)
						}
					}
				}), opts), 0)
				for _, method := range []string{"GET", "HEAD", "POST"} {
					body, _, _ := harness.Open(t, srv, method, "/", strings.NewReader("x")).Rest()
					if len(body) != 30_000 && method != "HEAD" {
						t.Errorf("%s: %d bytes", method, len(body))
					}
				}
				harness.ExpectNothingHeld(t, budget)
			})
		})
	}
}

// Both bounds hold: a response takes no more than its MaxPending of a budget
// that has room, and no more than the budget has of its MaxPending.
func TestBudgetBesideMaxPending(t *testing.T) {
	for _, tc := range []struct {
		name             string
		pending          int
		hard             int64
		mostHeld, inside int
	}{
		{"MaxPending is less", 10_000, 1 << 20, 10_000, 10_000},
		{"MaxPending is less than a block", 5000, 1 << 20, 5000, 5000},
		{"the budget is less", 1 << 20, 8 << 10, 2 * harness.BlockBytes, 2 * harness.BlockBytes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(tc.hard, tc.hard)
				client := harness.NewTap(false)
				f := flush.New(client, nil, &flush.Options{Budget: budget, Flush: flush.Async, MaxPending: tc.pending, SendTimeout: -1})
				if n := f.Available(); n != tc.inside {
					t.Errorf("Available says %d, want %d", n, tc.inside)
				}
				done := harness.WriteBehind(f, 30_000)
				if got := f.Buffered(); got != tc.mostHeld {
					t.Errorf("%d bytes are held, want %d", got, tc.mostHeld)
				}
				close(client.Opened)
				if got := <-done; got.N != 30_000 || got.Err != nil {
					t.Errorf("Write: %+v", got)
				}
				if err := f.Close(); err != nil || client.Got() != 30_000 {
					t.Errorf("Close: %v; %d bytes came", err, client.Got())
				}
				if most := f.Stats().MaxPending; most > tc.mostHeld {
					t.Errorf("high-water mark %d, want %d", most, tc.mostHeld)
				}
				harness.ExpectNothingHeld(t, budget)
			})
		})
	}
}

// Who has stopped to wait leaves nothing behind, while the memory is still held.
func TestBudgetWaitLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := harness.HoldBudget(budget, 1)
		before := len(besideUs())
		for range 100 {
			f := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second})
			if got := <-harness.WriteBehind(f, 5); !errors.Is(got.Err, flush.ErrTimeout) {
				t.Errorf("Write: %+v", got)
			}
			f.Close()
		}
		synctest.Wait()
		if n := len(besideUs()); n > before {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		if got, want := budget.Stats(), (flush.BudgetStats{Held: 4 << 10, Members: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		holder.Close()
	})
}

// A block that was handed to a Write, whose response ends before the Write looks, goes
// back to the budget.
func TestBudgetBlockOfAWriteThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(16<<10, 16<<10)
		holder := harness.HoldBudget(budget, 4)
		for range 50 {
			f := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1})
			done := harness.WriteBehind(f, 5)
			harness.ExpectWaiting(t, budget, 1)
			if !flush.GrantBlock(f) {
				t.Fatal("it does not wait")
			}
			f.Abort(nil)
			<-done
			if held := budget.Stats().Held; held != 16<<10 {
				t.Fatalf("%d bytes are held, want %d", held, 16<<10)
			}
		}
		holder.Close()
		harness.ExpectNothingHeld(t, budget)
	})
}
