package flush_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// Handlers find out by their first flush that they cannot stream, and answer with
// that: a flush that is not supported decides nothing.
func TestUnsupportedFlushLeavesTheHeadersOpen(t *testing.T) {
	asks := map[string]func(w http.ResponseWriter) error{
		"ResponseController": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
		"Flush":              func(w http.ResponseWriter) error { return flush.Flush(w, true) },
		"Flush, no wait":     func(w http.ResponseWriter) error { return flush.Flush(w, false) },
		"FlushAll": func(w http.ResponseWriter) error {
			f, _ := flush.From(w)
			return f.FlushAll(true)
		},
		"in a buffer": func(w http.ResponseWriter) error {
			f, _ := flush.From(w)
			f.StartBuffer(nil)
			return f.FlushError()
		},
	}
	outside := map[string]func(http.Handler) http.Handler{
		"TimeoutHandler": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "") },
		"a writer that only writes": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
			})
		},
	}
	for name, ask := range asks {
		for where, above := range outside {
			for way, wrap := range map[string]func(http.Handler) http.Handler{"NewHandler": wrappedBy(nil), "async": wrappedBy(&flush.Options{Flush: flush.Async}), "New": endedNew} {
				t.Run(name+"/"+where+"/"+way, func(t *testing.T) {
					eachProto(t, func(t *testing.T, p proto) {
						srv := serve(t, p, above(wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
							err := ask(w)
							if !errors.Is(err, http.ErrNotSupported) {
								t.Errorf("%v, want http.ErrNotSupported", err)
							}
							if f, _ := flush.From(w); f.HeadersSent() {
								t.Error("headers are out")
							}
							http.Error(w, "cannot stream", http.StatusInternalServerError)
						}))))
						s := open(t, srv, "GET", "/", nil)
						if r := s.response(); r.StatusCode != http.StatusInternalServerError {
							t.Error(r.Status)
						}
						s.expectEnd("cannot stream\n")
					})
				})
			}
		}
	}
}
