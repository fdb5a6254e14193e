package flush_test

import (
	"net/http"
	"strconv"
	"testing"
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
	for way, wrap := range map[string]func(http.Handler) http.Handler{"bare": bare, "NewHandler": wrappedBy(nil), "New": endedNew} {
		t.Run(way, func(t *testing.T) {
			eachProto(t, func(t *testing.T, p proto) {
				if p == http10 {
					return // it has no trailers
				}
				h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Add("Trailer", "X-Own")
					w.Write([]byte("hello"))
					http.NewResponseController(w).Flush()
					w.Header().Set("X-Own", "1")
				}))
				srv := serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", "X-Count")
					h.ServeHTTP(&countingWriter{ResponseWriter: w}, r)
				}))
				body, trailer, end := open(t, srv, "GET", "/", nil).rest()
				if body != "hello" || end != complete || trailer.Get("X-Count") != "5" || trailer.Get("X-Own") != "1" {
					t.Errorf("%q %s, trailer %v", body, end, trailer)
				}
			})
		})
	}
}
