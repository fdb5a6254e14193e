package flush_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

// Every benchmark has the same work done by plain net/http (with=bare) and by
// this package, over real connections. To compare the two:
//
//	go test -run '^$' -bench . -count 10 | benchstat -col /with -
//
// BENCHMARKS.md has the table that the module in bench makes, from runs that
// take turns.

var idleStreams = flag.Int("idlestreams", 200, "streams that BenchmarkIdleStreams holds open")

// event is what a stream of server-sent events sends at a time.
var event = []byte("data: 0123456789\n\n")

// wrapLayers is w below n wrappers.
func wrapLayers(w http.ResponseWriter, n int) http.ResponseWriter {
	for range n {
		w = harness.Unwrapper{ResponseWriter: w}
	}
	return w
}

// withBoth runs f bare and with this package's handler.
func withBoth(b *testing.B, f func(b *testing.B, wrap func(http.Handler) http.Handler)) {
	b.Run("with=bare", func(b *testing.B) {
		f(b, func(h http.Handler) http.Handler { return h })
	})
	b.Run("with=flush", func(b *testing.B) {
		f(b, func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) })
	})
}

// benchServer serves h on 127.0.0.1, HTTP/2 without TLS included, until the
// benchmark ends.
func benchServer(b *testing.B, h http.Handler) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	b.Cleanup(srv.Close)
	return srv
}

const benchRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// request opens a connection and asks for /.
func request(b *testing.B, srv *httptest.Server) net.Conn {
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, benchRequest); err != nil {
		b.Fatal(err)
	}
	return c
}

// runInHandler runs body in the handler of one response, whose client reads as fast
// as it can. body has the benchmark's loop.
func runInHandler(b *testing.B, http2 bool, wrap func(http.Handler) http.Handler, body func(w http.ResponseWriter)) {
	done := make(chan bool)
	srv := benchServer(b, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		body(w)
	})))
	if http2 {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		tr := &http.Transport{Protocols: p}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get(srv.URL)
		if err != nil {
			b.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
	} else {
		c := request(b, srv)
		go io.Copy(io.Discard, c)
	}
	<-done
}

// A sync flush: one event written and flushed, below 0, 1 and 2 wrappers.
func BenchmarkSyncFlush(b *testing.B) {
	for wraps := range 3 {
		b.Run(fmt.Sprintf("wrap=%d", wraps), func(b *testing.B) {
			b.Run("with=bare", func(b *testing.B) {
				runInHandler(b, false, func(h http.Handler) http.Handler { return h }, func(w http.ResponseWriter) {
					w = wrapLayers(w, wraps)
					rc := http.NewResponseController(w)
					b.ReportAllocs()
					for b.Loop() {
						w.Write(event)
						rc.Flush()
					}
				})
			})
			b.Run("with=flush", func(b *testing.B) {
				runInHandler(b, false, func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) }, func(w http.ResponseWriter) {
					w = wrapLayers(w, wraps)
					b.ReportAllocs()
					for b.Loop() {
						w.Write(event)
						flush.Flush(w, true)
					}
				})
			})
		})
	}
}

// burst writes and flushes events as fast as they are taken, until the last
// has been handed over.
func burst(b *testing.B, http2 bool) {
	perSecond := func(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s") }
	b.Run("with=bare", func(b *testing.B) {
		runInHandler(b, http2, func(h http.Handler) http.Handler { return h }, func(w http.ResponseWriter) {
			rc := http.NewResponseController(w)
			rc.Flush()
			b.ReportAllocs()
			for b.Loop() {
				w.Write(event)
				rc.Flush()
			}
			perSecond(b)
		})
	})
	b.Run("with=flush", func(b *testing.B) {
		runInHandler(b, http2, func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) }, func(w http.ResponseWriter) {
			flush.Flush(w, true)
			b.ReportAllocs()
			for b.Loop() {
				w.Write(event)
				flush.Flush(w, false)
			}
			flush.Flush(w, true)
			perSecond(b)
		})
	})
}

