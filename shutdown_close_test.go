package flush_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Who waits for the end of a Group may end the process then: all that follows the
// end of its responses has been done, detached or not.
func TestShutdownWaitsForOnClose(t *testing.T) {
	for _, detach := range []bool{false, true} {
		harness.Bubble(t, func(t *testing.T, p harness.Proto) {
			var g flush.Group
			var told atomic.Bool
			release := make(chan struct{})
			srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				w.Header().Set("Content-Type", "text/event-stream")
				if detach {
					harness.Must(t, f.Detach())
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
			s := harness.Open(t, srv, "GET", "/", nil)
			s.Response()
			synctest.Wait()
			down := make(chan error, 1)
			go func() { down <- g.Shutdown(harness.NoContext) }()
			synctest.Wait()
			if len(down) > 0 {
				t.Error("Shutdown has not waited for OnClose")
			}
			close(release)
			expectError(t, "Shutdown", harness.Next(t, down), nil)
			if !told.Load() {
				t.Error("OnClose was not called")
			}
			s.ExpectEnd("")
		})
	}
}

// The clients of detached responses see the cut by a Shutdown whose time is over,
// however many others are stuck in OnClose.
func TestShutdownCutsBesideStuckOnClose(t *testing.T) {
	const most = 256 // that end at a time
	var g flush.Group
	release := make(chan struct{})
	var told atomic.Int32
	h, out := detacher(t, &flush.Options{Group: &g, OnClose: func(*http.Request, flush.Stats, error) {
		<-release
		told.Add(1)
	}}, nil)
	srv := harness.Serve(t, harness.HTTP1, h)
	streams := make([]*harness.Stream, most+20)
	for i := range streams {
		streams[i] = harness.Open(t, srv, "GET", "/", nil)
		harness.Next(t, out)
		streams[i].Response()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Shutdown(ctx); !errors.Is(err, flush.ErrShutdown) {
		t.Errorf("Shutdown: %v", err)
	}
	for _, s := range streams {
		s.Rest()
	}
	close(release)
	harness.WaitFor(t, func() bool { return int(told.Load()) == len(streams) })
}
