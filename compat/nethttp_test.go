package compat_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

func nethttpRows() []subject {
	same := func(h http.Handler) http.Handler { return h }
	all := wrapped("`NewHandler` alone", same, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes}, cells{})[:1]
	timeout := func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "too late") }
	all = append(all, wrapped("`http.TimeoutHandler`", timeout, cells{refused, refused, refused, refused, goneCtx, none, byCtx, refused}, cells{refused, refused, refused, refused, goneBoth, none, yes, refused})...)
	return append(all,
		subject{name: "`httputil.ReverseProxy`", place: handler, want: cells{none, none, yes, yes, cutOff, cutOff, never, none}, serve: proxyInside},
		subject{name: "`httputil.ReverseProxy`", place: outside, want: cells{yes, yes, yes, yes, goneBoth, yes, yes, yes}, serve: proxyOutside},
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
