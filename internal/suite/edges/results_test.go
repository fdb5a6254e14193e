package edges_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Results that are easily lost on the way through several floors.

var errOfFilter = errors.New("filter")

// failingAt is a filter that fails in a phase, and passes what it gets else.
func failingAt(phase flush.Phase, err error) flush.Filter {
	return func(p []byte, ph flush.Phase) ([]byte, error) {
		if ph&phase != 0 {
			return nil, err
		}
		return p, nil
	}
}

// The error of a FollowFlush buffer's filter comes out of whichever call made
// it run, and the flush is done all the same.
func TestFollowFlushFilterErrorComesOut(t *testing.T) {
	for name, call := range map[string]func(f *flush.Flusher) error{
		"FlushWait": func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"FlushWait with a context": func(f *flush.Flusher) error {
			return f.FlushWait(context.WithValue(context.Background(), errOfFilter, 0))
		},
		"FlushAsync":  func(f *flush.Flusher) error { err := f.FlushAsync(); synctest.Wait(); return err },
		"FlushError":  (*flush.Flusher).FlushError,
		"flush.Flush": func(f *flush.Flusher) error { return flush.Flush(f, true) },
		"FlushAll":    func(f *flush.Flusher) error { return f.FlushAll(true) },
	} {
		for _, begun := range []bool{false, true} {
			t.Run(fmt.Sprint(name, begun), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
					if begun { // the plain way
						harness.MustWrite(t, f, "first")
						harness.Must(t, f.FlushWait(harness.NoContext))
					}
					f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: failingAt(flush.PhaseFlush, errOfFilter)})
					harness.MustWrite(t, f, "event")
					if err := call(f); !errors.Is(err, errOfFilter) {
						t.Errorf("%v", err)
					}
					if at, _ := s.LastFlush(); at == 0 || at != len(s.Body()) || !strings.HasSuffix(s.Body(), "event") {
						t.Errorf("%q sent, flushed at %d", s.Body(), at)
					}
					if err := f.Err(); err != nil {
						t.Errorf("it sticks: %v", err)
					}
					f.Close()
				})
			})
		}
	}
}

// Two errors that are not the same are both told; the same one is told once.
func TestTwoErrorsAreBothTold(t *testing.T) {
	other := errors.New("other")
	for name, test := range map[string]struct {
		filters []error
		flush   error
		want    []error
	}{
		"two filters":             {[]error{errOfFilter, other}, nil, []error{errOfFilter, other}},
		"filter and server":       {[]error{errOfFilter}, fmt.Errorf("below: %w", http.ErrNotSupported), []error{errOfFilter, http.ErrNotSupported}},
		"filter and failure":      {[]error{errOfFilter}, errWaitBroken, []error{errOfFilter, flush.ErrClientGone}},
		"the same from two":       {[]error{errOfFilter, errOfFilter}, nil, []error{errOfFilter}},
		"three, and the server":   {[]error{errOfFilter, other, errOfFilter}, errWaitBroken, []error{errOfFilter, other, flush.ErrClientGone}},
		"wrapped and bare":        {[]error{errOfFilter, fmt.Errorf("more: %w", errOfFilter)}, nil, []error{errOfFilter}},
		"only the server's":       {nil, errWaitBroken, []error{flush.ErrClientGone}},
		"a filter's ErrReentrant": {[]error{flush.ErrReentrant}, nil, []error{flush.ErrReentrant}},
	} {
		t.Run(name, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			for _, err := range test.filters {
				f.StartBuffer(&flush.BufferOptions{Filter: failingAt(flush.PhaseFlush, err)})
			}
			harness.MustWrite(t, f, "event")
			s.OnFlush = func() error { return test.flush }
			err := f.FlushAll(true)
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("%v does not tell of %v", err, want)
				}
				if n := strings.Count(fmt.Sprint(err), want.Error()); n != 1 {
					t.Errorf("%q is told %d times in %q", want, n, err)
				}
			}
			if s.Body() != "event" {
				t.Errorf("%q sent", s.Body())
			}
			s.OnFlush = nil
			f.Close()
		})
	}
}

// The error of a filter at the end, or in Clean, is that call's result.
func TestFilterErrorsOfCleanAndTheEnd(t *testing.T) {
	f := flush.New(harness.DeadlineSink{Sink: harness.NewSink(t)}, nil, nil)
	b := f.StartBuffer(&flush.BufferOptions{Filter: failingAt(flush.PhaseClean, errOfFilter)})
	harness.MustWrite(t, f, "half a page")
	if err := f.Clean(); !errors.Is(err, errOfFilter) {
		t.Errorf("Clean: %v", err)
	}
	if b.Len() != 0 || f.Buffered() != 0 {
		t.Errorf("%d and %d bytes are left", b.Len(), f.Buffered())
	}
	harness.Must(t, f.Close())

	for _, end := range []string{"Buffer.Close", "Close"} {
		s := harness.NewSink(t)
		opts, told := harness.TellClosing(flush.Options{})
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, opts)
		b := f.StartBuffer(&flush.BufferOptions{Filter: failingAt(flush.PhaseFinal, errOfFilter)})
		harness.MustWrite(t, f, "page")
		if end == "Buffer.Close" {
			if err := b.Close(); !errors.Is(err, errOfFilter) {
				t.Errorf("Buffer.Close: %v", err)
			}
			harness.Must(t, f.Close())
			continue
		}
		if err := f.Close(); !errors.Is(err, errOfFilter) || s.Body() != "page" {
			t.Errorf("Close: %v, %q sent", err, s.Body())
		}
		if err := f.Close(); !errors.Is(err, errOfFilter) {
			t.Errorf("a second Close: %v", err)
		}
		if c := <-told; !errors.Is(c.Err, errOfFilter) {
			t.Errorf("OnClose: %v", c.Err)
		}
	}
}

