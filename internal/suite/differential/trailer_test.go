package differential_test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/fa492104/flush/internal/harness"
)

// A countingWriter is middleware that sets a trailer of its own while the body
// passes.
type countingWriter struct {
	http.ResponseWriter
	n int
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += n
	w.Header().Set("X-Count", strconv.Itoa(w.n))
	return n, err
}

// A trailer that a writer below has set meanwhile is not the handler's to take away.
func TestTrailerOfAWriterBelow(t *testing.T) {
	for way, wrap := range map[string]func(http.Handler) http.Handler{"bare": harness.Bare, "NewHandler": harness.WrappedBy(nil), "New": harness.EndedNew} {
		t.Run(way, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				if p == harness.HTTP10 {
					return // it has no trailers
				}
				h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Add("Trailer", "X-Own")
					w.Write([]byte("hello"))
					http.NewResponseController(w).Flush()
					w.Header().Set("X-Own", "1")
				}))
				srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", "X-Count")
					h.ServeHTTP(&countingWriter{ResponseWriter: w}, r)
				}))
				body, trailer, end := harness.Open(t, srv, "GET", "/", nil).Rest()
				if body != "hello" || end != harness.Complete || trailer.Get("X-Count") != "5" || trailer.Get("X-Own") != "1" {
					t.Errorf("%q %s, trailer %v", body, end, trailer)
				}
			})
		})
	}
}
