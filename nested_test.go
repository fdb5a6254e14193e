package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// Two handlers that NewHandler has wrapped, with middleware between, are two
// Flushers, one on the other. The waits of the inner one end with its SendTimeout,
// whatever the outer one has and whatever the server can: the outer one has the
// methods in any case. Twin: they do not end before.
func TestNestedWaitsEnd(t *testing.T) {
	const limit = 3 * time.Second
	large := strings.Repeat("x", 1<<20)
	write := func(f *flush.Flusher, n int) error { _, err := io.WriteString(f, large[:n]); return err }
	many := func(n int, do func() error) (err error) {
		for range n {
			if err = do(); err != nil {
				break
			}
		}
		return err
	}
	for name, call := range map[string]func(f *flush.Flusher) error{
		"Write":            func(f *flush.Flusher) error { return write(f, len(large)) },
		"Writes":           func(f *flush.Flusher) error { return many(300, func() error { return write(f, 1000) }) },
		"ReadFrom":         func(f *flush.Flusher) error { _, err := f.ReadFrom(strings.NewReader(large)); return err },
		"Flush":            func(f *flush.Flusher) error { write(f, 200); return flush.Flush(f, true) },
		"Flush of more":    func(f *flush.Flusher) error { write(f, 20_000); return flush.Flush(f, true) },
		"implicit":         func(f *flush.Flusher) error { f.SetImplicit(flush.Wait); return write(f, 200) },
		"buffer":           func(f *flush.Flusher) error { b := f.StartBuffer(nil); write(f, 200_000); return b.Flush() },
		"FollowFlush":      func(f *flush.Flusher) error { follow(f); write(f, 200_000); return flush.Flush(f, true) },
		"FollowFlush, ask": func(f *flush.Flusher) error { follow(f); write(f, 200_000); f.FlushAsync(); return write(f, 1) },
		"behind a carrier": func(f *flush.Flusher) error { write(f, 200); f.FlushAsync(); return flush.Flush(f, true) },
		"SendHeaders behind a carrier": func(f *flush.Flusher) error {
			write(f, 200)
			f.FlushAsync()
			synctest.Wait()
			f.SendHeaders() // they are out
			return flush.Flush(f, true)
		},
	} {
		for _, between := range []struct {
			name string
			wrap func(w http.ResponseWriter) http.ResponseWriter
		}{
			{"hides", func(w http.ResponseWriter) http.ResponseWriter { return opaque{w} }},
			{"unwraps", func(w http.ResponseWriter) http.ResponseWriter { return harness.Unwrapper{ResponseWriter: w} }},
		} {
			for _, deadlines := range []bool{true, false} {
				for _, outer := range []flush.Options{{SendTimeout: -1}, {SendTimeout: -1, Flush: flush.Async}, {SendTimeout: time.Hour}} {
					for _, comes := range []time.Duration{0, limit - 1} { // when the client goes on; 0: never
						t.Run(fmt.Sprintf("%s/%s/deadlines=%t/%v,%v/%v", name, between.name, deadlines, outer.SendTimeout, outer.Flush, comes), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								s := harness.NewSink(t)
								s.Hold(0)
								var server http.ResponseWriter = s
								if deadlines {
									server = harness.DeadlineSink{Sink: s}
								}
								returned := make(chan error, 1)
								inner := harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
									returned <- call(harness.Flusher(w))
								})
								h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
									inner.ServeHTTP(between.wrap(w), r)
								}), &outer)
								ended := harness.Go(func() (err error) {
									defer func() {
										if v := recover(); v != nil && v != http.ErrAbortHandler {
											err = fmt.Errorf("panic: %v", v)
										}
									}()
									h.ServeHTTP(server, (&http.Request{Method: "GET", ProtoMajor: 1, ProtoMinor: 1}).WithContext(t.Context()))
									return nil
								})
								clock := harness.NewClock()
								if comes > 0 {
									time.AfterFunc(comes, s.Release)
								}
								var err error
								select {
								case err = <-returned:
								case <-time.After(time.Minute):
									t.Error("it waits for ever")
								}
								took := clock.Now()
								s.Release()
								switch {
								case comes > 0 && err != nil:
									t.Errorf("after %v: %v", took, err)
								case comes == 0 && took > 0 && (!errors.Is(err, flush.ErrTimeout) || took > 2*limit):
									t.Errorf("it returned %v after %v", err, took)
								}
								harness.Must(t, <-ended)
							})
						})
					}
				}
			}
		}
	}
}

