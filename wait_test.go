package flush_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A tally is what a response has accepted of its handler, and how long the
// handler had to wait.
type tally struct {
	t        *testing.T
	f        *flush.Flusher
	limit    time.Duration
	accepted strings.Builder
}

// write notes what f takes of s.
func (a *tally) write(s string) {
	a.timed("Write", func() {
		n, err := a.f.WriteString(s)
		a.accepted.WriteString(s[:n])
		if n < len(s) && err == nil {
			a.t.Errorf("%d of %d bytes and no error", n, len(s))
		}
	})
}

// timed does one call, which may wait for a send timeout, but not until a
// server that stalls twice has come to itself.
func (a *tally) timed(what string, do func()) {
	began := time.Now()
	do()
	if took := time.Since(began); took >= 3*a.limit {
		a.t.Errorf("%s took %v", what, took)
	}
}

// serveCut serves one request and reports whether the response was cut.
func serveCut(h http.Handler, w http.ResponseWriter, r *http.Request) (cut bool) {
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				panic(v)
			}
			cut = true
		}
	}()
	h.ServeHTTP(w, r)
	return false
}

// Where the server has no deadlines a wait that has ended leaves behind
// what it was for: it goes on later, or the response is cut. It is never
// dropped with a clean end.
func TestEndedWaitLosesNothing(t *testing.T) {
	const limit, stall, size = time.Minute, 90 * time.Second, 200_000
	all := harness.Numbered(size)
	for _, way := range []struct {
		name   string
		opts   flush.Options
		zipped bool
		do     func(a *tally)
	}{
		{"Buffer.Flush", flush.Options{}, false, func(a *tally) {
			b := a.f.StartBuffer(nil)
			a.write(all)
			a.timed("Flush", func() { b.Flush() })
		}},
		{"Buffer.Flush twice", flush.Options{}, false, func(a *tally) {
			b := a.f.StartBuffer(nil)
			a.write(all)
			a.timed("Flush", func() { b.Flush() })
			a.write("more")
			a.timed("Flush", func() { b.Flush() })
		}},
		{"Buffer.Flush, asynchronous", flush.Options{Flush: flush.Async}, false, func(a *tally) {
			b := a.f.StartBuffer(nil)
			a.write(all)
			a.timed("Flush", func() { b.Flush() })
		}},
		{"Buffer.Close", flush.Options{}, false, func(a *tally) {
			b := a.f.StartBuffer(nil)
			a.write(all)
			a.timed("Close", func() { b.Close() })
		}},
		{"two buffers", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(&flush.BufferOptions{ChunkSize: 1})
			b := a.f.StartBuffer(nil)
			a.write(all)
			a.timed("Flush", func() { b.Flush() })
		}},
		{"ChunkSize", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(&flush.BufferOptions{ChunkSize: 4096})
			a.write(all)
		}},
		{"ChunkSize, in pieces", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(&flush.BufferOptions{ChunkSize: 40_000})
			for i := 0; i < size; i += 1000 {
				a.write(all[i : i+1000])
			}
		}},
		{"FlushAll", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(nil)
			a.write(all)
			a.timed("FlushAll", func() { a.f.FlushAll(true) })
		}},
		{"FollowFlush", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			a.write(all)
			a.timed("FlushWait", func() { a.f.FlushWait(harness.NoContext) })
		}},
		{"FollowFlush, FlushError", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			a.write(all)
			a.timed("FlushError", func() { a.f.FlushError() })
		}},
		{"FollowFlush, context", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			a.write(all)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			a.timed("FlushWait", func() { a.f.FlushWait(ctx) })
		}},
		{"return", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(nil)
			a.write(all)
		}},
		{"return, twice as deep", flush.Options{}, false, func(a *tally) {
			a.f.StartBuffer(nil)
			a.write(all)
			a.f.StartBuffer(nil)
			a.write(all)
		}},
		{"write", flush.Options{}, false, func(a *tally) { a.write(all) }},
		{"write, asynchronous", flush.Options{Flush: flush.Async}, false, func(a *tally) { a.write(all) }},
		{"write, implicit", flush.Options{Implicit: flush.Wait}, false, func(a *tally) { a.write(all) }},
		{"many writes", flush.Options{}, false, func(a *tally) {
			for i := 0; i < size; i += 1000 {
				a.write(all[i : i+1000])
			}
		}},
		{"ReadFrom", flush.Options{}, false, func(a *tally) {
			n, _ := a.f.ReadFrom(strings.NewReader(all))
			a.accepted.WriteString(all[:n])
		}},
		{"ReadFrom, a file", flush.Options{}, false, func(a *tally) {
			file, text := harness.TempFile(a.t, size)
			n, _ := a.f.ReadFrom(file)
			a.accepted.WriteString(text[:n])
		}},
		{"Gzip", flush.Options{}, true, func(a *tally) { a.write(all) }},
		{"Gzip, flushed", flush.Options{}, true, func(a *tally) {
			for i := 0; i < size; i += 20_000 {
				a.write(all[i : i+20_000])
				a.timed("FlushError", func() { a.f.FlushError() })
			}
		}},
		{"Gzip, asynchronous", flush.Options{Flush: flush.Async}, true, func(a *tally) {
			for i := 0; i < size; i += 1000 {
				a.write(all[i : i+1000])
				a.f.FlushAsync()
			}
		}},
	} {
		for _, test := range []struct {
			name string
			at   int // what the server takes before it stalls
			then int // and before it stalls again; 0: it does not
		}{{"at once", 0, 0}, {"midway", 70_000, 0}, {"twice", 0, 50_000}} {
			t.Run(way.name+"/"+test.name, func(t *testing.T) {
				edge(t, func(t *testing.T) {
					s := harness.NewSink(t)
					s.Hold(test.at)
					time.AfterFunc(stall, func() {
						if test.then == 0 {
							s.Release()
							return
						}
						s.Hold(test.then)
						time.AfterFunc(stall, s.Release)
					})
					opts, told := harness.TellClosing(way.opts)
					opts.SendTimeout = limit
					r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
					if way.zipped {
						r.Header.Set("Accept-Encoding", "gzip")
						opts.OnStart = func(f *flush.Flusher, r *http.Request) {
							f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
						}
					}
					a := &tally{t: t, limit: limit}
					cut := serveCut(harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
						a.f = harness.Flusher(w)
						way.do(a)
						a.write("tail")
					}), s, r)
					c := <-told
					got := s.Body()
					if way.zipped {
						got = unzipped(t, got, !cut)
					}
					want := a.accepted.String()
					if !cut && c.Err == nil && got != want {
						t.Errorf("%d of %d bytes accepted arrived, and nobody is told: %+v", len(got), len(want), c.Stats)
					}
					if !cut && c.Err != nil {
						t.Errorf("a clean end in spite of %v", c.Err)
					}
					if !strings.HasPrefix(want, got) {
						t.Errorf("the %d bytes that arrived are not the first of the %d accepted", len(got), len(want))
					}
				})
			})
		}
	}
}

