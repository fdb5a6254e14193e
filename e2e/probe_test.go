package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush/flushtest"
)

const probeFile = "../docs/flushprobe.md"

// A route is a way from an application to a client, and what a probe of it
// says. It is a row of the table in docs/flushprobe.md.
type route struct {
	way     string // from the client on
	url     func(t *testing.T) string
	verdict flushtest.Verdict
	layer   string // begins so
	remedy  string // contains it
	first   string // of those that the probe was not made with: what it said the first time
}

// right is the first answer that stands.
const right = "the same"

// one and many are lines of the endpoint: a few small ones, and what fills
// buffers.
const (
	one  = "?n=6"
	wide = "?n=4&size=600"
	many = "?n=40&every=50ms&size=2000"
)

func onApp(path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + appHTTP.get(t) + path }
}

func atNginx(path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + routesNginx.get(t)[0] + path }
}

func atOuterNginx(path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + routesNginx.get(t)[1] + path }
}

func atSecureNginx(path string) func(*testing.T) string {
	return func(t *testing.T) string { return "https://" + routesNginx.get(t)[2] + path }
}

func atApache(path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + routesApache.get(t) + path }
}

func atFcgid(server *lazy[string], path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + server.get(t) + "/fcgid" + path }
}

func atGo(path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + routesGo.get(t) + path }
}

// at is a path on the port with this number.
func at(server *lazy[[]string], port int, path string) func(*testing.T) string {
	return func(t *testing.T) string { return "http://" + server.get(t)[port] + path }
}

const (
	held      = flushtest.Held
	inSteps   = flushtest.Stepped
	zipped    = flushtest.CompressorHolds
	delayed   = flushtest.Delayed
	byCompr   = "a compressor (gzip) in the application"
	byKernel  = "a proxy that leaves its output in the kernel for 200 ms"
	orBehind  = ", or what is behind it"
	orZip     = ", or " + byCompr
	accel     = "X-Accel-Buffering: no"
	flushIt   = "flush the compressor"
	packets   = "flushpackets=on"
	unheld    = "FcgidOutputBufferSize 0"
	express   = "Express, or what runs on it (webpack-dev-server, http-proxy-middleware)"
	http10    = "nginx, HTTP/1.0 upstream"
	http11    = "nginx, HTTP/1.1 upstream"
	nginxFCGI = "nginx, FastCGI"
)