func BenchmarkBurst(b *testing.B)      { burst(b, false) }
func BenchmarkBurstHTTP2(b *testing.B) { burst(b, true) }

func BenchmarkSyncFlushHTTP2(b *testing.B) {
	withBoth(b, func(b *testing.B, wrap func(http.Handler) http.Handler) {
		runInHandler(b, true, wrap, func(w http.ResponseWriter) {
			rc := http.NewResponseController(w)
			rc.Flush()
			b.ReportAllocs()
			for b.Loop() {
				w.Write(event)
				rc.Flush()
			}
		})
	})
}

// An event every millisecond: how long after the write the client has it. The
// client is a goroutine here; bench has it in another process.
func BenchmarkPaced(b *testing.B) {
	paced := func(b *testing.B, wrap func(http.Handler) http.Handler, flushEvent func(w http.ResponseWriter)) {
		sent := make(chan time.Time, 1)
		next := make(chan bool)
		srv := benchServer(b, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range next {
				<-tick.C
				sent <- time.Now()
				w.Write(event)
				flushEvent(w)
			}
		})))
		c := request(b, srv)
		next <- true
		br := bufio.NewReader(c)
		var latency []time.Duration
		for b.Loop() {
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					b.Fatal(err)
				}
				if strings.HasPrefix(string(line), "data:") {
					break
				}
			}
			latency = append(latency, time.Since(<-sent))
			next <- true
		}
		close(next)
		slices.Sort(latency)
		b.ReportMetric(float64(latency[len(latency)/2]), "p50-ns")
		b.ReportMetric(float64(latency[len(latency)*99/100]), "p99-ns")
	}
	b.Run("with=bare", func(b *testing.B) {
		paced(b, func(h http.Handler) http.Handler { return h }, func(w http.ResponseWriter) { w.(http.Flusher).Flush() })
	})
	b.Run("with=flush", func(b *testing.B) {
		paced(b, func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) }, func(w http.ResponseWriter) { flush.Flush(w, false) })
	})
}

// A short response on a connection that is kept.
func BenchmarkShortResponse(b *testing.B) {
	body := []byte(strings.Repeat("short response. ", 16))
	for wraps := range 3 {
		b.Run(fmt.Sprintf("wrap=%d", wraps), func(b *testing.B) {
			withBoth(b, func(b *testing.B, wrap func(http.Handler) http.Handler) {
				srv := benchServer(b, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w = wrapLayers(w, wraps)
					w.Header().Set("Content-Type", "text/plain")
					w.Write(body)
				})))
				c := request(b, srv)
				br := bufio.NewReader(c)
				b.ReportAllocs()
				for b.Loop() {
					readShort(b, br)
					io.WriteString(c, benchRequest)
				}
			})
		})
	}
}

// readShort reads one response that has a Content-Length of 256.
func readShort(b *testing.B, br *bufio.Reader) {
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		if len(line) == 2 {
			break
		}
	}
	if _, err := br.Discard(256); err != nil {
		b.Fatal(err)
	}
}

// A file of 16 MiB by way of ReadFrom, which is sendfile.
func BenchmarkReadFrom(b *testing.B) {
	const size = 16 << 20
	name := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, size), 0o666); err != nil {
		b.Fatal(err)
	}
	for wraps := range 3 {
		b.Run(fmt.Sprintf("wrap=%d", wraps), func(b *testing.B) {
			withBoth(b, func(b *testing.B, wrap func(http.Handler) http.Handler) {
				transfer(b, size, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					file, err := os.Open(name)
					if err != nil {
						b.Error(err)
						return
					}
					defer file.Close()
					w.Header().Set("Content-Length", fmt.Sprint(size))
					readerFrom(wrapLayers(w, wraps)).ReadFrom(file)
				})))
			})
		})
	}
}