func follow(f *flush.Flusher) { f.StartBuffer(&flush.BufferOptions{FollowFlush: true}) }

// Nor can the inner one flush where the server cannot: its handler may still answer
// with that.
func TestNestedCannotFlush(t *testing.T) {
	for _, can := range []bool{false, true} {
		p := harness.NewPlain()
		var server http.ResponseWriter = p
		if can {
			server = harness.Flushable{Plain: p}
		}
		inner := harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			if err := flush.Flush(w, true); errors.Is(err, http.ErrNotSupported) == can {
				t.Error(can, err)
			} else if err != nil {
				http.Error(w, "no streams here", http.StatusNotImplemented)
			}
		})
		flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(harness.Unwrapper{ResponseWriter: w}, r)
		}), nil).ServeHTTP(server, new(http.Request))
		if got, want := strings.HasPrefix(p.String(), "501"), !can; got != want {
			t.Errorf("can flush: %t, the server got %q", can, p)
		}
	}
}

// One that is held below for HTTP/1.0 says so to who flushes above, and goes on.
func TestNestedIsHeldBelow(t *testing.T) {
	outer := &flush.Options{HTTP10Buffer: 1 << 10}
	s := harness.Open(t, harness.Serve(t, harness.HTTP10, harness.Wrapped(outer, func(w http.ResponseWriter, r *http.Request) {
		f := flush.New(opaqueFlusher{opaque{w}, harness.Flusher(w)}, r, &flush.Options{HTTP10Buffer: -1})
		harness.MustWrite(t, f, "some ")
		if err := f.FlushWait(harness.NoContext); !errors.Is(err, flush.ErrBuffering) || f.Err() != nil {
			t.Errorf("FlushWait: %v, then %v", err, f.Err())
		}
		harness.MustWrite(t, f, "more")
		harness.Must(t, f.Close())
	})), "GET", "/", nil)
	s.ExpectEnd("some more")
	if got := s.Header().Get("Content-Length"); got != "9" {
		t.Errorf("Content-Length %q", got)
	}
}

// An opaqueFlusher tells what the flush of the Flusher below says.
type opaqueFlusher struct {
	opaque
	f *flush.Flusher
}

func (o opaqueFlusher) FlushError() error { return o.f.FlushWait(harness.NoContext) }

// Middleware may say that there is a body where the request has none, and show none.
func TestNestedBehindALengthWithoutABody(t *testing.T) {
	inner := harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "event")
		harness.Must(t, flush.Flush(w, true))
	})
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(r.Context())
		r.ContentLength, r.Body = 5, nil
		inner.ServeHTTP(opaque{w}, r)
	}))
	harness.Open(t, srv, "GET", "/", nil).ExpectEnd("event")
}