// The routes that the probe was made with, and then those that it was tried on
// afterwards.
var routes = []route{
	{"nothing", onApp("/endpoint" + one), streamed, "", "", ""},
	{"nothing; a log, whose lines say no time", onApp("/log"), streamed, "", "", ""},
	{"nothing; the application compresses with this library's `Gzip`", onApp("/gzip-ours" + one), streamed, "", "", ""},
	{"nothing; the application compresses, and its flushes pass the compressor by", onApp("/gzip-never" + one), zipped, byCompr, flushIt, ""},
	{"nothing; the application never flushes", onApp("/no-flush"), held, "the application", "flush.Inspect", ""},
	{"nothing; the application buffers 64 KiB", onApp("/holding" + one), held, "the application", "flush.Inspect", ""},
	{"nothing; `http.TimeoutHandler`", onApp("/timeout" + one), held, "the application", "flush.Inspect", ""},
	{http10, atNginx("/default/endpoint" + one), held, "nginx", accel, ""},
	{http10 + "; a log", atNginx("/default/log"), held, "nginx", accel, ""},
	{http10 + ", `proxy_buffering off`", atNginx("/off/endpoint" + one), streamed, "", "", ""},
	{http10 + "; `NoProxyBuffering`'s headers", atNginx("/default/endpoint" + one + "&hints=1"), streamed, "", "", ""},
	{http11, atNginx("/http11/endpoint" + one), streamed, "", "", ""},
	{http11 + ", `gzip on`", atNginx("/gzip-http11/endpoint" + one), zipped, "nginx", "gzip off", ""},
	{http10 + ", `gzip on`", atNginx("/gzip/endpoint" + one), held, "nginx", accel, ""},
	{http10 + ", `gzip on`, `proxy_buffering off`", atNginx("/gzip-off/endpoint" + one), streamed, "", "", ""},
	{nginxFCGI, atNginx("/fcgi/endpoint" + one), held, "nginx", "fastcgi_buffering off", ""},
	{nginxFCGI + ", `fastcgi_buffering off`", atNginx("/fcgi-off/endpoint" + one), streamed, "", "", ""},
	{"Apache mod_proxy_http", atApache("/http/endpoint" + one), streamed, "", "", ""},
	{"Apache mod_proxy_http, mod_deflate", atApache("/deflate/endpoint" + one), streamed, "", "", ""},
	{"Apache mod_proxy_http, mod_buffer", atApache("/buffer/endpoint" + one), streamed, "", "", ""},
	{"Apache mod_proxy_http, mod_substitute", atApache("/substitute/endpoint" + one), streamed, "", "", ""},
	{"Apache mod_proxy_fcgi", atApache("/fcgi/endpoint" + one), held, "Apache httpd", packets, ""},
	{"Apache mod_proxy_fcgi, mod_deflate", atApache("/fcgi-deflate/endpoint" + one), held, "Apache httpd", packets, ""},
	{"Apache mod_proxy_fcgi, `flushpackets=on`", atApache("/fcgi-flush/endpoint" + one), streamed, "", "", ""},
	{"Apache mod_proxy_fcgi, `flushpackets=on`, mod_deflate", atApache("/fcgi-flush-deflate/endpoint" + one), streamed, "", "", ""},
	{"HAProxy", at(routesHAProxy, 0, "/endpoint"+one), delayed, byKernel, noDelay, ""},
	{"HAProxy; a log", at(routesHAProxy, 0, "/log"), delayed, byKernel, noDelay, ""},
	{"HAProxy, `option http-no-delay`", at(routesHAProxy, 1, "/endpoint"+one), streamed, "", "", ""},
	{"HAProxy, `compression algo gzip`", at(routesHAProxy, 2, "/endpoint"+one), delayed, byKernel + ", as HAProxy does, and a compressor (gzip)", noDelay, ""},
	{"HAProxy, `option http-no-delay`, `compression algo gzip`", at(routesHAProxy, 3, "/endpoint"+one), zipped, byCompr, "no-transform", ""},

	{"nginx twice, both buffering", atOuterNginx("/hold-hold/endpoint" + one), held, "nginx", accel, right},
	{"nginx twice, the first buffering", atOuterNginx("/hold-off/endpoint" + one), held, "nginx", accel, right},
	{"nginx twice, the second buffering", atOuterNginx("/off-hold/endpoint" + one), held, "nginx", accel, right},
	{"nginx twice, neither", atOuterNginx("/off-off/endpoint" + one), streamed, "", "", right},
	{"nginx, `proxy_buffering off`; the compressor passed by", atNginx("/off/gzip-never" + one), zipped, "nginx" + orZip, flushIt, right},
	{"nginx, `proxy_buffering off`; `http.TimeoutHandler`", atNginx("/off/timeout" + one), held, "nginx" + orBehind, "flush.Inspect", "nginx alone"},
	{"nginx, `proxy_buffering off`; never a flush", atNginx("/off/no-flush"), held, "nginx" + orBehind, "flush.Inspect", "nginx alone"},
	{"nginx, `proxy_buffering off`, `sub_filter`", atNginx("/sub/endpoint" + one), streamed, "", "", right},
	{"nginx, HTTP/2 and TLS", atSecureNginx("/default/endpoint" + one), held, "nginx", accel, right},
	{"nginx, HTTP/2 and TLS, `proxy_buffering off`", atSecureNginx("/off/endpoint" + one), streamed, "", "", right},
	{"nginx, HTTP/2 and TLS, `proxy_buffering off`; the compressor passed by", atSecureNginx("/off/gzip-never" + one), zipped, "nginx" + orZip, flushIt, right},
	{http10 + "; 40 kB/s", atNginx("/default/endpoint" + many), inSteps, "nginx", accel, right},
	{nginxFCGI + "; 40 kB/s", atNginx("/fcgi/endpoint" + many), inSteps, "nginx", "fastcgi_buffering off", right},
	{"nginx, `fastcgi_buffering off`, PHP-FPM, `flush()`", atNginx("/php-flush/"), streamed, "", "", right},
	{"nginx, `fastcgi_buffering off`, PHP-FPM, `ob_start()`", atNginx("/php-ob/"), held, "nginx; behind it is PHP", "ob_start()", "nginx alone: it did not look at X-Powered-By"},
	{"nginx, `fastcgi_buffering off`, PHP-FPM, zlib.output_compression", atNginx("/php-zlib/"), zipped, "nginx" + orZip, "zlib.output_compression = Off", "the same, and not that it is PHP's"},
	{"nginx, `proxy_buffering off`, then lighttpd", atNginx("/lighttpd/endpoint" + one), held, "nginx" + orBehind, accel, right},
	{"Apache mod_proxy_fcgi; 40 kB/s", atApache("/fcgi/endpoint" + many), delayed, "Apache httpd", packets, "streamed"},
	{"Apache mod_ratelimit", atApache("/ratelimit/endpoint" + one), delayed, "Apache httpd", "RATE_LIMIT", "HAProxy's delay"},
	{"Apache mod_proxy_http; the application buffers 64 KiB", atApache("/http/holding" + one), held, "Apache httpd" + orBehind, "flush.Inspect", "Apache alone"},
	{"Apache, then nginx", atApache("/nginx/endpoint" + one), held, "nginx", accel, right},
	{"Apache, then nginx, `proxy_buffering off`", atApache("/nginx-off/endpoint" + one), streamed, "", "", right},
	{"Apache, then HAProxy", atApache("/haproxy/endpoint" + one), delayed, byKernel, noDelay, right},
	{"Apache mod_fcgid", atFcgid(apacheFcgid, "/endpoint"+one), held, "Apache httpd with mod_fcgid", unheld, "Apache, but not what of it"},
	{"Apache mod_fcgid, `ServerTokens OS`", atFcgid(apacheFcgidTerse, "/endpoint"+one), held, "Apache httpd", unheld, right},
	{"Apache mod_fcgid, `FcgidOutputBufferSize 0`", atFcgid(apacheFcgidUnheld, "/endpoint"+one), streamed, "", "", right},
	{"HAProxy, then Apache mod_proxy_fcgi", at(beforeApache, 0, "/fcgi/endpoint"+one), held, "Apache httpd", packets, right},
	{"HAProxy, then Apache, `flushpackets=on`", at(beforeApache, 0, "/fcgi-flush/endpoint"+one), delayed, byKernel, noDelay, right},
	{"HAProxy, `option http-no-delay`, then Apache, `flushpackets=on`", at(beforeApache, 1, "/fcgi-flush/endpoint"+one), streamed, "", "", right},
	{"HAProxy, then nginx", at(beforeNginx, 0, "/default/endpoint"+one), held, "nginx", accel, right},
	{"HAProxy, then nginx, `proxy_buffering off`", at(beforeNginx, 0, "/off/endpoint"+one), delayed, byKernel, noDelay, right},
	{"HAProxy, `option http-no-delay`; the compressor passed by", at(routesHAProxy, 1, "/gzip-never"+one), zipped, byCompr, flushIt, right},
	{"HAProxy, then Varnish, `do_stream = false`", at(beforeVarnish, 0, "/endpoint"+one), held, "Fastly or Varnish", "do_stream", right},
	{"Varnish", at(routesVarnish, 0, "/endpoint"+one), streamed, "", "", right},
	{"Varnish, `do_stream = false`", at(routesVarnish, 1, "/endpoint"+one), held, "Fastly or Varnish", "do_stream", right},
	{"Varnish, `do_gzip = true`", at(routesVarnish, 2, "/endpoint"+one), zipped, "Fastly or Varnish", "do_gzip", "held, `do_stream`"},
	{"lighttpd", at(routesLighttpd, 0, "/endpoint"+one), held, "lighttpd", "server.stream-response-body", "held, by no known server"},
	{"lighttpd, `server.stream-response-body = 1`", at(routesLighttpd, 1, "/endpoint"+one), streamed, "", "", right},
	{"lighttpd, `server.stream-response-body = 2`", at(routesLighttpd, 2, "/endpoint"+one), streamed, "", "", right},
	{"Caddy", at(routesCaddy, 0, "/endpoint"+one), streamed, "", "", right},
	{"Caddy; the response has a Content-Length", at(routesCaddy, 0, "/length"), held, "Caddy", "flush_interval -1", right},
	{"Caddy, `encode gzip`; lines of 600 bytes", at(routesCaddy, 1, "/endpoint"+wide), zipped, "Caddy", "encode", right},
	{"Caddy, then nginx", at(routesCaddy, 2, "/default/endpoint"+one), held, "nginx", accel, right},
	{"squid", at(routesSquid, 0, "/endpoint"+one), streamed, "", "", right},
	{"Node http-proxy", at(routesNode, 0, "/endpoint"+one), streamed, "", "", right},
	{"Node http-proxy; the compressor passed by", at(routesNode, 0, "/gzip-never"+one), zipped, byCompr, flushIt, right},
	{"Express `compression`, then http-proxy; no X-Powered-By", at(routesNode, 1, "/endpoint"+one), zipped, byCompr, "no-transform", right},
	{"Express `compression`, then http-proxy; `NoProxyBuffering`'s headers", at(routesNode, 1, "/endpoint"+one+"&hints=1"), streamed, "", "", right},
	{"Express `compression`, then http-proxy", at(routesNode, 2, "/endpoint"+one), zipped, express + orZip, "no-transform", right},
	{"Express `compression`; its own stream", at(routesNode, 2, "/own"), zipped, express + orZip, "res.flush()", right},
	{"Express `compression`; its own stream, `res.flush()`", at(routesNode, 2, "/own?flush"), streamed, "", "", right},
	{"webpack-dev-server", at(routesWebpack, 0, "/endpoint"+one), zipped, express + orZip, "devServer.compress: false", right},
	{"webpack-dev-server; `NoProxyBuffering`'s headers", at(routesWebpack, 0, "/endpoint"+one+"&hints=1"), streamed, "", "", right},
	{"webpack-dev-server, `compress: false`", at(routesWebpack, 1, "/endpoint"+one), streamed, "", "", right},
	{"httputil.ReverseProxy, then nginx, `proxy_buffering off`", atGo("/off/endpoint" + one), streamed, "", "", right},
	{"httputil.ReverseProxy, then nginx, `proxy_buffering off`; the response has a Content-Length", atGo("/off/length"), held, "nginx", "flush.Inspect", "wrong: nothing shows that it is the ReverseProxy"},
}

