package edges_test

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
