package flush_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/fa492104/flush"
)

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
