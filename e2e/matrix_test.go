package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// An arrangement is one row of the table in docs/servers.md.
type arrangement struct {
	server, setting string
	place           func(t *testing.T) place
	buffers         bool // the server holds what the handler flushes: the row that shows the problem
}

func (a arrangement) name() string {
	return strings.NewReplacer("`", "", "/", " ").Replace(a.server + " " + a.setting)
}

func nginxRow(path string) func(*testing.T) place {
	return func(t *testing.T) place { return onNginx(t, path) }
}

func apacheRow(path string) func(*testing.T) place {
	return func(t *testing.T) place { return onApache(t, path) }
}

func haproxyRow(noDelay bool) func(*testing.T) place {
	return func(t *testing.T) place { return onHAProxy(t, noDelay) }
}

func fcgidRow(server *lazy[string]) func(*testing.T) place {
	return func(t *testing.T) place { return onFcgid(t, server) }
}

func portRow(server *lazy[[]string], port int) func(*testing.T) place {
	return func(t *testing.T) place { return onPort(t, server, port) }
}

func cliRow(tty bool) func(*testing.T) place {
	return func(t *testing.T) place { return goCLI(t, tty) }
}

const (
	option     = "`NoProxyBuffering`"
	asItComes  = "default"
	lateBy     = 150 * time.Millisecond // after a step was let go on: the kernel's cork timer takes 200 ms
	slowLimit  = 64 << 20               // more than the kernels and servers in between can swallow in memory
	slowWrite  = 64 << 10
	goneWrites = 2000
)

var arrangements = []arrangement{
	{"net/http", asItComes, func(t *testing.T) place { return direct(t, &flush.Options{SendTimeout: 2 * time.Second}) }, false},
	{"nginx proxy_pass, HTTP/1.0", asItComes, nginxRow("/proxy10"), true},
	{"nginx proxy_pass, HTTP/1.0", option, nginxRow("/proxy10-option"), false},
	{"nginx proxy_pass, HTTP/1.0", "`proxy_buffering off`", nginxRow("/proxy10-off"), false},
	{"nginx proxy_pass, HTTP/1.1", asItComes, nginxRow("/proxy11"), false},
	{"nginx proxy_pass, HTTP/1.1", option, nginxRow("/proxy11-option"), false},
	{"nginx proxy_pass, HTTP/1.1", "`proxy_buffering off`", nginxRow("/proxy11-off"), false},
	{"nginx fastcgi_pass", asItComes, nginxRow("/fcgi"), true},
	{"nginx fastcgi_pass", option, nginxRow("/fcgi-option"), false},
	{"nginx fastcgi_pass", "`fastcgi_buffering off`", nginxRow("/fcgi-off"), false},
	{"Apache mod_cgid", asItComes, apacheRow("/cgi"), false},
	{"Apache mod_proxy_fcgi", asItComes, apacheRow("/fcgi"), true},
	{"Apache mod_proxy_fcgi", "`flushpackets=on`", apacheRow("/fcgi-flush"), false},
	{"Apache mod_proxy_http", asItComes, apacheRow("/http"), false},
	{"Apache mod_fcgid", asItComes, fcgidRow(apacheFcgid), true},
	{"Apache mod_fcgid", "`FcgidOutputBufferSize 0`", fcgidRow(apacheFcgidUnheld), false},
	{"HAProxy", asItComes, haproxyRow(false), false},
	{"HAProxy", "`option http-no-delay`", haproxyRow(true), false},
	{"lighttpd mod_proxy", asItComes, portRow(lighttpd, 0), true},
	{"lighttpd mod_proxy", "`server.stream-response-body = 1`", portRow(lighttpd, 1), false},
	{"Varnish", asItComes, portRow(varnish, 0), false},
	{"Caddy reverse_proxy", asItComes, portRow(caddy, 0), false},
	{"squid", asItComes, portRow(squid, 0), false},
	{"Node http-proxy", asItComes, portRow(node, 0), false},
	{"webpack-dev-server", asItComes, portRow(webpack, 0), false},
	{"command line, pipe", asItComes, cliRow(false), false},
	{"command line, terminal", asItComes, cliRow(true), false},
}

// A feature is one column: it runs a script at a place and says in a few words
// what was seen. want is what the committed table says; what is not expected
// to come is not waited for.
type feature struct {
	name    string
	observe func(t *testing.T, p place, want string) string
}

