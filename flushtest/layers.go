package flushtest

import (
	"net/http"
	"strings"
	"time"
)

// A suspect is a kind of server that may stand between an application and its
// client, how it shows itself, and how it is told not to hold a stream.
type suspect struct {
	name     string
	header   string // a header that it sets
	contains string // in that header, in lower case; empty: anything
	hold     string // the remedy where it holds
	compress string // the remedy where it compresses
}

// suspects are in the order from the client to the application, as far as
// there is one.
var suspects = []suspect{
	{"Cloudflare", "CF-RAY", "",
		"send Content-Type: text/event-stream, which is not buffered, or have response buffering switched off for the zone.",
		"send Cache-Control: no-transform, which keeps it from compressing (Options.NoProxyBuffering does)."},
	{"Amazon CloudFront", "X-Amz-Cf-Id", "",
		"it passes a response on as it comes: probe its origin.",
		"switch automatic compression off in the cache behavior."},
	{"Fastly or Varnish", "Via", "varnish",
		"set beresp.do_stream = true in vcl_backend_response, and no ESI on the path (do_esi = false).",
		"set beresp.do_gzip = false in vcl_backend_response."},
	{"Varnish", "X-Varnish", "",
		"set beresp.do_stream = true in vcl_backend_response, and no ESI on the path (do_esi = false).",
		"set beresp.do_gzip = false in vcl_backend_response."},
	{"Caddy", "Via", "caddy",
		"set flush_interval -1 in reverse_proxy.",
		"take the path out of encode."},
	{"Envoy", "Server", "envoy",
		"it streams by itself: look for a filter on the route that wants whole bodies (Lua, Wasm, ext_proc with response_body_mode BUFFERED).",
		"take the route out of the compressor filter, or its content type out of response_direction_config."},
	{"OpenResty", "Server", "openresty",
		"send X-Accel-Buffering: no (Options.NoProxyBuffering does), or set proxy_buffering off for the location; fastcgi_buffering off with FastCGI.",
		"set gzip off for the location, or take the content type out of gzip_types."},
	{"nginx", "Server", "nginx",
		"send X-Accel-Buffering: no (Options.NoProxyBuffering does), or set proxy_buffering off for the location; fastcgi_buffering off with FastCGI.",
		"set gzip off for the location, or take the content type out of gzip_types."},
	{"Apache httpd", "Server", "apache",
		"set flushpackets=on for the worker in ProxyPass, and no SetOutputFilter BUFFER or SUBSTITUTE on the path.",
		"set SetEnv no-gzip 1 for the path (mod_deflate), or take the content type out of AddOutputFilterByType DEFLATE."},
	{"IIS", "Server", "microsoft-iis",
		"set responseBufferLimit=\"0\" for the ASP.NET or ARR handler.",
		"set urlCompression doDynamicCompression=\"false\" for the path."},
	{"LiteSpeed", "Server", "litespeed",
		"set the response buffer of the external application to No.",
		"switch dynamic compression off for the path."},
	{"Caddy", "Server", "caddy",
		"set flush_interval -1 in reverse_proxy.",
		"take the path out of encode."},
}

const flushCompressor = "flush the compressor with each flush (flush.Gzip in a buffer with FollowFlush does; a middleware needs a FlushError or Flush method " +
	"that reaches it), or keep it off the path with Cache-Control: no-transform."

// blame finds the likely layer.
func (f *Finding) blame() {
	if !f.Held() {
		return
	}
	for _, s := range suspects {
		v := strings.ToLower(strings.Join(f.Header.Values(s.header), ", "))
		if v == "" || !strings.Contains(v, s.contains) {
			continue
		}
		f.Layer, f.Remedy = s.name, s.hold
		if f.Verdict == CompressorHolds {
			by := "a compressor (" + f.Header.Get("Content-Encoding") + ") in the application behind "
			if f.Header.Get("Content-Length") != "" {
				// A proxy that compresses as it goes does not know the length.
				f.Layer, f.Remedy = by+s.name, flushCompressor
				return
			}
			f.Layer, f.Remedy = s.name+", or "+by+"it", s.compress
		}
		return
	}
	switch {
	case f.Verdict == CompressorHolds:
		f.Layer = "a compressor (" + f.Header.Get("Content-Encoding") + ") in the application, or a proxy that does not show itself"
		f.Remedy = flushCompressor
	case f.Verdict == Delayed && f.Delay >= tooLate && f.Delay < 500*time.Millisecond:
		// So long does Linux keep a packet that is not full when its sender says
		// that there is more to come.
		f.Layer = "a proxy that leaves its output in the kernel for 200 ms, as HAProxy does"
		f.Remedy = "set option http-no-delay in HAProxy's frontend and backend, or defaults."
	case f.Header.Get("Via") != "":
		f.Layer = "the proxy that says Via: " + f.Header.Get("Via")
		f.Remedy = "look for its setting for response buffering; probe the application without it to be sure."
	case f.Status == http.StatusOK || f.Status == 0:
		f.Layer = "the application, or a proxy that does not show itself"
		f.Remedy = "probe the application without proxies. If it holds by itself: flush after each event, and have flush.Inspect say which layer swallows it. " +
			"If not: the proxy's setting for response buffering, and Options.NoProxyBuffering."
	default:
		f.Layer = "whatever answers with that status"
	}
}
