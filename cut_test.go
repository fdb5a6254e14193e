package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

// A tearing writer is middleware between the server and us that breaks in the
// middle of a response: beyond left bytes it takes no more.
type tearing struct {
	http.ResponseWriter
	left  int
	err   error // nil: it takes less and does not say so
	whole bool  // it refuses a Write that crosses the border altogether
}

func (w *tearing) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *tearing) Write(p []byte) (int, error) {
	if len(p) <= w.left {
		w.left -= len(p)
		return w.ResponseWriter.Write(p)
	}
	n := w.left
	if w.left = 0; w.whole {
		return 0, w.err
	}
	n, err := w.ResponseWriter.Write(p[:n])
	if err != nil {
		return n, err
	}
	return n, w.err
}

// A response that has lost bytes which it had accepted is cut where the
// protocol can show it, whoever lost them. The handler looks at no error.
func TestLostBytesCutTheResponse(t *testing.T) {
	const size, fails = 50_000, 12_000
	torn := errors.New("torn")
	body := harness.Numbered(size)
	pieces := func(f *flush.Flusher, each func()) {
		for i := 0; i < size; i += 1000 {
			io.WriteString(f, body[i:i+1000])
			each()
		}
	}
	nothing := func() {}
	for _, way := range []struct {
		name string
		opts flush.Options
		told bool // the writer is told of every byte that did not go
		do   func(f *flush.Flusher)
	}{
		{"asynchronous, small writes", flush.Options{Flush: flush.Async}, false, func(f *flush.Flusher) { pieces(f, nothing) }},
		{"asynchronous, flushed", flush.Options{Flush: flush.Async}, false, func(f *flush.Flusher) { pieces(f, func() { f.FlushAsync() }) }},
		{"asynchronous, one write", flush.Options{Flush: flush.Async}, false, func(f *flush.Flusher) { io.WriteString(f, body) }},
		{"asynchronous, implicit", flush.Options{Implicit: flush.Async}, false, func(f *flush.Flusher) { pieces(f, nothing) }},
		{"asynchronous, then a wait", flush.Options{Flush: flush.Async}, false, func(f *flush.Flusher) { pieces(f, nothing); f.FlushWait(harness.NoContext) }},
		{"small writes", flush.Options{}, false, func(f *flush.Flusher) { pieces(f, nothing) }},
		{"flushed", flush.Options{}, false, func(f *flush.Flusher) { pieces(f, func() { f.FlushError() }) }},
		{"one write", flush.Options{}, true, func(f *flush.Flusher) { io.WriteString(f, body) }},
		{"one write behind a flush", flush.Options{}, true, func(f *flush.Flusher) { f.FlushWait(harness.NoContext); io.WriteString(f, body) }},
		{"all at the end", flush.Options{BufferSize: size + 1}, false, func(f *flush.Flusher) { io.WriteString(f, body) }},
		{"all at the end, headers out", flush.Options{BufferSize: size + 1}, false, func(f *flush.Flusher) { f.SendHeaders(); io.WriteString(f, body) }},
		{"Close", flush.Options{BufferSize: size + 1}, false, func(f *flush.Flusher) { f.SendHeaders(); io.WriteString(f, body); f.Close() }},
		{"a buffer", flush.Options{}, false, func(f *flush.Flusher) { f.StartBuffer(nil); pieces(f, nothing) }},
		{"a buffer, flushed", flush.Options{}, false, func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			pieces(f, func() { f.FlushError() })
		}},
		{"held for HTTP/1.0", flush.Options{HTTP10Buffer: 1 << 20}, false, func(f *flush.Flusher) { pieces(f, nothing) }},
	} {
		for _, fault := range []struct {
			name string
			make func(w http.ResponseWriter) *tearing
		}{
			{"an error", func(w http.ResponseWriter) *tearing { return &tearing{w, fails, torn, false} }},
			{"an error at once", func(w http.ResponseWriter) *tearing { return &tearing{w, 0, torn, false} }},
			{"an error at the last byte", func(w http.ResponseWriter) *tearing { return &tearing{w, size - 1, torn, false} }},
			{"an error, nothing taken", func(w http.ResponseWriter) *tearing { return &tearing{w, fails, torn, true} }},
			{"a short write", func(w http.ResponseWriter) *tearing { return &tearing{w, fails, nil, false} }},
			{"a refusal", func(w http.ResponseWriter) *tearing { return &tearing{w, fails, http.ErrContentLength, true} }},
			{"twin: it holds", func(w http.ResponseWriter) *tearing { return &tearing{w, size, torn, false} }},
		} {
			if way.told && fault.name == "a refusal" {
				continue // as with the server's own refusals, the response goes on
			}
			for _, declared := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%t", way.name, fault.name, declared), func(t *testing.T) {
					edges(t, func(t *testing.T, p harness.Proto) {
						opts, told := harness.TellClosing(way.opts)
						h := harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
							if declared {
								w.Header().Set("Content-Length", strconv.Itoa(size))
							}
							way.do(harness.Flusher(w))
						})
						srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							h.ServeHTTP(fault.make(w), r)
						}), 1<<20)
						s := harness.Open(t, srv, "GET", "/", nil)
						got, _, end := s.Rest()
						c := <-told
						if strings.HasPrefix(fault.name, "twin") {
							if got != body || end == harness.Cut || c.Err != nil || c.Bytes != size {
								t.Errorf("%d bytes, %s, OnClose %v", len(got), end, c.Err)
							}
							return
						}
						// HTTP/1.0 without a length has only one end.
						if end == harness.Complete || end == harness.Closed && p != harness.HTTP10 {
							t.Errorf("the client takes %d of %d bytes for the response: %s", len(got), size, end)
						}
						if !strings.HasPrefix(body, got) {
							t.Errorf("the %d bytes that arrived are not the first", len(got))
						}
						if c.Err == nil || c.Bytes >= size {
							t.Errorf("OnClose: %v, %+v", c.Err, c.Stats)
						}
					})
				})
			}
		}
	}
}

