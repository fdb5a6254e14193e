package compat_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fa492104/flush"
)

// An empty message, framed as connect and gRPC do it.
const emptyMessage = "\x00\x00\x00\x00\x00"

func connectRows() []subject {
	return []subject{{
		name: "connect-go server stream", place: handler, want: cells{none, none, yes, yes, goneBoth, laterWrite, byCtx, none, yes},
		post:   emptyMessage,
		header: http.Header{"Content-Type": {"application/connect+proto"}, "Connect-Protocol-Version": {"1"}},
		serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
			return flush.NewHandler(connect.NewServerStreamHandler("/",
				func(ctx context.Context, _ *connect.Request[emptypb.Empty], s *connect.ServerStream[wrapperspb.StringValue]) error {
					run(&session{ctx, nil, func(text string) error { return s.Send(wrapperspb.String(text)) }})
					return nil
				}), opts)
		},
	}}
}

// connect-go's own client gets each message while the handler is stopped
// before the next.
func TestConnectClient(t *testing.T) {
	for _, p := range []proto{http1, http2} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStage()
				h := connectRows()[0].serve(t, &flush.Options{Flush: flush.Async}, func(c *session) {
					for _, text := range texts {
						g.stop(c.own(text))
					}
				})
				srv := start(t, h, p)
				c := connect.NewClient[emptypb.Empty, wrapperspb.StringValue](srv.client, "http://server/")
				s, err := c.CallServerStream(t.Context(), connect.NewRequest(&emptypb.Empty{}))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for _, text := range texts {
					go func() {
						if err := <-g.at; err != nil {
							t.Error(err)
						}
					}()
					if !s.Receive() || s.Msg().Value != text {
						t.Fatalf("got %q, %v", s.Msg().Value, s.Err())
					}
					synctest.Wait()
					g.next <- struct{}{}
				}
				if s.Receive() || s.Err() != nil {
					t.Errorf("the stream ended with %v", s.Err())
				}
			})
		})
	}
}
