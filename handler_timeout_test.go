package flush_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A response that http.TimeoutHandler has given up has met a timeout. Its client is
// there and has been answered.
func TestHandlerTimeoutIsNoClientThatLeft(t *testing.T) {
	for name, opts := range map[string]flush.Options{"wait": {}, "async": {Flush: flush.Async}} {
		for size, n := range map[string]int{"small": 10, "large": 100_000} {
			t.Run(name+" "+size, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					closed := make(chan error, 1)
					opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) { closed <- err }
					srv := harness.ServeMemory(t, p, http.TimeoutHandler(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						time.Sleep(2 * time.Second)
						io.WriteString(w, harness.Text(n))
						http.NewResponseController(w).Flush()
						synctest.Wait()
						if err := flush.Cause(r.Context()); !errors.Is(err, flush.ErrTimeout) || errors.Is(err, flush.ErrClientGone) {
							t.Errorf("cause %v", err)
						}
					}), &opts), time.Second, "too slow"), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					if r := s.Response(); r.StatusCode != http.StatusServiceUnavailable {
						t.Error(r.Status)
					}
					s.ExpectEnd("too slow")
					err := <-closed
					if !errors.Is(err, http.ErrHandlerTimeout) || !errors.Is(err, flush.ErrTimeout) || errors.Is(err, flush.ErrClientGone) {
						t.Errorf("OnClose was told %v", err)
					}
				})
			})
		}
	}
}
