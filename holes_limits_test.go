package flush_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// Limits, contexts and the end.

// A budget of nothing is raised to one block: a response over it works, one
// block at a time.
func TestBudgetOfNothing(t *testing.T) {
	for _, size := range [][2]int64{{0, 0}, {-5, -5}, {100, 0}, {0, 1}, {1 << 40, 10}} {
		for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
			t.Run(fmt.Sprint(size, mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					budget := flush.NewBudget(size[0], size[1])
					s := newSink(t)
					f := flush.New(deadlineSink{s}, nil, &flush.Options{Flush: mode, Budget: budget, SendTimeout: time.Minute})
					began := time.Now()
					text := strings.Repeat("0123456789", 2000)
					for range 3 {
						mustWrite(t, f, text)
						must(t, f.FlushWait(noContext))
					}
					if held := budget.Stats().Held; held != 0 {
						t.Errorf("%d bytes are counted of a response that holds nothing", held)
					}
					must(t, f.Close())
					if s.body() != strings.Repeat(text, 3) || time.Since(began) != 0 {
						t.Errorf("%d bytes after %v", len(s.body()), time.Since(began))
					}
				})
			})
		}
	}
}

// MaxPending holds beside a Budget that has room, to the byte, for small Writes
// and for large ones.
func TestMaxPendingBesideABudget(t *testing.T) {
	for _, size := range []int{1, 700, 5000, 50_000} {
		for _, mark := range []int{5000, 8128, 10_000} {
			t.Run(fmt.Sprint(size, mark), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					budget := flush.NewBudget(1<<20, 1<<20)
					s := newSink(t)
					f := flush.New(deadlineSink{s}, nil, &flush.Options{Flush: flush.Async, Budget: budget, MaxPending: mark})
					s.hold(0)
					const total = 60_000
					var wg sync.WaitGroup
					wg.Go(func() {
						for n := 0; n < total; n += size {
							mustWrite(t, f, strings.Repeat("x", min(size, total-n)))
						}
					})
					synctest.Wait()
					held := mark
					if size > max(mark, 32<<10) {
						held = 0 // what is beyond the mark passes through first, and is not held
					}
					if n := f.Buffered(); n != held || f.Available() != 0 {
						t.Errorf("%d bytes held and room for %d, with MaxPending %d", n, f.Available(), mark)
					}
					s.release()
					wg.Wait()
					must(t, f.Close())
					if st := f.Stats(); st.MaxPending != mark || len(s.body()) != total {
						t.Errorf("%+v, %d bytes arrived", st, len(s.body()))
					}
					if held := budget.Stats().Held; held != 0 {
						t.Errorf("%d bytes are counted at the end", held)
					}
				})
			})
		}
	}
}

// Memory that comes back wakes those who wait for it at that moment, as many as
// it is enough for, in the order in which they came.
func TestBudgetWakesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(16<<10, 16<<10)
		hog := flush.New(newTap(true), nil, &flush.Options{Budget: budget, BufferSize: 1 << 20, MaxPending: 1 << 20})
		mustWrite(t, hog, strings.Repeat("h", 4*blockBytes))
		began := time.Now()
		var wg sync.WaitGroup
		var woken atomic.Int32
		for i := range 4 {
			f := flush.New(newTap(true), nil, &flush.Options{Flush: flush.Async, Budget: budget, BufferSize: 1 << 20, MaxPending: 1 << 20})
			wg.Go(func() {
				mustWrite(t, f, "one block")
				woken.Add(1)
				if took := time.Since(began); took != 1010*time.Millisecond {
					t.Errorf("waiter %d was woken after %v", i, took)
				}
				<-time.After(time.Second)
				must(t, f.Close())
			})
			synctest.Wait()
		}
		<-time.After(1010*time.Millisecond - time.Since(began)) // between two looks
		must(t, hog.Close())
		wg.Wait()
		if woken.Load() != 4 {
			t.Errorf("%d were woken", woken.Load())
		}
	})
}

