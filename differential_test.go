package flush_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// A diffCase is one request to one handler, which runs bare and wrapped.
type diffCase struct {
	name    string
	handler http.HandlerFunc
	setup   func(t *testing.T) http.Handler // instead of handler, if that needs t

	method string // "": GET
	path   string // "": /
	upload string // request body, with a Content-Length
	chunky bool   // upload without a Content-Length
	lines  []string
	only   []proto // nil: all

	// open: a buffer holds the output when the handler sets what bare is too
	// late, and this is what the headers say then. nil: it is too late.
	open http.Header

	// unmeasured: the handler switches the automatic Content-Length off, flushes
	// by other means than flushNow, or copies a file, which goes to the server at
	// once for sendfile.
	unmeasured bool
}

// A variant is a way to send the request.
type variant struct {
	name  string
	proto proto
	lines []string
}

var variants = []variant{
	{"http1", http1, nil},
	{"http10", http10, nil},
	{"http10-keepalive", http10, []string{"Connection: keep-alive"}},
	{"h2", h2, nil},
}

// seen is everything about one response that its client, its handler or its
// operator could see.
type seen struct {
	Head    []string // status line, then the header lines in alphabetical order
	Interim []string
	Body    string
	Trailer []string
	End     ending
	Reused  bool     // the connection took another request
	Served  []string // the requests that the server saw, but for that one
	Notes   []string // what the handler saw
	Log     []string

	did
}

// did is what a handler did, as far as a rule needs to know.
type did struct {
	writes   []string // what was passed to put
	flushed  int      // bytes passed to put when it last called flushNow; -1: it did not
	early    bool     // it set a trailer with the prefix before the body
	late     []string // trailers with the prefix, set after the body
	died     bool     // by a panic or Goexit
	hijack   bool
	longFile bool // it copied a file longer than the Content-Length
	limited  bool // it met the limit of http.MaxBytesReader
}

// wrote is everything the handler passed to put.
func (d *did) wrote() string { return strings.Join(d.writes, "") }

// A sighting collects what a handler sees and does. It travels in the server's
// context.
type sighting struct {
	mu    sync.Mutex
	notes []string
	seen  []string // the requests
	did   did
	temp  string // a temporary file that the server should remove
}

type recordKey struct{}

func recordOf(r *http.Request) *sighting { return r.Context().Value(recordKey{}).(*sighting) }

// note is for handlers: the format's text must be the same bare and wrapped.
func note(r *http.Request, format string, args ...any) {
	rec := recordOf(r)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.notes = append(rec.notes, fmt.Sprintf(format, args...))
}

// put writes s and notes what is remarkable about the result.
func put(w http.ResponseWriter, r *http.Request, s string) {
	rec := recordOf(r)
	rec.mu.Lock()
	rec.did.writes = append(rec.did.writes, s)
	rec.mu.Unlock()
	if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
		note(r, "write of %d: %d, %v", len(s), n, err)
	}
}

// flushNow flushes as existing handlers do, and notes an error.
func flushNow(w http.ResponseWriter, r *http.Request) {
	rec := recordOf(r)
	rec.mu.Lock()
	rec.did.flush()
	rec.mu.Unlock()
	if err := http.NewResponseController(w).Flush(); err != nil {
		note(r, "flush: %v", err)
	}
}

func (d *did) flush() { d.flushed = len(d.wrote()) }

