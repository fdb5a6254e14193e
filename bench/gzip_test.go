//go:build unix

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"syscall"
	"testing"

	"github.com/fa492104/flush"
	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzhttp/writer"
	"github.com/klauspost/compress/gzhttp/writer/gzstd"
)

// BenchmarkGzip compares the Gzip filter with gzhttp on the same stream, both
// with the standard library's compressor at its default level. The two take
// turns; gzhttp-ratio is the median of the ratios of CPU time, pair by pair.
//
//	go test -run '^$' -bench Gzip .
func BenchmarkGzip(b *testing.B) {
	const level = 6
	compress, err := gzhttp.NewWrapper(
		gzhttp.Implementation(writer.GzipWriterFactory{Levels: gzstd.Levels, New: gzstd.NewWriter}),
		gzhttp.MinSize(0), gzhttp.CompressionLevel(level), gzhttp.ContentTypeFilter(func(string) bool { return true }))
	if err != nil {
		b.Fatal(err)
	}
	opts := &flush.Options{SendTimeout: -1, OnStart: func(f *flush.Flusher, r *http.Request) {
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, level), ChunkSize: 4096, FollowFlush: true})
	}}
	for _, stream := range []string{"events", "page"} {
		b.Run("stream="+stream, func(b *testing.B) {
			h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 1000 {
					fmt.Fprintf(w, "event: progress\ndata: {\"job\":\"4711\",\"percent\":%d,\"message\":\"still at it, %d\"}\n\n", i%100, i*i)
					if stream == "events" {
						w.(http.Flusher).Flush()
					}
				}
			})
			ours, theirs := flush.NewHandler(h, opts), http.Handler(compress(h))
			var ratios []float64
			for b.Loop() {
				x, y := cpuOf(ours), cpuOf(theirs)
				ratios = append(ratios, float64(x)/float64(y))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "gzhttp-ratio")
		})
	}
}

// nowhere is a server whose cost is nothing.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) WriteHeader(int)             {}
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) Flush()                      {}

// cpuOf returns the CPU time of the process, in ns, for one response of h.
func cpuOf(h http.Handler) int64 {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	before := cpu()
	h.ServeHTTP(nowhere{make(http.Header)}, r)
	return max(cpu()-before, 1)
}

func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
