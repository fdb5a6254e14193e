//go:build unix

package flush_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

// A panic in a handler of net/http/fcgi ends the process, and all other responses
// with it. So a client that leaves is no reason for one, whatever middleware stands
// between.
func TestFastCGIClientLeavesBehindMiddleware(t *testing.T) {
	for name, above := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"nothing":                   func(w http.ResponseWriter) http.ResponseWriter { return w },
		"a writer with Unwrap":      func(w http.ResponseWriter) http.ResponseWriter { return harness.Unwrapper{ResponseWriter: w} },
		"a writer that only writes": func(w http.ResponseWriter) http.ResponseWriter { return struct{ http.ResponseWriter }{w} },
	} {
		for way, wrap := range map[string]func(http.Handler) http.Handler{
			"once": harness.WrappedBy(nil), "async": harness.WrappedBy(&flush.Options{Flush: flush.Async}),
			"twice": func(h http.Handler) http.Handler { return flush.NewHandler(behind(flush.NewHandler(h, nil)), nil) },
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				pk := harness.NewPark(t)
				panicked, failed := make(chan any, 1), make(chan error, 1)
				h := wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, "hello")
					pk.Here()
					var err error
					for range 1000 {
						if _, err = io.WriteString(w, harness.Text(64<<10)); err != nil {
							break
						}
					}
					failed <- err
				}))
				go fcgi.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() { panicked <- recover() }()
					h.ServeHTTP(above(w), r)
				}))
				c, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				fcgiRequest(t, c, map[string]string{"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/"})
				pk.Wait()
				c.Close()
				pk.Resume()
				if err := <-failed; err == nil {
					t.Error("no Write has failed")
				}
				if v := <-panicked; v != nil {
					t.Errorf("panic %v", v)
				}
			})
		}
	}
}

func TestInspectFastCGI(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	defer ln.Close()
	reports := make(chan flush.Report, 1)
	go fcgi.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reports <- flush.Inspect(w) }))
	c, err := net.Dial("tcp", ln.Addr().String())
	harness.Must(t, err)
	defer c.Close()
	fcgiRequest(t, c, map[string]string{"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/"})
	if r := harness.Next(t, reports); r.Fate != flush.FateErrorLost || !strings.Contains(r.String(), "no deadlines") {
		t.Errorf("%v", r)
	}
}

// The kinds of FastCGI records.
const (
	fcgiBegin  = 1
	fcgiAbort  = 2
	fcgiEnd    = 3
	fcgiParams = 4
	fcgiInput  = 5
)

// fcgiRecord is a record of size bytes and padding.
func fcgiRecord(kind byte, id uint16, size, padding int) []byte {
	b := []byte{1, kind}
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, byte(padding), 0)
	return append(b, bytes.Repeat([]byte{fcgiEnd}, size+padding)...)
}

// Each record is noted once, however the stream is cut up, and no content is
// taken for one.
func TestFastCGIRecordsAreFoundInAnyPieces(t *testing.T) {
	want := []flush.FastCGIRecord{{fcgiBegin, 1, 8}, {fcgiParams, 1, 21}, {fcgiParams, 1, 0}, {fcgiBegin, 0x102, 8}, {fcgiInput, 1, 0x123}, {fcgiInput, 1, 0}, {fcgiAbort, 0x102, 0}, {fcgiEnd, 1, 8}}
	var stream []byte
	for i, r := range want {
		stream = append(stream, fcgiRecord(r.Kind, r.ID, r.Size, i%3*5)...)
	}
	for size := 1; size <= len(stream); size++ {
		if got := flush.FastCGIRecords(slices.Collect(slices.Chunk(stream, size))...); !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: %v, want %v", size, got, want)
		}
	}
	for cut := range len(stream) {
		if got := flush.FastCGIRecords(stream[:cut], stream[cut:]); !slices.Equal(got, want) {
			t.Errorf("cut at %d: %v, want %v", cut, got, want)
		}
	}
}

// A gatewayEnd is the connection of a web server that sends what the test says.
type gatewayEnd struct {
	net.Conn
	in     bytes.Buffer
	out    bytes.Buffer
	closed int
	err    error // of Write and Close
}

