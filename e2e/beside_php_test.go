package e2e

import (
	"strings"
	"testing"

	"github.com/fa492104/flush"
)

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
