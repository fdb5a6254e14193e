package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// The table in close.go, cell by cell: each end on HTTP/1.1, HTTP/1.0 and HTTP/2
// in a bubble, and under CGI in a process of its own (ends_cgi_test.go).

// errEnd is what Abort is given.
var errEnd = errors.New("the cause")

var (
	endsBadly = []string{"panic", "Goexit", "Abort"}
	endsWell  = []string{"Close", "return"}
	endsAll   = slices.Concat(endsBadly, endsWell)
)

// An endCell is a cell of the table, or several that say the same.
type endCell struct {
	name   string
	ends   []string
	opts   flush.Options
	limits []time.Duration                    // SendTimeouts; nil: a minute
	counts bool                               // the server's calls are counted, by a writer in between
	do     func(e *endHost, f *flush.Flusher) // the handler, up to the end
	check  func(c *endCheck)
}

// An endHost is where the handler of a cell runs.
type endHost struct {
	log    func(format string, args ...any) // what happens, in order
	here   func()                           // waits for the test
	later  func()                           // without a clock: once the server is called, and a while later, here
	limit  time.Duration
	calls  atomic.Int32 // of the server, under way
	pushes atomic.Int32 // flushes that it got
	once   sync.Once
	called chan struct{} // closed by the first of them
	closed chan struct{} // closed when Close has returned
	wg     sync.WaitGroup
}

// An endClient is the client of a cell, and the test's side of its endHost.
type endClient interface {
	wait() // for the handler's here
	resume()
	expect(want string)
	ended() (body string, how ending) // reads to the end
	leave()
	noted() []string // until now
	over() []string  // the same, when the handler has left
}

// An endCheck is one cell for one end over one protocol.
type endCheck struct {
	*testing.T
	endClient
	end   string
	limit time.Duration
	clock clock
	fake  bool // the time is; and a call of the server's can be ended
	mute  bool // a cut does not show
}

// handler is the cell's for one end.
func (cell *endCell) handler(e *endHost, end string, sapi flush.SAPI) http.Handler {
	opts := cell.opts
	opts.SAPI, opts.SendTimeout = sapi, e.limit
	opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) { e.log("OnClose: %v", err) }
	e.called, e.closed = make(chan struct{}), make(chan struct{})
	var ctx context.Context
	note := func(when string) {
		e.log("%s: %d pushes, %d calls, context %v, because %v", when, e.pushes.Load(), e.calls.Load(), ctx.Err(), flush.Cause(ctx))
	}
	inner := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx = r.Context()
		f := flusher(w)
		cell.do(e, f)
		switch end {
		case "panic":
			panic(http.ErrAbortHandler)
		case "Goexit":
			runtime.Goexit()
		case "Abort":
			f.Abort(errEnd)
			note("behind it")
		case "Close":
			err := f.Close()
			e.log("Close: %v", err)
			note("behind it")
			close(e.closed)
			e.here() // the handler goes on
		}
	}), &opts)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			note("at last")
			e.wg.Wait()
		}()
		if cell.counts {
			w = countedWriter{w, e}
		}
		inner.ServeHTTP(w, r)
	})
}

// A countedWriter counts the calls of the server that are under way.
type countedWriter struct {
	http.ResponseWriter
	e *endHost
}