func (c *gatewayEnd) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *gatewayEnd) Write(p []byte) (int, error) { n, _ := c.out.Write(p); return n, c.err }
func (c *gatewayEnd) Close() error                { c.closed++; return c.err }

// conns is a listener that has these connections, and fails then.
type conns struct {
	net.Listener
	left   []net.Conn
	err    error
	closed chan struct{} // nil: nobody looks
}

func (l *conns) Accept() (net.Conn, error) {
	if len(l.left) == 0 {
		return nil, l.err
	}
	c := l.left[0]
	l.left = l.left[1:]
	return c, nil
}

// A connection that drains is closed when its last request has been received and
// answered, and not before: to close over input would reset it under the answer.
func TestFastCGIConnectionDrains(t *testing.T) {
	const drain = 100
	type step struct {
		kind byte // of a record; drain: from here on it drains
		id   uint16
		size int
	}
	begin, end := step{fcgiBegin, 1, 8}, step{fcgiEnd, 1, 8}
	input := step{fcgiInput, 1, 0}
	for _, c := range []struct {
		name  string
		steps []step
		open  bool // afterwards; otherwise the last step has closed it
	}{
		{"nothing begun", []step{{kind: drain}}, true},
		{"first request comes late", []step{{kind: drain}, begin, input, end}, false},
		{"idle", []step{begin, input, end, {kind: drain}}, false},
		{"idle, answered early", []step{begin, end, input, {kind: drain}}, false},
		{"no input has come", []step{begin, {kind: drain}}, true},
		{"input comes", []step{begin, {kind: drain}, {fcgiInput, 1, 5}, end}, true},
		{"answered before the input's end", []step{begin, {kind: drain}, {fcgiInput, 1, 5}, end, input}, false},
		{"received, not answered", []step{begin, {kind: drain}, input}, true},
		{"aborted", []step{begin, {kind: drain}, {fcgiAbort, 1, 0}, end}, false},
		{"parameters end", []step{begin, {kind: drain}, end, {fcgiParams, 1, 0}}, true},
		{"two requests, one ends", []step{begin, {fcgiBegin, 2, 8}, {kind: drain}, input, end}, true},
		{"two requests, both end", []step{begin, {fcgiBegin, 2, 8}, input, {kind: drain}, end, {fcgiInput, 2, 0}, {fcgiEnd, 2, 8}}, false},
		{"a number again", []step{begin, input, end, begin, {kind: drain}, input}, true},
		{"a request given up and begun again", []step{begin, input, begin, {kind: drain}, end}, true},
		{"a record of no request", []step{{fcgiEnd, 7, 8}, {fcgiInput, 7, 0}, {kind: drain}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			end := new(gatewayEnd)
			l, startDrain := flush.WatchFastCGI(&conns{left: []net.Conn{end}})
			conn, err := l.Accept()
			harness.Must(t, err)
			var empty <-chan struct{}
			for i, s := range c.steps {
				if end.closed > 0 {
					t.Fatalf("closed before step %d", i)
				}
				record := fcgiRecord(s.kind, s.id, s.size, 0)
				switch s.kind {
				case drain:
					empty = startDrain()
				case fcgiEnd:
					if n, err := conn.Write(record); n != len(record) || err != nil {
						t.Errorf("Write: %d, %v", n, err)
					}
				default:
					end.in.Write(record)
					got, err := io.ReadAll(conn)
					if !bytes.Equal(got, record) || err != nil {
						t.Errorf("Read: %q, %v", got, err)
					}
				}
			}
			if c.open != (end.closed == 0) {
				t.Errorf("it was closed %d times", end.closed)
			}
			select {
			case <-empty:
				if c.open {
					t.Error("told as the last that has closed")
				}
			default:
				if !c.open {
					t.Error("not told that none is left")
				}
			}
		})
	}
}

