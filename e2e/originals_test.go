package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// A scenario is a script that an original and this library run in the same
// arrangement, and what has arrived at each park and in the end.
type scenario struct {
	name   string
	script string
	ask    ask
	want   []string
	// Where the server in front of FastCGI changes the picture for both.
	fcgi []string
	// On the command line; nil: want without the heads.
	cli []string
	// What the original does that this library does not, by the name of the
	// original. The reason stands beside it and in docs/parity.md.
	differs map[string][]string
	check   func(t *testing.T, v view)
}

// The reasons for differences.
//
//   - php-cgi as a CGI program writes each output to its pipe at once, as the
//     command line does. FPM and mod_php wait for a flush, and so do we;
//     Options{BufferSize: -1} is the other behaviour.
//   - PHP before 8.4 sends no headers by a flush on CGI and FastCGI. We do. On
//     FastCGI nginx and Apache keep headers without a body to themselves, so that
//     there the client sees no difference.
var phpScenarios = []scenario{
	{
		name:   "a flush sends what was written",
		script: "w:one,f,p,w:two,f,p,w:three",
		want:   []string{"200 one", "200 onetwo", "200 onetwothree end"},
	},
	{
		name:   "a flush before any output sends the headers",
		script: "h:X-Step=1,f,p,w:one,f,p,w:two",
		want:   []string{"200", "200 one", "200 onetwo end"},
		fcgi:   []string{"nothing", "200 one", "200 onetwo end"},
		differs: map[string][]string{
			"php-cgi": {"nothing", "200 one", "200 onetwo end"},
		},
		check: func(t *testing.T, v view) {
			if v.header.Get("X-Step") != "1" || v.header.Get("Content-Type") != "text/html; charset=UTF-8" {
				t.Errorf("headers %v", v.header)
			}
		},
	},
	{
		name:   "a flush before any output sends the status",
		script: "s:404,f,p,w:one",
		want:   []string{"404", "404 one end"},
		fcgi:   []string{"nothing", "404 one end"},
		differs: map[string][]string{
			"php-cgi": {"nothing", "404 one end"},
		},
	},
	{
		name:   "without a flush nothing is sent before the end",
		script: "w:one,p,w:two,p",
		want:   []string{"nothing", "nothing", "200 onetwo end"},
		cli:    []string{"one", "onetwo", "onetwo end"},
		differs: map[string][]string{
			"php-cgi": {"200 one", "200 onetwo", "200 onetwo end"},
		},
	},
	{
		name:   "one flush for two writes",
		script: "w:one,w:two,p,f,p,w:three",
		want:   []string{"nothing", "200 onetwo", "200 onetwothree end"},
		cli:    []string{"onetwo", "onetwo", "onetwothree end"},
		differs: map[string][]string{
			"php-cgi": {"200 onetwo", "200 onetwo", "200 onetwothree end"},
		},
	},
	{
		name:   "implicit flush follows each output while it is on",
		script: "i:on,w:one,p,w:two,p,i:off,w:three,p",
		want:   []string{"200 one", "200 onetwo", "200 onetwo", "200 onetwothree end"},
		differs: map[string][]string{
			"php-cgi": {"200 one", "200 onetwo", "200 onetwothree", "200 onetwothree end"},
			"php-cli": {"one", "onetwo", "onetwothree", "onetwothree end"},
		},
	},
	{
		name:   "empty output and headers do not flush implicitly",
		script: "i:on,z,h:X-Step=1,p,w:one,p",
		want:   []string{"nothing", "200 one", "200 one end"},
	},
	{
		name:   "control characters flush implicitly",
		script: "h:Content-Type=text/plain,i:on,n:,p,n:,p",
		want:   []string{`200 \n`, `200 \n\n`, `200 \n\n end`},
	},
	{
		name:   "switching implicit flush on flushes nothing",
		script: "w:one,i:on,p,w:two,p",
		want:   []string{"nothing", "200 onetwo", "200 onetwo end"},
		cli:    []string{"one", "onetwo", "onetwo end"},
		differs: map[string][]string{
			"php-cgi": {"200 one", "200 onetwo", "200 onetwo end"},
		},
	},
	{
		name:   "a flush does not reach into user-level buffers",
		script: "b,w:one,f,p,bf,p,f,p,be",
		want:   []string{"200", "200", "200 one", "200 one end"},
		fcgi:   []string{"nothing", "nothing", "200 one", "200 one end"},
		cli:    []string{"nothing", "one", "one", "one end"},
		differs: map[string][]string{
			"php-cgi": {"nothing", "200 one", "200 one", "200 one end"},
		},
	},
	{
		name:   "user-level buffers first, then the flush",
		script: "b,w:one,bf,f,p,w:two,bf,f,p",
		want:   []string{"200 one", "200 onetwo", "200 onetwo end"},
	},
	{
		name:   "implicit flush waits for user-level buffers",
		script: "i:on,b,w:one,p,bf,p,w:two,p,be,p",
		want:   []string{"nothing", "200 one", "200 one", "200 onetwo", "200 onetwo end"},
	},
	{
		name:   "headers stay open above a user-level buffer",
		script: "b,w:one,h:X-Step=1,s:404,be,f,p,w:two",
		want:   []string{"404 one", "404 onetwo end"},
		check: func(t *testing.T, v view) {
			if v.header.Get("X-Step") != "1" {
				t.Errorf("headers %v", v.header)
			}
		},
	},
	{
		name:   "headers are closed after the flush",
		script: "w:one,f,h:X-Step=1,p,w:two",
		want:   []string{"200 one", "200 onetwo end"},
		check: func(t *testing.T, v view) {
			if v.header.Get("X-Step") != "" {
				t.Errorf("headers %v", v.header)
			}
		},
	},
	{
		name:   "a cleaned buffer is not sent",
		script: "b,w:one,bc,w:two,be,f,p",
		want:   []string{"200 two", "200 two end"},
	},
	{
		name:   "the end sends what the buffers hold",
		script: "b,w:one,b,w:two,p",
		want:   []string{"nothing", "200 onetwo end"},
	},
	{
		name:   "the end sends the headers if there was no output",
		script: "h:X-Step=1,p",
		want:   []string{"nothing", "200 end"},
		cli:    []string{"nothing", "nothing end"},
		check: func(t *testing.T, v view) {
			if v.header.Get("X-Step") != "1" {
				t.Errorf("headers %v", v.header)
			}
		},
	},
	{
		name:   "a flush to HTTP/1.0",
		script: "w:one,f,p,w:two,f,p",
		ask:    ask{proto: "HTTP/1.0"},
		want:   []string{"200 one", "200 onetwo", "200 onetwo end"},
	},
	{
		name:   "a flush closes the door for a compressing buffer",
		script: "f,g,w:one,p,w:two",
		ask:    ask{header: map[string]string{"Accept-Encoding": "gzip"}},
		want:   []string{"200", "200 onetwo end"},
		fcgi:   []string{"nothing", "200 onetwo end"},
		differs: map[string][]string{
			"php-cgi": {"nothing", "200 onetwo! end"},
			"fpm":     {"nothing", "200 onetwo! end"},
		},
	},
	{
		name:   "a buffer that compresses",
		script: "g,w:one,p,w:two",
		ask:    ask{header: map[string]string{"Accept-Encoding": "gzip"}},
		want:   []string{"nothing", "200 onetwo end"},
		differs: map[string][]string{
			// The filter leaves a body under 512 bytes alone.
			"php-cgi": {"nothing", "200 onetwo! end"},
			"fpm":     {"nothing", "200 onetwo! end"},
			"mod_php": {"nothing", "200 onetwo! end"},
		},
	},
}

