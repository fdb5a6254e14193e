package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/fa492104/flush"
)

// event is what a stream of server-sent events sends at a time.
var event = []byte("data: 0123456789\n\n")

const requestText = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// transparent is middleware that wraps the writer and can be unwrapped.
type transparent struct{ http.ResponseWriter }

func (t transparent) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func wrapped(w http.ResponseWriter, n int) http.ResponseWriter {
	for range n {
		w = transparent{w}
	}
	return w
}

func bareHandler(h http.Handler) http.Handler { return h }
func ourHandler(h http.Handler) http.Handler  { return flush.NewHandler(h, nil) }

// serve starts a server on 127.0.0.1; stop ends it.
func serve(h http.Handler, change func(*http.Server)) (addr string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	if change != nil {
		change(srv)
	}
	go srv.Serve(l)
	return l.Addr().String(), func() { srv.Close() }
}

// dial opens a connection and asks for /.
func dial(addr string) net.Conn {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.WriteString(c, requestText); err != nil {
		log.Fatal(err)
	}
	return c
}

// inHandler opens a stream whose handler does the work of a lane, size units at
// a time; body gets ready and returns the work.
func inHandler(wrap func(http.Handler) http.Handler, http2 bool, size int, body func(w http.ResponseWriter) func(n int)) (lane, func()) {
	groups, took := make(chan int), make(chan float64)
	addr, stop := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		flush.Flush(w, true)
		work := body(w)
		for n := range groups {
			took <- medianCost(n, size, work)
		}
	})), nil)
	reader := startReader(addr, http2, false)
	work := func(n int) float64 {
		groups <- n
		return <-took
	}
	return work, func() {
		close(groups)
		reader.stop()
		stop()
	}
}

// medianCost does size units of work n times over and returns the median of
// what one unit cost. A group in which the machine did something else does not
// count.
func medianCost(n, size int, work func(n int)) float64 {
	costs := make([]float64, n)
	for i := range costs {
		began := time.Now()
		work(size)
		costs[i] = float64(time.Since(began)) / float64(size)
	}
	return quantile(costs, 0.5)
}

// both joins the stops of two lanes.
func both(a, b func()) func() {
	return func() {
		a()
		b()
	}
}

// bareFlush writes and flushes events on the server's own writer, as it is
// below wraps wrappers.
func bareFlush(wraps int) func(w http.ResponseWriter) func(n int) {
	return func(w http.ResponseWriter) func(n int) {
		rc := http.NewResponseController(wrapped(w, wraps))
		return func(n int) {
			for range n {
				w.Write(event)
				rc.Flush()
			}
		}
	}
}

func syncFlush(wraps int, http2 bool) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := inHandler(bareHandler, http2, 20, bareFlush(wraps))
		ours, stopOurs := inHandler(ourHandler, http2, 20, func(w http.ResponseWriter) func(n int) {
			w = wrapped(w, wraps)
			return func(n int) {
				for range n {
					w.Write(event)
					flush.Flush(w, true)
				}
			}
		})
		return bare, ours, both(stopBare, stopOurs)
	}
}

// waitedFor is a sync flush whose client waits for each event, as the clients
// of a stream do; the flush wakes it. The cost is the handler's time in Write
// and Flush, not the client's.
func waitedFor(wraps int) func() (lane, lane, func()) {
	open := func(wrap func(http.Handler) http.Handler, flushEvent func(w http.ResponseWriter)) (lane, func()) {
		counts, took, got := make(chan int), make(chan float64), make(chan bool)
		addr, stop := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w = wrapped(w, wraps)
			w.Header().Set("Content-Type", "text/event-stream")
			flushEvent(w)
			<-got
			for n := range counts {
				costs := make([]float64, n)
				for i := range costs {
					began := time.Now()
					w.Write(event)
					flushEvent(w)
					costs[i] = float64(time.Since(began))
					<-got
				}
				took <- quantile(costs, 0.5)
			}
		})), nil)
		c := dial(addr)
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				got <- true
			}
		}()
		return func(n int) float64 {
				counts <- n
				return <-took
			}, func() {
				close(counts)
				c.Close()
				stop()
			}
	}
	return func() (lane, lane, func()) {
		bare, stopBare := open(bareHandler, func(w http.ResponseWriter) { http.NewResponseController(w).Flush() })
		ours, stopOurs := open(ourHandler, func(w http.ResponseWriter) { flush.Flush(w, true) })
		return bare, ours, both(stopBare, stopOurs)
	}
}