// A budget bounds what synchronous responses hold as well: over it they move
// down before they have filled their buffer.
func TestBudgetBoundsSynchronousResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hard = 16 << 10
		budget := flush.NewBudget(hard/2, hard)
		var all []*flush.Flusher
		for i := range 10 {
			f := flush.New(newTap(true), nil, &flush.Options{Budget: budget, BufferSize: 64 << 10, SendTimeout: time.Minute})
			all = append(all, f)
			for range 20 {
				if _, err := f.Write(make([]byte, 1000)); err != nil {
					t.Fatalf("response %d: %v", i, err)
				}
			}
			if held := budget.Stats().Held; held > hard {
				t.Errorf("%d bytes are held by %d responses that keep up, of at most %d", held, i+1, hard)
				break
			}
		}
		for _, f := range all {
			must(t, f.Close())
		}
	})
}

// A layer that has deadlines above one that can flush: both are found, and the
// send timeout is one that sticks.
func TestDeadlinesAboveFlush(t *testing.T) {
	for name, layer := range map[string]func(s *sink) http.ResponseWriter{
		"deadlines above": func(s *sink) http.ResponseWriter { return deadlineOnlyLayer{s, s} },
		"flush above":     func(s *sink) http.ResponseWriter { return flushLayerOf{deadlineOnlyLayer{noFlush{s}, s}, s} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSink(t)
				f := flush.New(layer(s), nil, &flush.Options{SendTimeout: time.Minute})
				mustWrite(t, f, "first")
				must(t, f.FlushWait(noContext))
				if at, n := s.lastFlush(); at != 5 || n != 1 {
					t.Errorf("%d flushes, the last at %d", n, at)
				}
				s.hold(5)
				mustWrite(t, f, "stuck")
				began := time.Now()
				if err := f.FlushWait(noContext); !errors.Is(err, flush.ErrTimeout) || !errors.Is(f.Err(), flush.ErrTimeout) || time.Since(began) != time.Minute {
					t.Errorf("%v after %v, what sticks is %v", err, time.Since(began), f.Err())
				}
				f.Close()
			})
		})
	}
}

// A deadlineOnlyLayer has deadlines and no flush.
type deadlineOnlyLayer struct {
	below http.ResponseWriter
	s     *sink
}

func (d deadlineOnlyLayer) Header() http.Header                { return d.below.Header() }
func (d deadlineOnlyLayer) WriteHeader(code int)               { d.below.WriteHeader(code) }
func (d deadlineOnlyLayer) Write(p []byte) (int, error)        { return d.below.Write(p) }
func (d deadlineOnlyLayer) SetWriteDeadline(t time.Time) error { d.s.wd.Set(t); return nil }
func (d deadlineOnlyLayer) Unwrap() http.ResponseWriter        { return d.below }

// A flushLayerOf flushes, and has no deadlines.
type flushLayerOf struct {
	below http.ResponseWriter
	s     *sink
}

func (l flushLayerOf) Header() http.Header         { return l.below.Header() }
func (l flushLayerOf) WriteHeader(code int)        { l.below.WriteHeader(code) }
func (l flushLayerOf) Write(p []byte) (int, error) { return l.below.Write(p) }
func (l flushLayerOf) FlushError() error           { return l.s.FlushError() }
func (l flushLayerOf) Unwrap() http.ResponseWriter { return l.below }

type noFlush struct{ s *sink }

func (n noFlush) Header() http.Header         { return n.s.Header() }
func (n noFlush) WriteHeader(code int)        { n.s.WriteHeader(code) }
func (n noFlush) Write(p []byte) (int, error) { return n.s.Write(p) }

// A watched context never ends. It counts who has himself told of its end, and
// who has not taken that back.
type watched struct {
	context.Context
	done          chan struct{}
	watches, left atomic.Int32
}

func (w *watched) Done() <-chan struct{} { return w.done }

func (w *watched) AfterFunc(func()) (stop func() bool) {
	w.watches.Add(1)
	w.left.Add(1)
	return sync.OnceValue(func() bool { w.left.Add(-1); return true })
}