func (w countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (e *endHost) call() (end func()) {
	e.calls.Add(1)
	e.once.Do(func() { close(e.called) })
	return func() { e.calls.Add(-1) }
}

func (w countedWriter) Write(p []byte) (int, error) {
	defer w.e.call()()
	return w.ResponseWriter.Write(p)
}

func (w countedWriter) FlushError() error {
	defer w.e.call()()
	w.e.pushes.Add(1)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// went lets a handler go on that has closed its response.
func (c *endCheck) went() {
	if c.end == "Close" {
		c.wait()
		c.resume()
	}
}

// expectCut reads to the end, which is a visible cut behind a part of want.
func (c *endCheck) expectCut(want string) (body string) {
	c.Helper()
	body, how := c.ended()
	if !strings.HasPrefix(want, body) || how == complete || how == closed && !c.mute {
		c.Errorf("the client got %q, %s, want %q, cut", clip([]byte(body)), how, clip([]byte(want)))
	}
	return body
}

// expectWhole reads want, which is all there is.
func (c *endCheck) expectWhole(want string) {
	c.Helper()
	c.expect(want)
	c.went()
	if body, how := c.ended(); body != "" || how == cut || how == closed && !c.mute {
		c.Errorf("behind it the client got %q, %s", clip([]byte(body)), how)
	}
}

// expectNoted fails unless what was noted about what has all of want.
func (c *endCheck) expectNoted(what string, want ...string) {
	c.Helper()
	all := c.over()
	i := slices.IndexFunc(all, func(s string) bool { return strings.HasPrefix(s, what+": ") })
	for _, want := range want {
		if i < 0 || !strings.Contains(all[i], want) {
			c.Errorf("%s: want %q in %q", what, want, all)
		}
	}
}

// expectOpen fails if the response has ended. Without a clock the handler is then
// at its stop, and the time is over that it would have with one.
func (c *endCheck) expectOpen() {
	c.Helper()
	if c.fake {
		synctest.Wait()
	} else {
		c.wait()
		defer c.resume()
	}
	for _, s := range c.noted() {
		if strings.HasPrefix(s, "OnClose") || strings.HasPrefix(s, "at last") {
			c.Errorf("it has ended: %q", c.noted())
		}
	}
}

var muchText = strings.Repeat("x", much)

// writeMuch writes more than a client takes that does not read.
func writeMuch(f *flush.Flusher) { io.WriteString(f, muchText) }

func upperCase(p []byte, _ flush.Phase) ([]byte, error) { return bytes.ToUpper(p), nil }

// background has a carrier write more than a client takes that does not read.
var background = flush.Options{Flush: flush.Async, MaxPending: 2 * much}

var endCells = []endCell{
	{name: "hands over what a flush was asked for", ends: []string{"panic", "Goexit"},
		do: func(_ *endHost, f *flush.Flusher) {
			io.WriteString(f, "asked")
			f.FlushAsync()
			f.StartBuffer(nil)
			io.WriteString(f, " not asked")
		},
		check: func(c *endCheck) {
			if body := c.expectCut("asked"); body == "" {
				c.Error("the client got nothing")
			}
		}},
	{name: "hands over the same while no header is out", ends: []string{"Abort"},
		do: func(e *endHost, f *flush.Flusher) {
			io.WriteString(f, "asked")
			running, release := make(chan struct{}), make(chan struct{})
			b := f.StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) {
				close(running)
				<-release
				return nil, nil
			}})
			e.wg.Go(func() { e.log("Flush: %v", b.Flush()) })
			<-running // no header leaves meanwhile
			f.FlushAsync()
			time.AfterFunc(10*time.Millisecond, func() { close(release) })
		},
		check: func(c *endCheck) {
			if body := c.expectCut("asked"); body == "" {
				c.Error("the client got nothing")
			}
		}},
	{name: "hands over nothing once headers are out", ends: []string{"Abort"}, opts: background,
		do: func(e *endHost, f *flush.Flusher) {
			io.WriteString(f, "one")
			f.FlushWait(noContext)
			writeMuch(f)
			f.FlushAsync()
			e.here()
			io.WriteString(f, "two")
			f.FlushAsync()
		},
		check: func(c *endCheck) {
			c.expect("one")
			c.wait()
			if c.fake {
				synctest.Wait() // the client does not read on
			}
			c.resume()
			if c.fake {
				if c.over(); c.clock.now() != 0 {
					c.Error("Abort took", c.clock.now())
				}
			}
			if c.fake {
				c.expectCut(muchText[:much-1])
			} else {
				c.expectCut(muchText + "two") // the client may have made room before
			}
		}},
	{name: "hands over all, pushed", ends: []string{"Close"}, counts: true,
		do: func(_ *endHost, f *flush.Flusher) {
			io.WriteString(f, "plain, ")
			f.StartBuffer(&flush.BufferOptions{Filter: upperCase})
			io.WriteString(f, "filtered")
		},
		check: func(c *endCheck) {
			c.expect("plain, FILTERED") // the handler goes on
			c.expectWhole("")
			c.expectNoted("OnClose", "<nil>")
			c.expectNoted("behind it", " 1 pushes,")
		}},
	{name: "hands over all, and pushes nothing", ends: []string{"return"}, counts: true,
		do: func(_ *endHost, f *flush.Flusher) {
			io.WriteString(f, "plain, ")
			f.StartBuffer(&flush.BufferOptions{Filter: upperCase})
			io.WriteString(f, "filtered")
		},
		check: func(c *endCheck) {
			c.expectWhole("plain, FILTERED")
			c.expectNoted("OnClose", "<nil>")
			c.expectNoted("at last", " 0 pushes,")
		}},

	{name: "for at most SendTimeout and a second", ends: []string{"Abort"}, opts: background,
		limits: []time.Duration{200 * time.Millisecond, time.Hour},
		do:     func(_ *endHost, f *flush.Flusher) { writeMuch(f); f.FlushAsync() },
		check: func(c *endCheck) {
			if c.fake {
				if c.over(); c.clock.now() > min(c.limit, time.Second) {
					c.Error("it took", c.clock.now())
				}
			}
			c.expectCut(muchText)
		}},
	{name: "for at most SendTimeout and a second", ends: []string{"panic", "Goexit"}, opts: background,
		limits: []time.Duration{200 * time.Millisecond, time.Hour}, counts: true,
		do: func(e *endHost, f *flush.Flusher) { writeMuch(f); f.FlushAsync(); e.later() },
		check: func(c *endCheck) {
			if !c.fake {
				c.expectOpen() // nothing can end the call
			} else if c.over(); c.clock.now() > min(c.limit, time.Second) {
				c.Error("it took", c.clock.now())
			}
			c.expectCut(muchText)
		}},
	{name: "and for no less", ends: []string{"panic", "Goexit"}, opts: background,
		limits: []time.Duration{200 * time.Millisecond, time.Hour}, counts: true,
		do: func(e *endHost, f *flush.Flusher) { writeMuch(f); f.FlushAsync(); e.later() },
		check: func(c *endCheck) {
			if c.fake {
				c.clock.until(min(c.limit, time.Second) - 1)
			}
			c.expectOpen()
			if body := c.expectCut(muchText); c.fake && len(body) < much {
				c.Errorf("only %d bytes came", len(body))
			}
		}},
	{name: "for at most SendTimeout without progress", ends: endsWell, opts: background,
		limits: []time.Duration{200 * time.Millisecond, time.Hour}, counts: true,
		do: func(e *endHost, f *flush.Flusher) { writeMuch(f); e.later() },
		check: func(c *endCheck) {
			if !c.fake {
				c.expectOpen()
				c.expectWhole(muchText)
				c.expectNoted("OnClose", "<nil>")
				return
			}
			c.went()
			c.expectNoted("OnClose", flush.ErrTimeout.Error())
			if at := c.clock.now(); at < c.limit || at > c.limit+c.limit/16 {
				c.Error("it took", at)
			}
			c.expectCut(muchText)
		}},
	{name: "and for no less without progress", ends: endsWell, opts: background,
		limits: []time.Duration{200 * time.Millisecond, time.Hour}, counts: true,
		do: func(e *endHost, f *flush.Flusher) { writeMuch(f); e.later() },
		check: func(c *endCheck) {
			if c.fake {
				c.clock.until(c.limit - 1)
			}
			c.expectOpen()
			c.expectWhole(muchText)
			c.expectNoted("OnClose", "<nil>")
		}},

	{name: "waits for the carrier", ends: endsAll, counts: true, opts: background,
		do: func(e *endHost, f *flush.Flusher) { writeMuch(f); f.FlushAsync(); e.here() },
		check: func(c *endCheck) {
			c.wait()
			if c.fake {
				synctest.Wait() // the carrier is in the server
			}
			c.resume()
			if slices.Contains(endsWell, c.end) {
				c.expectWhole(muchText)
			} else {
				c.expectCut(muchText)
			}
			if c.end == "Abort" || c.end == "Close" {
				c.expectNoted("behind it", " 0 calls,")
			}
			c.expectNoted("at last", " 0 calls,")
		}},
	{name: "waits for a begun Write", ends: endsWell, counts: true, opts: flush.Options{MaxPending: 8 << 10},
		do: func(e *endHost, f *flush.Flusher) {
			e.wg.Go(func() {
				n, err := f.WriteString(muchText)
				e.log("Write: %d, %v", n, err)
			})
			<-e.called
		},
		check: func(c *endCheck) {
			c.expectWhole(muchText)
			c.expectNoted("Write", fmt.Sprint(much, ", <nil>"))
		}},
	{name: "waits for a filter", ends: []string{"return"},
		do: func(e *endHost, f *flush.Flusher) {
			running := make(chan struct{})
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseFlush != 0 {
					close(running)
					e.here()
				}
				return upperCase(p, phase)
			}})
			io.WriteString(f, "filtered")
			e.wg.Go(func() { e.log("Flush: %v", b.Flush()) })
			<-running
		},
		check: func(c *endCheck) {
			if c.fake {
				c.wait()
				defer c.expectNoted("Flush", "<nil>")
			}
			c.expectOpen()
			if c.fake {
				c.resume()
			}
			c.expectWhole("FILTERED")
		}},
	{name: "says so if a filter runs", ends: []string{"Close"},
		do: func(e *endHost, f *flush.Flusher) {
			running := make(chan struct{})
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseFlush != 0 {
					close(running)
					<-e.closed
				}
				return upperCase(p, phase)
			}})
			io.WriteString(f, "filtered")
			e.wg.Go(func() { e.log("Flush: %v", b.Flush()) })
			<-running
		},
		check: func(c *endCheck) {
			c.went()
			if body, how := c.ended(); body != "FILTERED" || how == cut {
				c.Errorf("the client got %q, %s", body, how)
			}
			c.expectNoted("Close", flush.ErrReentrant.Error())
			c.expectNoted("Flush", "<nil>")
			c.expectNoted("OnClose", "<nil>")
		}},

	{name: "the context", ends: endsAll,
		do: func(_ *endHost, f *flush.Flusher) { io.WriteString(f, "a page") },
		check: func(c *endCheck) {
			why := flush.ErrClosed.Error()
			switch c.end {
			case "panic", "Goexit":
				why = "handler panicked or exited"
			case "Abort":
				why = errEnd.Error()
				c.expectNoted("behind it", "context context canceled, because "+why)
			case "Close":
				c.wait()
				c.resume()
				c.expectNoted("behind it", "context <nil>, because "+why)
			}
			c.expectNoted("at last", "context context canceled, because ", why)
		}},

	{name: "OnClose is told", ends: endsAll,
		do: func(_ *endHost, f *flush.Flusher) { io.WriteString(f, "a page") },
		check: func(c *endCheck) {
			switch c.end {
			case "panic", "Goexit":
				c.expectCut("")
				c.expectNoted("OnClose", "handler panicked or exited")
			case "Abort":
				c.expectCut("")
				c.expectNoted("OnClose", errEnd.Error())
			default:
				c.expectWhole("a page")
				c.expectNoted("OnClose", "<nil>")
			}
		}},
	{name: "OnClose is told of a failure", ends: endsWell,
		do: func(e *endHost, f *flush.Flusher) {
			io.WriteString(f, "a page")
			f.FlushWait(noContext)
			e.here()
			for f.Err() == nil {
				writeMuch(f)
			}
		},
		check: func(c *endCheck) {
			c.expect("a page")
			c.wait()
			c.leave()
			c.resume()
			c.went()
			c.expectNoted("OnClose", flush.ErrClientGone.Error())
			if c.end == "Close" {
				c.expectNoted("Close", flush.ErrClientGone.Error())
			}
		}},
	{name: "OnClose is told of a refusal", ends: endsWell,
		do: func(_ *endHost, f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) { return nil, errFilter }})
			io.WriteString(f, "a page")
		},
		check: func(c *endCheck) {
			c.expectWhole("a page")
			c.expectNoted("OnClose", errFilter.Error())
			if c.end == "Close" {
				c.expectNoted("Close", errFilter.Error())
			}
		}},
}

