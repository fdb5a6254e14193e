package compat_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/fa492104/flush"
)

func grpcRows() []subject {
	return []subject{{
		name: "grpc-go `ServeHTTP`", place: handler, want: cells{none, none, yes, yes, goneCtx, onClose, byCtx, none, none}, h2only: true, path: "test.Service/Stream",
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

// grpc-go's own client gets each message while the handler
// is stopped before the next.
func TestGRPCClient(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		t.Run(mode.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStage()
				run := func(c *session) {
					for _, text := range texts {
						g.stop(c.own(text))
					}
				}
				srv := start(t, flush.NewHandler(grpcServer(run), &flush.Options{Flush: mode}), http2)
				cc, err := grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return srv.Dial(ctx, "", "") }))
				if err != nil {
					t.Fatal(err)
				}
				defer cc.Close()
				s, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Service/Stream")
				if err != nil {
					t.Fatal(err)
				}
				if err := s.SendMsg(&emptypb.Empty{}); err != nil {
					t.Fatal(err)
				}
				if err := s.CloseSend(); err != nil {
					t.Fatal(err)
				}
				for _, text := range texts {
					m := new(wrapperspb.StringValue)
					go func() {
						if err := <-g.at; err != nil {
							t.Error(err)
						}
					}()
					if err := s.RecvMsg(m); err != nil || m.Value != text {
						t.Fatalf("got %q, %v", m.Value, err)
					}
					synctest.Wait()
					g.next <- struct{}{}
				}
				if err := s.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
					t.Errorf("the stream ended with %v", err)
				}
			})
		})
	}
}

// A handler's error comes to the client as its status: trailers pass.
func TestGRPCStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			s.SendMsg(wrapperspb.String(texts[0]))
			s.SetTrailer(metadata.Pairs("x-sum", "15"))
			return status.Error(codes.ResourceExhausted, "no more")
		}))
		srv := start(t, flush.NewHandler(h, &flush.Options{Flush: flush.Async}), http2)
		cc, err := grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return srv.Dial(ctx, "", "") }))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		var trailer metadata.MD
		err = cc.Invoke(t.Context(), "/test.Service/Stream", &emptypb.Empty{}, new(wrapperspb.StringValue), grpc.Trailer(&trailer))
		if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "no more" {
			t.Errorf("got %v", err)
		}
		if got := trailer.Get("x-sum"); len(got) != 1 || got[0] != "15" {
			t.Errorf("trailer %v", trailer)
		}
	})
}