// A Content-Length that a filter sets is enforced on what follows as the
// handler's own is.
func TestContentLengthOfAFilterIsEnforced(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			f.Header().Set("Content-Length", "5")
			return p, nil
		}})
		if fixed {
			f.WriteHeader(201)
		}
		harness.MustWrite(t, f, "five.")
		harness.Must(t, f.Top().Close())
		if n, err := f.WriteString("more"); err != http.ErrContentLength || n != 0 {
			t.Errorf("fixed before %t: a Write beyond it: %d, %v", fixed, n, err)
		}
		harness.Must(t, f.FlushWait(harness.NoContext))
		if s.Body() != "five." || s.Sent.Get("Content-Length") != "5" {
			t.Errorf("fixed before %t: %q sent, with %v", fixed, s.Body(), s.Sent)
		}
		f.Close()
	}
}

// What was written while a filter ran, and could not go on, is lost and told,
// once; empty writes are neither.
func TestLateWritesThatAreLost(t *testing.T) {
	s := harness.NewSink(t)
	f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
	b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		if phase&flush.PhaseFlush != 0 {
			for range 3 {
				harness.MustWrite(t, f, "")
				harness.MustWrite(t, f, "late")
			}
			f.WriteString("")
		}
		return nil, nil
	}})
	harness.MustWrite(t, f, "eaten")
	harness.Must(t, b.Flush())
	if n := b.Len(); n != 12 || f.Stats().Lost != 0 {
		t.Errorf("%d bytes held, %+v", n, f.Stats())
	}
	f.Abort(errWaitCause)
	if st := f.Stats(); st.Lost != 12 || st.Bytes != 0 {
		t.Errorf("%+v", st)
	}

	// A server that has failed meanwhile: the late ones are lost, whoever wrote.
	s = harness.NewSink(t)
	f = flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
	s.Fault = func([]byte, int) (int, error) { return 0, errWaitBroken }
	b = f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		f.WriteString("late")
		return []byte(strings.Repeat("p", 10_000)), nil
	}})
	harness.MustWrite(t, f, "x")
	if err := b.Close(); !errors.Is(err, flush.ErrClientGone) {
		t.Errorf("Close: %v", err)
	}
	f.Close()
	if st := f.Stats(); st.Lost != 10_004 {
		t.Errorf("%+v", st)
	}
}

// A filter that aborts the response while several buffers are flushed ends
// that: no other filter runs, nothing panics, and all say why.
func TestAbortByAFilterDuringFlushAll(t *testing.T) {
	for _, at := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
				var ran []int
				var aborted bool
				for level := range 3 {
					f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
						if aborted {
							t.Errorf("the filter of level %d runs after the end, %d", level, phase)
						}
						ran = append(ran, level)
						if level == at {
							go f.Abort(errWaitCause)
							synctest.Wait()
							aborted = true
						}
						return p, nil
					}})
				}
				harness.MustWrite(t, f, "event")
				if err := f.FlushAll(true); !errors.Is(err, errWaitCause) && !errors.Is(err, flush.ErrClosed) {
					t.Errorf("FlushAll: %v", err)
				}
				<-time.After(time.Second)
				if len(ran) != 3-at || !errors.Is(f.Err(), errWaitCause) || f.Level() != 0 {
					t.Errorf("%v ran, what sticks is %v, %d are open", ran, f.Err(), f.Level())
				}
				if _, n := s.LastFlush(); n != 0 || s.Body() != "" {
					t.Errorf("the server got %q and %d flushes", s.Body(), n)
				}
			})
		})
	}
}

// A FollowFlush buffer that is opened after a plain one has been closed follows,
// and after its own end nothing does.
func TestFollowFlushCountsItsBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		harness.MustWrite(t, f, "0")
		harness.Must(t, f.FlushAsync())
		synctest.Wait()
		want := 1
		for _, follow := range []bool{false, true, false, true, true} {
			for _, end := range []func(*flush.Buffer) error{(*flush.Buffer).Close, (*flush.Buffer).Discard} {
				b := f.StartBuffer(&flush.BufferOptions{FollowFlush: follow})
				harness.MustWrite(t, f, "1")
				harness.Must(t, f.FlushAsync())
				synctest.Wait()
				if follow {
					want++
				}
				if at, _ := s.LastFlush(); at != want || b.Len() == 1 == follow {
					t.Errorf("follow %t: %d bytes flushed, want %d; %d held", follow, at, want, b.Len())
				}
				harness.Must(t, b.Clean())
				harness.Must(t, end(b))
				harness.MustWrite(t, f, "2")
				harness.Must(t, f.FlushAsync())
				synctest.Wait()
				want++
				if at, _ := s.LastFlush(); at != want {
					t.Errorf("follow %t: %d bytes flushed after its end, want %d", follow, at, want)
				}
			}
		}
		harness.Must(t, f.Close())
	})
}

// A FollowFlush buffer goes on following when a plain one above it has ended.
func TestFollowFlushBelowAPlainBuffer(t *testing.T) {
	s := harness.NewSink(t)
	f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
	f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
	for i, end := range []func(*flush.Buffer) error{(*flush.Buffer).Close, (*flush.Buffer).Discard} {
		b := f.StartBuffer(nil)
		harness.MustWrite(t, f, "x")
		harness.Must(t, b.Flush())
		harness.Must(t, end(b))
		harness.Must(t, f.FlushWait(harness.NoContext))
		if at, _ := s.LastFlush(); at != i+1 {
			t.Errorf("%d bytes flushed, want %d", at, i+1)
		}
	}
	harness.Must(t, f.Close())
}