// phpPairs are PHP and this library behind the same server, in the same place.
var phpPairs = []struct {
	name        string
	original    string // the key of scenario.differs
	theirs      func(t *testing.T) place
	ours        func(t *testing.T) place
	fcgi        bool
	commandLine bool
}{
	{"nginx and PHP-FPM", "fpm", nginxRow("/fpm"), nginxRow("/fcgi-off"), true, false},
	{"Apache and PHP-FPM", "fpm", apacheRow("/fpm-flush"), apacheRow("/fcgi-flush"), true, false},
	{"Apache with mod_php", "mod_php", modPHP, func(t *testing.T) place {
		return direct(t, &flush.Options{SAPI: flush.Apache2Handler()})
	}, false, false},
	{"Apache and php-cgi", "php-cgi", apacheRow("/php-cgi"), apacheRow("/cgi"), false, false},
	{"pipe", "php-cli", func(t *testing.T) place { return phpCLI(t, false) }, cliRow(false), false, true},
	{"terminal", "php-cli", func(t *testing.T) place { return phpCLI(t, true) }, cliRow(true), false, true},
}

func modPHP(t *testing.T) place { return web{apachePHP.get(t), "/php"} }

// TestBesidePHP runs each scenario in PHP and in Go.
func TestBesidePHP(t *testing.T) {
	if v := phpVersion(); v >= "8.4" {
		t.Errorf("PHP %s sends headers by a flush on FastCGI: take the differences out", v)
	}
	for _, s := range phpScenarios {
		t.Run(s.name, func(t *testing.T) {
			for _, p := range phpPairs {
				t.Run(p.name, func(t *testing.T) {
					want := s.want
					switch {
					case p.fcgi && s.fcgi != nil:
						want = s.fcgi
					case p.commandLine && s.cli != nil:
						want = s.cli
					case p.commandLine:
						want = headless(s.want)
					}
					theirs := s.of(t, p.original, want)
					t.Run("PHP", func(t *testing.T) { s.run(t, p.theirs(t), theirs) })
					t.Run("Go", func(t *testing.T) { s.run(t, p.ours(t), want) })
				})
			}
		})
	}
}

