package flushtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fa492104/flush/internal/visible"
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
	{"Apache Traffic Server", "Via", "trafficserver",
		"it passes a response on as it comes: look for a plugin that takes whole bodies, and probe its origin.",
		"set flush true in the configuration of the compress plugin, or take the content type out of compressible-content-type."},
	{"Apache Traffic Server", "Server", "ats/",
		"it passes a response on as it comes: look for a plugin that takes whole bodies, and probe its origin.",
		"set flush true in the configuration of the compress plugin, or take the content type out of compressible-content-type."},
	{"Squid", "Via", "squid",
		"it passes a response on as it comes: look for an ICAP or eCAP service that takes whole bodies, and probe what is behind it.",
		"it does not compress: look for an eCAP adapter that does."},
	{"nghttpx", "Via", "nghttpx",
		"it passes a response on as it comes: probe its backend.",
		"it does not compress: look behind it."},
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
	{"Apache httpd with mod_fcgid", "Server", "mod_fcgid",
		"set FcgidOutputBufferSize 0, and if the path is one of ProxyPass, flushpackets=on for its worker; no SetOutputFilter BUFFER, SUBSTITUTE or RATE_LIMIT on it.",
		"set SetEnv no-gzip 1 for the path (mod_deflate), or take the content type out of AddOutputFilterByType DEFLATE."},
	{"Apache httpd", "Server", "apache",
		"set flushpackets=on for the worker in ProxyPass, with mod_fcgid FcgidOutputBufferSize 0, and no SetOutputFilter BUFFER, SUBSTITUTE or RATE_LIMIT on the path.",
		"set SetEnv no-gzip 1 for the path (mod_deflate), or take the content type out of AddOutputFilterByType DEFLATE."},
	{"nghttpx", "Server", "nghttpx",
		"it passes a response on as it comes: probe its backend.",
		"it does not compress: look behind it."},
	{"H2O", "Server", "h2o",
		"it passes a response on as it comes: probe what is behind it.",
		"set compress: OFF for the path."},
	{"IIS", "Server", "microsoft-iis",
		"set responseBufferLimit=\"0\" for the ASP.NET or ARR handler.",
		"set urlCompression doDynamicCompression=\"false\" for the path."},
	{"LiteSpeed", "Server", "litespeed",
		"set the response buffer of the external application to No.",
		"switch dynamic compression off for the path."},
	{"lighttpd", "Server", "lighttpd",
		"set server.stream-response-body = 1 or 2.",
		"take the content type out of deflate.mimetypes."},
	{"Caddy", "Server", "caddy",
		"set flush_interval -1 in reverse_proxy.",
		"take the path out of encode."},

	// What is behind them, or they are themselves.
	{"Next.js", "X-Powered-By", "next.js",
		"have the route return its stream before the data is there, and look for a middleware or rewrite that takes whole bodies.",
		"set compress: false in next.config.js, or send Cache-Control: no-transform (Options.NoProxyBuffering does)."},
	{"Express, or what runs on it (webpack-dev-server, http-proxy-middleware)", "X-Powered-By", "express",
		"it passes a response on as it comes: look for a middleware that takes whole bodies (responseInterceptor of http-proxy-middleware), and probe what is behind it.",
		"send Cache-Control: no-transform (Options.NoProxyBuffering does), or set devServer.compress: false in webpack-dev-server; " +
			"an application of its own calls res.flush() after each event."},
	{"PHP", "X-Powered-By", "php",
		"end each ob_start() level and call flush() after each event, with output_buffering = 0.",
		"set zlib.output_compression = Off."},
}

const flushCompressor = "flush the compressor with each flush (flush.Gzip in a buffer with FollowFlush does; a middleware needs a FlushError or Flush method " +
	"that reaches it), or keep it off the path with Cache-Control: no-transform."

const flushApplication = "flush after each event, and have flush.Inspect say which layer swallows it."