// The outer one does not wait for memory that the inner one has, or another that waits
// like this: a Budget costs no response that keeps up, with one for both or one each,
// and with one between that has none. Twin: it does cost one whose client stalls.
func TestNestedKeepsUpBesideABudget(t *testing.T) {
	const pieces, size = 20, 10_000
	for _, hard := range []int64{4 << 10, 64 << 10, 256 << 10} {
		for _, between := range []string{"hides", "unwraps", "a third", "New", "another budget"} {
			for _, deadlines := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d/%s/deadlines=%t", hard, between, deadlines), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						opts := flush.Options{Budget: flush.NewBudget(hard, hard), Flush: flush.Async}
						inner := opts
						if between == "another budget" {
							inner.Budget = flush.NewBudget(hard, hard)
						}
						stalled, release := harness.NewSink(t), make(chan struct{})
						write := func(w http.ResponseWriter) (err error) {
							for range pieces {
								_, werr := w.Write(make([]byte, size))
								err = errors.Join(err, werr, flush.Flush(w, false))
							}
							return err
						}
						handle := func(w http.ResponseWriter, r *http.Request) error {
							switch between {
							case "hides":
								w = opaque{w}
							default:
								w = harness.Unwrapper{ResponseWriter: w}
							}
							if between == "New" {
								f := flush.New(w, r, &inner)
								return errors.Join(write(f), f.Close())
							}
							var err error
							h := harness.Wrapped(&inner, func(w http.ResponseWriter, _ *http.Request) { err = write(w) })
							if between == "a third" {
								below := h
								h = harness.Wrapped(&flush.Options{Flush: flush.Async}, func(w http.ResponseWriter, r *http.Request) {
									below.ServeHTTP(harness.Unwrapper{ResponseWriter: w}, r)
								})
							}
							h.ServeHTTP(w, r)
							return err
						}
						serve := func(s *harness.Sink) error {
							defer func() { recover() }() // http.ErrAbortHandler
							var server http.ResponseWriter = s
							if deadlines {
								server = harness.DeadlineSink{Sink: s}
							}
							var err error
							harness.Wrapped(&opts, func(w http.ResponseWriter, r *http.Request) { err = handle(w, r) }).
								ServeHTTP(server, requestOf(t.Context(), 0))
							return err
						}
						if hard > 64<<10 {
							stalled.Hold(0)
							go func() { defer close(release); serve(stalled) }()
							time.Sleep(time.Second)
						} else {
							close(release)
						}
						clock := harness.NewClock()
						var all []<-chan error
						var sinks []*harness.Sink
						for range 10 {
							s := harness.NewSink(t)
							s.OnFlush = func() error { time.Sleep(10 * time.Millisecond); return nil }
							sinks = append(sinks, s)
							all = append(all, harness.Go(func() error { return serve(s) }))
						}
						for i, done := range all {
							if err := <-done; err != nil || len(sinks[i].Body()) != pieces*size {
								t.Errorf("%d bytes after %v: %v", len(sinks[i].Body()), clock.Now(), err)
							}
						}
						if clock.Now() > 30*time.Second {
							t.Errorf("it took %v", clock.Now())
						}
						aborted := opts.Budget.Stats().Aborted
						if inner.Budget != opts.Budget {
							aborted += inner.Budget.Stats().Aborted
						}
						if stalls := hard > 64<<10; stalls != (aborted > 0) {
							t.Errorf("%d were aborted", aborted)
						}
						stalled.Release()
						<-release
						harness.ExpectNothingHeld(t, opts.Budget)
						harness.ExpectNothingHeld(t, inner.Budget)
					})
				})
			}
		}
	}
}

// It is so while the inner one lives: behind its end the outer one's own Writes wait for
// memory again, not for the client.
func TestNestedBudgetBehindTheInnerEnd(t *testing.T) {
	for _, ends := range []bool{true, false} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(8*4096, 8*4096)
				s := harness.NewSink(t)
				opts := &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: -1}
				outer := flush.New(harness.DeadlineSink{Sink: s}, nil, opts)
				inner := flush.New(harness.Unwrapper{ResponseWriter: outer}, nil, opts)
				harness.MustWrite(t, inner, "by the inner one")
				harness.Must(t, inner.FlushWait(harness.NoContext))
				if ends {
					harness.Must(t, inner.Close())
				}
				time.Sleep(time.Hour) // an idle response gives back its last block
				hog := harness.HoldBudget(budget, 8)
				s.Hold(len(s.Body())) // the client stalls
				written := harness.Go(func() error { _, err := io.WriteString(outer, "by the outer one"); return err })
				synctest.Wait()
				if len(written) > 0 {
					t.Fatal("there is memory: the test shows nothing")
				}
				hog.Close()
				synctest.Wait()
				if (len(written) > 0) != ends {
					t.Errorf("the Write has returned: %t", len(written) > 0)
				}
				s.Release()
				harness.Must(t, <-written)
				harness.Must(t, inner.Close())
				harness.Must(t, outer.Close())
			})
		})
	}
}