// The drain is over with the last connection, whoever closes it.
func TestFastCGIDrainIsOver(t *testing.T) {
	_, drain := flush.WatchFastCGI(nil)
	harness.Next(t, drain())

	l, drain := flush.WatchFastCGI(&conns{left: []net.Conn{new(gatewayEnd), new(gatewayEnd)}, err: io.ErrNoProgress})
	a, _ := l.Accept()
	b, _ := l.Accept()
	if _, err := l.Accept(); err != io.ErrNoProgress {
		t.Errorf("Accept: %v", err)
	}
	empty := drain()
	a.Close()
	a.Close()
	select {
	case <-empty:
		t.Error("over with a connection open")
	default:
	}
	b.Close()
	harness.Next(t, empty)
	b.Close()
}

// Serve waits until the web server has the last record of each response, which comes
// behind the return of its handler, but for ten seconds at most.
func TestServeFastCGIWaitsForTheLastRecord(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("reads=%t", reads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := flushtest.Listen(16)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				served := harness.Go(func() error {
					return flush.ServeFastCGI(ctx, []net.Listener{l}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), new(flush.Group))
				})
				c, err := l.Dial(ctx, "", "")
				harness.Must(t, err)
				defer c.Close()
				fcgiRequest(t, c, map[string]string{"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/"})
				synctest.Wait() // it is being answered
				clock := harness.NewClock()
				cancel()
				synctest.Wait()
				if len(served) > 0 {
					t.Error("it has returned before the answer was out")
				}
				want := 10 * time.Second
				if reads {
					want = 0
					all, err := io.ReadAll(c)
					if found := flush.FastCGIRecords(all); err != nil || len(found) == 0 || found[len(found)-1].Kind != fcgiEnd {
						t.Errorf("%v, %v", found, err)
					}
				}
				if err := <-served; err != nil || clock.Now() != want {
					t.Errorf("%v after %v", err, clock.Now())
				}
			})
		})
	}
}

// What the connection says is what the server's package hears.
func TestFastCGIConnectionTellsErrors(t *testing.T) {
	l, _ := flush.WatchFastCGI(&conns{left: []net.Conn{&gatewayEnd{err: io.ErrShortBuffer}}})
	c, err := l.Accept()
	harness.Must(t, err)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read: %d, %v", n, err)
	}
	if n, err := c.Write([]byte("abc")); n != 3 || err != io.ErrShortBuffer {
		t.Errorf("Write: %d, %v", n, err)
	}
	if err := c.Close(); err != io.ErrShortBuffer {
		t.Errorf("Close: %v", err)
	}
}

func (l *conns) Close() error {
	if l.closed != nil {
		close(l.closed)
	}
	return nil
}

// A socket that fails ends Serve with its error, and closes the others.
func TestFastCGISocketFails(t *testing.T) {
	harness.CheckGoroutines(t)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	failing := &conns{err: io.ErrNoProgress, closed: make(chan struct{})}
	err = flush.ServeFastCGI(t.Context(), []net.Listener{other, failing}, http.NotFoundHandler(), new(flush.Group))
	if err != io.ErrNoProgress {
		t.Errorf("got %v", err)
	}
	harness.Next(t, failing.closed)
	if _, err := other.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the other socket: %v", err)
	}
}

// After the context's end an aborted response ends its goroutine and not the
// process; before, and for other panics, a panic stays one.
func TestFastCGIAbortAtTheEndIsQuiet(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name     string
		ended    bool // the context
		panics   error
		returns  bool
		panicked error
	}{
		{"returns", false, nil, true, nil},
		{"aborts", false, http.ErrAbortHandler, false, http.ErrAbortHandler},
		{"panics", false, boom, false, boom},
		{"returns at the end", true, nil, true, nil},
		{"aborts at the end", true, http.ErrAbortHandler, false, nil},
		{"panics at the end", true, boom, false, boom},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ran := false
			h := flush.EndQuietly(ctx, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				ran = true
				if c.ended {
					cancel()
				}
				if c.panics != nil {
					panic(c.panics)
				}
			}))
			done := make(chan struct{})
			var returned bool
			var panicked any
			go func() {
				defer close(done)
				defer func() { panicked = recover() }()
				h.ServeHTTP(nil, nil)
				returned = true
			}()
			<-done
			if err, _ := panicked.(error); !ran || returned != c.returns || err != c.panicked {
				t.Errorf("ran %v, returned %v, panicked %v", ran, returned, panicked)
			}
		})
	}
}