// A countedConn counts the Writes of a connection.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A bulk body in large writes goes to the connection in large pieces.
func TestBulkGoesInLargePieces(t *testing.T) {
	const size, each = 4 << 20, 1 << 20
	text := harness.Numbered(each)
	for _, test := range []struct {
		name string
		opts flush.Options
		most int64 // Writes of the connection for each MiB
	}{
		{"synchronous", flush.Options{}, 40},
		{"synchronous, large buffer", flush.Options{BufferSize: 64 << 10}, 40},
		{"synchronous, every write moves", flush.Options{BufferSize: -1}, 40},
		{"synchronous, none", flush.Options{SendTimeout: -1}, 40},
		{"implicit", flush.Options{Implicit: flush.Wait}, 40},
		{"asynchronous", flush.Options{Flush: flush.Async}, 64},
		{"asynchronous, large buffer", flush.Options{Flush: flush.Async, BufferSize: 64 << 10}, 64},
		{"asynchronous, much pending", flush.Options{Flush: flush.Async, MaxPending: 1 << 20}, 64},
		{"asynchronous, under a budget", flush.Options{Flush: flush.Async, Budget: flush.NewBudget(1<<20, 1<<20)}, 64},
		{"interval", flush.Options{FlushInterval: time.Hour}, 64},
	} {
		for _, way := range []struct {
			name string
			do   func(w http.ResponseWriter) error
		}{
			{"Write", func(w http.ResponseWriter) error {
				p := make([]byte, each)
				for range size / each {
					if _, err := w.Write(p); err != nil {
						return err
					}
				}
				return nil
			}},
			{"WriteString", func(w http.ResponseWriter) error {
				for range size / each {
					if _, err := io.WriteString(w, text); err != nil {
						return err
					}
				}
				return nil
			}},
			{"Writes of 32 KiB", func(w http.ResponseWriter) error {
				p := make([]byte, 32<<10)
				for range size / len(p) {
					if _, err := w.Write(p); err != nil {
						return err
					}
				}
				return nil
			}},
			{"declared", func(w http.ResponseWriter) error {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				p := make([]byte, each)
				for range size / each {
					if _, err := w.Write(p); err != nil {
						return err
					}
				}
				return nil
			}},
		} {
			t.Run(test.name+"/"+way.name, func(t *testing.T) {
				var writes atomic.Int64
				if test.opts.SendTimeout == 0 {
					test.opts.SendTimeout = time.Hour // a busy machine is not a slow client
				}
				srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(&test.opts, func(w http.ResponseWriter, _ *http.Request) {
					if err := way.do(w); err != nil {
						t.Error(err)
					}
				}), harness.WrapConn(func(c net.Conn) net.Conn { return countedConn{c, &writes} }))
				s := harness.Open(t, srv, "GET", "/", nil)
				n, err := io.Copy(io.Discard, s.Response().Body)
				if n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				most := test.most
				switch {
				case way.name == "WriteString" && most == 40:
					most = 260 // what net/http itself makes of a large string
				case way.name == "Writes of 32 KiB" && test.opts.Implicit == flush.Wait:
					most = 96 // what net/http itself makes of them, flushed
				case way.name == "Writes of 32 KiB" && test.opts.Budget != nil:
					most = 257 // a budget counts blocks of 4 KiB, which are handed down one by one
				case way.name == "Writes of 32 KiB":
					most = 64 // what net/http itself makes of them
				}
				if each := writes.Load() / (size >> 20); each > most {
					t.Errorf("%d writes of the connection for each MiB, want at most %d", each, most)
				}
			})
		}
	}
}

