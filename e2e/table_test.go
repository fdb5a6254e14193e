package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const serversFile = "../docs/servers.md"

// serversTable is docs/servers.md: what it says and what this run has seen.
type serversTable struct {
	said map[string]string // by arrangement and feature
	seen map[string]string
}

func cellKey(server, setting, feature string) string { return server + "|" + setting + "|" + feature }

func readTable(t *testing.T) *serversTable {
	t.Helper()
	table := &serversTable{said: map[string]string{}, seen: map[string]string{}}
	text, err := os.ReadFile(serversFile)
	if err != nil {
		if *update && os.IsNotExist(err) {
			return table
		}
		t.Fatal(err)
	}
	var heads []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "|") {
			heads = nil
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if heads == nil {
			heads = cells
			continue
		}
		for i := 2; i < min(len(cells), len(heads)); i++ {
			table.said[cellKey(cells[0], cells[1], heads[i])] = cells[i]
		}
	}
	return table
}

func (s *serversTable) cell(a arrangement, f feature) string {
	return s.said[cellKey(a.server, a.setting, f.name)]
}

func (s *serversTable) saw(a arrangement, f feature, what string) {
	s.seen[cellKey(a.server, a.setting, f.name)] = what
}

// write puts the table in place under -update, and only a whole one.
func (s *serversTable) write(t *testing.T) {
	t.Helper()
	if !*update || t.Failed() {
		return
	}
	var b strings.Builder
	b.WriteString(serversHead)
	fmt.Fprintf(&b, "Seen with %s.\n\n", versions())
	b.WriteString("| server | setting |")
	for _, f := range features {
		fmt.Fprintf(&b, " %s |", f.name)
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(features)) + "\n")
	for _, a := range arrangements {
		fmt.Fprintf(&b, "| %s | %s |", a.server, a.setting)
		for _, f := range features {
			what := s.seen[cellKey(a.server, a.setting, f.name)]
			if what == "" {
				t.Fatalf("no observation of %s, %s, %s: -update needs every server", a.server, a.setting, f.name)
			}
			fmt.Fprintf(&b, " %s |", what)
		}
		b.WriteString("\n")
	}
	b.WriteString(serversFoot)
	if err := os.WriteFile(serversFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// versions names the servers of this run.
func versions() string {
	var all []string
	for _, c := range []struct {
		name  string
		argv  []string
		match string
	}{
		{"Go", []string{"go", "env", "GOVERSION"}, `go(\S+)`},
		{"nginx", []string{program("nginx"), "-v"}, `nginx/(\S+)`},
		{"Apache", []string{program("apache2"), "-v"}, `Apache/(\S+)`},
		{"HAProxy", []string{program("haproxy"), "-v"}, `version ([\d.]+)`},
		{"lighttpd", []string{program("lighttpd"), "-v"}, `lighttpd/(\S+)`},
		{"Varnish", []string{program("varnishd"), "-V"}, `varnish-(\S+)`},
		{"Caddy", []string{program("caddy"), "version"}, `v?(\d\S+)`},
		{"squid", []string{program("squid"), "-v"}, `Version (\S+)`},
		{"http-proxy", []string{program("node"), "-p", "require('" + nodeModules + "http-proxy/package.json').version"}, `(\S+)`},
		{"webpack-dev-server", []string{program("node"), "-p", "require('" + npmModules + "/webpack-dev-server/package.json').version"}, `(\S+)`},
	} {
		out, _ := exec.Command(c.argv[0], c.argv[1:]...).CombinedOutput()
		if m := regexp.MustCompile(c.match).FindSubmatch(out); m != nil {
			all = append(all, c.name+" "+string(m[1]))
		}
	}
	return strings.Join(all, ", ")
}

const serversHead = `# What servers make of a flush

` + "`e2e/run -update`" + ` has written this table, and every run of ` + "`e2e/run`" + ` checks it. One handler, the same everywhere, writes and
flushes step by step and stops after each step until the test lets it go on; the client looks at what has arrived
meanwhile. How to set the servers up is in [web-servers.md](web-servers.md).

`

const serversFoot = `
What the cells say:

- **streamed**: at every step everything flushed up to there had arrived, and nothing else, before the handler went on.
- **held to the end**: nothing had arrived before the handler returned, however often it flushed.
- **with the first byte**: the headers came with the first output, and everything from then on as flushed. nginx passes
  a FastCGI head on by itself only if its record happens to need no padding, one length in eight.
- **each step late**: everything arrived before the handler went on, but only after the kernel's cork timer, 200 ms on
  Linux: HAProxy tells the kernel that more will follow whenever it forwards a chunk. Its ` + "`option http-no-delay`" + ` ends that.

The columns:

- *headers first*: a flush with no output yet sends the headers. A command line has none on its wire.
- *implicit*: no flush in the handler; ` + "`SetImplicit(Wait)`" + `.
- *async*: ` + "`flush.Flush(w, false)`" + `.
- *gzip*: the ` + "`Gzip`" + ` filter; the client decodes what it has before the handler goes on. A command line has no
  Accept-Encoding, so its output stays plain.
- *HEAD*: the headers arrive at the flush, and no body ever.
- *client leaves*: after the first step the client closes; the handler goes on writing up to 64 MB. What its Write or
  flush returns. *process ended*: the server, or the hang-up of the terminal, ended the handler's process.
- *client leaves, handler waits*: after the first step the client closes while the handler waits for something else. *told*:
  the context of its request ends. *never told*: it does not, and a write is what tells.
- *handler aborts*: after the first step the handler gives the response up (` + "`Flusher.Abort`" + `, a panic). *cut*: the client sees
  that the response is not whole. *looks whole*: it does not. *hangs*: the response stays open.
- *client does not read*: the handler writes up to 64 MB with a SendTimeout of 2 s, flushing and waiting, and the client
  reads nothing until the handler has finished or failed. *absorbed*: the servers in between took it all. ` + "`ErrTimeout`" + `:
  the handler was told. Then the client reads: *delivered* is everything up to there and a proper end, *cut* a broken one,
  and if it *hangs* there is none.

What to know besides:

- The settings are the servers' own, save ` + "`NoProxyBuffering`" + `: that is an option of this library and needs no access to the
  server. The response then says ` + "`X-Accel-Buffering: no`" + `. nginx heeds it, Apache and HAProxy do not.
- NoProxyBuffering works when a flush sends the headers. A first Write of more than BufferSize (4 KiB) sends them before any
  flush: flush something small first, if only the headers.
- nginx speaks HTTP/1.0 to its upstreams by default. There the end of the connection is the end of the response, and a
  response that was cut looks complete to the client: *` + "`ErrTimeout`" + `, then delivered*. With ` + "`proxy_http_version 1.1`" + ` the client
  sees the cut.
- Apache gives a backend's connection to the next request as soon as it has the headers of a response to HEAD. A handler
  that goes on after flushing one holds that request up.
- Most servers in between do not tell a handler that waits that its client has left: it learns from a write. One that waits for
  long writes something now and then, as a comment in a stream of events.
- A client can take a response that was cut for a whole one, or wait for the rest. Where that matters the stream ends with a
  mark of its own.
`