var repeat = flag.Int("repeat", 0, "probe each route so often, and count the verdicts")

const (
	asks        = 3  // so often a route is asked for its right answer
	unclearAsks = 24 // and so often where answers were about the machine: unclear, or of a busy one

	// busyFrom is for how long a busy machine lets this process stand now and then.
	// The probe judges by steps of 20 ms and more.
	busyFrom = 20 * time.Millisecond
)

// TestProbe probes each route. A busy machine holds streams as well, so one
// answer of three has to be the right one. An unclear answer is none, nor is one
// during which this process, which is the probe and the application, was itself
// held up: the route is asked once more. With -repeat all are counted, and each is to be
// right, or to say that it cannot tell.
//
// What holds a steady stream for no longer than it takes to fill a buffer shows
// in a few milliseconds. Those routes come one after another, before the others,
// which all probe at once and are the load.
func TestProbe(t *testing.T) {
	for _, r := range routes {
		t.Run(strings.NewReplacer("`", "", "/", " ").Replace(r.way), func(t *testing.T) {
			url := r.url(t)
			if !strings.HasSuffix(url, many) {
				t.Parallel()
			}
			var right, unclear, wrong int
			var others strings.Builder
			for *repeat > 0 && right+unclear+wrong < *repeat || *repeat == 0 && right == 0 && wrong < asks && unclear+wrong < unclearAsks {
				stood := standing()
				f := probe(t, url)
				held := stood()
				switch {
				case r.is(f):
					right++
					continue
				case f.Verdict == flushtest.Unclear || *repeat == 0 && held > busyFrom:
					unclear++
				default:
					wrong++
				}
				fmt.Fprintf(&others, "%v (held up for %v)\n", f, held)
			}
			t.Logf("%d right, %d unclear, %d wrong", right, unclear, wrong)
			if *repeat > 0 && wrong > 0 || *repeat == 0 && right == 0 {
				t.Errorf("want %s, %s, %s:\n%s", r.verdict, r.layer, r.remedy, &others)
			}
		})
	}
}