// A handler that asks for its context's Done again and again has the server's
// context watched once, and not beyond the end of the response.
func TestDoneWatchesOnce(t *testing.T) {
	server := &watched{Context: context.Background(), done: make(chan struct{})}
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := r.Context().Done()
		for range 1000 {
			if r.Context().Done() != first {
				t.Error("another channel")
			}
			r.Context().Err()
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { r.Context().Done() })
		}
		wg.Wait()
	}), nil)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(server, "GET", "/", nil))
	if n, left := server.watches.Load(), server.left.Load(); n != 1 || left != 0 {
		t.Errorf("%d watches, %d of them left", n, left)
	}
}

// A context that is derived from the handler's, and looked at while the lock is
// held, does not ask for that lock: nothing hangs, whoever ended it.
func TestDerivedContextUnderTheLock(t *testing.T) {
	for _, serverEnds := range []bool{false, true} {
		t.Run(fmt.Sprint(serverEnds), func(t *testing.T) {
			server, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan struct{})
			s := newSink(t)
			go func() {
				defer close(done)
				flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					derived := lookingContext{r.Context()}
					timed, stop := context.WithTimeout(r.Context(), time.Hour)
					defer stop()
					if serverEnds {
						cancel()
					}
					s.hold(0)
					f.WriteString("event")
					time.AfterFunc(10*time.Millisecond, s.release)
					for _, ctx := range []context.Context{derived, timed} {
						if err := f.FlushWait(ctx); serverEnds && !errors.Is(err, context.Canceled) && err != nil || !serverEnds && err != nil {
							t.Errorf("FlushWait: %v", err)
						}
					}
				}), nil).ServeHTTP(deadlineSink{s}, httptest.NewRequestWithContext(server, "GET", "/", nil))
			}()
			timer := time.NewTimer(patience())
			defer timer.Stop()
			select {
			case <-done:
			case <-timer.C:
				t.Fatal("the wait hangs")
			}
		})
	}
}

// A lookingContext asks the one below it, whoever looks.
type lookingContext struct{ context.Context }

// An HTTP/2 stream that is idle when the handler's deadline passes is reset at
// that moment; what follows is a timeout, and it sticks. On HTTP/1 nothing
// happens before the next write.
func TestIdleStreamAtItsDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		ended := make(chan time.Duration, 1)
		srv := serveMemory(t, p, wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			clock := newClock()
			must(t, f.SetWriteDeadline(time.Now().Add(time.Minute)))
			f.WriteString("event")
			must(t, f.FlushWait(noContext))
			if p == h2 {
				<-r.Context().Done()
				ended <- clock.now()
			} else {
				<-time.After(2 * time.Minute)
			}
			if err := f.Err(); err != nil {
				t.Errorf("what sticks before anything was written: %v", err)
			}
			f.WriteString("late")
			if err := f.FlushWait(noContext); !errors.Is(err, flush.ErrTimeout) || !errors.Is(f.Err(), flush.ErrTimeout) {
				t.Errorf("FlushWait: %v, what sticks is %v", err, f.Err())
			}
		}), 0)
		s := open(t, srv, "GET", "/", nil)
		s.expect("event")
		if _, _, end := s.rest(); end == complete {
			t.Error("the client takes it for complete")
		}
		if p == h2 {
			if at := <-ended; at != time.Minute {
				t.Errorf("the context ended after %v", at)
			}
		}
	})
}