// readerFrom finds the writer's own ReadFrom below wrappers, as middleware
// that keeps sendfile has to.
func readerFrom(w http.ResponseWriter) io.ReaderFrom {
	for {
		if rf, ok := w.(io.ReaderFrom); ok {
			return rf
		}
		w = w.(interface{ Unwrap() http.ResponseWriter }).Unwrap()
	}
}

// 16 MiB in writes of 32 KiB.
func BenchmarkLargeWrites(b *testing.B) {
	const size = 16 << 20
	p := make([]byte, 32<<10)
	withBoth(b, func(b *testing.B, wrap func(http.Handler) http.Handler) {
		transfer(b, size, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			for range size / len(p) {
				w.Write(p)
			}
		})))
	})
}

// transfer gets the response again and again; its body has size bytes.
func transfer(b *testing.B, size int64, h http.Handler) {
	c := request(b, benchServer(b, h))
	br := bufio.NewReaderSize(c, 256<<10)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := io.CopyN(io.Discard, br, size); err != nil {
			b.Fatal(err)
		}
		io.WriteString(c, benchRequest)
	}
}

// 256 KiB in 1000 events to a client that takes 16 KiB a millisecond from 4 KiB
// kernel buffers: how long the handler is held (held-ns/op).
func BenchmarkSlowClient(b *testing.B) {
	slow := func(b *testing.B, opts *flush.Options, wait bool) {
		p := make([]byte, 256)
		held := make(chan time.Duration, 1)
		h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			for range 1000 {
				w.Write(p)
				flush.Flush(w, wait)
			}
			held <- time.Since(began)
		}))
		if opts != nil {
			h = flush.NewHandler(h, opts)
		}
		srv := httptest.NewUnstartedServer(h)
		srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			c.(*net.TCPConn).SetWriteBuffer(4 << 10)
			return ctx
		}
		srv.Start()
		defer srv.Close()
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var total time.Duration
		buf := make([]byte, 16<<10)
		for b.Loop() {
			io.WriteString(c, benchRequest)
			for tail := ""; !strings.HasSuffix(tail, "0\r\n\r\n"); {
				<-tick.C
				n, err := c.Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				tail = string(buf[max(0, n-5):n])
			}
			total += <-held
		}
		b.ReportMetric(float64(total)/float64(b.N), "held-ns/op")
	}
	b.Run("with=bare", func(b *testing.B) { slow(b, nil, true) })
	b.Run("with=flush", func(b *testing.B) { slow(b, &flush.Options{MaxPending: 1 << 20}, false) })
}

// Streams that have sent one event and now are idle: the heap and the
// goroutines that each costs, the server's own included.
func BenchmarkIdleStreams(b *testing.B) {
	idle := func(b *testing.B, wrap func(http.Handler) http.Handler, wait bool) {
		var heap, goroutines float64
		for b.Loop() {
			heap, goroutines = holdStreams(b, *idleStreams, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Write(event)
				flush.Flush(w, wait)
				<-r.Context().Done()
			})))
		}
		b.ReportMetric(heap, "B/stream")
		b.ReportMetric(goroutines, "goroutines/stream")
	}
	b.Run("with=bare", func(b *testing.B) { idle(b, func(h http.Handler) http.Handler { return h }, true) })
	b.Run("with=flush", func(b *testing.B) {
		idle(b, func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) }, false)
	})
}

// holdStreams opens n streams in memory, waits for their first event and says
// what each holds.
func holdStreams(b *testing.B, n int, h http.Handler) (heap, goroutines float64) {
	l := flushtest.Listen(4096)
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	defer srv.Close()
	measure := func() (uint64, int) {
		runtime.GC()
		runtime.GC() // what pools held is freed by the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, runtime.NumGoroutine()
	}
	heapBefore, goroutinesBefore := measure()
	conns := make([]net.Conn, n)
	buf := make([]byte, 4096)
	for i := range conns {
		c, err := l.Dial(b.Context(), "", "")
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = c
		defer c.Close()
		io.WriteString(c, benchRequest)
		for got := ""; !strings.Contains(got, string(event)); {
			m, err := c.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += string(buf[:m])
		}
	}
	heapAfter, goroutinesAfter := measure()
	return float64(heapAfter-heapBefore) / float64(n), float64(goroutinesAfter-goroutinesBefore) / float64(n)
}

