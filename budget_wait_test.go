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
)

// noDeadlines hides what a tap can besides writing and flushing.
type noDeadlines struct{ t *tap }

func (w noDeadlines) Header() http.Header         { return w.t.Header() }
func (w noDeadlines) WriteHeader(int)             {}
func (w noDeadlines) FlushError() error           { return nil }
func (w noDeadlines) Write(p []byte) (int, error) { return w.t.Write(p) }

// A Write that waits for the budget goes on when memory comes back, and ends
// with everything that ends its response: at once, or when its time is over.
// Nothing stays counted.
func TestBudgetWaitEnds(t *testing.T) {
	errOwn := errors.New("own")
	type scene struct {
		f, holder *flush.Flusher
		leave     context.CancelFunc
	}
	back := func(t *testing.T, s scene) { s.holder.FlushWait(noContext) }
	for _, tc := range []struct {
		name  string
		bare  bool // the server has no deadlines
		opts  flush.Options
		end   func(t *testing.T, s scene)
		n     int
		want  error
		after time.Duration
		close error // what Close returns later; nil: nothing
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
				go s.holder.FlushWait(noContext)
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
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(8<<10, 8<<10)
				opts := tc.opts
				opts.Budget, opts.Flush = budget, flush.Async
				if opts.SendTimeout == 0 {
					opts.SendTimeout = -1
				}
				holder := hold(budget, 2)
				var w http.ResponseWriter = newTap(true)
				if tc.bare {
					w = noDeadlines{newTap(true)}
				}
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				f := flush.New(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil), &opts)
				done := writes(f, 5)
				expectWaiting(t, budget, 1)
				if f.Available() != 0 {
					t.Errorf("Available says %d while a Write waits", f.Available())
				}
				time.Sleep(0)
				if tc.end != nil {
					tc.end(t, scene{f, holder, leave})
				}
				got := <-done
				if got.n == 5 && tc.want == http.ErrHijacked && strings.Contains(tc.name, "same time") {
					// Which came first is open: either way nothing stays counted.
				} else if got.n != tc.n || !errors.Is(got.err, tc.want) || got.after != tc.after {
					t.Errorf("Write returned %d, %v after %v; want %d, %v after %v", got.n, got.err, got.after, tc.n, tc.want, tc.after)
				}
				if err := f.Close(); (err != nil) != (tc.close != nil) && tc.want != http.ErrHijacked {
					t.Errorf("Close: %v, want %v", err, tc.close)
				}
				holder.Close()
				expectNothingHeld(t, budget)
			})
		})
	}
}

// What waits for the budget is not what has failed: without deadlines the
// response goes on after the wait.
func TestBudgetWaitThatTimedOutDoesNotStickWithoutDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := hold(budget, 1)
		client := newTap(true)
		f := flush.New(noDeadlines{client}, nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second})
		if got := <-writes(f, 5); !errors.Is(got.err, flush.ErrTimeout) {
			t.Fatalf("Write: %v", got.err)
		}
		holder.Close()
		if _, err := f.WriteString("again"); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil || client.got() != 5 {
			t.Errorf("Close: %v; %d bytes came", err, client.got())
		}
		expectNothingHeld(t, budget)
	})
}

// A response that was given no memory for SendTimeout is cut: the client must
// not take it for whole.
func TestBudgetWaitThatTimedOutCutsTheResponse(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		budget := flush.NewBudget(4<<10, 4<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second}
		var holder *flush.Flusher
		srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "first")
			f, _ := flush.From(w)
			f.FlushWait(noContext)
			holder = hold(budget, 1)
			io.WriteString(w, "second") // and looks at nothing
		}), opts), 0)
		s := open(t, srv, "GET", "/", nil)
		body, _, end := s.rest()
		if body != "first" || end == complete {
			t.Errorf("%q, %v", body, end)
		}
		holder.Close()
		expectNothingHeld(t, budget)
	})
}

// Memory that comes back is handed to one who waits: to those who hold nothing
// first, and among equals in the order in which they came. Nobody waits for a
// clock.
func TestBudgetHandsMemoryOverInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(16<<10, 16<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
		stuck := newTap(false)
		stuck.stuck = true
		rich := flush.New(stuck, nil, opts)
		rich.Write(make([]byte, blockBytes))
		holders := []*flush.Flusher{hold(budget, 1), hold(budget, 1), hold(budget, 1)}
		late := func(w http.ResponseWriter) *flush.Flusher { return flush.New(w, nil, opts) }
		more := writes(rich, 5)
		first, second := late(newTap(false)), late(newTap(false))
		one, two := writes(first, 5), writes(second, 5)
		expectWaiting(t, budget, 3)

		begin := time.Now()
		for i, done := range []<-chan result{one, two, more} {
			holders[i].Close()
			expectWaiting(t, budget, 2-i)
			select {
			case got := <-done:
				if got.n != 5 || got.err != nil {
					t.Errorf("Write %d: %d, %v", i, got.n, got.err)
				}
			default:
				t.Errorf("memory was not handed to Write %d", i)
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("it took %v", d)
		}
		close(stuck.opened)
		first.Abort(nil)
		second.Abort(nil)
		rich.Close()
		expectNothingHeld(t, budget)
	})
}

