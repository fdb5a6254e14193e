package flush_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// With middleware between there are two Flushers, and the inner one's server is the
// outer one: why the response ended is what that knows.
func TestCauseBehindMiddleware(t *testing.T) {
	errOwn := errors.New("own")
	for name, test := range map[string]struct {
		end  func(outer *flush.Flusher, g *flush.Group, cancel context.CancelFunc, s *harness.Stream)
		want error
	}{
		"shutdown": {func(_ *flush.Flusher, g *flush.Group, _ context.CancelFunc, s *harness.Stream) {
			ctx, cancel := context.WithCancel(s.T.Context())
			cancel()
			g.Shutdown(ctx)
		}, flush.ErrShutdown},
		"Abort of the outer one": {func(f *flush.Flusher, _ *flush.Group, _ context.CancelFunc, _ *harness.Stream) { f.Abort(errOwn) }, errOwn},
		"the client leaves":      {func(_ *flush.Flusher, _ *flush.Group, _ context.CancelFunc, s *harness.Stream) { s.Leave() }, flush.ErrClientGone},
		"a cancel between":       {func(_ *flush.Flusher, _ *flush.Group, cancel context.CancelFunc, _ *harness.Stream) { cancel() }, flush.ErrClientGone},
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				g := new(flush.Group)
				pk := harness.NewPark(t)
				causes := make(chan error, 1)
				var outer *flush.Flusher
				var cancel context.CancelFunc
				inner := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					http.NewResponseController(w).Flush()
					pk.Here()
					<-r.Context().Done()
					if err := context.Cause(r.Context()); err != context.Canceled {
						t.Errorf("context.Cause says %v", err)
					}
					causes <- flush.Cause(r.Context())
				}), nil)
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					outer, _ = flush.From(w)
					ctx, c := context.WithCancel(r.Context())
					defer c()
					cancel = c
					behind(inner).ServeHTTP(w, r.WithContext(ctx))
				}), &flush.Options{Group: g}))
				s := harness.Open(t, srv, "GET", "/", nil)
				pk.Wait()
				pk.Resume()
				test.end(outer, g, cancel, s)
				if err := <-causes; !errors.Is(err, test.want) {
					t.Errorf("cause %v, want %v", err, test.want)
				}
			})
		})
	}
}

// A leavingConn is a connection of which the kernel says whether the client is there.
type leavingConn struct {
	harness.FakeConn
	there *bool
}

func (c leavingConn) Established() bool { return *c.there }

// While the kernel says that the client is there Cause does not believe that it has
// left, and goes on to ask: a TLS client says goodbye before its end is seen. Once it
// has left it does not come back.
func TestCauseFollowsTheKernel(t *testing.T) {
	there := true
	server, cancel := context.WithCancel(harness.WithConn(t.Context(), leavingConn{there: &there}))
	defer cancel()
	harness.Wrapped(nil, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		for _, step := range []struct {
			there bool
			want  error
		}{{true, context.Canceled}, {true, context.Canceled}, {false, flush.ErrClientGone}, {true, flush.ErrClientGone}} {
			there = step.there
			if err := flush.Cause(r.Context()); !errors.Is(err, step.want) {
				t.Errorf("the client is there: %t, and the cause is %v", there, err)
			}
		}
	}).ServeHTTP(harness.DeadlineSink{Sink: harness.NewSink(t)}, requestOf(server, 0))
}

// behind puts middleware before h: its writer is not h's.
func behind(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(harness.Unwrapper{ResponseWriter: w}, r) })
}