// burst writes and flushes events as fast as they are taken; a slice ends when
// its last event has been handed over.
func burst(http2 bool) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := inHandler(bareHandler, http2, 2000, bareFlush(0))
		ours, stopOurs := inHandler(ourHandler, http2, 100000, func(w http.ResponseWriter) func(n int) {
			f, _ := flush.From(w)
			return func(n int) {
				for range n {
					f.Write(event)
					f.FlushAsync()
				}
				f.FlushWait(context.Background())
			}
		})
		return bare, ours, both(stopBare, stopOurs)
	}
}

// exchange asks for / again and again on a kept connection; every response has
// a Content-Length.
func exchange(h http.Handler) (lane, func()) {
	addr, stop := serve(h, nil)
	c := dial(addr)
	br := bufio.NewReaderSize(c, 256<<10)
	read := func() {
		var length int64
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				log.Fatal(err)
			}
			if len(line) == 2 {
				break
			}
			if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
			}
		}
		for length > 0 {
			n, err := br.Discard(int(min(length, 1<<20)))
			if err != nil {
				log.Fatal(err)
			}
			length -= int64(n)
		}
	}
	read()
	request := []byte(requestText)
	work := func(n int) float64 {
		return medianCost(n, 1, func(int) {
			c.Write(request)
			read()
		})
	}
	return work, func() {
		c.Close()
		stop()
	}
}

func exchanges(h http.Handler) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := exchange(h)
		ours, stopOurs := exchange(flush.NewHandler(h, nil))
		return bare, ours, both(stopBare, stopOurs)
	}
}

var shortBody = []byte(strings.Repeat("short response. ", 16))

func shortResponse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Write(shortBody)
}

const largeSize = 8 << 20

func largeWrites(w http.ResponseWriter, r *http.Request) {
	p := make([]byte, 32<<10)
	w.Header().Set("Content-Length", strconv.Itoa(largeSize))
	for range largeSize / len(p) {
		w.Write(p)
	}
}

// sendFile serves a file by http.ServeFile, which is sendfile.
func sendFile() (lane, lane, func()) {
	file, err := os.CreateTemp("", "bench")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := file.Write(make([]byte, largeSize)); err != nil {
		log.Fatal(err)
	}
	file.Close()
	bare, ours, stop := exchanges(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, file.Name())
	}))()
	return bare, ours, func() {
		stop()
		os.Remove(file.Name())
	}
}

// slowClient holds 256 KiB in 1000 events against a client that reads 32 KiB
// every five milliseconds from small kernel buffers. The cost is how long the
// handler is held.
func slowClient() (lane, lane, func()) {
	p := make([]byte, 256)
	open := func(wrap func(http.Handler) http.Handler, flushEvent func(w http.ResponseWriter)) (lane, func()) {
		held := make(chan time.Duration, 1)
		addr, stop := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			for range 1000 {
				w.Write(p)
				flushEvent(w)
			}
			held <- time.Since(began)
		})), func(srv *http.Server) {
			srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
				c.(*net.TCPConn).SetWriteBuffer(16 << 10)
				return ctx
			}
		})
		c, err := net.Dial("tcp", addr)
		if err != nil {
			log.Fatal(err)
		}
		c.(*net.TCPConn).SetReadBuffer(32 << 10)
		buf := make([]byte, 32<<10)
		return func(n int) float64 {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			var total time.Duration
			for range n {
				io.WriteString(c, requestText)
				for tail := ""; !strings.HasSuffix(tail, "0\r\n\r\n"); {
					<-tick.C
					m, err := c.Read(buf)
					if err != nil {
						log.Fatal(err)
					}
					tail += string(buf[max(0, m-5):m])
				}
				total += <-held
			}
			return float64(total) / float64(n)
		}, both(func() { c.Close() }, stop)
	}
	bare, stopBare := open(bareHandler, func(w http.ResponseWriter) { w.(http.Flusher).Flush() })
	ours, stopOurs := open(func(h http.Handler) http.Handler {
		return flush.NewHandler(h, &flush.Options{MaxPending: 1 << 20})
	}, func(w http.ResponseWriter) { w.(*flush.Flusher).FlushAsync() })
	return bare, ours, both(stopBare, stopOurs)
}

