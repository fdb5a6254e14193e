package flushtest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

// Each server that shows itself is named, with what its documentation offers.
func TestProbeLayers(t *testing.T) {
	for _, test := range []struct {
		header []string
		layer  string
		hold   string // in the remedy where it holds
		zip    string // in that where it compresses
	}{
		{[]string{"CF-RAY", "1"}, "Cloudflare", "text/event-stream", "no-transform"},
		{[]string{"X-Amz-Cf-Id", "1"}, "Amazon CloudFront", "origin", "compression"},
		{[]string{"Via", "1.1 varnish (Varnish/7.1)"}, "Fastly or Varnish", "do_stream", "do_gzip"},
		{[]string{"X-Varnish", "1"}, "Varnish", "do_stream", "do_gzip"},
		{[]string{"Via", "http/1.1 host (ApacheTrafficServer/9.2.0 [uScM])"}, "Apache Traffic Server", "plugin", "compress plugin"},
		{[]string{"Server", "ATS/9.2.0"}, "Apache Traffic Server", "plugin", "compress plugin"},
		{[]string{"Via", "1.1 host (squid/5.7)"}, "Squid", "ICAP", "eCAP"},
		{[]string{"Via", "1.1 nghttpx"}, "nghttpx", "backend", "behind it"},
		{[]string{"Server", "nghttpx"}, "nghttpx", "backend", "behind it"},
		{[]string{"Via", "1.0 Caddy"}, "Caddy", "flush_interval -1", "encode"},
		{[]string{"Server", "Caddy"}, "Caddy", "flush_interval -1", "encode"},
		{[]string{"Server", "envoy"}, "Envoy", "BUFFERED", "compressor filter"},
		{[]string{"Server", "openresty/1.25"}, "OpenResty", "proxy_buffering off", "gzip off"},
		{[]string{"Server", "nginx/1.22"}, "nginx", "proxy_buffering off", "gzip off"},
		{[]string{"Server", "Apache/2.4.71 (Unix) mod_fcgid/2.3.9"}, "Apache httpd with mod_fcgid", "set FcgidOutputBufferSize 0", "no-gzip"},
		{[]string{"Server", "Apache/2.4.71 (Debian)"}, "Apache httpd", "with mod_fcgid FcgidOutputBufferSize 0", "no-gzip"},
		{[]string{"Server", "h2o/2.2.5"}, "H2O", "behind it", "compress: OFF"},
		{[]string{"Server", "Microsoft-IIS/10.0"}, "IIS", "responseBufferLimit", "doDynamicCompression"},
		{[]string{"Server", "LiteSpeed"}, "LiteSpeed", "response buffer", "dynamic compression"},
		{[]string{"Server", "lighttpd/1.4.69"}, "lighttpd", "stream-response-body", "deflate.mimetypes"},
		{[]string{"X-Powered-By", "Next.js"}, "Next.js", "stream", "compress: false in next.config.js"},
		{[]string{"X-Powered-By", "Express"}, "Express, or what runs on it (webpack-dev-server", "responseInterceptor", "devServer.compress: false"},
		{[]string{"X-Powered-By", "PHP/8.2.36"}, "PHP", "ob_start()", "zlib.output_compression"},
		{[]string{"Server", "odd/2"}, "what says Server: odd/2", "buffering", "compression"},
		{[]string{"X-Powered-By", "Odd"}, "what says X-Powered-By: Odd", "buffering", "compression"},
		{[]string{"Server", "nginx/1.22", "X-Powered-By", "PHP/8.2.36"}, "nginx; behind it is PHP", "ob_start()", "zlib.output_compression"},
		{[]string{"Via", "1.1 varnish", "Server", "nginx", "X-Powered-By", "Express"}, "Fastly or Varnish; behind it is Express", "do_stream", "no-transform"},
		{nil, "the application, or a proxy that does not show itself", "flush.Inspect", "flush the compressor"},
	} {
		name := test.layer
		if len(test.header) > 0 {
			name = test.header[1]
		}
		t.Run(name, func(t *testing.T) {
			lines := ticker(10, 300*time.Millisecond, "an event of some length\n")
			synctest.Test(t, func(t *testing.T) {
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for i := 0; i < len(test.header); i += 2 {
						w.Header().Set(test.header[i], test.header[i+1])
					}
					flush.Flush(w, true) // so that there is no Content-Length
					holding(lines, 0).ServeHTTP(w, r)
				})
				s := flushtest.Serve(t, h, nil)
				p := flushtest.Prober{Client: s.Client()}
				f, err := p.Probe(t.Context(), s.URL)
				if err != nil || !strings.HasPrefix(f.Layer, test.layer) || !strings.Contains(f.Remedy, test.hold) {
					t.Errorf("%v, %v; want %q, %q", f, err, test.layer, test.hold)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				h := compressing(lines, false)
				for i := 0; i < len(test.header); i += 2 {
					h = with(h, test.header[i], test.header[i+1])
				}
				s := flushtest.Serve(t, h, nil)
				p := flushtest.Prober{Client: s.Client()}
				f, err := p.Probe(t.Context(), s.URL)
				if err != nil || f.Verdict != flushtest.CompressorHolds || !strings.Contains(f.Remedy, test.zip) {
					t.Errorf("%v, %v; want %q", f, err, test.zip)
				}
			})
		})
	}
}

