package compat_test

import (
	"context"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fa492104/flush"
)

// An empty message, framed as connect and gRPC do it.
const emptyMessage = "\x00\x00\x00\x00\x00"

func connectRows() []subject {
	return []subject{{
		name: "connect-go server stream", place: handler, want: cells{none, none, yes, yes, goneBoth, yes, byCtx, none},
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