// observe runs one case once. The log comes later: see settle.
func observe(t *testing.T, v variant, c diffCase, wrap func(http.Handler) http.Handler) *observation {
	var h http.Handler = c.handler
	if c.setup != nil {
		h = c.setup(t)
	}
	h = wrap(h)
	o := &observation{rec: &sighting{did: did{flushed: -1}}}
	o.srv = start(t, &server{proto: v.proto}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/again" {
			io.WriteString(w, "again")
			return
		}
		o.rec.mu.Lock()
		o.rec.seen = append(o.rec.seen, r.Method+" "+r.URL.Path)
		o.rec.mu.Unlock()
		defer func() { note(r, "pattern %q", r.Pattern) }()
		h.ServeHTTP(w, r)
	}), []serveOption{cleartext, configure(func(s *http.Server) {
		s.BaseContext = func(net.Listener) context.Context {
			return context.WithValue(context.Background(), recordKey{}, o.rec)
		}
	})})

	var body io.Reader
	if c.upload != "" {
		body = strings.NewReader(c.upload)
		if c.chunky {
			body = struct{ io.Reader }{body}
		}
	}
	lines := slices.Concat(v.lines, c.lines)
	s := open(t, o.srv, cmp.Or(c.method, "GET"), cmp.Or(c.path, "/"), body, lines...)
	resp, err := s.head()
	var trailer http.Header
	o.Body, trailer, o.End = s.rest()
	o.Trailer = headerLines(trailer)
	for _, i := range s.interim {
		o.Interim = append(o.Interim, fmt.Sprint(i.code))
		o.Interim = append(o.Interim, headerLines(i.header)...)
	}
	if err != nil {
		return o
	}
	if s.conn == nil {
		o.Head = append([]string{resp.Proto + " " + resp.Status}, headerLines(resp.Header)...)
	} else {
		o.Head = rawHead(s.raw.String())
	}
	for i, l := range o.Head {
		if d, ok := strings.CutPrefix(l, "Date: "); ok {
			if at, err := http.ParseTime(d); err == nil && time.Since(at).Abs() < time.Minute {
				o.Head[i] = "Date: now"
			}
		}
		if _, b, ok := strings.Cut(l, "multipart/byteranges; boundary="); ok {
			o.Head[i] = strings.ReplaceAll(l, b, "BOUNDARY")
			o.Body = strings.ReplaceAll(o.Body, b, "BOUNDARY")
		}
	}
	if o.End == complete && !resp.Close && resp.StatusCode != 101 {
		again := s.again("GET", "/again", nil)
		if _, err := again.head(); err == nil {
			body, _, _ := again.rest()
			o.Reused = body == "again" && (s.conn != nil || again.reused)
		}
	}
	return o
}

// An observation is one run of a case.
type observation struct {
	seen
	srv *server
	rec *sighting
}

// settle adds what is known for certain only when the server has gone.
func (o *observation) settle() seen {
	o.Notes, o.Served, o.did = o.rec.notes, o.rec.seen, o.rec.did
	if o.rec.temp != "" {
		if _, err := os.Stat(o.rec.temp); err == nil {
			o.Notes = append(o.Notes, "temporary file left behind")
			os.Remove(o.rec.temp)
		}
	}
	for l := range strings.Lines(o.srv.logged()) {
		if !strings.HasPrefix(l, "http") || strings.Contains(l, "TLS handshake error") {
			continue // the lines of a stack
		}
		l = address.ReplaceAllString(strings.TrimSpace(l), "ADDRESS")
		o.Log = append(o.Log, caller.ReplaceAllString(l, " from CALLER"))
	}
	return o.seen
}

var (
	address = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	caller  = regexp.MustCompile(` from \S+ \(\S+:\d+\)`)
)

// headerLines returns h as sorted lines.
func headerLines(h http.Header) []string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[k] {
			lines = append(lines, k+": "+v)
		}
		if len(h[k]) == 0 {
			lines = append(lines, k)
		}
	}
	return lines
}

// rawHead returns the lines of the final head in what a client received, the
// header sorted by name, lines of one name in their order.
func rawHead(raw string) []string {
	for {
		head, rest, _ := strings.Cut(raw, "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		if _, code, _ := strings.Cut(lines[0], " "); strings.HasPrefix(code, "1") && !strings.HasPrefix(code, "101") {
			raw = rest
			continue
		}
		slices.SortStableFunc(lines[1:], func(a, b string) int {
			a, _, _ = strings.Cut(a, ":")
			b, _, _ = strings.Cut(b, ":")
			return strings.Compare(a, b)
		})
		return lines
	}
}

// improved returns what the rules make of what was seen bare, all of them but
// the one named except.
func (c comparison) improved(except string) seen {
	c.bare = c.bare.clone()
	for _, r := range rules {
		if r.name != except {
			r.apply(&c)
		}
	}
	return c.bare
}

func (s seen) clone() seen {
	s.Head, s.Interim, s.Trailer = slices.Clone(s.Head), slices.Clone(s.Interim), slices.Clone(s.Trailer)
	s.Notes, s.Log, s.Served = slices.Clone(s.Notes), slices.Clone(s.Log), slices.Clone(s.Served)
	return s
}

// same reports whether two clients, handlers and operators saw the same.
func (s seen) same(o seen) bool {
	return slices.Equal(s.Head, o.Head) && slices.Equal(s.Interim, o.Interim) && s.Body == o.Body &&
		slices.Equal(s.Trailer, o.Trailer) && s.End == o.End && s.Reused == o.Reused &&
		slices.Equal(s.Served, o.Served) && slices.Equal(s.Notes, o.Notes) && slices.Equal(s.Log, o.Log)
}