var features = []feature{
	{"headers first", func(t *testing.T, p place, want string) string {
		if _, ok := p.(cli); ok {
			got := walk(t, p, want, ask{}, "h:X-Step=1,f,p,w:one,f,p", "nothing", "one")
			if got == streamed {
				got = "no head; bytes " + streamed
			}
			return got
		}
		return walk(t, p, want, ask{}, "h:X-Step=1,f,p,w:one,f,p,w:two,f,p", "200", "200 one", "200 onetwo")
	}},
	{"step by step", func(t *testing.T, p place, want string) string {
		return walk(t, p, want, ask{}, "w:one,f,p,w:two,f,p,w:three,f,p,w:four", "200 one", "200 onetwo", "200 onetwothree", "200 onetwothreefour")
	}},
	{"implicit", func(t *testing.T, p place, want string) string {
		return walk(t, p, want, ask{}, "i:on,w:one,p,w:two,p,w:three,p", "200 one", "200 onetwo", "200 onetwothree")
	}},
	{"async", func(t *testing.T, p place, want string) string {
		return walk(t, p, want, ask{}, "w:one,a,p,w:two,a,p,w:three,a,p", "200 one", "200 onetwo", "200 onetwothree")
	}},
	{"gzip", func(t *testing.T, p place, want string) string {
		o := ask{header: map[string]string{"Accept-Encoding": "gzip"}}
		got := walk(t, p, want, o, "g,w:one,f,p,w:two,f,p,w:three,f,p", "200 one", "200 onetwo", "200 onetwothree")
		if _, ok := p.(cli); ok {
			got = "plain; " + got
		}
		return got
	}},
	{"HEAD", func(t *testing.T, p place, want string) string {
		if _, ok := p.(cli); ok {
			return "no methods"
		}
		return walk(t, p, want, ask{method: "HEAD"}, "h:X-Step=1,w:one,f,p", "200 end")
	}},
	{"client leaves", observeGone},
	{"client leaves, handler waits", observeLeft},
	{"handler aborts", observeCut},
	{"client does not read", observeSlow},
}

// What it comes to.
const (
	streamed  = "streamed"
	late      = "streamed, each step late"
	firstByte = "with the first byte"
	heldBack  = "held to the end"

	processEnded = "process ended"
	neverTold    = "never told"
	hangs        = "hangs"
)

// patience is how long to wait for what is expected, or might come.
func patience() time.Duration {
	if *update {
		return 2 * time.Second
	}
	return bound
}

// walk runs a script and compares, at each of its parks, what has arrived with
// what was flushed. wants has one more than the script has parks if there is
// output after the last.
func walk(t *testing.T, p place, expected string, o ask, script string, wants ...string) string {
	t.Helper()
	r := newRun(t)
	begin := time.Now()
	s := p.open(t, r, script, o)
	see := func(v view) view { return v.unzipped() }
	if !s.http {
		for i := range wants {
			wants[i] = strings.TrimPrefix(wants[i], "200 ")
		}
	}
	parks := strings.Count(","+script+",", ",p,")
	if o.method == http.MethodHead {
		// Apache gives the connection of a HEAD request to the next request as
		// soon as it has the headers. A ping there would wait for this handler.
		s.pings = nil
	}
	var seen []string
	// From before a step is written: a busy machine then makes a step later, and
	// none that the kernel has kept earlier.
	least := time.Hour
	for i, want := range wants[:parks] {
		r.parked(t)
		if expected != heldBack && !(expected == firstByte && i == 0) {
			s.reachWithin(patience(), func(v view) bool { return see(v).String() == want })
		}
		least = min(least, time.Since(begin))
		seen = append(seen, see(s.settle(t)).String())
		begin = time.Now()
		r.goOn()
	}
	v := see(s.reach(func(v view) bool { return v.closed }))
	final := strings.TrimSuffix(wants[len(wants)-1], " end")
	if v.header.Get("Content-Encoding") == "gzip" {
		final += "!"
	}
	if final += " end"; v.String() != final {
		t.Errorf("in the end %s has arrived, want %s", brief(v.String()), final)
	}
	if s.http && strings.Contains(script, "h:X-Step=1") && v.header.Get("X-Step") != "1" {
		t.Errorf("the handler's header is missing: %v", v.header)
	}
	all := func(want func(i int) string) bool {
		for i := range seen {
			if seen[i] != want(i) {
				return false
			}
		}
		return true
	}
	switch {
	case all(func(i int) string { return wants[i] }):
		if parks > 1 && least >= lateBy {
			return late
		}
		return streamed
	case all(func(int) string { return "nothing" }):
		return heldBack
	case seen[0] == "nothing" && all(func(i int) string { return []string{seen[0], wants[i]}[min(i, 1)] }):
		return firstByte
	}
	return "step by step: " + strings.Join(seen, "; ")
}