// standing begins to watch for how long the machine lets this process stand, and
// returns what ends that and tells the longest time.
func standing() (end func() time.Duration) {
	over, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(busyFrom / 4)
		defer tick.Stop()
		var most time.Duration
		for at := time.Now(); ; at = time.Now() {
			select {
			case <-tick.C:
				most = max(most, time.Since(at))
			case <-over:
				longest <- most
				return
			}
		}
	}()
	return func() time.Duration {
		close(over)
		return <-longest
	}
}

func probe(t *testing.T, url string) *flushtest.Finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	p := flushtest.Prober{Client: secureClient()}
	f, err := p.Probe(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (r route) is(f *flushtest.Finding) bool {
	return f.Verdict == r.verdict && strings.HasPrefix(f.Layer, r.layer) && strings.Contains(f.Remedy, r.remedy) && (f.Layer == "") == (r.layer == "")
}

// TestProbeDocument holds docs/flushprobe.md against the routes.
func TestProbeDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString(probeHead)
	for i, r := range routes {
		if i == 0 || (r.first != "") != (routes[i-1].first != "") {
			if r.first == "" {
				b.WriteString("| in between | verdict | likely layer | the remedy names |\n| --- | --- | --- | --- |\n")
			} else {
				b.WriteString(probeMiddle + "| in between | verdict | likely layer | the remedy names | first answer |\n| --- | --- | --- | --- | --- |\n")
			}
		}
		layer, remedy := r.layer, r.remedy
		if layer == "" {
			layer, remedy = "–", "–"
		} else {
			remedy = "`" + remedy + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |", r.way, r.verdict, layer, remedy)
		if r.first != "" {
			fmt.Fprintf(&b, " %s |", r.first)
		}
		b.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile(probeFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(probeFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != b.String() {
		t.Errorf("%s is not what TestProbeDocument -update writes", probeFile)
	}
}

// TestFlushprobe runs the command as a person or a script does.
func TestFlushprobe(t *testing.T) {
	bin := flushprobeProgram.get(t)
	for _, test := range []struct {
		url    string
		status int
		says   string
	}{
		{onApp("/endpoint" + one)(t), 0, "streamed."},
		{atNginx("/default/endpoint" + one)(t), 1, "held to the end."},
		{onApp("/nothing")(t), 2, "unclear"},
	} {
		for _, asJSON := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s json %t", test.says, asJSON), func(t *testing.T) {
				t.Parallel()
				args := []string{test.url}
				if asJSON {
					args = []string{"-json", test.url}
				}
				var out, problems bytes.Buffer
				cmd := exec.CommandContext(t.Context(), bin, args...)
				cmd.Stdout, cmd.Stderr = &out, &problems
				err := cmd.Run()
				if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
					t.Fatal(err)
				}
				if got := cmd.ProcessState.ExitCode(); got != test.status || problems.Len() > 0 {
					t.Errorf("status %d, want %d: %s%s", got, test.status, &problems, &out)
				}
				if !asJSON {
					lines := strings.Split(strings.TrimSpace(out.String()), "\n")
					if last := lines[len(lines)-1]; !strings.Contains(last, test.says) || len(lines) < 2 {
						t.Errorf("%q", out.String())
					}
					return
				}
				var f flushtest.Finding
				if err := json.Unmarshal(out.Bytes(), &f); err != nil || f.URL != test.url || f.Held() != (test.status == 1) {
					t.Errorf("%v: %s", err, &out)
				}
			})
		}
	}
}