// What holds some content types only is found with an Endpoint, which can be of
// another.
func TestProbeOtherType(t *testing.T) {
	// The types that are held begin so.
	byType := func(held ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			kind := r.URL.Query().Get("type")
			if kind == "" {
				kind = "text/plain"
			}
			for _, h := range held {
				if strings.HasPrefix(kind, h) {
					holding(flushtest.Endpoint(), 0).ServeHTTP(w, r)
					return
				}
			}
			flushtest.Endpoint().ServeHTTP(w, r)
		})
	}
	for _, test := range []struct {
		name     string
		h        http.Handler
		query    string
		says     string // of the layer; empty: nothing of the type
		remedy   string
		requests int
	}{
		{"not held", flushtest.Endpoint(), "", "", "", 1},
		{"all types held", byType(""), "", "", "", 3},
		{"plain text held", byType("text/plain"), "", "text/plain is held, and text/event-stream is not", "send the stream as text/event-stream", 2},
		{"all text held", byType("text/"), "", "text/plain is held, and application/octet-stream is not", "Privoxy", 3},
		{"events held", byType("text/event-stream"), "&type=text/event-stream", "text/event-stream is held, and application/octet-stream is not", "Privoxy", 2},
		{"no endpoint", holding(ticker(10, 300*time.Millisecond, "event\n"), 0), "", "", "", 1},
		{"one that is always of one type", holding(flushtest.Endpoint(), 0, "Content-Type", "text/html"), "", "", "", 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				s := flushtest.Serve(t, counting(test.h, &requests), nil)
				p := flushtest.Prober{Client: s.Client()}
				f, err := p.Probe(t.Context(), s.URL+"/?n=10"+test.query)
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Contains(f.Layer, "by content type"); got != (test.says != "") || !strings.Contains(f.Layer, test.says) || !strings.Contains(f.Remedy, test.remedy) {
					t.Errorf("%v, want %q, %q", f, test.says, test.remedy)
				}
				if requests != test.requests {
					t.Errorf("%d requests, want %d", requests, test.requests)
				}
			})
		})
	}
}

// The name that is asked for is the Host of Prober.Header, however it is
// spelled, and the other headers go along.
func TestProbeHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got *http.Request
		s := flushtest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r }), nil)
		for _, name := range []string{"Host", "host"} {
			p := flushtest.Prober{Client: s.Client(), Header: http.Header{name: {"example.org"}, "user-agent": {"me"}, "Accept-Encoding": {"br"}}}
			if _, err := p.Probe(t.Context(), s.URL); err != nil {
				t.Fatal(err)
			}
			if got.Host != "example.org" || got.UserAgent() != "me" || got.Header.Get("Accept-Encoding") != "gzip" || got.Header.Get("Host") != "" {
				t.Errorf("host %q, %v", got.Host, got.Header)
			}
		}
	})
}

// A proxy that a client goes through is one of the layers.
func TestProbeProxy(t *testing.T) {
	for _, hold := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := flushtest.Endpoint()
			if hold {
				h = holding(h, 0, "Server", "nginx")
			}
			var asked string
			s := flushtest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.RequestURI
				h.ServeHTTP(w, r)
			}), nil)
			tr := &http.Transport{
				DialContext: s.Listener.Dial,
				Proxy:       http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy:3128", User: url.UserPassword("me", "secret")}),
			}
			defer tr.CloseIdleConnections()
			p := flushtest.Prober{Client: &http.Client{Transport: tr}}
			f, err := p.Probe(t.Context(), "http://flush.invalid/?n=10&type=application/octet-stream")
			if err != nil {
				t.Fatal(err)
			}
			text := f.String()
			if f.Proxy != "http://proxy:3128" || !strings.HasPrefix(asked, "http://flush.invalid/") ||
				!strings.Contains(text, "through the proxy http://proxy:3128.") || strings.Contains(text, "secret") {
				t.Errorf("%v", text)
			}
			if f.Held() != hold || strings.Contains(f.Layer, "nginx") != hold || strings.Contains(f.Layer, "the client's proxy http://proxy:3128") != hold {
				t.Errorf("%v", text)
			}
		})
	}
}
