package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

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
			if n, tail := s.rest(bound); n < size || !strings.HasSuffix(string(tail), "0\r\n\r\n") {
				t.Errorf("the client got %d bytes that end in %q", n, tail)
			}
		})
	}
}

// TestBesideLuaTimeout has a client that does not read: send_timeout 3s and
// SendTimeout. The flush that waits holds up nobody else: another request, to the
// same worker of nginx, is answered meanwhile. A busy machine may take the three
// seconds for that, but hardly three times.
func TestBesideLuaTimeout(t *testing.T) {
	for side, at := range luaPair("/lua-timeout", flush.Options{SendTimeout: 3 * time.Second}) {
		t.Run(side, func(t *testing.T) {
			p := at(t)
			for range 3 {
				if answered := besideATimeout(t, p); answered || t.Failed() {
					return
				}
			}
			t.Error("the flush that waits was over before the other requests were")
		})
	}
}

// besideATimeout has one such client, and reports whether other requests were
// answered while its flush waited.
func besideATimeout(t *testing.T, p place) (answered bool) {
	t.Helper()
	r := newRun(t)
	s := p.open(t, r, "w:one,f,p,l:1024:65536,p", ask{small: true})
	r.parked(t)
	r.goOn()
	s.pings()
	var results []string
	select {
	case results = <-r.arrived:
	default:
		answered = true
		results = r.parked(t)
	}
	r.goOn()
	if got := results[len(results)-1]; got != "timeout" {
		t.Errorf("the flush returned %q", got)
	}
	if _, tail := s.rest(bound); strings.HasSuffix(string(tail), "0\r\n\r\n") {
		t.Error("the client takes the response for complete")
	}
	return answered
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