// differences says where o is not s.
func (s seen) differences(o seen) string {
	var b strings.Builder
	for _, f := range []struct {
		name      string
		want, got any
	}{
		{"head", s.Head, o.Head}, {"1xx", s.Interim, o.Interim}, {"body", clip([]byte(s.Body)), clip([]byte(o.Body))},
		{"length", len(s.Body), len(o.Body)},
		{"trailer", s.Trailer, o.Trailer}, {"end", s.End, o.End}, {"reused", s.Reused, o.Reused}, {"served", s.Served, o.Served},
		{"handler", s.Notes, o.Notes}, {"log", s.Log, o.Log},
	} {
		if w, g := quoted(f.want), quoted(f.got); w != g {
			fmt.Fprintf(&b, "\n%s\n\twant %s\n\tgot  %s", f.name, w, g)
		}
	}
	return b.String()
}

func quoted(v any) string {
	switch v.(type) {
	case string, []string:
		return fmt.Sprintf("%q", v)
	}
	return fmt.Sprint(v)
}

var bare = func(h http.Handler) http.Handler { return h }

// wrappedBy returns NewHandler with the given options.
func wrappedBy(o *flush.Options) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return flush.NewHandler(h, o) }
}

// runCases observes every case of the variant once behind each of wraps. When it
// returns nothing of that runs any more. A case that was not selected by the
// -run flag, or that failed, has no result.
func runCases(t *testing.T, v variant, wraps ...func(http.Handler) http.Handler) map[string][]*observation {
	results := make(map[string][]*observation)
	t.Run("run", func(t *testing.T) {
		checkGoroutines(t)
		for _, c := range casesFor(v) {
			t.Run(c.name, func(t *testing.T) {
				var seen []*observation
				for _, wrap := range wraps {
					seen = append(seen, observe(t, v, c, wrap))
				}
				results[c.name] = seen
			})
		}
	})
	return results
}

func casesFor(v variant) []diffCase {
	return slices.DeleteFunc(diffCases(), func(c diffCase) bool {
		return c.only != nil && !slices.Contains(c.only, v.proto)
	})
}

// TestDifferential runs every case bare, through NewHandler and through New with
// the default options: client, handler and operator must see the same, but for
// the rules.
func TestDifferential(t *testing.T) {
	ways := []string{"NewHandler", "New"}
	needed := make(map[string]bool)
	all := true
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			results := runCases(t, v, bare, wrappedBy(nil), endedNew)
			for _, c := range casesFor(v) {
				r := results[c.name]
				if r == nil {
					all = false
					continue
				}
				t.Run("compare/"+c.name, func(t *testing.T) {
					bare := r[0].settle()
					for i, way := range ways {
						cmp := comparison{diffCase: c, variant: v, way: way, bare: bare}
						ours := r[1+i].settle()
						want := cmp.improved("")
						if !want.same(ours) {
							t.Error(way, want.differences(ours))
							continue
						}
						for _, r := range rules {
							if !cmp.improved(r.name).same(ours) {
								needed[r.name] = true
							}
						}
					}
				})
			}
		})
	}
	if !all {
		return
	}
	for _, r := range rules {
		if !needed[r.name] {
			t.Errorf("no case needs the rule %q", r.name)
		}
	}
}

// TestDifferentialOptions runs every case with the default options and in ways
// that must not show: with asynchronous flushes, and wrapped twice. Two things
// are a matter of time with asynchronous flushes: how much of a response that
// dies has left before (that part must be right), and how many of the first
// bytes are there to detect the Content-Type from when the headers leave.
func TestDifferentialOptions(t *testing.T) {
	twice := func(h http.Handler) http.Handler { return flush.NewHandler(flush.NewHandler(h, nil), nil) }
	for _, v := range variants {
		if v.proto == http10 {
			continue // nothing of this differs from HTTP/1.1
		}
		t.Run(v.name, func(t *testing.T) {
			results := runCases(t, v, wrappedBy(nil), wrappedBy(&flush.Options{Flush: flush.Async}), twice)
			for _, c := range casesFor(v) {
				r := results[c.name]
				if r == nil {
					continue
				}
				t.Run("compare/"+c.name, func(t *testing.T) {
					want, async, twice := r[0].settle(), r[1].settle(), r[2].settle()
					if !want.same(twice) {
						t.Error("wrapped twice:", want.differences(twice))
					}
					if want.flushed >= 0 {
						want.setLine("Content-Type", "")
						async.setLine("Content-Type", "")
					}
					if want.died {
						if !strings.HasPrefix(want.Body, async.Body) {
							t.Errorf("asynchronous: %q is no beginning of %q", clip([]byte(async.Body)), clip([]byte(want.Body)))
						}
						want.Head, want.Body, want.End, want.Reused = async.Head, async.Body, async.End, async.Reused
					}
					if !want.same(async) {
						t.Error("asynchronous:", want.differences(async))
					}
				})
			}
		})
	}
}