// A line that moves is progress: those at its end wait longer than SendTimeout,
// and fail only once it has stood still for as long.
func TestBudgetLineThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(12<<10, 12<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second}
		holders := []*flush.Flusher{hold(budget, 1), hold(budget, 1), hold(budget, 1)}
		var waiters []*flush.Flusher
		var done []<-chan result
		for range 4 {
			f := flush.New(newTap(true), nil, opts)
			waiters, done = append(waiters, f), append(done, writes(f, 5))
		}
		for i, h := range holders {
			time.Sleep(600 * time.Millisecond)
			h.Close()
			if got, want := <-done[i], time.Duration(i+1)*600*time.Millisecond; got.err != nil || got.after != want {
				t.Errorf("Write %d: %+v, want after %v", i, got, want)
			}
		}
		if got, want := <-done[3], 2800*time.Millisecond; !errors.Is(got.err, flush.ErrTimeout) || got.after != want {
			t.Errorf("the last Write: %+v, want ErrTimeout after %v", got, want)
		}
		for _, f := range waiters {
			f.Close()
		}
		expectNothingHeld(t, budget)
	})
}

// HTTP/1.0 buffering ends where the budget does.
func TestBudgetEndsHTTP10Buffering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		srv := serveMemory(t, http10, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, blockBytes))
			io.WriteString(w, "more")
			if err := flush.Flush(w, true); err != nil {
				t.Error(err)
			}
		}), &flush.Options{Budget: budget, Flush: flush.Async, HTTP10Buffer: 1 << 20}), 0)
		if body, _, _ := open(t, srv, "GET", "/", nil).rest(); len(body) != blockBytes+4 {
			t.Errorf("%d bytes", len(body))
		}
		expectNothingHeld(t, budget)
	})
}

// A Write that waits and holds something comes to the front when that has gone
// down.
func TestBudgetWaiterWhoseOwnBytesWentDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(8<<10, 8<<10)
		opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
		client := newTap(false)
		a := flush.New(client, nil, opts)
		a.Write(make([]byte, 10)) // one block, which moves on with the next
		holder := hold(budget, 1)
		done := writes(a, 3*blockBytes)
		expectWaiting(t, budget, 1)
		close(client.opened)
		if got := <-done; got.n != 3*blockBytes || got.err != nil || got.after != 0 {
			t.Errorf("Write: %+v", got)
		}
		a.Close()
		holder.Close()
		expectNothingHeld(t, budget)
	})
}

// A synchronous Write needs no memory: it goes to the client instead.
func TestBudgetSynchronousWriteDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := hold(budget, 1)
		srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				if _, err := w.Write(make([]byte, 700)); err != nil {
					t.Error(err)
				}
			}
			if held := budget.Stats().Held; held != 4<<10 {
				t.Errorf("%d bytes are held", held)
			}
		}), &flush.Options{Budget: budget}), 0)
		if body, _, end := open(t, srv, "GET", "/", nil).rest(); len(body) != 7000 || end != complete && p != http10 {
			t.Errorf("%d bytes, %v", len(body), end)
		}
		holder.Close()
		expectNothingHeld(t, budget)
	})
}

// A small synchronous Write goes to the server where the budget has no room,
// which does not have the server drain the body.
func TestBudgetLeavesTheRequestBodyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := hold(budget, 1)
		srv := serveMemory(t, http1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "got ")
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Write(body)
		}), &flush.Options{Budget: budget}), 0)
		s := open(t, srv, "POST", "/", strings.NewReader("upload"))
		s.expectEnd("got upload")
		holder.Close()
		expectNothingHeld(t, budget)
	})
}

