package edges_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

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
		{"interval", flush.Options{FlushInterval: time.Second}, 64},
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
				if way.name == "WriteString" && most == 40 {
					most = 260 // what net/http itself makes of a large string
				}
				if each := writes.Load() / (size >> 20); each > most {
					t.Errorf("%d writes of the connection for each MiB, want at most %d", each, most)
				}
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