// What a Write whose wait has ended did not take counts for no length that the
// response has declared: it may be written again.
func TestEndedWriteGoesOnWithinItsLength(t *testing.T) {
	edge(t, func(t *testing.T) {
		s := harness.NewSink(t)
		s.Hold(0)
		all := harness.Numbered(300_000)
		f := flush.New(s, nil, &flush.Options{SendTimeout: time.Minute})
		f.Header().Set("Content-Length", "300000")
		n, err := f.WriteString(all)
		if n == len(all) || err == nil || f.Err() != nil {
			t.Fatalf("%d bytes taken, %v, then %v: the test shows nothing", n, err, f.Err())
		}
		s.Release()
		harness.MustWrite(t, f, all[n:])
		harness.Must(t, f.Close())
		if s.Body() != all {
			t.Errorf("%d bytes arrived", len(s.Body()))
		}
	})
}

// unzipped returns what of the gzip stream can be decoded; all of it, if whole.
func unzipped(t *testing.T, s string, whole bool) string {
	z, err := gzip.NewReader(strings.NewReader(s))
	var got bytes.Buffer
	if err == nil {
		_, err = io.Copy(&got, z)
	}
	if err != nil && (whole || !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF) {
		t.Errorf("%d bytes of gzip, %d decoded: %v", len(s), got.Len(), err)
	}
	return got.String()
}

// The twin: a server that stalls for less than SendTimeout is waited for.
func TestPatientWaitLosesNothing(t *testing.T) {
	edge(t, func(t *testing.T) {
		const limit = time.Minute
		s := harness.NewSink(t)
		s.Hold(0)
		time.AfterFunc(limit-1, s.Release)
		f := flush.New(s, nil, &flush.Options{SendTimeout: limit})
		b := f.StartBuffer(nil)
		all := harness.Numbered(200_000)
		harness.MustWrite(t, f, all)
		harness.Must(t, b.Flush())
		harness.Must(t, f.Close())
		if s.Body() != all {
			t.Errorf("%d bytes arrived", len(s.Body()))
		}
	})
}