// of is what the original does where this library does want.
func (s scenario) of(t *testing.T, original string, want []string) []string {
	t.Helper()
	d := s.differs[original]
	if d == nil {
		return want
	}
	if slices.Equal(d, want) {
		t.Error("the difference is none")
	}
	return d
}

// headless takes the status off.
func headless(want []string) (out []string) {
	for _, w := range want {
		_, w, _ = strings.Cut(w, " ")
		if w == "" {
			w = "nothing"
		}
		out = append(out, w)
	}
	return out
}

// run steps through the scenario and returns the results at the last park.
func (s scenario) run(t *testing.T, p place, want []string) (results []string) {
	t.Helper()
	r := newRun(t)
	c := p.open(t, r, s.script, s.ask)
	for _, w := range want[:len(want)-1] {
		results = r.parked(t)
		if w != "nothing" {
			c.reach(func(v view) bool { return v.unzipped().String() == w })
		}
		if got := c.settle(t).unzipped().String(); got != w {
			t.Errorf("%s while the handler waits: %s has arrived, want %s", s.script, brief(got), w)
		}
		r.goOn()
	}
	v := c.reach(func(v view) bool { return v.closed }).unzipped()
	if w := want[len(want)-1]; v.String() != w {
		t.Errorf("%s in the end: %s has arrived, want %s", s.script, brief(v.String()), w)
	}
	if s.check != nil && c.http {
		s.check(t, v)
	}
	return results
}

// TestBesidePHPClientLeaves closes the client's side in the middle: both sides
// learn of it by a write that fails. (Apache ends a CGI program, see docs/servers.md.)
func TestBesidePHPClientLeaves(t *testing.T) {
	for _, p := range phpPairs {
		if p.original == "php-cgi" || p.name == "terminal" {
			continue
		}
		for side, at := range map[string]func(*testing.T) place{"PHP": p.theirs, "Go": p.ours} {
			t.Run(p.name+" "+side, func(t *testing.T) {
				if got := clientLeaves(t, at(t)); got != "client aborted" {
					t.Errorf("the handler was told %q", got)
				}
			})
		}
	}
}

// clientLeaves has a client that closes in the middle, and returns what the
// handler is told at last.
func clientLeaves(t *testing.T, p place) string {
	t.Helper()
	r := newRun(t)
	s := p.open(t, r, "w:one,f,p,l:2000:32768,p", ask{})
	r.parked(t)
	s.reach(func(v view) bool { return len(v.body) > 0 })
	s.close()
	r.goOn()
	results := r.parked(t)
	r.goOn()
	return results[len(results)-1]
}

// A luaScenario also has the results of the flushes at the last park.
type luaScenario struct {
	scenario
	http10off bool     // lua_http10_buffering off; HTTP10Buffer: -1
	results   []string // of both
	theirs    []string // where ngx.flush says something else; see docs/parity.md
}