// nowhere is a server's writer that drops everything.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) WriteHeader(int)             {}
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) FlushError() error           { return nil }

func newNowhere(r *http.Request) *flush.Flusher {
	return flush.New(nowhere{http.Header{}}, r, &flush.Options{SendTimeout: -1})
}

// BenchmarkWrite writes 64 bytes at a time, 32 to a flush: bare, and through
// buffers.
func BenchmarkWrite(b *testing.B) {
	same := func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }
	for _, bm := range []struct {
		name string
		bufs []flush.BufferOptions
	}{
		{"buffers=0", nil},
		{"buffers=1", []flush.BufferOptions{{}}},
		{"buffers=1/chunk", []flush.BufferOptions{{ChunkSize: 1024}}},
		{"buffers=1/filter", []flush.BufferOptions{{ChunkSize: 1024, Filter: same}}},
		{"buffers=4/filter", []flush.BufferOptions{
			{ChunkSize: 1024, Filter: same}, {ChunkSize: 1024, Filter: same},
			{ChunkSize: 1024, Filter: same}, {ChunkSize: 1024, Filter: same},
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			f := newNowhere(nil)
			defer f.Close()
			for _, o := range bm.bufs {
				f.StartBuffer(&o)
			}
			p := make([]byte, 64)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f.Write(p)
				if i++; i%32 == 0 {
					f.FlushAll(true)
				}
			}
		})
	}
}

// BenchmarkGzip compresses events of an event stream, each flushed, and whole
// pages.
func BenchmarkGzip(b *testing.B) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	event := []byte("event: progress\ndata: {\"job\":\"4711\",\"step\":\"render\",\"percent\":42,\"message\":\"still at it\"}\n\n")
	page := bytes.Repeat(event, 500)
	b.Run("events", func(b *testing.B) {
		f := newNowhere(r)
		defer f.Close()
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
		b.SetBytes(int64(len(event)))
		b.ReportAllocs()
		for b.Loop() {
			f.Write(event)
			f.FlushWait(context.Background())
		}
	})
	b.Run("events/bare", func(b *testing.B) {
		zw := gzip.NewWriter(io.Discard)
		b.SetBytes(int64(len(event)))
		b.ReportAllocs()
		for b.Loop() {
			zw.Write(event)
			zw.Flush()
		}
	})
	b.Run("page", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		for b.Loop() {
			f := newNowhere(r)
			f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
			for p := page; len(p) > 0; {
				n := min(len(p), 500)
				f.Write(p[:n])
				p = p[n:]
			}
			f.Close()
		}
	})
	b.Run("page/bare", func(b *testing.B) {
		zw := gzip.NewWriter(io.Discard)
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		for b.Loop() {
			zw.Reset(io.Discard)
			for p := page; len(p) > 0; {
				n := min(len(p), 500)
				zw.Write(p[:n])
				p = p[n:]
			}
			zw.Close()
		}
	})
}

// BenchmarkBudget is an event, each of which takes a block and gives it back,
// without a budget and with one, alone and on all processors.
func BenchmarkBudget(b *testing.B) {
	for _, tc := range []struct {
		name   string
		budget *flush.Budget
	}{{"budget=none", nil}, {"budget=shared", flush.NewBudget(48<<20, 64<<20)}} {
		opts := &flush.Options{Budget: tc.budget}
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			f := flush.New(harness.NewTap(true), nil, opts)
			for b.Loop() {
				f.Write(event)
				f.FlushWait(context.Background())
			}
			f.Close()
		})
		b.Run(tc.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				f := flush.New(harness.NewTap(true), nil, opts)
				for pb.Next() {
					f.Write(event)
					f.FlushWait(context.Background())
				}
				f.Close()
			})
		})
	}
}