// A large Write of an HTTP/1.0 response that is held, beside an unread
// body and under a Budget, goes down on the writer's own goroutine.
func TestBudgetOfAHeldResponseWithABody(t *testing.T) {
	for _, test := range []struct {
		name   string
		opts   flush.Options
		write  int
		method string
	}{
		{"held", flush.Options{HTTP10Buffer: 1 << 20}, 100_000, "POST"},
		{"held, small writes", flush.Options{HTTP10Buffer: 1 << 20}, 1000, "POST"},
		{"asynchronous", flush.Options{Flush: flush.Async}, 100_000, "POST"},
		{"interval", flush.Options{FlushInterval: time.Second}, 100_000, "POST"},
		{"plain", flush.Options{}, 100_000, "POST"},
		{"held, no body", flush.Options{HTTP10Buffer: 1 << 20}, 100_000, "GET"},
	} {
		t.Run(test.name, func(t *testing.T) {
			edges(t, func(t *testing.T, p harness.Proto) {
				const size = 200_000
				clock := harness.NewClock()
				opts, told := harness.TellClosing(test.opts)
				opts.SendTimeout, opts.Budget = time.Minute, flush.NewBudget(16<<10, 16<<10)
				started := make(chan *flush.Flusher, 1)
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					started <- harness.Flusher(w)
					for range size / test.write {
						if n, err := w.Write(make([]byte, test.write)); n != test.write || err != nil {
							t.Error(n, err)
							return
						}
					}
				}), 1<<20)
				var body io.Reader
				if test.method == "POST" {
					body = strings.NewReader("upload")
				}
				s := harness.Open(t, srv, test.method, "/", body)
				f := <-started
				never := time.AfterFunc(time.Hour, func() {
					t.Errorf("the Write has not returned after %v", clock.Now())
					f.Abort(nil)
				})
				if body, _, end := s.Rest(); len(body) != size || end == harness.Cut {
					t.Errorf("%d bytes, %s", len(body), end)
				}
				if c := <-told; c.Err != nil {
					t.Error("OnClose:", c.Err)
				}
				never.Stop()
				if held := opts.Budget.Stats().Held; held != 0 {
					t.Errorf("%d bytes are still counted", held)
				}
				s.Leave()
				<-time.After(time.Second) // a server that gives up a connection lingers
			})
		})
	}
}

// A response is a candidate for what it holds, whether it held anything
// when the call of the server began that blocks or not.
func TestBudgetFindsWhoBlockedWithNothingHeld(t *testing.T) {
	for _, test := range []struct {
		name  string
		block func(f *flush.Flusher)
		takes time.Duration // until the client goes on; 0: never
	}{
		{"a large write", func(f *flush.Flusher) { f.Write(make([]byte, harness.Much)) }, 0},
		{"headers", func(f *flush.Flusher) { f.SendHeaders() }, 0},
		{"a flush of headers", func(f *flush.Flusher) { f.FlushWait(harness.NoContext) }, 0},
		{"asynchronous headers", func(f *flush.Flusher) { f.FlushAsync() }, 0},
		{"twin: it keeps up", func(f *flush.Flusher) { f.Write(make([]byte, harness.Much)) }, 50 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				clock := harness.NewClock()
				opts := &flush.Options{Budget: flush.NewBudget(8<<10, 8<<10), SendTimeout: time.Hour}
				stalled := newFlushSink(t)
				a := flush.New(stalled, nil, opts)
				go test.block(a)
				synctest.Wait()
				if n, err := a.Write(make([]byte, 8000)); n != 8000 || err != nil {
					t.Error(n, err)
				}
				if test.takes > 0 {
					time.AfterFunc(test.takes, stalled.open)
				}
				b := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: opts.Budget, Flush: flush.Async})
				wrote := harness.Go(func() error { _, err := b.Write(make([]byte, 1000)); return err })
				err, came := clock.By(time.Minute, wrote)
				if !came {
					t.Errorf("another response waits for memory after %v", clock.Now())
				} else if err != nil {
					t.Error(err)
				}
				if err := a.Err(); test.takes == 0 && !errors.Is(err, flush.ErrOverBudget) || test.takes > 0 && err != nil {
					t.Errorf("the response that blocks: %v", err)
				}
				stalled.open()
				a.Close()
				if err := b.Close(); err != nil {
					t.Error(err)
				}
				if held := opts.Budget.Stats().Held; held != 0 {
					t.Errorf("%d bytes are still counted", held)
				}
			})
		})
	}
}

