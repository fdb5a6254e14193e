package main

import (
	"net/http"
	"net/http/httputil"

	"github.com/fa492104/flush"
)

// reverseProxy is the standard library's proxy, as one puts it in front of a
// stream.
func reverseProxy(upstream string, transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", upstream
		},
		FlushInterval: -1,
		Transport:     transport,
	}
}

// An upstream answers with the messages of a job. It is no server, so that what
// is measured is the proxy.
type upstream struct{ job job }

func (u upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"text/event-stream"}},
		Body:          &body{next: u.job.source(r.Context().Done())},
		ContentLength: -1,
		Request:       r,
	}, nil
}

// proxied is a proxy that does the job of its upstream.
func proxied(j job) http.Handler {
	proxy := reverseProxy("upstream", upstream{j})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer j.timed()()
		proxy.ServeHTTP(w, r)
	})
}

const proxyNote = "Its upstream is in the same process and has one event ready at each Read. The proxy's own copy buffer is 32 KiB a stream."

var proxies = []contender{
	{
		name: "ReverseProxy",
		how:  "`httputil.ReverseProxy` with `FlushInterval: -1`",
		note: proxyNote,
		open: func(j job) server { return httpServer(proxied(j)) },
	},
	{
		name: "ReverseProxy in flush",
		how:  "the proxy, in `flush.NewHandler` with `Options{Flush: flush.Async}`",
		gzip: "the Gzip filter",
		note: proxyNote,
		ours: true,
		open: func(j job) server { return httpServer(flush.NewHandler(proxied(j), j.options(flush.Async))) },
	},
}