// observeGone closes the client's side and lets the handler write on.
//
// Apache's mod_cgid closes the program's standard output and then ends the
// program. Which of the two the handler meets first is chance, but while it
// parks it can only end that way.
func observeGone(t *testing.T, p place, want string) string {
	r := newRun(t)
	s := p.open(t, r, fmt.Sprintf("k,w:one,f,p,l:%d:32768,p", goneWrites), ask{})
	r.parked(t)
	// Whether the first step has arrived is not this column's business, but a
	// client leaves in the middle of a response where it can.
	s.settle(t)
	s.close()
	r.goOn()
	select {
	case results := <-r.arrived:
		if *update || strings.HasPrefix(want, processEnded) {
			select {
			case <-r.lost:
				return processEnded + s.how()
			case <-time.After(patience()):
			}
		}
		r.goOn()
		return tell(results[len(results)-1], neverTold)
	case <-r.lost:
		return processEnded + s.how()
	case <-time.After(2 * bound):
		t.Fatal("the handler neither fails nor ends")
		return ""
	}
}

// observeLeft closes the client's side while the handler waits for something
// else, its context beside it.
func observeLeft(t *testing.T, p place, want string) string {
	r := newRun(t)
	s := p.open(t, r, "k,w:one,f,q,p", ask{})
	r.parked(t) // in q
	s.settle(t)
	s.close()
	wait := patience()
	if want == neverTold {
		// What the servers in between do about a client that has left, they have
		// done before they answer another.
		if s.pings != nil {
			s.pings()
		}
		wait = 0
	}
	select {
	case results := <-r.arrived:
		r.goOn()
		return results[len(results)-1]
	case <-r.lost:
		return processEnded + s.how()
	case <-time.After(wait):
	}
	close(r.enough)
	results := r.parked(t)
	r.goOn()
	return results[len(results)-1]
}

// observeCut looks at how a response ends whose handler gives it up.
func observeCut(t *testing.T, p place, want string) string {
	r := newRun(t)
	s := p.open(t, r, "w:one,f,p,cut", ask{})
	r.parked(t)
	s.settle(t)
	r.goOn()
	var v view
	if want == hangs {
		v = s.settle(t)
	} else {
		v = s.reachWithin(patience(), func(v view) bool { return v.closed })
	}
	switch {
	case !v.closed:
		return hangs
	case v.status >= http.StatusInternalServerError:
		return fmt.Sprintf("`%d`", v.status)
	case v.ended:
		return "looks whole" + s.how()
	}
	return "cut"
}

// observeSlow reads nothing until the handler has written all or has failed.
func observeSlow(t *testing.T, p place, want string) string {
	r := newRun(t)
	s := p.open(t, r, fmt.Sprintf("w:one,f,l:%d:%d,p", slowLimit/slowWrite, slowWrite), ask{small: true})
	results := r.parked(t)
	said := tell(results[len(results)-1], "absorbed")
	r.goOn()
	silence := patience()
	if strings.HasSuffix(want, hangs) {
		silence = time.Second
	}
	n, tail := s.rest(silence)
	switch {
	case !s.closed:
		return said + ", then " + hangs
	case said == "absorbed" && n < slowLimit:
		t.Errorf("of %d bytes absorbed the client got %d", slowLimit, n)
	case s.whole(n, tail):
		if n == 0 {
			t.Error("the client got nothing")
		}
		return said + ", then delivered"
	}
	return said + ", then cut"
}

// tell puts the result of a loop of writes in the words of the table.
func tell(result, ok string) string {
	switch result {
	case "ok":
		return ok
	case "client aborted":
		return "`ErrClientGone`"
	case "timeout":
		return "`ErrTimeout`"
	}
	return result
}

func TestMatrix(t *testing.T) {
	table := readTable(t)
	for _, a := range arrangements {
		t.Run(a.name(), func(t *testing.T) {
			p := a.place(t)
			for _, f := range features {
				t.Run(f.name, func(t *testing.T) {
					want := table.cell(a, f)
					got := f.observe(t, p, want)
					t.Log(got)
					table.saw(a, f, got)
					if f.name == "step by step" && a.buffers != (got == heldBack) {
						t.Errorf("%s; this row is there to show the other", got)
					}
					if !*update && got != want {
						t.Errorf("%s; docs/servers.md says %q", got, want)
					}
				})
			}
		})
	}
	table.write(t)
}
