package compat_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/fa492104/flush"
)

// mcpServer has one tool, which reports its progress: each step is one event of
// the response to the call.
func mcpServer(run func(*session)) http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "server", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "work"}, func(ctx context.Context, r *mcp.CallToolRequest, _ any) (*mcp.CallToolResult, any, error) {
		run(&session{ctx, nil, func(text string) error {
			return r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: text})
		}})
		return &mcp.CallToolResult{}, nil, nil
	})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{
		Stateless: true, PropagateRequestCancellation: true, // else a tool goes on when its client has left
	})
}

func mcpRows() []subject {
	return []subject{{
		name: "MCP go-sdk, streamable HTTP", place: handler, want: cells{none, none, yes, yes, goneCtx, onClose, byCtx, none, yes},
		post: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"work","arguments":{},"_meta":{"progressToken":"p",` +
			`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"client","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`,
		header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"work"}},
		serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
			return flush.NewHandler(mcpServer(run), opts)
		},
	}}
}

// The SDK's own client gets each notification while the tool is stopped before
// the next.
func TestMCPClient(t *testing.T) {
	for _, p := range []proto{http1, http2} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStage()
				srv := start(t, flush.NewHandler(mcpServer(func(c *session) {
					for _, text := range texts {
						g.stop(c.own(text))
					}
				}), nil), p)
				got := make(chan string, len(texts))
				c := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, &mcp.ClientOptions{
					ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { got <- r.Params.Message },
				})
				s, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: "http://server/", HTTPClient: srv.client, DisableStandaloneSSE: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				called := make(chan error, 1)
				go func() {
					params := &mcp.CallToolParams{Name: "work", Arguments: map[string]any{}}
					params.SetProgressToken("p")
					_, err := s.CallTool(t.Context(), params)
					called <- err
				}()
				for _, text := range texts {
					if err := <-g.at; err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					select {
					case m := <-got:
						if !strings.Contains(m, text) {
							t.Errorf("got %q", m)
						}
					default:
						t.Errorf("%q has not arrived", text)
					}
					g.next <- struct{}{}
				}
				if err := <-called; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