// Slices grow over all the Writes of a response, up to what one of them is: then
// net/http's own two writes of the connection for a chunk are all that there are. In
// asynchronous mode nothing is left behind for a carrier.
func TestSlicesGrowFromWriteToWrite(t *testing.T) {
	const size, each = 32 << 20, 1 << 20
	for _, test := range []struct {
		name string
		opts flush.Options
		most int64 // Writes of the connection for each MiB
	}{
		{"synchronous", flush.Options{}, 3},
		{"asynchronous", flush.Options{Flush: flush.Async}, 3},
		{"interval", flush.Options{FlushInterval: time.Hour}, 3},
		{"twin: all is held", flush.Options{Flush: flush.Async, MaxPending: 1 << 20}, 64},
	} {
		t.Run(test.name, func(t *testing.T) {
			var writes atomic.Int64
			opts, told := harness.TellClosing(test.opts)
			opts.SendTimeout = time.Hour // a busy machine is not a slow client
			srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
				p := make([]byte, each)
				for range size / each {
					if _, err := w.Write(p); err != nil {
						t.Error(err)
						return
					}
				}
			}), harness.WrapConn(func(c net.Conn) net.Conn { return countedConn{c, &writes} }))
			s := harness.Open(t, srv, "GET", "/", nil)
			n, err := io.Copy(io.Discard, s.Response().Body)
			if n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			if each := writes.Load() / (n >> 20); each > test.most {
				t.Errorf("%d writes of the connection for each MiB, want at most %d", each, test.most)
			}
			if c := <-told; c.MaxPending > max(opts.MaxPending, 64<<10) {
				t.Errorf("%d bytes were held", c.MaxPending)
			}
		})
	}
}

// An asynchronous Write waits for what is beyond MaxPending, and no longer, however
// large it is and however much the connection took at once.
func TestBulkWaitsForWhatIsBeyondMaxPending(t *testing.T) {
	const capacity, pending = 1 << 20, 64 << 10
	for _, first := range []int{0, 10, pending, 300 << 10} {
		for _, last := range []int{100 << 10, capacity, 3 << 19} {
			t.Run(fmt.Sprintf("%d, %d", first, last), func(t *testing.T) {
				edge(t, func(t *testing.T) {
					wrote := make(chan bool)
					opts, told := harness.TellClosing(flush.Options{Flush: flush.Async, SendTimeout: time.Hour})
					srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
						w.Write(make([]byte, first))
						w.Write(make([]byte, last))
						close(wrote)
					}), capacity)
					s := harness.Open(t, srv, "GET", "/", nil)
					body := s.Response().Body
					returned := func() bool {
						synctest.Wait()
						select {
						case <-wrote:
							return true
						default:
							return false
						}
					}
					// What there is of framing, and what the client's end holds, is less than this.
					const around = 16 << 10
					if most := first + last - capacity - pending; most > around {
						if io.CopyN(io.Discard, body, int64(most-around)); returned() {
							t.Errorf("it returned with more than MaxPending to go")
						}
						io.CopyN(io.Discard, body, 2*around)
					}
					if !returned() {
						t.Error("it waits")
					}
					rest, err := io.Copy(io.Discard, body)
					if err != nil {
						t.Error(err)
					}
					if c := <-told; c.Err != nil || c.Bytes != int64(first+last) || c.MaxPending > pending {
						t.Errorf("%d bytes, %d held, OnClose %v; %d came last", c.Bytes, c.MaxPending, c.Err, rest)
					}
				})
			})
		}
	}
}

// With a known connection the end of a healthy response comes as early as
// without: no round trip is waited for.
func TestEndOfAHealthyResponseIsNotHeldBack(t *testing.T) {
	const trip = 100 * time.Millisecond
	for _, send := range []time.Duration{0, 10 * time.Second, -1} {
		for _, size := range []int{500, 20_000, linkRoom / 2, 300_000} {
			for _, way := range []struct {
				name string
				opts flush.Options
				do   func(w http.ResponseWriter, p []byte)
			}{
				{"chunked", flush.Options{}, func(w http.ResponseWriter, p []byte) { w.Write(p) }},
				{"flushed", flush.Options{}, func(w http.ResponseWriter, p []byte) { w.Write(p); flush.Flush(w, true) }},
				{"asynchronous", flush.Options{Flush: flush.Async}, func(w http.ResponseWriter, p []byte) { w.Write(p); flush.Flush(w, false) }},
				{"declared", flush.Options{}, func(w http.ResponseWriter, p []byte) {
					w.Header().Set("Content-Length", fmt.Sprint(len(p)))
					w.Write(p)
				}},
				{"Close", flush.Options{}, func(w http.ResponseWriter, p []byte) { w.Write(p); harness.Flusher(w).Close() }},
			} {
				t.Run(fmt.Sprintf("%v/%d/%s", send, size, way.name), func(t *testing.T) {
					edges(t, func(t *testing.T, p harness.Proto) {
						clock := harness.NewClock()
						opts, told := harness.TellClosing(way.opts)
						opts.SendTimeout = send
						srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
							way.do(w, make([]byte, size))
						}), 4<<20, linked(&link{trip: trip})...)
						s := harness.Open(t, srv, "GET", "/", nil)
						s.ExpectEnd(string(make([]byte, size)))
						if at := clock.Now(); at != 0 {
							t.Errorf("the end has come after %v", at)
						}
						if c := <-told; c.Err != nil {
							t.Error("OnClose:", c.Err)
						}
						s.Leave()
						<-time.After(time.Second) // whoever watches sees that nobody blocks
					})
				})
			}
		}
	}
}