// After the end calls say that it is over, and why: the failure, or that the
// connection is another's.
func TestErrorsAfterTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(f *flush.Flusher)
		want []error
		not  error
	}{
		"Close":            {func(f *flush.Flusher) { f.Close() }, []error{flush.ErrClosed}, errWaitCause},
		"Abort":            {func(f *flush.Flusher) { f.Abort(errWaitCause) }, []error{flush.ErrClosed, errWaitCause}, http.ErrHijacked},
		"Hijack":           {func(f *flush.Flusher) { hijack(&waiter{f: f}) }, []error{http.ErrHijacked}, flush.ErrClosed},
		"Hijack and Close": {func(f *flush.Flusher) { hijack(&waiter{f: f}); f.Close() }, []error{http.ErrHijacked}, errWaitCause},
	} {
		t.Run(name, func(t *testing.T) {
			s := waitSink{newSink(t)}
			f := flush.New(deadlineWaitSink{s}, nil, nil)
			mustWrite(t, f, "body")
			must(t, f.FlushWait(noContext))
			test.end(f)
			body := s.body()
			file, _ := tempFile(t, 100)
			_, write := f.Write([]byte("x"))
			_, str := f.WriteString("x")
			_, from := f.ReadFrom(strings.NewReader("x"))
			_, sent := f.ReadFrom(file)
			_, _, again := f.Hijack()
			for call, err := range map[string]error{
				"Write": write, "WriteString": str, "ReadFrom": from, "ReadFrom a file": sent, "Hijack": again,
				"FlushWait": f.FlushWait(noContext), "FlushWait with a context": f.FlushWait(t.Context()), "FlushAsync": f.FlushAsync(), "FlushError": f.FlushError(),
				"FlushAll": f.FlushAll(true), "FlushAll, asynchronous": f.FlushAll(false), "SendHeaders": f.SendHeaders(),
				"SetWriteDeadline": f.SetWriteDeadline(time.Time{}),
			} {
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("%s: %v, want %v", call, err, want)
					}
				}
				if errors.Is(err, test.not) {
					t.Errorf("%s: %v", call, err)
				}
			}
			if f.Available() != 0 || f.Buffered() != 0 || s.body() != body {
				t.Errorf("room for %d, %d held, the server got %q", f.Available(), f.Buffered(), s.body())
			}
		})
	}
}

// A flush of a response that is held for HTTP/1.0 moves nothing and fixes
// nothing: headers can still be set, and taken back.
func TestFlushOfAHeldResponseFixesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := &flush.Options{HTTP10Buffer: 1000}
		srv := serveMemory(t, http10, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			f, _ := flush.From(w)
			for range 2 {
				for call, err := range map[string]error{"FlushWait": f.FlushWait(noContext), "FlushAsync": f.FlushAsync(), "FlushAll": f.FlushAll(true)} {
					if !errors.Is(err, flush.ErrBuffering) {
						t.Errorf("%s: %v", call, err)
					}
				}
				must(t, f.FlushError())
				synctest.Wait()
			}
			w.Header().Set("X-Late", "no")
			w.WriteHeader(201)
			f.WriteString("body")
			must(t, f.FlushError())
		}), 0)
		s := open(t, srv, "GET", "/", nil)
		r := s.response()
		if r.StatusCode != 201 || r.Header.Get("X-Late") != "no" || r.Header.Get("Content-Length") != "4" {
			t.Errorf("%d %v", r.StatusCode, r.Header)
		}
		s.expectEnd("body")
	})
}

// A flush of HEAD sends the headers, under OpenResty too, where a flush of
// nothing leaves them open otherwise.
func TestHeadIsFlushedUnderOpenResty(t *testing.T) {
	for _, wait := range []bool{true, false} {
		bubble(t, func(t *testing.T, p proto) {
			park := newPark(t)
			srv := serveMemory(t, p, wrapped(&flush.Options{SAPI: flush.OpenResty()}, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(200)
				if err := flush.Flush(w, wait); err != nil {
					t.Error(err)
				}
				park.here()
			}), 0)
			s := open(t, srv, "HEAD", "/", nil)
			park.wait()
			if r := s.response(); r.StatusCode != 200 {
				t.Errorf("%d", r.StatusCode)
			}
			park.resume()
			s.expectEnd("")
		})
	}
}

// A superfluous WriteHeader is logged with the handler's line where the server
// has no ErrorLog of its own, too.
func TestSuperfluousWriteHeaderInTheDefaultLog(t *testing.T) {
	var got safeBuffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&got)
	srv := serve(t, http1, wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		w.WriteHeader(404)
	}), configure(func(s *http.Server) { s.ErrorLog = nil }))
	open(t, srv, "GET", "/", nil).expectEnd("")
	if s := got.String(); strings.Count(s, "superfluous response.WriteHeader call") != 1 || !strings.Contains(s, "holes_limits_test.go") {
		t.Errorf("logged %q", s)
	}
}
