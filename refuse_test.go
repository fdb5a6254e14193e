package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A writer below that refuses, takes less, or complains without failing.

// A complaint is how a Write of the server ends otherwise than well.
type complaint struct {
	name   string
	takes  func(n int) int
	err    error
	want   error // what sticks; nil: nothing
	closes error // what Close says, beside it
}

var complaints = []complaint{
	{"takes all and complains", func(n int) int { return n }, http.ErrContentLength, nil, http.ErrContentLength},
	{"takes none and complains", func(int) int { return 0 }, http.ErrContentLength, nil, http.ErrContentLength},
	{"complains in the middle", func(n int) int { return n / 2 }, http.ErrBodyNotAllowed, nil, http.ErrBodyNotAllowed},
	{"takes less and says nothing", func(n int) int { return n / 2 }, nil, io.ErrShortWrite, io.ErrShortWrite},
	{"takes nothing and says nothing", func(int) int { return 0 }, nil, io.ErrShortWrite, io.ErrShortWrite},
	{"fails in the middle", func(n int) int { return n / 2 }, errWaitBroken, flush.ErrClientGone, errWaitBroken},
	{"takes all and fails", func(n int) int { return n }, errWaitBroken, flush.ErrClientGone, errWaitBroken},
	{"says that the client has gone", func(int) int { return 0 }, fmt.Errorf("below: %w", flush.ErrClientGone), flush.ErrClientGone, flush.ErrClientGone},
	{"claims more than it was given", func(n int) int { return n + 100 }, nil, nil, nil},
	{"claims less than nothing", func(int) int { return -2 }, errWaitBroken, flush.ErrClientGone, errWaitBroken},
}

// A complainer takes what comes until it is told how to complain.
type complainer struct {
	*harness.Sink
	as    *complaint
	once  bool
	calls int
}

func (c *complainer) Write(p []byte) (int, error) {
	if c.as == nil || c.once && c.calls > 0 {
		return c.Sink.Write(p)
	}
	c.calls++
	n := c.as.takes(len(p))
	c.Sink.Write(p[:min(max(n, 0), len(p))])
	return n, c.as.err
}

type deadlineComplainer struct{ *complainer }

func (c deadlineComplainer) SetWriteDeadline(t time.Time) error { c.WriteDeadline.Set(t); return nil }

// A counter counts what a Flusher says that it has accepted.
type counter struct {
	f *flush.Flusher
	n int64
}

func (c *counter) write(s string) error {
	n, err := c.f.WriteString(s)
	c.n += int64(n)
	return err
}