// A bubbleEnd is a cell's client in a bubble.
type bubbleEnd struct {
	*stream
	*park
	log  *notes
	done chan struct{} // closed when the handler has left
}

func (b *bubbleEnd) wait()                   { b.park.wait() }
func (b *bubbleEnd) resume()                 { b.park.resume() }
func (b *bubbleEnd) noted() []string         { return b.log.all() }
func (b *bubbleEnd) over() []string          { <-b.done; return b.log.all() }
func (b *bubbleEnd) ended() (string, ending) { body, _, how := b.stream.rest(); return body, how }

// notes are lines that several goroutines write.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.lines)
}

// openEnd starts the cell's handler in this process.
func openEnd(t *testing.T, p proto, cell *endCell, end string, limit time.Duration) *endCheck {
	b := &bubbleEnd{park: newPark(t), log: new(notes), done: make(chan struct{})}
	e := &endHost{log: b.log.add, here: b.park.here, later: func() {}, limit: limit}
	h := cell.handler(e, end, flush.NetHTTP())
	clock := newClock()
	b.stream = open(t, serveMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(b.done)
		h.ServeHTTP(w, r)
	}), 1000), "GET", "/", nil)
	return &endCheck{T: t, endClient: b, end: end, limit: limit, clock: clock, fake: true, mute: p == http10}
}

// openEndCGI starts it in a process of its own; nil: not on this system.
var openEndCGI func(t *testing.T, cell *endCell, end string) *endCheck

// Each cell of the table of the four ends holds on every protocol.
func TestEnds(t *testing.T) {
	for _, cell := range endCells {
		for _, end := range cell.ends {
			t.Run(cell.name+"/"+end, func(t *testing.T) {
				limits := cell.limits
				if limits == nil {
					limits = []time.Duration{time.Minute}
				}
				for _, limit := range limits {
					bubble(t, func(t *testing.T, p proto) { cell.check(openEnd(t, p, &cell, end, limit)) })
				}
				if openEndCGI != nil {
					t.Run("CGI", func(t *testing.T) { cell.check(openEndCGI(t, &cell, end)) })
				}
			})
		}
	}
}