// A flushSink is a tap that stalls in flushes, too.
type flushSink struct{ *harness.Tap }

func newFlushSink(*testing.T) flushSink { return flushSink{harness.NewTap(false)} }

func (s flushSink) open() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	select {
	case <-s.Opened:
	default:
		close(s.Opened)
	}
}

func (s flushSink) FlushError() error {
	_, err := s.Write(nil)
	return err
}

// A Write that waits for the budget ends: with Close, with SendTimeout,
// with a failure, with Abort, when the client leaves; and gives nothing up that
// it was not given.
func TestWaitForTheBudgetEnds(t *testing.T) {
	const limit = time.Minute
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		opts flush.Options
		end  func(f *flush.Flusher, hang context.CancelFunc)
		by   time.Duration
		want error
	}{
		{"Close", flush.Options{SendTimeout: limit, Flush: flush.Async}, func(f *flush.Flusher, _ context.CancelFunc) { go f.Close() }, limit + limit/4, harness.ErrAny},
		{"Close, implicit", flush.Options{SendTimeout: limit, Implicit: flush.Async}, func(f *flush.Flusher, _ context.CancelFunc) { go f.Close() }, limit + limit/4, harness.ErrAny},
		{"SendTimeout", flush.Options{SendTimeout: limit, Flush: flush.Async}, func(*flush.Flusher, context.CancelFunc) {}, limit + limit/4, flush.ErrTimeout},
		{"Abort", flush.Options{SendTimeout: limit, Flush: flush.Async}, func(f *flush.Flusher, _ context.CancelFunc) { f.Abort(cause) }, time.Second, cause},
		{"the client leaves", flush.Options{SendTimeout: time.Hour, Flush: flush.Async}, func(_ *flush.Flusher, hang context.CancelFunc) { hang() }, time.Second, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				budget := flush.NewBudget(8<<10, 8<<10)
				// It keeps up, and holds what no flush was asked for.
				a := flush.New(harness.NewTap(true), nil, &flush.Options{Budget: budget, BufferSize: 16 << 10})
				a.Write(make([]byte, 8000))
				opts := test.opts
				opts.Budget = budget
				ctx, hang := context.WithCancel(t.Context())
				defer hang()
				got := make(chan *flush.Flusher, 1)
				wrote := make(chan error, 1)
				r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
				clock := harness.NewClock()
				served := harness.Go(func() error {
					serveCut(harness.Wrapped(&opts, func(w http.ResponseWriter, r *http.Request) {
						got <- harness.Flusher(w)
						r.Context().Done() // it is watched
						_, err := w.Write(make([]byte, 1000))
						wrote <- err
					}), harness.NewTap(true), r)
					return nil
				})
				f := <-got
				synctest.Wait()
				test.end(f, hang)
				err, came := clock.By(test.by, wrote)
				switch {
				case !came:
					t.Errorf("the Write still waits after %v", clock.Now())
					go f.Abort(nil)
					<-wrote
				case test.want == nil: // the server's call tells
				case err == nil || test.want != harness.ErrAny && !errors.Is(err, test.want):
					t.Errorf("the Write: %v after %v", err, clock.Now())
				}
				<-served
				a.Abort(nil)
				if held := budget.Stats().Held; held != 0 {
					t.Errorf("%d bytes are still counted", held)
				}
			})
		})
	}
}

// A hijackable is a sink whose connection can be taken over. Hijack waits for
// the gate, if there is one.
type hijackable struct {
	harness.DeadlineSink
	gate chan struct{}
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h.Enter()
	defer h.Leave()
	if h.gate != nil {
		<-h.gate
	}
	conn, other := net.Pipe()
	other.Close()
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}

