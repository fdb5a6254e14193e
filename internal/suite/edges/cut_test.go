package edges_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/fa492104/flush"
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