// A WriteTimeout that the outer one has lifted does not hold for the inner one: its own
// send timeout does, and a client that leaves behind that time has left. Twin: one that
// was not lifted ends the response.
func TestNestedUnderALiftedWriteTimeout(t *testing.T) {
	const absolute, late = 30 * time.Second, 45 * time.Second
	for _, outer := range []struct {
		name string
		opts flush.Options
		lift func(f *flush.Flusher)
		ends time.Duration // for a client that stalls
	}{
		{"none", flush.Options{SendTimeout: -1}, func(*flush.Flusher) {}, time.Minute},
		{"another", flush.Options{SendTimeout: time.Hour}, func(*flush.Flusher) {}, time.Minute},
		{"by the handler", flush.Options{}, func(f *flush.Flusher) { f.SetWriteDeadline(time.Time{}) }, time.Minute},
		{"twin: it holds", flush.Options{}, func(*flush.Flusher) {}, absolute},
	} {
		for name, wrap := range map[string]func(w http.ResponseWriter) http.ResponseWriter{
			"hides":   func(w http.ResponseWriter) http.ResponseWriter { return opaque{w} },
			"unwraps": func(w http.ResponseWriter) http.ResponseWriter { return harness.Unwrapper{ResponseWriter: w} },
		} {
			for _, leaves := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/leaves=%t", outer.name, name, leaves), func(t *testing.T) {
					edge(t, func(t *testing.T) {
						s := harness.NewSink(t)
						s.Hold(0)
						s.Fault = func([]byte, int) (int, error) { return 0, io.ErrClosedPipe }
						if leaves {
							time.AfterFunc(late, s.Release)
						}
						clock := harness.NewClock()
						var err error
						var took time.Duration
						inner := harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
							_, err = w.Write(make([]byte, harness.Much))
							took = clock.Now()
							s.Release()
						})
						time.AfterFunc(absolute, func() {
							if outer.ends == absolute {
								s.WriteDeadline.Set(time.Now()) // the server's own
							}
						})
						func() {
							defer func() { recover() }() // http.ErrAbortHandler
							harness.Wrapped(&outer.opts, func(w http.ResponseWriter, r *http.Request) {
								outer.lift(harness.Flusher(w))
								inner.ServeHTTP(wrap(w), r)
							}).ServeHTTP(harness.DeadlineSink{Sink: s}, requestOf(t.Context(), absolute))
						}()
						want, at := flush.ErrTimeout, outer.ends
						if leaves && late < at {
							want, at = flush.ErrClientGone, late
						}
						if !errors.Is(err, want) || errors.Is(err, flush.ErrTimeout) != (want == flush.ErrTimeout) || took < at || took > grain(at) {
							t.Errorf("%v after %v, want %v after %v", err, took, want, at)
						}
					})
				})
			}
		}
	}
}

