package flush_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// A bodyThrough is a writer whose body goes another way than its headers.
type bodyThrough struct {
	body io.Writer
	http.ResponseWriter
}

func (w bodyThrough) Write(p []byte) (int, error) { return w.body.Write(p) }

// The compressor of many a tutorial sets Content-Encoding, and takes away no
// length, as handlers seldom have one. A length of the plain page would cut it.
func TestNoLengthBelowACompressor(t *testing.T) {
	compressed := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			h.ServeHTTP(bodyThrough{z, w}, r)
		})
	}
	eachProto(t, func(t *testing.T, p proto) {
		for _, n := range []int{10, 2048, 3000, 4095, 10000} {
			for way, wrap := range map[string]func(http.Handler) http.Handler{"bare": bare, "NewHandler": wrappedBy(nil), "New": endedNew} {
				t.Run(strconv.Itoa(n)+"/"+way, func(t *testing.T) {
					srv := serve(t, p, compressed(wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						io.WriteString(w, text(n))
					}))))
					body, _, end := open(t, srv, "GET", "/", nil).rest()
					z, err := gzip.NewReader(strings.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					page, err := io.ReadAll(z)
					if err != nil || string(page) != text(n) || end == cut {
						t.Errorf("%d of %d bytes, %v; the response ended %s", len(page), n, err, end)
					}
				})
			}
		}
	})
}

// A lateServer has no deadlines, and its Write blocks until it is opened.
type lateServer struct {
	header http.Header
	opened chan struct{}
	body   bytes.Buffer
}

func (w *lateServer) Header() http.Header { return w.header }
func (w *lateServer) WriteHeader(int)     {}
func (w *lateServer) Flush()              {}
func (w *lateServer) Write(p []byte) (int, error) {
	<-w.opened
	return w.body.Write(p)
}

// What a Write could not bring in before its wait ended does not count towards the
// declared length: it is written again.
func TestLengthCountsWhatWasAccepted(t *testing.T) {
	const size = 300_000
	for way, write := range map[string]func(t *testing.T, f *flush.Flusher){
		"Write, and again what is left": func(t *testing.T, f *flush.Flusher) {
			for p := text(size); len(p) > 0; {
				n, err := f.WriteString(p)
				if p = p[n:]; err != nil && !errors.Is(err, flush.ErrTimeout) {
					t.Fatalf("%d bytes left: %v", len(p), err)
				}
			}
		},
		"Buffer.Flush": func(t *testing.T, f *flush.Flusher) {
			b := f.StartBuffer(nil)
			f.WriteString(text(size))
			if err := b.Flush(); !errors.Is(err, flush.ErrTimeout) {
				t.Errorf("Flush: %v", err)
			}
		},
		"two buffers": func(t *testing.T, f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1})
			b := f.StartBuffer(nil)
			f.WriteString(text(size))
			b.Flush()
			b.Close()
		},
		"Close while a Write is in line": func(t *testing.T, f *flush.Flusher) {
			b := f.StartBuffer(nil)
			f.WriteString(text(size))
			go b.Flush()
			synctest.Wait()
			go f.Close()
			synctest.Wait()
		},
	} {
		for _, opts := range []flush.Options{{}, {Flush: flush.Async}, {Implicit: flush.Async}, {Budget: flush.NewBudget(1<<20, 1<<20)}} {
			t.Run(way+", "+opts.Flush.String()+", "+opts.Implicit.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &lateServer{header: make(http.Header), opened: make(chan struct{})}
					time.AfterFunc(5*time.Second, func() { close(w.opened) })
					opts.SendTimeout = time.Second
					f := flush.New(w, nil, &opts)
					f.Header().Set("Content-Length", strconv.Itoa(size))
					write(t, f)
					if err := f.Close(); err != nil || w.body.String() != text(size) {
						t.Errorf("Close: %v; %d of %d bytes came", err, w.body.Len(), size)
					}
				})
			})
		}
	}
}
