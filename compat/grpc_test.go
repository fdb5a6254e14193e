package compat_test

import (
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fa492104/flush"
)

func grpcRows() []subject {
	return []subject{{
		name: "grpc-go `ServeHTTP`", place: handler, want: cells{none, none, yes, yes, goneCtx, onClose, byCtx, none}, h2only: true, path: "test.Service/Stream",
		post:   emptyMessage,
		header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}},
		serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
			return flush.NewHandler(grpcServer(run), opts)
		},
	}}
}

// grpcServer answers every method with the messages that run sends.
func grpcServer(run func(*session)) *grpc.Server {
	return grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		run(&session{s.Context(), nil, func(text string) error { return s.SendMsg(wrapperspb.String(text)) }})
		return nil
	}))
}
