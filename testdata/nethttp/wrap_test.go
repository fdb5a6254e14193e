// .ci/nethttp adds this file to the tests of net/http. There the package under
// test has the import path flush, and http.FlushWrap is the hook that the
// script puts into a copy of server.go.

package http_test

import (
	"context"
	"flush"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"
)

func init() {
	wrap := func(opts *flush.Options) {
		http.FlushWrap = func(h http.Handler) http.Handler { return flush.NewHandler(h, opts) }
	}
	switch mode := os.Getenv("FLUSH_NETHTTP"); mode {
	case "bare":
	case "default":
		wrap(nil)
	case "async":
		wrap(&flush.Options{Flush: flush.Async})
	case "implicit":
		wrap(&flush.Options{Implicit: flush.Async})
	default:
		panic("FLUSH_NETHTTP: no such mode: " + strconv.Quote(mode))
	}
}

// TestFlushWrap checks the harness: without it, a hook that is never called
// would look like a perfect score.
func TestFlushWrap(t *testing.T) {
	want := os.Getenv("FLUSH_NETHTTP") != "bare"
	get := func(t *testing.T, s *httptest.Server, c *http.Client, proto string) {
		res, err := c.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(body), proto+" "+strconv.FormatBool(want); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, wrapped := flush.From(w)
		io.WriteString(w, r.Proto+" "+strconv.FormatBool(wrapped))
	})
	t.Run("HTTP/1", func(t *testing.T) {
		s := httptest.NewServer(h)
		defer s.Close()
		get(t, s, s.Client(), "HTTP/1.1")
	})
	t.Run("HTTP/2", func(t *testing.T) {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.StartTLS()
		defer s.Close()
		get(t, s, s.Client(), "HTTP/2.0")
	})
	t.Run("unencrypted HTTP/2", func(t *testing.T) {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		s := httptest.NewUnstartedServer(h)
		s.Config.Protocols = p
		s.Start()
		defer s.Close()
		tr := &http.Transport{
			Protocols: p,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", s.Listener.Addr().String())
			},
		}
		defer tr.CloseIdleConnections()
		get(t, s, &http.Client{Transport: tr}, "HTTP/2.0")
	})
}
