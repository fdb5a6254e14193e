package flush_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// What a client gets of a response that is hijacked is, to the byte, what it gets
// from the server alone: whatever the protocol, the options and the buffers are.
// Before the hijack everything has been flushed: what has not is ours to hand down,
// and the server's to lose.
func TestHijackIsTheServersOwn(t *testing.T) {
	for name, before := range map[string]func(w http.ResponseWriter){
		"nothing":     func(http.ResponseWriter) {},
		"header":      func(w http.ResponseWriter) { w.Header().Set("X-Test", "1") },
		"WriteHeader": func(w http.ResponseWriter) { w.Header().Set("X-Test", "1"); w.WriteHeader(202) },
		"204":         func(w http.ResponseWriter) { w.WriteHeader(204) },
		"1xx":         func(w http.ResponseWriter) { w.WriteHeader(103) },
		"flush":       func(w http.ResponseWriter) { flushDown(w) },
		"write":       func(w http.ResponseWriter) { io.WriteString(w, "before"); flushDown(w) },
		"with a length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "12")
			io.WriteString(w, "before")
			flushDown(w)
		},
		"much":        func(w http.ResponseWriter) { io.WriteString(w, harness.Text(10_000)); flushDown(w) },
		"empty write": func(w http.ResponseWriter) { w.Write(nil) },
		"asynchronous": func(w http.ResponseWriter) {
			io.WriteString(w, "before")
			if f, ok := flush.From(w); ok {
				f.FlushAll(false)
				return
			}
			flushDown(w)
		},
	} {
		for optName, opts := range map[string]*flush.Options{
			"nothing": nil, "async": {Flush: flush.Async}, "implicit": {Implicit: flush.Wait}, "implicit async": {Implicit: flush.Async},
			"interval":       {FlushInterval: 1},
			"buffer":         {OnStart: func(f *flush.Flusher, _ *http.Request) { f.StartBuffer(&flush.BufferOptions{FollowFlush: true}) }},
			"buffers, async": {Flush: flush.Async, OnStart: func(f *flush.Flusher, _ *http.Request) { f.StartBuffer(nil); follow(f) }},
			"Gzip, not asked": {OnStart: func(f *flush.Flusher, r *http.Request) {
				f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), FollowFlush: true})
			}},
		} {
			for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10} {
				if name == "1xx" && p == harness.HTTP10 || name == "empty write" && opts != nil && opts.OnStart != nil {
					continue // no such client is sent a 1xx; and a buffer keeps what it is given, were it nothing
				}
				for _, method := range []string{"GET", "HEAD"} {
					t.Run(fmt.Sprintf("%s/%s/%v/%s", name, optName, p, method), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
								before(w)
								conn, rw, err := w.(http.Hijacker).Hijack()
								if err != nil {
									t.Error(err)
									return
								}
								defer conn.Close()
								io.WriteString(rw, "raw")
								rw.Flush()
							})
							get := func(h http.Handler) string {
								got, err := io.ReadAll(harness.Open(t, harness.ServeMemory(t, p, h, 0), method, "/", nil).Reader)
								if err != nil {
									t.Error(err)
								}
								return plainly(string(got))
							}
							want := get(h)
							if got := get(flush.NewHandler(h, opts)); got != want {
								t.Errorf("%q came, and without us %q", harness.Clip([]byte(got)), harness.Clip([]byte(want)))
							}
						})
					})
				}
			}
		}
	}
}

// flushDown flushes so that all is on its way on any writer.
func flushDown(w http.ResponseWriter) {
	if f, ok := flush.From(w); ok {
		f.FlushAll(true)
		return
	}
	w.(http.Flusher).Flush()
}

// plainly returns what came with the lines of its header in order, without what Gzip
// says there, and without the frames of its chunks.
func plainly(s string) string {
	head, body, _ := strings.Cut(s, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "Vary: Accept-Encoding" }) // of our Gzip
	slices.Sort(lines[1:])
	if slices.Contains(lines, "Transfer-Encoding: chunked") {
		chunks := ""
		for {
			size, rest, ok := strings.Cut(body, "\r\n")
			n, err := strconv.ParseInt(size, 16, 32)
			if !ok || err != nil || len(rest) < int(n)+2 {
				break
			}
			chunks, body = chunks+rest[:n], rest[n+2:]
		}
		body = chunks + body
	}
	return strings.Join(lines, "\n") + "\n\n" + body
}