var luaScenarios = []luaScenario{
	{
		scenario: scenario{
			name:   "a flush that waits",
			script: "w:one,f,p,w:two,f,p,w:three",
			want:   []string{"200 one", "200 onetwo", "200 onetwothree end"},
		},
		results: []string{"ok", "ok"},
	},
	{
		scenario: scenario{
			name:   "a flush that does not wait",
			script: "w:one,a,p,w:two,a,p,w:three",
			want:   []string{"200 one", "200 onetwo", "200 onetwothree end"},
		},
		results: []string{"ok", "ok"},
	},
	{
		scenario: scenario{
			name:   "without a flush nothing is sent before the end",
			script: "w:one,p,w:two,p",
			want:   []string{"nothing", "nothing", "200 onetwo end"},
		},
	},
	{
		scenario: scenario{
			name:   "a flush again and again",
			script: "w:one,f,f,a,p",
			want:   []string{"200 one", "200 one end"},
		},
		results: []string{"ok", "ok", "ok"},
	},
	{
		scenario: scenario{
			name:   "a flush before any output leaves the status open",
			script: "f,a,p,s:404,w:one,f,p",
			want:   []string{"nothing", "404 one", "404 one end"},
		},
		results: []string{"ok", "ok", "ok"},
		theirs:  []string{"nothing to flush", "nothing to flush", "ok"},
	},
	{
		scenario: scenario{
			name:   "headers, then a flush that waits",
			script: "h:X-Step=1,H,f,p,w:one,f,p",
			want:   []string{"200", "200 one", "200 one end"},
			check: func(t *testing.T, v view) {
				if v.header.Get("X-Step") != "1" || v.header.Get("Content-Type") != "text/plain" {
					t.Errorf("headers %v", v.header)
				}
			},
		},
		results: []string{"ok", "ok", "ok"},
	},
	{
		scenario: scenario{
			name:    "headers alone",
			script:  "h:X-Step=1,H,p,w:one,f,p",
			want:    []string{"200", "200 one", "200 one end"},
			differs: map[string][]string{"ngx": {"nothing", "200 one", "200 one end"}},
		},
		results: []string{"ok", "ok"},
	},
	{
		scenario: scenario{
			name:    "headers, then a flush that does not wait",
			script:  "h:X-Step=1,H,a,p,w:one,f,p",
			want:    []string{"200", "200 one", "200 one end"},
			differs: map[string][]string{"ngx": {"nothing", "200 one", "200 one end"}},
		},
		results: []string{"ok", "ok", "ok"},
		theirs:  []string{"ok", "nothing to flush", "ok"},
	},
	{
		scenario: scenario{
			name:    "printing nothing",
			script:  "z,f,p,w:one,f,p",
			want:    []string{"nothing", "200 one", "200 one end"},
			differs: map[string][]string{"ngx": {"200", "200 one", "200 one end"}},
		},
		results: []string{"ok", "ok"},
	},
	{
		scenario: scenario{
			name:   "status and headers are closed after the output",
			script: "w:one,f,h:X-Step=1,s:404,p,w:two",
			want:   []string{"200 one", "200 onetwo end"},
			check: func(t *testing.T, v view) {
				if v.header.Get("X-Step") != "" {
					t.Errorf("headers %v", v.header)
				}
			},
		},
		results: []string{"ok"},
	},
	{
		scenario: scenario{
			name:   "HTTP/1.0 is buffered",
			script: "w:one,f,p,w:two,a,p",
			ask:    ask{proto: "HTTP/1.0"},
			want:   []string{"nothing", "nothing", "200 onetwo end"},
			check: func(t *testing.T, v view) {
				if v.header.Get("Content-Length") != "6" {
					t.Errorf("headers %v", v.header)
				}
			},
		},
		results: []string{"buffering", "buffering"},
	},
	{
		scenario: scenario{
			name:   "HTTP/1.0, buffering off",
			script: "w:one,f,p,w:two,a,p",
			ask:    ask{proto: "HTTP/1.0"},
			want:   []string{"200 one", "200 onetwo", "200 onetwo end"},
			check: func(t *testing.T, v view) {
				if v.framed {
					t.Errorf("headers %v", v.header)
				}
			},
		},
		http10off: true,
		results:   []string{"ok", "ok"},
	},
	{
		scenario: scenario{
			name:   "HTTP/1.0 with a Content-Length is not buffered",
			script: "h:Content-Length=9,w:one,f,p,w:two,a,p,w:end",
			ask:    ask{proto: "HTTP/1.0"},
			want:   []string{"200 one", "200 onetwo", "200 onetwoend end"},
			check: func(t *testing.T, v view) {
				if v.header.Get("Content-Length") != "9" {
					t.Errorf("headers %v", v.header)
				}
			},
		},
		results: []string{"ok", "ok"},
	},
	{
		scenario: scenario{
			name:   "HTTP/1.0, a flush before any output",
			script: "f,p,w:one,a,p",
			ask:    ask{proto: "HTTP/1.0"},
			want:   []string{"nothing", "nothing", "200 one end"},
		},
		results: []string{"buffering", "buffering"},
		theirs:  []string{"nothing to flush", "buffering"},
	},
	{
		scenario: scenario{
			name:   "HEAD",
			script: "h:X-Step=1,w:one,f,a,p",
			ask:    ask{method: "HEAD"},
			want:   []string{"200 end", "200 end"},
		},
		results: []string{"ok", "ok"},
		theirs:  []string{"header only", "header only"},
	},
	{
		scenario: scenario{
			name:    "after the end",
			script:  "w:one,f,eof,p,f,a,p",
			want:    []string{"200 one", "200 one", "200 one end"},
			differs: map[string][]string{"ngx": {"200 one end", "200 one end", "200 one end"}},
		},
		results: []string{"ok", "seen eof", "seen eof"},
	},
}

