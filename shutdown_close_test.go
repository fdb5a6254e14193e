package flush_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
)

// Who waits for the end of a Group may end the process then: all that follows the
// end of its responses has been done, detached or not.
func TestShutdownWaitsForOnClose(t *testing.T) {
	for _, detach := range []bool{false, true} {
		bubble(t, func(t *testing.T, p proto) {
			var g flush.Group
			var told atomic.Bool
			release := make(chan struct{})
			srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				w.Header().Set("Content-Type", "text/event-stream")
				if detach {
					must(t, f.Detach())
					return
				}
				f.FlushAsync()
				<-r.Context().Done()
			}), &flush.Options{Group: &g, OnClose: func(*http.Request, flush.Stats, error) {
				if g.Len() != 0 {
					t.Error("it has ended and has not left")
				}
				<-release
				told.Store(true)
			}}), 0)
			s := open(t, srv, "GET", "/", nil)
			s.response()
			synctest.Wait()
			down := make(chan error, 1)
			go func() { down <- g.Shutdown(noContext) }()
			synctest.Wait()
			if len(down) > 0 {
				t.Error("Shutdown has not waited for OnClose")
			}
			close(release)
			expectError(t, "Shutdown", next(t, down), nil)
			if !told.Load() {
				t.Error("OnClose was not called")
			}
			s.expectEnd("")
		})
	}
}