// The headers before a Hijack are no stream's: no proxy is told not to hold them.
func TestHijackTellsNoProxy(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(&flush.Options{NoProxyBuffering: true}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(202)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	}))
	s := harness.Open(t, srv, "GET", "/", nil)
	if h := s.Header(); s.Response().StatusCode != 202 || h.Get("X-Accel-Buffering") != "" || h.Get("Cache-Control") != "" {
		t.Errorf("%d, %v", s.Response().StatusCode, h)
	}
	s.Leave()
}

// hangsUp is a connection that notes that its end is shown to the client.
type hangsUp struct {
	harness.FakeConn
	times *atomic.Int32
}

func (c hangsUp) HangUp() error { c.times.Add(1); return nil }

// The Shutdown of a Group whose time is over does not hang up a connection that is
// being taken over: it may be the caller's by then. Twin: one that is not is hung up.
func TestShutdownLeavesATakenConnectionAlone(t *testing.T) {
	for _, hijacks := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var g flush.Group
			var hung atomic.Int32
			gate, over := make(chan struct{}), make(chan struct{})
			h := harness.Wrapped(&flush.Options{Group: &g}, func(w http.ResponseWriter, _ *http.Request) {
				defer close(over)
				if !hijacks {
					<-gate
					return
				}
				conn, _, err := harness.Flusher(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				conn.Close()
			})
			ctx := harness.WithConn(t.Context(), hangsUp{times: &hung})
			go serveCut(h, hijackable{harness.DeadlineSink{Sink: harness.NewSink(t)}, gate}, requestOf(ctx, 0))
			synctest.Wait()
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := g.Shutdown(ended); !errors.Is(err, flush.ErrShutdown) {
				t.Error(err)
			}
			close(gate)
			<-over
			if n := hung.Load(); (n > 0) == hijacks {
				t.Errorf("hijacks %t: hung up %d times", hijacks, n)
			}
		})
	}
}

// refusesHijack is a server's writer that does not give its connection away, after all.
type refusesHijack struct {
	harness.DeadlineSink
	gate chan struct{}
	read *[]time.Time // the deadlines of reads that were set
}

func (w refusesHijack) SetReadDeadline(t time.Time) error {
	*w.read = append(*w.read, t)
	return nil
}

func (w refusesHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	<-w.gate
	return nil, nil, http.ErrNotSupported
}

// A deadline that comes beside a Hijack that fails holds.
func TestDeadlineBesideAHijackThatFails(t *testing.T) {
	for _, lifts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := harness.NewSink(t)
			s.Hold(0)
			gate, read, readAt := make(chan struct{}), []time.Time(nil), time.Now().Add(time.Hour)
			f := flush.New(refusesHijack{harness.DeadlineSink{Sink: s}, gate, &read}, nil, &flush.Options{SendTimeout: 2 * time.Second})
			at := time.Second
			if lifts {
				harness.Must(t, f.SetWriteDeadline(time.Now().Add(at)))
			}
			hijacked := harness.Go(func() error { _, _, err := f.Hijack(); return err })
			synctest.Wait()
			if lifts {
				harness.Must(t, f.SetWriteDeadline(time.Time{}))
				at = 2 * time.Second
			} else {
				harness.Must(t, f.SetWriteDeadline(time.Now().Add(at)))
			}
			harness.Must(t, f.SetReadDeadline(readAt))
			if len(read) > 0 {
				t.Error("a read deadline was set beside the Hijack")
			}
			close(gate)
			if err := <-hijacked; !errors.Is(err, http.ErrNotSupported) {
				t.Error(err)
			}
			if !slices.Equal(read, []time.Time{readAt}) {
				t.Errorf("read deadlines %v", read)
			}
			harness.MustWrite(t, f, "page")
			clock := harness.NewClock()
			if err := f.FlushWait(harness.NoContext); !errors.Is(err, flush.ErrTimeout) || clock.Now() != at {
				t.Errorf("%v after %v, want %v", err, clock.Now(), at)
			}
			f.Abort(nil)
		})
	}
}