// Whatever a Write of the server says, and whoever makes it: no call hangs,
// panics or goes round for ever, what is lost is told, and a later FlushWait
// returns.
func TestServerComplains(t *testing.T) {
	large := strings.Repeat("l", 10_000)
	for _, c := range complaints {
		for name, way := range map[string]struct {
			opts flush.Options
			call func(f *counter) error
		}{
			"plain flush":     {flush.Options{}, func(f *counter) error { f.write("event"); return f.f.FlushWait(harness.NoContext) }},
			"flush of blocks": {flush.Options{BufferSize: 30_000}, func(f *counter) error { f.write(large); return f.f.FlushWait(harness.NoContext) }},
			"asynchronous": {flush.Options{Flush: flush.Async}, func(f *counter) error {
				f.write(large)
				err := f.f.FlushAsync()
				synctest.Wait()
				return err
			}},
			"Write":    {flush.Options{}, func(f *counter) error { return f.write(large) }},
			"implicit": {flush.Options{Implicit: flush.Wait}, func(f *counter) error { return f.write(large) }},
			"small writes": {flush.Options{BufferSize: -1}, func(f *counter) error {
				var all error
				for range 10 {
					all = errors.Join(all, f.write("small"))
				}
				return all
			}},
			"Close": {flush.Options{}, func(f *counter) error { f.write("rest"); return nil }},
		} {
			for _, always := range []bool{false, true} {
				for _, deadlines := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/%s/always=%t/deadlines=%t", c.name, name, always, deadlines), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							s := harness.NewSink(t)
							below := &complainer{Sink: s}
							var w http.ResponseWriter = below
							if deadlines {
								w = deadlineComplainer{below}
							}
							f := flush.New(w, nil, &way.opts)
							counted := &counter{f: f}
							counted.write("first")
							harness.Must(t, f.FlushWait(harness.NoContext))
							below.once, below.as = !always, &c
							began := time.Now()
							err := way.call(counted)
							if f.Err() == nil && c.want != nil && name != "Close" {
								t.Errorf("no failure sticks, and the call said %v", err)
							}
							// Whatever it was, others go on or get the failure.
							if err := f.FlushWait(harness.NoContext); f.Err() != nil && !errors.Is(err, f.Err()) {
								t.Errorf("a later FlushWait: %v, what sticks is %v", err, f.Err())
							}
							cerr := f.Close()
							if c.closes != nil && !errors.Is(cerr, c.closes) || c.closes == nil && cerr != nil {
								// What a caller was told itself Close need not say again.
								if !errors.Is(err, c.closes) || c.want != nil {
									t.Errorf("Close: %v, want %v", cerr, c.closes)
								}
							}
							if st := f.Stats(); st.Bytes+st.Lost != counted.n || f.Buffered() != 0 {
								t.Errorf("%d bytes were accepted: %+v, %d held", counted.n, st, f.Buffered())
							}
							if below.calls > 200 {
								t.Errorf("%d calls of the server", below.calls)
							}
							if took := time.Since(began); took != 0 {
								t.Errorf("it took %v", took)
							}
							if strings.Count(fmt.Sprint(cerr), flush.ErrClientGone.Error()) > 1 {
								t.Errorf("it says it twice: %v", cerr)
							}
						})
					})
				}
			}
		}
	}
}

