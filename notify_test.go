package flush_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush/internal/harness"
)

// What watches for CloseNotify ends with its handler, also where middleware has ended
// the request's context and the client is there.
func TestCloseNotifyEndsWithTheHandler(t *testing.T) {
	edges(t, func(t *testing.T, p harness.Proto) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		inner := harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			gone := harness.Flusher(w).CloseNotify()
			cancel()
			synctest.Wait()
			select {
			case <-gone:
				t.Error("the client counts as gone")
			default:
			}
		})
		srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(w, r.WithContext(ctx))
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.ExpectEnd("")
		s.Leave()
	})
}