// blame finds the likely layer. With Delayed, a compressor has so much of the
// delay, and another layer the rest.
func (f *Finding) blame(compressor time.Duration) {
	if !f.Held() {
		return
	}
	f.blameServer(f.Delay - compressor)
	if compressor > 0 {
		f.Layer += fmt.Sprintf(", and a compressor (%s) that adds %v", f.Header.Get("Content-Encoding"), compressor.Round(time.Millisecond))
		f.Remedy += " Then " + flushCompressor
	}
	if f.otherType != "" {
		now, _, _ := strings.Cut(f.Header.Get("Content-Type"), ";")
		f.Layer += fmt.Sprintf(", by content type: %s is held, and %s is not", now, f.otherType)
		f.Remedy = fmt.Sprintf("send the stream as %s, or have %s left alone by what looks into it (Privoxy: { -filter } for the site). Else: ", f.otherType, now) + f.Remedy
	}
	if f.Proxy != "" {
		f.Layer += ", or the client's proxy " + f.Proxy
		f.Remedy += " Probe without that proxy, if there is a way: with the host in NO_PROXY, where the environment names it."
	}
	f.Layer, f.Remedy = visible.String(f.Layer), visible.String(f.Remedy)
}

// blameServer finds the likely layer behind a delay.
func (f *Finding) blameServer(delay time.Duration) {
	if f.corked || f.Delay > delay && delay >= tooLate && delay < corkedForMost {
		// Servers that show themselves do not say that there is more to come.
		f.Layer = "a proxy that leaves its output in the kernel for 200 ms, as HAProxy does"
		f.Remedy = "set option http-no-delay in HAProxy's frontend and backend, or defaults."
		return
	}
	s, behind := f.suspect()
	compressor := "a compressor (" + f.Header.Get("Content-Encoding") + ") in the application"
	_, whole := f.Header["Content-Length"]
	switch {
	case f.Verdict == CompressorHolds && s == nil:
		f.Layer = compressor + ", or a proxy that does not show itself"
		f.Remedy = flushCompressor
	case f.Verdict == CompressorHolds && whole:
		// A proxy that compresses as it goes does not know the length.
		f.Layer = compressor + " behind " + s.name
		f.Remedy = flushCompressor
	case f.Verdict == CompressorHolds:
		f.Layer = s.name + ", or " + compressor + " behind it"
		f.Remedy = s.compress + " If it is the application's: " + flushCompressor
	case s != nil && whole:
		// Who streams does not know the length. Some proxies fill it in when
		// they have held a response, as net/http does.
		f.Layer = s.name + ", or what is behind it, as the response has a Content-Length"
		f.Remedy = s.hold + " If it is the application: " + flushApplication
	case s != nil:
		f.Layer = s.name
		f.Remedy = s.hold + " If that changes nothing, probe the servers on the way one by one, and the application."
	case f.Status == http.StatusOK || f.Status == 0:
		f.Layer = "the application, or a proxy that does not show itself"
		f.Remedy = "probe the application without proxies. If it holds by itself: " + flushApplication +
			" If not: the proxy's setting for response buffering, and Options.NoProxyBuffering."
	default:
		f.Layer = "whatever answers with that status"
	}
	if behind != "" {
		f.Layer += "; behind it is " + behind
	}
}

// suspect returns the server nearest to the client that the headers show, or
// nil, and the name of one behind it, whose remedies it has too.
func (f *Finding) suspect() (nearest *suspect, behind string) {
	var found []suspect
	for _, s := range suspects {
		v := strings.ToLower(strings.Join(f.Header.Values(s.header), ", "))
		if v != "" && strings.Contains(v, s.contains) && !slices.ContainsFunc(found, func(o suspect) bool { return o.name == s.name || o.header == s.header }) {
			found = append(found, s)
		}
	}
	if len(found) > 0 {
		s := found[0]
		if i := slices.IndexFunc(found[1:], func(o suspect) bool { return o.header == "X-Powered-By" }); i >= 0 {
			o := found[1+i]
			behind = o.name
			name, _, _ := strings.Cut(o.name, ",")
			s.hold += " If it is " + name + ": " + o.hold
			s.compress += " If it is " + name + ": " + o.compress
		}
		return &s, behind
	}
	for _, name := range []string{"Via", "Server", "X-Powered-By"} {
		if v := f.Header.Get(name); v != "" {
			return &suspect{
				name:     "what says " + name + ": " + short(v),
				hold:     "look for its setting for response buffering; probe the application without it to be sure.",
				compress: "switch compression off for the path.",
			}, ""
		}
	}
	return nil, ""
}