// A Write that waits, for memory or for room, while the response comes to
// its end takes nothing when it goes on: it says why it may not, and nothing
// stays charged.
func TestWaitEndsWithTheResponse(t *testing.T) {
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		end  func(f *flush.Flusher) error
		want error
	}{
		{"Hijack", func(f *flush.Flusher) error { _, _, err := f.Hijack(); return err }, http.ErrHijacked},
		{"Abort", func(f *flush.Flusher) error { f.Abort(cause); return nil }, cause},
	} {
		for _, comes := range []string{"at once", "later", "in between"} {
			t.Run(test.name+"/"+comes, func(t *testing.T) {
				edge(t, func(t *testing.T) {
					budget := flush.NewBudget(8<<10, 8<<10)
					opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
					first := harness.NewTap(false)
					a := flush.New(first, nil, opts)
					a.Write(make([]byte, 8000))
					b := flush.New(hijackable{DeadlineSink: harness.DeadlineSink{Sink: harness.NewSink(t)}}, nil, opts)
					type result struct {
						n   int
						err error
					}
					wrote := make(chan result, 1)
					go func() {
						n, err := b.WriteString("hello")
						wrote <- result{n, err}
					}()
					<-time.After(10 * time.Millisecond)
					switch comes {
					case "at once":
						harness.Must(t, test.end(b))
						close(first.Opened)
					case "later":
						harness.Must(t, test.end(b))
						<-time.After(time.Second)
						close(first.Opened)
					case "in between":
						go close(first.Opened)
						harness.Must(t, test.end(b))
					}
					got := <-wrote
					if comes != "in between" && (got.n != 0 || !errors.Is(got.err, test.want)) {
						t.Errorf("the Write: %d, %v", got.n, got.err)
					}
					harness.Must(t, a.Close())
					synctest.Wait() // a block was perhaps on its way to the one that waited
					if held := budget.Stats().Held; held != 0 {
						t.Errorf("%d bytes stay counted for a response that has ended", held)
					}
					b.Close()
					if st := b.Stats(); st.Bytes+st.Lost != int64(got.n) {
						t.Errorf("%d bytes accepted, %+v", got.n, st)
					}
					if held := budget.Stats().Held; held != 0 {
						t.Errorf("%d bytes are still counted", held)
					}
				})
			})
		}
	}
}

// A Write that waits for room behind a Hijack, too.
func TestRoomWaitEndsWithHijack(t *testing.T) {
	edge(t, func(t *testing.T) {
		s := hijackable{DeadlineSink: harness.DeadlineSink{Sink: harness.NewSink(t)}}
		f := flush.New(s, nil, &flush.Options{Flush: flush.Async, MaxPending: 8000, SendTimeout: -1})
		s.Hold(0)
		harness.MustWrite(t, f, harness.Numbered(8000))
		var n int
		wrote := harness.Go(func() (err error) { n, err = f.WriteString("hello"); return err })
		synctest.Wait()
		hijacked := harness.Go(func() error { _, _, err := f.Hijack(); return err })
		synctest.Wait()
		s.Release()
		harness.Must(t, <-hijacked)
		err := <-wrote
		f.Close()
		if st := f.Stats(); st.Bytes+st.Lost != int64(8000+n) || int64(len(s.Body())) != st.Bytes {
			t.Errorf("%d of 5 bytes accepted, %v, %+v", n, err, st)
		}
		if n < 5 && !errors.Is(err, http.ErrHijacked) {
			t.Error(err)
		}
	})
}

// A wait gets what the server said of its own flush, not of another's that came
// right behind it.
func TestWaitGetsItsOwnFlushesError(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // who waited comes to run when both are done
	for name, said := range map[string][]error{
		"the first fails":  {nil, http.ErrNotSupported, nil},
		"the second fails": {nil, nil, http.ErrNotSupported},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					s.OnFlush = func() error {
						if len(s.Flushed) > len(said) {
							return nil
						}
						return said[len(s.Flushed)-1]
					}
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{Flush: flush.Async})
					s.Hold(0)
					harness.MustWrite(t, f, "x")
					harness.Must(t, f.FlushAsync())
					synctest.Wait()
					var waits []<-chan error
					for _, part := range []string{"a", harness.Text(20_000)} { // no round goes so far beyond a wait
						harness.MustWrite(t, f, part)
						waits = append(waits, harness.Go(func() error { return f.FlushWait(t.Context()) }))
						synctest.Wait()
					}
					s.Release()
					for i, wait := range waits {
						if err := <-wait; err != said[i+1] {
							t.Errorf("wait %d: %v, want %v", i, err, said[i+1])
						}
					}
					if _, n := s.LastFlush(); n != 3 {
						t.Errorf("%d flushes: the test shows nothing", n)
					}
					harness.Must(t, f.Close())
				})
			}
		})
	}
}
