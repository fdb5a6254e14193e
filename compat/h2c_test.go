package compat_test

//lint:file-ignore SA1019 h2c is what people still have

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"

	"github.com/fa492104/flush"
)

// h2c.NewHandler hijacks the connection and serves HTTP/2 on it, with contexts
// derived from that of the request it hijacked. Below it FromContext must not
// find the Flusher of that request, and a Flusher of its own works.
func TestH2CBelowNewHandler(t *testing.T) {
	inner := func(w http.ResponseWriter, r *http.Request) {
		if f, ok := flush.FromContext(r.Context()); ok {
			io.WriteString(f, "outer") // as code does that finds a Flusher there
			return
		}
		io.WriteString(w, "inner")
		flush.Flush(w, true)
	}
	own := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := flush.FromContext(r.Context())
		if g, _ := flush.From(w); !ok || f != g {
			t.Error("FromContext finds", f)
		}
		io.WriteString(w, "inner")
	}), nil)
	for name, h := range map[string]http.Handler{"bare below": http.HandlerFunc(inner), "wrapped below": own} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(flush.NewHandler(h2c.NewHandler(h, new(xhttp2.Server)), nil))
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.Start()
			defer srv.Close()
			tr := &http.Transport{
				Protocols: new(http.Protocols),
				DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, addr)
				},
			}
			tr.Protocols.SetUnencryptedHTTP2(true)
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != "inner" || err != nil || resp.ProtoMajor != 2 {
				t.Errorf("%s %q, %v", resp.Proto, got, err)
			}
		})
	}
}