// HTTP/1.0 buffering, an unread body and one large Write: what the response
// holds itself goes down when the budget is used up.
func TestBudgetOwnMemoryGoesDownFirst(t *testing.T) {
	for _, p := range []proto{http10, http1} {
		for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
			t.Run(p.String()+" "+mode.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					budget := flush.NewBudget(0, 16<<10)
					opts := &flush.Options{Budget: budget, Flush: mode, HTTP10Buffer: 1 << 20, SendTimeout: time.Hour}
					srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						if n, err := w.Write(make([]byte, 100_000)); n != 100_000 || err != nil {
							t.Errorf("Write: %d, %v", n, err)
						}
					}), opts), 0)
					begin := time.Now()
					if body, _, _ := open(t, srv, "POST", "/", strings.NewReader("a body that nobody reads")).rest(); len(body) != 100_000 {
						t.Errorf("%d bytes", len(body))
					}
					if d := time.Since(begin); d >= time.Minute {
						t.Errorf("it took %v", d)
					}
					expectNothingHeld(t, budget)
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
		park := newPark(t)
		srv := serveMemory(t, http1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			f, _ := flush.From(w)
			if left := int(8<<10-budget.Stats().Held) / 4096; f.Available() != blockBytes-1+left*blockBytes {
				t.Errorf("Available says %d, with one byte and %d blocks left", f.Available(), left)
			}
			park.here()
			io.Copy(io.Discard, r.Body)
		}), opts), 0)
		var uploads []*stream
		var bodies []*io.PipeWriter
		for range 2 {
			r, w := io.Pipe()
			uploads, bodies = append(uploads, open(t, srv, "POST", "/", r)), append(bodies, w)
			park.wait()
			park.resume()
		}
		if held := budget.Stats().Held; held != 8<<10 {
			t.Fatalf("%d bytes are held", held)
		}
		f := flush.New(newTap(true), nil, opts)
		if n := f.Available(); n != 0 {
			t.Errorf("Available says %d", n)
		}
		done := writes(f, 100)
		expectWaiting(t, budget, 1)
		if n := flush.New(newTap(true), nil, opts).Available(); n != 0 {
			t.Errorf("Available says %d while another waits", n)
		}
		bodies[0].Close()
		if got := <-done; got.err != nil {
			t.Error(got.err)
		}
		uploads[0].expectEnd("x")
		f.FlushWait(noContext)
		if n := f.Available(); n != blockBytes {
			t.Errorf("Available says %d with one block left", n)
		}
		if got := <-writes(f, f.Available()); got.err != nil || got.after != 0 {
			t.Errorf("a Write of what is available: %+v", got)
		}
		f.Close()
		bodies[1].Close()
		uploads[1].expectEnd("x")
		expectNothingHeld(t, budget)
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
			bubble(t, func(t *testing.T, p proto) {
				budget := budget()
				opts := &flush.Options{Budget: budget, Flush: flush.Async, HTTP10Buffer: 10_000}
				srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
					body, _, _ := open(t, srv, method, "/", strings.NewReader("x")).rest()
					if len(body) != 30_000 && method != "HEAD" {
						t.Errorf("%s: %d bytes", method, len(body))
					}
				}
				expectNothingHeld(t, budget)
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
		{"the budget is less", 1 << 20, 8 << 10, 2 * blockBytes, 2 * blockBytes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(tc.hard, tc.hard)
				client := newTap(false)
				f := flush.New(client, nil, &flush.Options{Budget: budget, Flush: flush.Async, MaxPending: tc.pending, SendTimeout: -1})
				if n := f.Available(); n != tc.inside {
					t.Errorf("Available says %d, want %d", n, tc.inside)
				}
				done := writes(f, 30_000)
				if got := f.Buffered(); got != tc.mostHeld {
					t.Errorf("%d bytes are held, want %d", got, tc.mostHeld)
				}
				close(client.opened)
				if got := <-done; got.n != 30_000 || got.err != nil {
					t.Errorf("Write: %+v", got)
				}
				if err := f.Close(); err != nil || client.got() != 30_000 {
					t.Errorf("Close: %v; %d bytes came", err, client.got())
				}
				if most := f.Stats().MaxPending; most > tc.mostHeld {
					t.Errorf("high-water mark %d, want %d", most, tc.mostHeld)
				}
				expectNothingHeld(t, budget)
			})
		})
	}
}

// Who has stopped to wait leaves nothing behind, while the memory is still held.
func TestBudgetWaitLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(4<<10, 4<<10)
		holder := hold(budget, 1)
		before := len(goroutines()) // runtime.NumGoroutine counts some that have ended
		for range 100 {
			f := flush.New(newTap(true), nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second})
			if got := <-writes(f, 5); !errors.Is(got.err, flush.ErrTimeout) {
				t.Errorf("Write: %+v", got)
			}
			f.Close()
		}
		synctest.Wait()
		if n := len(goroutines()); n > before {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		if got, want := budget.Stats(), (flush.BudgetStats{Held: 4 << 10, Members: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		holder.Close()
	})
}