const probeHead = `# What the probe says

` + "`go run ./cmd/flushprobe URL`" + ` and flushtest.Probe fetch a stream and say what it went through on its way.

## How it judges

It goes by what most of the stream does. The lines of ` + "`flushprobe -serve`" + `, which is flushtest.Endpoint, say when they were written. They
come in steps, and a step is late if its oldest line is, by 150 ms or more, or if lines came with it that were written 40 ms
after one another. How long the connection took to be made is taken off, or how long the
fastest line took if that is less: nobody can be faster.

| of the steps | verdict | exit status |
| --- | --- | --- |
| a third or less are late | streamed; how many lines came late, and by how much, is said | 0 |
| two thirds or more are late | steps, if parts end within a line and have the size of a buffer; else delayed, by as much as the one in the middle | 1 |
| most lines come with the last one, at the end | held | 1 |
| between, or most lines were late in few steps, as after an interruption | unclear | 2 |

Of other streams there are the times and the sizes alone, and what may be the application's own way of writing is unclear: lines that
come several at a time and by the clock, or parts of the size of a buffer that end with a line. It is no stream if it is an error
page. Nothing for as long as the probe lasts is held.

A compressed stream that does not come as it should is fetched once more without compression, and if that is better, once more
with, as the way may have been busy. What has been compressed counts from when it could be decoded. Half of the time is kept for this. Lines
that came late are fetched once more, if there is time: in time then, they are unclear, and else the smaller delay counts. If
the endpoint is held, it is fetched once or twice more as another content type: some proxies look into what they take for text.

All of it ends after ` + "`-for`" + `, 30 s, or with the first interrupt, and the verdict is about what had come. Of what a server sends the probe
keeps at most 1 MiB that it has not looked at and decompresses at most 16 MiB. What it prints cannot act on a terminal.

The layer is likely, and not certain: it is the first that the headers show, from the client on. A layer that does not show itself
cannot be named, and then the remedy ends in taking the way apart. The proxy that the environment names is said to have been
used.

## What it has been tried on

Both tables are checked by every run of ` + "`e2e/run`" + ` on real servers, with the endpoint unless something else is named. What is in between
is listed from the client on.

The probe was made with these:

`

const probeMiddle = `
And it was tried on these when it could do the ones above. The last column is what it answered the first time; where that
was wrong or too little, the probe was changed and others tried. One layer is still wrong: the last, which does not show
itself.

`