// An idleServer holds streams that have sent one event. Connections are in
// memory, as the system's limits on open files have no say there.
func idleLane(wrap func(http.Handler) http.Handler, what func(before, after idleState) float64) lane {
	return func(n int) float64 {
		l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Write(event)
			flush.Flush(w, false)
			<-r.Context().Done()
		}))}
		srv.SetKeepAlivesEnabled(false)
		go srv.Serve(l)
		before := readIdle()
		conns := make([]net.Conn, n)
		buf := make([]byte, 4096)
		for i := range conns {
			client, server := net.Pipe()
			conns[i] = client
			l.conns <- server
			io.WriteString(client, requestText)
			for got := ""; !strings.Contains(got, string(event)); {
				m, err := client.Read(buf)
				if err != nil {
					log.Fatal(err)
				}
				got += string(buf[:m])
			}
		}
		after := readIdle()
		for _, c := range conns {
			c.Close()
		}
		srv.Close()
		l.Close()
		for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before.goroutines; {
			if time.Now().After(deadline) {
				log.Fatal("streams have not ended")
			}
			time.Sleep(time.Millisecond)
		}
		return what(before, after) / float64(n)
	}
}

type idleState struct {
	heap       int64
	goroutines int
}

// readIdle reads what is held, after the carriers have gone and pools have
// been emptied.
func readIdle() idleState {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return idleState{int64(m.HeapAlloc), runtime.NumGoroutine()}
}

func idleStreams(what func(before, after idleState) float64) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		return idleLane(bareHandler, what), idleLane(ourHandler, what), func() {}
	}
}

func idleHeap(before, after idleState) float64 { return float64(after.heap - before.heap) }
func idleGoroutines(before, after idleState) float64 {
	return float64(after.goroutines - before.goroutines)
}

// A pipeListener accepts net.Pipe ends.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
		return errors.ErrUnsupported
	default:
		close(l.done)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

var comparisons = []comparison{
	{name: "sync flush", what: "write + flush of one event that the client waits for", unit: "ns", pairs: 200, n: [2]int{50, 50}, open: waitedFor(0), limit: 1.05},
	{name: "sync flush, 1 wrapper", what: "the same below one wrapper", unit: "ns", pairs: 100, n: [2]int{50, 50}, open: waitedFor(1), limit: 1.05},
	{name: "sync flush, 2 wrappers", what: "the same below two wrappers", unit: "ns", pairs: 100, n: [2]int{50, 50}, open: waitedFor(2), limit: 1.05},
	{name: "sync flush, busy client", what: "the same in a loop; the client never has to be woken", unit: "ns", pairs: 100, n: [2]int{50, 50}, size: 20, open: syncFlush(0, false), allocs: true},
	{name: "burst", what: "write + FlushAsync against write + flush, in a loop", unit: "events/s", pairs: 200, n: [2]int{1, 1}, size: 100000, open: burst(false), rate: true, limit: 50, allocs: true},
	{name: "paced, p50", what: "an event a millisecond: from the write to the client", unit: "ns", pairs: 60, n: [2]int{50, 50}, open: paced(0.5), limit: 1.15},
	{name: "paced, p99", what: "the same at the 99th percentile", unit: "ns", pairs: 20, n: [2]int{200, 200}, open: paced(0.99)},
	{name: "short response", what: "256 bytes and their request, on a kept connection", unit: "ns", pairs: 200, n: [2]int{50, 50}, open: exchanges(http.HandlerFunc(shortResponse)), limit: 1.10},
	{name: "sendfile", what: "http.ServeFile of 8 MiB", unit: "ns", pairs: 200, n: [2]int{3, 3}, open: sendFile, limit: 1.03},
	{name: "large writes", what: "8 MiB in writes of 32 KiB", unit: "ns", pairs: 100, n: [2]int{3, 3}, open: exchanges(http.HandlerFunc(largeWrites))},
	{name: "HTTP/2 sync flush", what: "write + flush, in a loop", unit: "ns", pairs: 100, n: [2]int{50, 50}, size: 20, open: syncFlush(0, true)},
	{name: "HTTP/2 burst", what: "write + FlushAsync against write + flush, in a loop", unit: "events/s", pairs: 100, n: [2]int{1, 1}, size: 100000, open: burst(true), rate: true},
	{name: "slow client", what: "how long 256 KiB for a slow client hold the handler (MaxPending 1 MiB)", unit: "ns", pairs: 20, n: [2]int{1, 1}, open: slowClient},
	{name: "idle heap", what: "heap of an idle stream whose handler waits for its context", unit: "B", pairs: 10, n: [2]int{10000, 10000}, open: idleStreams(idleHeap), delta: true, limit: idleLimit},
	{name: "idle goroutines", what: "goroutines of an idle stream", unit: "", pairs: 10, n: [2]int{1000, 1000}, open: idleStreams(idleGoroutines), delta: true, limit: 0.001},
}

// idleLimit is what an idle stream may cost above bare, in bytes.
const idleLimit = 2048