// A Hijack, an EnableFullDuplex or the end of the inner one, behind a call that the outer
// one makes, ends with the inner one's SendTimeout, too. Twin: it does not end before, and
// the connection has no deadline of ours.
func TestNestedCallsBesideOutputEnd(t *testing.T) {
	const limit = 3 * time.Second
	for name, call := range map[string]func(f *flush.Flusher) error{
		"EnableFullDuplex": (*flush.Flusher).EnableFullDuplex,
		"Hijack":           func(f *flush.Flusher) error { _, _, err := f.Hijack(); return err },
		"Close":            func(f *flush.Flusher) error { f.Write(make([]byte, 200_000)); return f.Close() },
	} {
		for _, comes := range []time.Duration{0, limit - 1} { // when the client goes on; 0: never
			t.Run(fmt.Sprintf("%s/%v", name, comes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					s.Hold(0)
					inner := harness.Wrapped(&flush.Options{SendTimeout: limit, BufferSize: 1 << 20}, func(w http.ResponseWriter, _ *http.Request) {
						clock := harness.NewClock()
						err := call(harness.Flusher(w))
						switch took := clock.Now(); {
						case comes > 0 && (err != nil || took != comes || deadline.Closed(s.WriteDeadline.Passed())):
							t.Errorf("%v after %v", err, took)
						case comes == 0 && (!errors.Is(err, flush.ErrTimeout) || took > grain(limit)):
							t.Errorf("%v after %v", err, took)
						}
					})
					h := harness.Wrapped(&flush.Options{SendTimeout: time.Hour, Flush: flush.Async}, func(w http.ResponseWriter, r *http.Request) {
						io.WriteString(w, "by middleware")
						harness.Must(t, flush.Flush(w, false))
						synctest.Wait()
						inner.ServeHTTP(harness.Unwrapper{ResponseWriter: w}, r)
					})
					if comes > 0 {
						time.AfterFunc(comes, s.Release)
					}
					serveCut(h, duplexSink{hijackable{DeadlineSink: harness.DeadlineSink{Sink: s}}, func(string) {}}, requestOf(t.Context(), 0))
				})
			})
		}
	}
}

// What the inner one has handed on is the outer one's to bound: a client that goes on
// gets all of it, however long after the inner one's end. Twin: one that does not is cut
// after one SendTimeout.
func TestNestedEndBoundsNothingBelow(t *testing.T) {
	const limit, pieces = time.Second, 50
	all := harness.Numbered(pieces * 1000)
	for name, between := range map[string]func(w http.ResponseWriter) http.ResponseWriter{
		"unwraps": func(w http.ResponseWriter) http.ResponseWriter { return harness.Unwrapper{ResponseWriter: w} },
		"has deadlines": func(w http.ResponseWriter) http.ResponseWriter {
			return deadlinesToo{harness.Unwrapper{ResponseWriter: w}}
		},
	} {
		for _, early := range []bool{false, true} { // the handler closes it
			for _, moves := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/early=%t/moves=%t", name, early, moves), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := harness.NewSink(t)
						s.Hold(0)
						over := make(chan struct{})
						client := harness.Go(func() error {
							for at := harness.BlockBytes; moves && at < len(all)+harness.BlockBytes; at += harness.BlockBytes {
								time.Sleep(limit / 2)
								s.Hold(at)
							}
							<-over
							return nil
						})
						opts := flush.Options{Flush: flush.Async, SendTimeout: limit}
						inner := harness.Wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) {
							for p := all; p != ""; p = p[1000:] {
								harness.MustWrite(t, w, p[:1000])
							}
							if early {
								harness.Must(t, harness.Flusher(w).Close())
							}
						})
						h := harness.Wrapped(&opts, func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(between(w), r) })
						clock := harness.NewClock()
						cut := serveCut(h, harness.DeadlineSink{Sink: s}, requestOf(t.Context(), 0))
						if took := clock.Now(); cut == moves || moves && s.Body() != all || !moves && took > grain(limit) {
							t.Errorf("cut %t after %v, %d bytes have come", cut, took, len(s.Body()))
						}
						close(over)
						<-client
					})
				})
			}
		}
	}
}

// deadlinesToo hands deadlines on by itself.
type deadlinesToo struct{ harness.Unwrapper }

func (d deadlinesToo) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(d.ResponseWriter).SetWriteDeadline(t)
}
