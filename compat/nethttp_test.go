package compat_test

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

func nethttpRows() []subject {
	same := func(h http.Handler) http.Handler { return h }
	all := wrapped("`NewHandler` alone", same, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, cells{})[:1]
	timeout := func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "too late") }
	all = append(all, wrapped("`http.TimeoutHandler`", timeout, cells{refused, refused, refused, refused, goneCtx, none, byCtx, refused, yes}, cells{refused, refused, refused, refused, goneBoth, none, yes, refused, handlerWaits})...)
	return append(all,
		subject{name: "`httputil.ReverseProxy`", place: handler, want: cells{none, none, yes, yes, cutOff, cutOff, never, none, none}, serve: proxyInside},
		subject{name: "`httputil.ReverseProxy`", place: outside, want: cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, serve: proxyOutside},
	)
}

// upstream returns a proxy to a server that runs h.
func upstream(t *testing.T, h http.Handler) *httputil.ReverseProxy {
	s := start(t, h, http1)
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "upstream" },
		Transport:     s.client.Transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
	}
}

// proxyInside is a proxy as our handler: run is the upstream server, which has
// nothing of ours.
func proxyInside(t *testing.T, opts *flush.Options, run func(*session)) http.Handler {
	return flush.NewHandler(upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := plain(w, r)
		c.w = nil
		run(c)
	})), opts)
}

// proxyOutside is a proxy in front of a server with our handler.
func proxyOutside(t *testing.T, opts *flush.Options, run func(*session)) http.Handler {
	return upstream(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { run(plain(w, r)) }), opts))
}

// Over HTTP/2 a connection that takes nothing at all is ended by the server's
// WriteByteTimeout.
func TestWriteByteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, held := make(chan struct{}), make(chan struct{})
		result := make(chan error, 1)
		h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-held
			var err error
			for range 64 {
				io.WriteString(w, noise(6<<10))
				if err = flush.Flush(w, true); err != nil {
					break
				}
			}
			result <- err
		}), &flush.Options{SendTimeout: sendTimeout})
		s := start(t, h, http2, func(s *http.Server) {
			s.HTTP2 = &http.HTTP2Config{WriteByteTimeout: 2 * sendTimeout}
		})
		r := s.request(t, subject{})
		<-entered
		s.setHeld(true)
		close(held)
		if err := <-result; !errors.Is(err, flush.ErrTimeout) {
			t.Errorf("the flush got %v", err)
		}
		s.setHeld(false)
		r.end()
		if r.err == io.EOF {
			t.Error("the client takes what it has for the whole")
		}
	})
}