// A Flush of the server that complains is told to who waits for it, sticks if
// it fails, and loses nothing.
func TestServerComplainsAtFlush(t *testing.T) {
	passing := fmt.Errorf("below: %w", http.ErrNotSupported)
	for _, test := range []struct{ says, want, sticks error }{
		{nil, nil, nil},
		{passing, http.ErrNotSupported, nil},
		{errWaitBroken, errWaitBroken, flush.ErrClientGone},
		{fmt.Errorf("below: %w", flush.ErrClientGone), flush.ErrClientGone, flush.ErrClientGone},
	} {
		for name, call := range map[string]func(f *flush.Flusher) error{
			"plain": func(f *flush.Flusher) error { f.WriteString("event"); return f.FlushWait(harness.NoContext) },
			"several": func(f *flush.Flusher) error {
				f.Write(make([]byte, 4090))
				f.FlushAsync()
				return f.FlushWait(harness.NoContext)
			},
			"with a goal":   func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
			"asynchronous":  func(f *flush.Flusher) error { f.WriteString("event"); f.FlushAsync(); synctest.Wait(); return f.Err() },
			"implicit":      func(f *flush.Flusher) error { f.SetImplicit(flush.Wait); _, err := f.WriteString("event"); return err },
			"all, and wait": func(f *flush.Flusher) error { f.WriteString("event"); return f.FlushAll(true) },
		} {
			t.Run(fmt.Sprintf("%v/%s", test.says, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
					harness.MustWrite(t, f, "first")
					harness.Must(t, f.FlushWait(harness.NoContext))
					s.OnFlush = func() error { return test.says }
					err := call(f)
					want := test.want
					if test.sticks == nil && (name == "asynchronous" || name == "implicit") {
						want = nil // nobody waits, or the bytes were accepted
					}
					if !errors.Is(err, want) || want == nil && err != nil {
						t.Errorf("%v, want %v", err, want)
					}
					if err := f.Err(); !errors.Is(err, test.sticks) || test.sticks == nil && err != nil {
						t.Errorf("what sticks is %v, want %v", err, test.sticks)
					}
					synctest.Wait()
					s.OnFlush = nil
					if err := f.Close(); !errors.Is(err, test.sticks) || test.sticks == nil && err != nil {
						t.Errorf("Close: %v", err)
					}
					if st := f.Stats(); st.Lost != 0 && test.sticks == nil {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

// FuzzComplainer runs any program over a server that complains as the input
// says. No call hangs or panics, and every byte that was accepted was handed
// over or is told as lost.
func FuzzComplainer(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, []byte{1, 2, 3})
	f.Add([]byte{0x13, 0x25, 0x36, 0x47, 0x13, 0x25, 0x36, 0x47}, []byte{0, 0, 5, 0, 6})
	f.Add([]byte("write, flush, write, flush, close"), []byte("complaints"))
	f.Fuzz(func(t *testing.T, program, says []byte) {
		if len(program) > 200 || len(says) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			below := &fuzzComplainer{Sink: harness.NewSink(t), says: says}
			var w http.ResponseWriter = below
			opts := &flush.Options{MaxPending: 9000, BufferSize: 1000, SendTimeout: time.Minute}
			if len(program) > 0 && program[0]&1 == 0 {
				w = deadlineFuzzComplainer{below}
			}
			if len(program) > 0 && program[0]&2 == 0 {
				opts.Flush = flush.Async
			}
			c := &counter{f: flush.New(w, nil, opts)}
			began := time.Now()
			for _, op := range program {
				n := int(op>>4) * 700
				switch op & 15 {
				case 0, 1, 2, 3:
					c.write(strings.Repeat("w", n+1))
				case 4, 5, 6:
					c.f.FlushWait(harness.NoContext)
				case 7, 8:
					c.f.FlushAsync()
				case 9:
					synctest.Wait()
				case 10:
					c.f.SendHeaders()
				case 11:
					c.f.SetImplicit(flush.Mode(1 + op>>4%3))
				case 12:
					n, _ := c.f.ReadFrom(strings.NewReader(strings.Repeat("r", n)))
					c.n += n
				case 13:
					go c.f.FlushWait(harness.NoContext)
				}
			}
			synctest.Wait()
			err := c.f.Close()
			if st := c.f.Stats(); st.Bytes+st.Lost != c.n || c.f.Buffered() != 0 || st.Lost > 0 && err == nil {
				t.Errorf("%d bytes were accepted: %+v, %d held, %v", c.n, st, c.f.Buffered(), err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// A fuzzComplainer complains as each byte of says tells it, for one call.
type fuzzComplainer struct {
	*harness.Sink
	says  []byte
	calls int
}

func (c *fuzzComplainer) next() (complaint, bool) {
	c.calls++
	if c.calls > len(c.says) {
		return complaint{}, false
	}
	if i := int(c.says[c.calls-1]); i > 0 && i <= len(complaints) {
		return complaints[i-1], true
	}
	return complaint{}, false
}

func (c *fuzzComplainer) Write(p []byte) (int, error) {
	as, ok := c.next()
	if !ok {
		return c.Sink.Write(p)
	}
	n := as.takes(len(p))
	c.Sink.Write(p[:min(max(n, 0), len(p))])
	return n, as.err
}

func (c *fuzzComplainer) FlushError() error {
	if err := c.Sink.FlushError(); err != nil {
		return err
	}
	as, _ := c.next()
	return as.err
}

type deadlineFuzzComplainer struct{ *fuzzComplainer }

func (c deadlineFuzzComplainer) SetWriteDeadline(t time.Time) error {
	c.WriteDeadline.Set(t)
	return nil
}

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

// What the server refuses piece by piece is said once at the end: the error does
// not grow with the response.
func TestRefusedPiecesAreSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flush.New(&refuser{ResponseRecorder: httptest.NewRecorder()}, nil, &flush.Options{Flush: flush.Async, BufferSize: -1})
		for range 100 {
			f.Write([]byte("piece"))
			synctest.Wait()
		}
		err := f.Close()
		if !errors.Is(err, http.ErrContentLength) {
			t.Errorf("Close: %v", err)
		}
		if n := strings.Count(err.Error(), http.ErrContentLength.Error()); n != 1 {
			t.Errorf("it is said %d times", n)
		}
	})
}

// A refuser takes no byte, and does not fail. Each time it says so in other words.
type refuser struct {
	*httptest.ResponseRecorder
	n int
}

func (r *refuser) Write([]byte) (int, error) {
	r.n++
	return 0, fmt.Errorf("piece %d: %w", r.n, http.ErrContentLength)
}