// TestBesideLua runs each scenario in ngx_http_lua and in Go with the profile
// OpenResty.
func TestBesideLua(t *testing.T) {
	for _, s := range luaScenarios {
		t.Run(s.name, func(t *testing.T) {
			path, opts := "/lua", flush.Options{}
			if s.http10off {
				path, opts.HTTP10Buffer = "/lua-http10-off", -1
			}
			for side, at := range luaPair(path, opts) {
				want, results := s.want, s.results
				if side == "Lua" {
					want = s.of(t, "ngx", want)
					if s.theirs != nil {
						results = s.theirs
					}
				}
				t.Run(side, func(t *testing.T) {
					if got := s.run(t, at(t), want); !slices.Equal(got, results) {
						t.Errorf("%s: results %q, want %q", s.script, got, results)
					}
				})
			}
		})
	}
}

// luaPair is ngx_http_lua and this library in the same place.
func luaPair(path string, opts flush.Options) map[string]func(*testing.T) place {
	opts.SAPI = flush.OpenResty()
	return map[string]func(*testing.T) place{
		"Lua": nginxRow(path),
		"Go":  func(t *testing.T) place { return direct(t, &opts) },
	}
}

// TestBesideLuaDoesNotWait has a client that reads nothing while 32 MiB are
// written and flushed without waiting. (The library's bound has to be lifted for
// that: MaxPending. nginx has none.) Then the client gets every byte.
func TestBesideLuaDoesNotWait(t *testing.T) {
	const size = 32 << 20
	for side, at := range luaPair("/lua", flush.Options{MaxPending: 2 * size}) {
		t.Run(side, func(t *testing.T) {
			r := newRun(t)
			s := at(t).open(t, r, fmt.Sprintf("w:one,a,x:%d,a,p,w:two", size), ask{small: true})
			if got := r.parked(t); !slices.Equal(got, []string{"ok", "ok"}) {
				t.Errorf("the flushes returned %q", got)
			}
			r.goOn()
			if n, tail := s.rest(t); n < size || !strings.HasSuffix(string(tail), "0\r\n\r\n") {
				t.Errorf("the client got %d bytes that end in %q", n, tail)
			}
		})
	}
}

// TestBesideLuaTimeout has a client that does not read: send_timeout 3s and
// SendTimeout. The flush that waits holds up nobody else: another request, to the
// same worker of nginx, is answered meanwhile.
func TestBesideLuaTimeout(t *testing.T) {
	for side, at := range luaPair("/lua-timeout", flush.Options{SendTimeout: 3 * time.Second}) {
		t.Run(side, func(t *testing.T) {
			r := newRun(t)
			s := at(t).open(t, r, "w:one,f,p,l:1024:65536,p", ask{small: true})
			r.parked(t)
			r.goOn()
			s.pings()
			select {
			case <-r.arrived:
				t.Error("the flush that waits was over before the other requests were")
			default:
			}
			results := r.parked(t)
			r.goOn()
			if got := results[len(results)-1]; got != "timeout" {
				t.Errorf("the flush returned %q", got)
			}
			if _, tail := s.rest(t); strings.HasSuffix(string(tail), "0\r\n\r\n") {
				t.Error("the client takes the response for complete")
			}
		})
	}
}

// TestBesideLuaClientLeaves has a client that closes in the middle.
func TestBesideLuaClientLeaves(t *testing.T) {
	for side, at := range luaPair("/lua", flush.Options{}) {
		t.Run(side, func(t *testing.T) {
			got := clientLeaves(t, at(t))
			if got != "client aborted" && !(side == "Lua" && got == "nginx output filter error") {
				t.Errorf("the flush returned %q", got)
			}
		})
	}
}