// On a link on which everything arrives half a round trip later the end does
// so, too, and the next request on the connection comes through.
func TestEndOverALinkTakesHalfARoundTrip(t *testing.T) {
	const trip = 100 * time.Millisecond
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprint(known), func(t *testing.T) {
			edge(t, func(t *testing.T) {
				l := &link{trip: trip}
				options := []harness.ServeOption{harness.WrapConn(func(c net.Conn) net.Conn { l.Conn = c; return l })}
				if known {
					options = linked(l)
				}
				late := options[0]
				options[0] = func(s *harness.Server) {
					late(s)
					inner := s.Wrap
					s.Wrap = func(c net.Conn) net.Conn { return inner(flushtest.NewConn(c, flushtest.Script{Latency: trip / 2})) }
				}
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
					for range 50 {
						w.Write(make([]byte, 1000))
					}
				}), 4<<20, options...)
				s := harness.Open(t, srv, "GET", "/", nil)
				for range 3 {
					clock := harness.NewClock()
					s.ExpectEnd(string(make([]byte, 50_000)))
					if at := clock.Now(); at != trip/2 {
						t.Errorf("the end has come after %v", at)
					}
					<-time.After(time.Second)
					s = s.Again("GET", "/", nil)
				}
				s.Rest()
				s.Leave()
				<-time.After(time.Second)
			})
		})
	}
}

// Before a panic the client gets what moves by itself, in the background as on the
// caller's goroutine, where net/http would have sent some of it: one that gets no
// byte takes a kept connection for stale. Twin: what is below BufferSize and was not
// flushed does not go out, nor what HTTP/1.0 buffering or a HEAD holds back. The client
// could not see the cut of a half page there, and without a byte it can.
func TestPanicShowsWhatMovesByItself(t *testing.T) {
	for name, test := range map[string]struct {
		opts   flush.Options
		method string
		size   int
		shown  bool
	}{
		"synchronous":       {flush.Options{}, "GET", 20_000, true},
		"asynchronous":      {flush.Options{Flush: flush.Async}, "GET", 20_000, true},
		"interval":          {flush.Options{FlushInterval: time.Hour}, "GET", 20_000, true},
		"little":            {flush.Options{Flush: flush.Async}, "GET", 3_000, false},
		"little, synchron":  {flush.Options{}, "GET", 3_000, false},
		"held for HTTP/1.0": {flush.Options{HTTP10Buffer: 1 << 20}, "GET", 20_000, true},
		"HEAD":              {flush.Options{}, "HEAD", 3_000, false},
	} {
		for way, end := range map[string]func(f *flush.Flusher){
			"panic": func(*flush.Flusher) { panic(http.ErrAbortHandler) },
			"Abort": func(f *flush.Flusher) { f.Abort(nil) },
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					for _, each := range []int{100, test.size} {
						srv := harness.ServeMemory(t, p, harness.Wrapped(&test.opts, func(w http.ResponseWriter, _ *http.Request) {
							if way == "Abort" && (test.opts.Flush == flush.Async || test.opts.FlushInterval > 0) {
								// It would cut the first call of the server if that were under way.
								time.AfterFunc(time.Millisecond, flush.TakeBaton(harness.Flusher(w)).Release)
							}
							for i := 0; i < test.size; i += each {
								io.WriteString(w, harness.Numbered(test.size)[i:i+each])
							}
							end(harness.Flusher(w))
						}), 0)
						s := harness.Open(t, srv, test.method, "/", nil)
						_, err := s.Head()
						shown := test.shown && !(p == harness.HTTP10 && test.opts.HTTP10Buffer > 0)
						if (err == nil) != shown {
							t.Errorf("%d at a time: head %v, want one: %t", each, err, shown)
						}
						if body, _, how := s.Rest(); how == harness.Complete || !strings.HasPrefix(harness.Numbered(test.size), body) {
							t.Errorf("%d at a time: %d bytes, %s", each, len(body), how)
						}
					}
				})
			})
		}
	}
}
