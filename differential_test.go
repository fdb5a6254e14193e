package flush_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
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
	rec.did.writes = append(rec.did.writes, s)
	if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
		note(r, "write of %d: %d, %v", len(s), n, err)
	}
}

// flushNow flushes as existing handlers do, and notes an error.
func flushNow(w http.ResponseWriter, r *http.Request) {
	recordOf(r).did.flush()
	if err := http.NewResponseController(w).Flush(); err != nil {
		note(r, "flush: %v", err)
	}
}

func (d *did) flush() { d.flushed = len(d.wrote()) }

// text returns n bytes, at most 1 MiB, in which a lost or doubled piece shows.
func text(n int) string { return allText()[:n] }

var allText = sync.OnceValue(func() string {
	var b strings.Builder
	for i := 0; b.Len() < 1<<20; i++ {
		fmt.Fprintf(&b, "line %06d\n", i)
	}
	return b.String()
})

// file makes a file of n bytes with a fixed time.
func file(t *testing.T, n int) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(name, []byte(text(n)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{name, filepath.Dir(name)} {
		if err := os.Chtimes(name, fixedTime, fixedTime); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var fixedTime = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// diffCases is the table.
func diffCases() []diffCase {
	var cases []diffCase
	add := func(c diffCase) { cases = append(cases, c) }
	get := func(name string, h http.HandlerFunc) { add(diffCase{name: name, handler: h}) }
	head := func(name string, h http.HandlerFunc) {
		add(diffCase{name: "HEAD " + name, handler: h, method: "HEAD"})
	}

	// Status and size.
	for _, code := range []int{200, 201, 202, 203, 204, 205, 206, 226, 299, 300, 301, 304, 307, 400, 401, 404, 418, 451, 499, 500, 503, 599, 700, 999} {
		get(fmt.Sprintf("status %d with a body", code), func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			put(w, r, "the body")
		})
	}
	for _, code := range []int{200, 204, 304, 500} {
		get(fmt.Sprintf("status %d alone", code), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		get(fmt.Sprintf("status %d flushed", code), func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			flushNow(w, r)
		})
	}
	get("nothing", func(http.ResponseWriter, *http.Request) {})
	head("nothing", func(http.ResponseWriter, *http.Request) {})
	for _, n := range []int{1, 511, 512, 513, 2047, 2048, 2049, 4095, 4096, 4097, 6143, 6144, 8191, 8192, 65535, 65536, 65537, 300000} {
		whole := func(w http.ResponseWriter, r *http.Request) { put(w, r, text(n)) }
		pieces := func(w http.ResponseWriter, r *http.Request) {
			for s := range slices.Chunk([]byte(text(n)), 100) {
				put(w, r, string(s))
			}
		}
		get(fmt.Sprintf("%d bytes at once", n), whole)
		get(fmt.Sprintf("%d bytes in pieces", n), pieces)
		head(fmt.Sprintf("%d bytes at once", n), whole)
		head(fmt.Sprintf("%d bytes in pieces", n), pieces)
		get(fmt.Sprintf("%d bytes, flushed at the end", n), func(w http.ResponseWriter, r *http.Request) {
			whole(w, r)
			flushNow(w, r)
		})
		get(fmt.Sprintf("%d bytes, flushed first", n), func(w http.ResponseWriter, r *http.Request) {
			flushNow(w, r)
			pieces(w, r)
		})
	}
	get("one byte at a time", func(w http.ResponseWriter, r *http.Request) {
		for _, c := range text(1000) {
			put(w, r, string(c))
		}
	})
	get("by WriteString", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.WriteString(w, "a string")
		note(r, "%d, %v", n, err)
	})
	get("by Fprintf", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%d%%\n", 50) })

	// Empty writes.
	get("an empty write", func(w http.ResponseWriter, r *http.Request) { put(w, r, "") })
	get("an empty write, then a header and a body", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "")
		w.Header().Set("X-After-Empty-Write", "1")
		put(w, r, "body")
	})
	get("an empty write, then a status", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "")
		w.WriteHeader(404)
	})
	get("an empty write, 204", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(204)
		put(w, r, "")
	})
	get("an empty write, 304 after it", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "")
		w.WriteHeader(304)
		put(w, r, "body")
	})
	get("an empty write between others", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "a")
		put(w, r, "")
		put(w, r, "b")
	})

	// WriteHeader and Header at odd times.
	get("WriteHeader twice", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(201)
		w.WriteHeader(500)
		put(w, r, "body")
	})
	get("WriteHeader after Write", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		w.WriteHeader(500)
	})
	get("WriteHeader after a flush", func(w http.ResponseWriter, r *http.Request) {
		flushNow(w, r)
		w.WriteHeader(500)
		put(w, r, "body")
	})
	get("header after WriteHeader", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Before", "1")
		w.WriteHeader(200)
		w.Header().Set("X-Before", "2")
		w.Header().Set("X-After", "1")
		put(w, r, "body")
	})
	get("header after Write", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Gone", "no")
		put(w, r, "body")
		w.Header().Del("X-Gone")
		w.Header().Set("X-After", "1")
		w.Header().Set("Content-Type", "text/after")
	})
	get("header after a flush", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		flushNow(w, r)
		w.Header().Set("X-After", "1")
		put(w, r, "more")
	})
	get("header values changed in place after Write", func(w http.ResponseWriter, r *http.Request) {
		v := []string{"one", "two"}
		w.Header()["X-List"] = v
		put(w, r, "body")
		v[0] = "changed"
		flushNow(w, r)
	})
	for _, code := range []int{0, -1, 99, 1000} {
		get(fmt.Sprintf("invalid status %d", code), func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
		get(fmt.Sprintf("invalid status %d, recovered", code), func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				note(r, "panic %v", recover())
				put(w, r, "recovered")
			}()
			w.WriteHeader(code)
		})
		get(fmt.Sprintf("invalid status %d after Write", code), func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "body")
			defer func() { note(r, "panic %v", recover()) }()
			w.WriteHeader(code)
		})
	}

	// Header lines.
	get("several lines of one name", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("X-Many", "one")
		w.Header().Add("X-Many", "two, three")
		w.Header().Add("Vary", "Accept")
		w.Header().Add("Vary", "Cookie")
		put(w, r, "body")
	})
	get("cookies", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1", Path: "/", HttpOnly: true})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2", SameSite: http.SameSiteLaxMode})
		put(w, r, "body")
	})
	get("odd names", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["x-lower"] = []string{"1"}
		w.Header()["X-Nil"] = nil
		w.Header()["X-Empty"] = []string{""}
		w.Header()["X-Mixed-cASE"] = []string{"1"}
		put(w, r, "body")
	})
	get("invalid names and values", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["bad name"] = []string{"1"}
		w.Header()[""] = []string{"1"}
		w.Header().Set("X-Lines", "a\r\nX-Injected: b")
		w.Header().Set("X-Null", "a\x00b")
		w.Header().Set("X-Space", "  padded  ")
		w.Header().Set("X-Latin", "caf\xe9")
		w.Header().Set("X-Utf8", "caf\u00e9")
		put(w, r, "body")
	})
	get("Date nil", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		put(w, r, "body")
	})
	get("Date of its own", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", fixedTime.Format(http.TimeFormat))
		put(w, r, "body")
	})
	get("Connection close", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		put(w, r, "body")
	})
	get("Connection close after Write", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		w.Header().Set("Connection", "close")
	})
	get("Connection keep-alive with a length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "keep-alive")
		w.Header().Set("Content-Length", "4")
		put(w, r, "body")
	})
	add(diffCase{name: "the client says Connection close", lines: []string{"Connection: close"}, only: []proto{http1},
		handler: func(w http.ResponseWriter, r *http.Request) { put(w, r, text(3000)) }})
	for _, te := range []string{"chunked", "identity", "gzip"} {
		get("Transfer-Encoding "+te, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Transfer-Encoding", te)
			put(w, r, "<html>body")
		})
		get("Transfer-Encoding and Content-Length "+te, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Transfer-Encoding", te)
			w.Header().Set("Content-Length", "10")
			put(w, r, "<html>body")
		})
	}
	add(diffCase{name: "status 101 without a hijack", only: []proto{http1}, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "test")
		w.WriteHeader(101)
	}})

	// Content-Type.
	sniff := map[string][]string{
		"html":                                   {"<!DOCTYPE html><p>x"},
		"html in two writes":                     {"<ht", "ml><p>x"},
		"html after a small write and a big one": {"<html>", text(5000)},
		"text then html":                         {"text", "<html>"},
		"html after 513":                         {text(513), "<html>"},
		"html in pieces over 512":                {"<html>" + text(300), text(300), text(300)},
		"binary":                                 {"\x00\x01\x02"},
		"png":                                    {"\x89PNG\x0d\x0a\x1a\x0a"},
		"gzip":                                   {"\x1f\x8b\x08"},
		"spaces then html":                       {strings.Repeat(" ", 300), "<html>"},
		"utf8 split":                             {"caf\xc3", "\xa9"},
	}
	for _, name := range slices.Sorted(maps.Keys(sniff)) {
		writes := sniff[name]
		get("sniff "+name, func(w http.ResponseWriter, r *http.Request) {
			for _, s := range writes {
				put(w, r, s)
			}
		})
		get("sniff "+name+", flushed after the first write", func(w http.ResponseWriter, r *http.Request) {
			for _, s := range writes {
				put(w, r, s)
				flushNow(w, r)
			}
		})
	}
	for name, v := range map[string][]string{"nil": nil, "empty": {""}, "set": {"text/x"}, "twice": {"text/x", "text/y"}} {
		get("Content-Type "+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = v
			put(w, r, "<html>")
		})
	}
	get("Content-Encoding", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		put(w, r, "<html>")
	})
	get("Content-Encoding empty", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "")
		put(w, r, "<html>")
	})
	get("nosniff", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		put(w, r, "<html>")
	})
	get("Content-Type nil, 3000 bytes", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		put(w, r, text(3000))
	})

	// Content-Length.
	length := func(name, value string, writes ...string) {
		h := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", value)
			for _, s := range writes {
				put(w, r, s)
			}
		}
		get("Content-Length "+name, h)
		head("Content-Length "+name, h)
		get("Content-Length "+name+", flushed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", value)
			for _, s := range writes {
				put(w, r, s)
				flushNow(w, r)
			}
		})
	}
	length("exact", "4", "body")
	length("exact in two writes", "8", "body", "more")
	length("exact, large", "70000", text(70000))
	length("exact, then an empty write", "4", "body", "")
	length("zero", "0")
	length("zero with a body", "0", "body")
	length("without a body", "10")
	length("too long", "10", "body")
	length("too long, large", "80000", text(70000))
	length("too short", "5", "body and more")
	length("too short at the second write", "6", "body", "and more")
	length("too short at the third write", "4", "bo", "dy", "more")
	length("too short, and goes on", "6", "body", "and more", "x", "yz")
	length("too short, large", "70000", text(5000), text(70000))
	length("invalid", "abc", "body")
	length("negative", "-4", "body")
	length("with a plus", "+4", "body")
	length("padded", " 4 ", "body")
	length("leading zero", "04", "body")
	length("empty", "", "body")
	for _, n := range []int{4, 3000, 5000} {
		add(diffCase{name: fmt.Sprintf("Content-Length nil, %d bytes", n), unmeasured: true, handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Length"] = nil
			put(w, r, text(n))
		}})
	}
	get("Content-Length nil and no body", func(w http.ResponseWriter, r *http.Request) { w.Header()["Content-Length"] = nil })
	get("Content-Length twice", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Length"] = []string{"4", "4"}
		put(w, r, "body")
	})
	get("Content-Length set after Write", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		w.Header().Set("Content-Length", "2")
	})
	for _, code := range []int{204, 205, 304} {
		get(fmt.Sprintf("Content-Length with status %d", code), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(code)
		})
	}
	get("status 304 with a large body and flushes", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(304)
		put(w, r, text(5000))
		flushNow(w, r)
		put(w, r, "x")
		put(w, r, "")
	})

	// HEAD.
	head("flushed", func(w http.ResponseWriter, r *http.Request) {
		flushNow(w, r)
		put(w, r, "body")
		flushNow(w, r)
	})
	head("status 404 with http.Error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 404) })
	head("html", func(w http.ResponseWriter, r *http.Request) { put(w, r, "<html>") })
	head("in two large writes", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, text(5000))
		put(w, r, text(5000))
		note(r, "context: %v", r.Context().Err())
	})

	// 1xx.
	hints := func(w http.ResponseWriter, codes ...int) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		for _, c := range codes {
			w.WriteHeader(c)
		}
	}
	get("103, then a body", func(w http.ResponseWriter, r *http.Request) {
		hints(w, 103)
		w.Header().Set("X-Final", "1")
		put(w, r, "body")
	})
	get("103 twice, then 404", func(w http.ResponseWriter, r *http.Request) {
		hints(w, 103)
		w.Header().Add("Link", "</two.css>; rel=preload")
		hints(w, 103)
		w.Header().Del("Link")
		w.WriteHeader(404)
	})
	get("100 and 102 and 199", func(w http.ResponseWriter, r *http.Request) {
		hints(w, 100, 102, 199)
		put(w, r, "body")
	})
	get("103 with a Content-Length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4")
		hints(w, 103)
		put(w, r, "body")
	})
	get("103 and nothing else", func(w http.ResponseWriter, r *http.Request) { hints(w, 103) })
	get("103 after WriteHeader", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		hints(w, 103)
		put(w, r, "body")
	})
	get("103 after Write", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		hints(w, 103)
	})
	get("103 after a flush", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		flushNow(w, r)
		hints(w, 103)
	})

	// Trailers.
	declared := func(w http.ResponseWriter, r *http.Request, body string, flushed bool) {
		w.Header().Set("Trailer", "X-One, X-Two")
		w.Header().Add("Trailer", "X-Three")
		if body != "" {
			put(w, r, body)
		}
		if flushed {
			flushNow(w, r)
		}
		w.Header().Set("X-One", "1")
		w.Header().Set("X-Three", "3")
		w.Header().Set("X-Undeclared", "4")
	}
	prefixed := func(w http.ResponseWriter, r *http.Request, body string, flushed bool) {
		if body != "" {
			put(w, r, body)
		}
		if flushed {
			flushNow(w, r)
		}
		w.Header().Set(http.TrailerPrefix+"X-One", "1")
		w.Header().Add(http.TrailerPrefix+"X-Two", "2")
		w.Header().Add(http.TrailerPrefix+"X-Two", "22")
		if w.Header().Get("Content-Length") == "" {
			recordOf(r).did.late = []string{"X-One: 1", "X-Two: 2", "X-Two: 22"}
		}
	}
	for name, h := range map[string]func(http.ResponseWriter, *http.Request, string, bool){"declared": declared, "prefixed": prefixed} {
		for _, n := range []int{0, 4, 3000, 5000, 70000} {
			get(fmt.Sprintf("trailers %s, %d bytes", name, n), func(w http.ResponseWriter, r *http.Request) { h(w, r, text(n), false) })
			get(fmt.Sprintf("trailers %s, %d bytes, flushed", name, n), func(w http.ResponseWriter, r *http.Request) { h(w, r, text(n), true) })
		}
		head("trailers "+name, func(w http.ResponseWriter, r *http.Request) { h(w, r, "body", false) })
		for _, code := range []int{204, 304, 404} {
			get(fmt.Sprintf("trailers %s, status %d", name, code), func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(code)
				h(w, r, "", false)
			})
		}
		get("trailers "+name+" with a Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			h(w, r, "body", false)
		})
	}
	get("trailers declared and never set", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-One")
		put(w, r, "body")
	})
	get("trailers declared and set before the body", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-One")
		w.Header().Set("X-One", "early")
		put(w, r, "body")
		flushNow(w, r)
		w.Header().Set("X-One", "late")
	})
	get("trailers declared after the headers", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		flushNow(w, r)
		w.Header().Set("Trailer", "X-One")
		w.Header().Set("X-One", "1")
	})
	get("trailers that are not allowed", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Content-Length, Transfer-Encoding, Trailer, X-One")
		put(w, r, "body")
		flushNow(w, r)
		w.Header().Set("X-One", "1")
		w.Header().Set("Content-Length", "4")
	})
	get("trailers prefixed before the body", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(http.TrailerPrefix+"X-One", "early")
		recordOf(r).did.early = true
		put(w, r, "body")
	})
	get("trailers prefixed before an empty body", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(http.TrailerPrefix+"X-One", "early")
		w.WriteHeader(200)
	})
	get("trailers declared and prefixed", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-One")
		put(w, r, "body")
		flushNow(w, r)
		w.Header().Set("X-One", "1")
		w.Header().Set(http.TrailerPrefix+"X-Two", "2")
	})

	// Panics and other bad ends.
	boom := errors.New("boom")
	ends := map[string]func(){
		"panic": func() { panic(boom) }, "ErrAbortHandler": func() { panic(http.ErrAbortHandler) },
		"nil dereference": func() { var p *int; *p = 1 }, "Goexit": runtime.Goexit, "panic nil": func() { panic(nil) },
		"wrapped ErrAbortHandler": func() { panic(fmt.Errorf("wrapped: %w", http.ErrAbortHandler)) },
	}
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		end := func(r *http.Request) {
			recordOf(r).did.died = true
			ends[name]()
		}
		get(name+" before output", func(_ http.ResponseWriter, r *http.Request) { end(r) })
		get(name+" after WriteHeader", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(201)
			end(r)
		})
		get(name+" after a small write", func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "body")
			end(r)
		})
		get(name+" after a flush", func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "body")
			flushNow(w, r)
			end(r)
		})
		get(name+" after a flush and a write", func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "body")
			flushNow(w, r)
			put(w, r, "more")
			end(r)
		})
		for _, n := range []int{3000, 5000, 70000} {
			get(fmt.Sprintf("%s after %d bytes", name, n), func(w http.ResponseWriter, r *http.Request) {
				put(w, r, text(n))
				end(r)
			})
		}
		for _, n := range []int{3000, 5000} {
			get(fmt.Sprintf("%s after a flush and %d bytes", name, n), func(w http.ResponseWriter, r *http.Request) {
				put(w, r, "body")
				flushNow(w, r)
				put(w, r, text(n))
				end(r)
			})
		}
		get(name+" inside a Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			put(w, r, "body")
			flushNow(w, r)
			end(r)
		})
		get(name+" after all of a Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			put(w, r, "body")
			flushNow(w, r)
			end(r)
		})
	}
	get("panic with 204", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(204)
		panic(boom)
	})
	get("panic recovered in the handler", func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			recover()
			http.Error(w, "sorry", 500)
		}()
		panic(boom)
	})

	// Hijack.
	hijack := func(w http.ResponseWriter, r *http.Request, reply string) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			note(r, "not supported %v", errors.Is(err, http.ErrNotSupported))
			return
		}
		recordOf(r).did.hijack = true
		defer c.Close()
		rw.WriteString(reply)
		rw.Flush()
		n, err := w.Write([]byte("x"))
		note(r, "write after: %d, %v", n, err)
		_, _, err = http.NewResponseController(w).Hijack()
		note(r, "again: %v", err)
	}
	const raw = "HTTP/1.1 200 OK\r\nX-Raw: 1\r\nContent-Length: 3\r\n\r\nraw"
	get("hijack", func(w http.ResponseWriter, r *http.Request) { hijack(w, r, raw) })
	get("hijack by assertion", func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			return // there the server's writer has no such method, and ours has one that fails
		}
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			note(r, "hijack: %v", err)
			return
		}
		rw.WriteString(raw)
		rw.Flush()
		c.Close()
	})
	get("hijack after WriteHeader", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(202)
		hijack(w, r, raw)
	})
	get("hijack after Write and flush", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "7")
		put(w, r, "body")
		flushNow(w, r)
		hijack(w, r, "raw")
	})
	get("hijack after an unflushed write", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "7")
		put(w, r, "body")
		hijack(w, r, raw)
	})
	add(diffCase{name: "hijack to switch protocols", lines: []string{"Connection: Upgrade", "Upgrade: test"}, only: []proto{http1},
		handler: func(w http.ResponseWriter, r *http.Request) {
			hijack(w, r, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nraw")
		}})
	get("panic after a hijack", func(w http.ResponseWriter, r *http.Request) {
		hijack(w, r, raw)
		panic(boom)
	})

	// Flushes.
	get("flush only", flushNow)
	get("flush twice", func(w http.ResponseWriter, r *http.Request) { flushNow(w, r); flushNow(w, r) })
	get("flush between", func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			put(w, r, fmt.Sprintf("event %d\n", i))
			flushNow(w, r)
		}
	})
	get("flush by assertion", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "one")
		recordOf(r).did.flush()
		w.(http.Flusher).Flush()
		put(w, r, "two")
		w.(interface{ FlushError() error }).FlushError()
	})
	get("flush.Flush", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "one")
		recordOf(r).did.flush()
		note(r, "%v", flush.Flush(w, true))
		put(w, r, "two")
		note(r, "%v", flush.Flush(w, false))
	})
	get("flush, then an empty write", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "one")
		flushNow(w, r)
		put(w, r, "")
		flushNow(w, r)
	})
	get("flush after the end of a Content-Length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4")
		put(w, r, "body")
		flushNow(w, r)
		flushNow(w, r)
	})
	get("deadlines", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		note(r, "read %v", rc.SetReadDeadline(time.Now().Add(time.Hour)))
		note(r, "write %v", rc.SetWriteDeadline(time.Now().Add(time.Hour)))
		put(w, r, "body")
		flushNow(w, r)
		note(r, "write %v", rc.SetWriteDeadline(time.Time{}))
		put(w, r, "more")
	})

	// Copies.
	for _, n := range []int{0, 1, 2048, 4096, 100000} {
		add(diffCase{name: fmt.Sprintf("copy a file of %d bytes", n), unmeasured: true, setup: func(t *testing.T) http.Handler {
			f := file(t, n)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				m, err := io.Copy(w, f)
				note(r, "%d, %v", m, err)
			})
		}})
		get(fmt.Sprintf("copy %d bytes from a reader", n), func(w http.ResponseWriter, r *http.Request) {
			m, err := io.Copy(w, struct{ io.Reader }{strings.NewReader(text(n))})
			note(r, "%d, %v", m, err)
		})
	}
	add(diffCase{name: "copy part of a file between writes", setup: func(t *testing.T) http.Handler {
		f := file(t, 100000)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "before\n")
			m, err := io.CopyN(w, f, 50000)
			note(r, "%d, %v", m, err)
			put(w, r, "\nbetween\n")
			flushNow(w, r)
			m, err = io.CopyN(w, f, 100)
			note(r, "%d, %v", m, err)
			put(w, r, "\nafter")
		})
	}})
	for _, n := range []int{40000, 60000} {
		add(diffCase{name: fmt.Sprintf("copy a file of 50000 bytes into a Content-Length of %d", n), setup: func(t *testing.T) http.Handler {
			f := file(t, 50000)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(n))
				recordOf(r).did.longFile = n < 50000
				m, err := io.Copy(w, f)
				note(r, "all %v, failed %v", m == 50000, err != nil)
			})
		}})
	}
	add(diffCase{name: "copy a file into a 304", setup: func(t *testing.T) http.Handler {
		f := file(t, 5000)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(304)
			_, err := io.Copy(w, f)
			note(r, "%v", err)
		})
	}})
	add(diffCase{name: "HEAD copy a file", method: "HEAD", setup: func(t *testing.T) http.Handler {
		f := file(t, 5000)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			m, err := io.Copy(w, f)
			note(r, "%d, %v", m, err)
		})
	}})
	get("copy from a reader that fails", func(w http.ResponseWriter, r *http.Request) {
		m, err := io.Copy(w, io.MultiReader(strings.NewReader(text(100)), failingReader{boom}))
		note(r, "%d, %v", m, err)
	})

	// Handlers of net/http.
	content := func(t *testing.T) http.Handler {
		f := file(t, 100000)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"tag"`)
			http.ServeContent(w, r, "file.txt", fixedTime, f)
		})
	}
	for name, lines := range map[string][]string{
		"whole": nil, "range": {"Range: bytes=10-19"}, "long range": {"Range: bytes=10-80000"}, "suffix range": {"Range: bytes=-5"},
		"several ranges": {"Range: bytes=0-9,50000-60000"}, "unsatisfiable range": {"Range: bytes=200000-"}, "nonsense range": {"Range: bytes=x"},
		"If-None-Match": {`If-None-Match: "tag"`}, "If-Match that fails": {`If-Match: "other"`},
		"If-Modified-Since":   {"If-Modified-Since: " + fixedTime.Format(http.TimeFormat)},
		"If-Range that holds": {"Range: bytes=10-19", `If-Range: "tag"`}, "If-Range that fails": {"Range: bytes=10-19", `If-Range: "other"`},
	} {
		add(diffCase{name: "ServeContent " + name, setup: content, lines: lines})
		add(diffCase{name: "HEAD ServeContent " + name, setup: content, lines: lines, method: "HEAD"})
	}
	for _, path := range []string{"/", "/file.txt", "/missing", "/file.txt/", "/index.html"} {
		add(diffCase{name: "FileServer " + path, path: path, setup: func(t *testing.T) http.Handler {
			return http.FileServer(http.Dir(filepath.Dir(file(t, 3000).Name())))
		}})
	}
	get("redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/other?a=b&c=<d>", http.StatusFound)
	})
	add(diffCase{name: "redirect a POST", method: "POST", upload: "x", only: []proto{http1, h2}, handler: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "other", http.StatusSeeOther) }})
	get("http.Error", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Content-Encoding", "gzip")
		http.Error(w, "no", 500)
	})
	get("http.Error after output", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "half a page")
		http.Error(w, "no", 500)
	})
	get("NotFound", http.NotFound)
	for _, path := range []string{"/a/b/item/7", "/a/c", "/a//b", "/nowhere"} {
		add(diffCase{name: "ServeMux " + path, path: path, setup: func(*testing.T) http.Handler {
			inner := http.NewServeMux()
			inner.HandleFunc("GET /b/item/{id}", func(w http.ResponseWriter, r *http.Request) { put(w, r, r.Pattern+" "+r.PathValue("id")) })
			inner.HandleFunc("POST /c", func(w http.ResponseWriter, r *http.Request) {})
			outer := http.NewServeMux()
			outer.Handle("/a/", http.StripPrefix("/a", inner))
			return outer
		}})
	}
	get("TimeoutHandler in time", func(w http.ResponseWriter, r *http.Request) {
		http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Inner", "1")
			w.WriteHeader(202)
			put(w, r, text(3000))
		}), time.Hour, "late").ServeHTTP(w, r)
	})
	get("TimeoutHandler too late", func(w http.ResponseWriter, r *http.Request) {
		over := make(chan struct{})
		defer close(over)
		http.TimeoutHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }), time.Nanosecond, "late").ServeHTTP(w, r)
	})
	get("TimeoutHandler with a panic", func(w http.ResponseWriter, r *http.Request) {
		http.TimeoutHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(boom) }), time.Hour, "late").ServeHTTP(w, r)
	})
	get("what the request carries", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		_, ok := ctx.Value(http.ServerContextKey).(*http.Server)
		note(r, "server %v, address %v, error %v", ok, ctx.Value(http.LocalAddrContextKey) != nil, ctx.Err())
		note(r, "%s %s %s, TLS %v", r.Method, r.RequestURI, r.Proto, r.TLS != nil)
		r.Method, r.URL.Path, r.Pattern = "CHANGED", "/changed", "set by the handler"
		put(w, r, "body")
	})

	// Uploads.
	post := func(name string, n int, h http.HandlerFunc, lines ...string) {
		c := diffCase{name: "upload of " + name, method: "POST", upload: text(n), handler: h, lines: lines}
		if n > 0 && !strings.Contains(name, "read first") {
			// On HTTP/1.0 the server closes with the upload unread, and the reset may overtake the response.
			c.only = []proto{http1, h2}
		}
		add(c)
		add(diffCase{name: "chunked upload of " + name, method: "POST", upload: text(n), chunky: true, handler: h, lines: lines, only: []proto{http1, h2}})
	}
	readAll := func(r *http.Request) {
		b, err := io.ReadAll(r.Body)
		note(r, "read %d, right %v, %v", len(b), string(b) == text(len(b)), err)
	}
	for _, n := range []int{0, 100, 100 << 10, 600 << 10} {
		size := fmt.Sprintf("%d bytes ", n)
		post(size+"read first", n, func(w http.ResponseWriter, r *http.Request) {
			readAll(r)
			put(w, r, "body")
		})
		post(size+"never read", n, func(w http.ResponseWriter, r *http.Request) { put(w, r, "body") })
		post(size+"never read, no output", n, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(413) })
		post(size+"never read, flushed", n, func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "body")
			flushNow(w, r)
			put(w, r, "more")
		})
		post(size+"closed at once", n, func(w http.ResponseWriter, r *http.Request) {
			r.Body.Close()
			put(w, r, "body")
		})
		if n == 0 {
			continue
		}
		post(size+"read in part", n, func(w http.ResponseWriter, r *http.Request) {
			m, err := io.ReadFull(r.Body, make([]byte, 50))
			note(r, "read %d, %v", m, err)
			put(w, r, "body")
		})
		post(size+"read after a small write", n, func(w http.ResponseWriter, r *http.Request) {
			put(w, r, "body")
			readAll(r)
		})
		post(size+"with full duplex", n, func(w http.ResponseWriter, r *http.Request) {
			if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
				note(r, "%v", err)
			}
			put(w, r, "one")
			flushNow(w, r)
			readAll(r)
			put(w, r, "two")
		})
		post(size+"expecting 100 Continue, read", n, func(w http.ResponseWriter, r *http.Request) {
			readAll(r)
			put(w, r, "body")
		}, "Expect: 100-continue")
		post(size+"expecting 100 Continue, refused", n, func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
		}, "Expect: 100-continue")
		post(size+"through MaxBytesReader", n, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
			_, err := io.ReadAll(r.Body)
			note(r, "%v", err)
			if err != nil {
				recordOf(r).did.limited = true
				w.WriteHeader(413)
			}
		})
	}
	// On HTTP/1 headers that go out end the request body: what is still unread is gone, with an error that says so.
	post("100 KiB read after a flush", 100<<10, func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		flushNow(w, r)
		readAll(r)
	})
	post("100 KiB read in part, then after a flush", 100<<10, func(w http.ResponseWriter, r *http.Request) {
		io.ReadFull(r.Body, make([]byte, 34000))
		put(w, r, "body")
		flushNow(w, r)
		b, err := io.ReadAll(r.Body)
		note(r, "read %d, %v", len(b), err)
	})
	// On HTTP/1 what comes back depends on how the upload arrives.
	add(diffCase{name: "upload copied back as it is read", method: "POST", upload: text(100 << 10), only: []proto{h2}, handler: func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(w, r.Body)
		note(r, "%d, %v", n, err)
	}})
	add(diffCase{name: "a form with a file", method: "POST", upload: multipartBody, lines: []string{"Content-Type: multipart/form-data; boundary=B"},
		handler: func(w http.ResponseWriter, r *http.Request) {
			note(r, "%v", r.ParseMultipartForm(1))
			put(w, r, r.FormValue("a"))
			f, _, err := r.FormFile("f")
			if err != nil {
				note(r, "%v", err)
				return
			}
			defer f.Close()
			if f, ok := f.(*os.File); ok {
				recordOf(r).temp = f.Name()
			}
		}})

	// ReverseProxy.
	proxies := map[string]http.HandlerFunc{
		"short":     func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "backend") },
		"long":      func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text(70000)) },
		"not found": http.NotFound,
		"304":       func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) },
		"stream": func(w http.ResponseWriter, r *http.Request) {
			for i := range 3 {
				fmt.Fprintf(w, "event %d\n", i)
				w.(http.Flusher).Flush()
			}
		},
		"SSE": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: x\n\n")
		},
		"early hints": func(w http.ResponseWriter, r *http.Request) {
			hints(w, 103)
			io.WriteString(w, "backend")
		},
		"declared trailer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-One")
			io.WriteString(w, "backend")
			w.(http.Flusher).Flush()
			w.Header().Set("X-One", "1")
		},
		"prefixed trailer": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "backend")
			w.(http.Flusher).Flush()
			w.Header().Set(http.TrailerPrefix+"X-One", "1")
		},
		"echo": func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) },
		"one that dies": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"one that dies at once": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	}
	for _, name := range slices.Sorted(maps.Keys(proxies)) {
		for _, interval := range []time.Duration{0, -1} {
			c := diffCase{name: fmt.Sprintf("proxy to %s, FlushInterval %d", name, interval), setup: func(t *testing.T) http.Handler {
				backend := start(t, &server{proto: http1}, proxies[name], nil)
				u, err := url.Parse(backend.url("/"))
				if err != nil {
					t.Fatal(err)
				}
				tr := new(http.Transport)
				t.Cleanup(tr.CloseIdleConnections)
				proxy := &httputil.ReverseProxy{
					Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(u) },
					Transport:     tr,
					FlushInterval: interval,
					ErrorLog:      log.New(io.Discard, "", 0),
				}
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					recordOf(r).did.died = name == "one that dies"
					proxy.ServeHTTP(w, r)
				})
			}}
			c.unmeasured = name == "declared trailer" // the proxy flushes before such a body
			if name == "echo" {
				c.method, c.upload = "POST", text(100<<10)
			}
			add(c)
			c.name, c.method, c.upload = "HEAD "+c.name, "HEAD", ""
			add(c)
		}
	}
	return cases
}

const multipartBody = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nvalue\r\n" +
	"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\nthe file\r\n--B--\r\n"

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

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
	o.Notes, o.did = o.rec.notes, o.rec.did
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

// A rule is one difference that is meant.
type rule struct {
	name   string
	reason string
	// apply edits c.bare into what the contract promises in its place. It must
	// not look at what the wrapped handler did.
	apply func(c *comparison)
}

// A comparison is what the rules work on.
type comparison struct {
	diffCase
	variant
	bare seen
}

func (c *comparison) isHead() bool { return c.method == "HEAD" }

// line returns the value of a line of the head.
func (s *seen) line(name string) (value string, ok bool) {
	for _, l := range s.Head {
		if v, ok := strings.CutPrefix(l, name+": "); ok {
			return v, true
		}
	}
	return "", false
}

// setLine adds, replaces or, with an empty value, deletes a line of the head.
func (s *seen) setLine(name, value string) {
	s.Head = slices.DeleteFunc(s.Head, func(l string) bool { return strings.HasPrefix(l, name+": ") })
	if value != "" {
		s.Head = append(s.Head, name+": "+value)
		slices.Sort(s.Head[1:])
	}
}

// declared returns the Content-Length in the head, or -1.
func (s *seen) declared() int {
	v, _ := s.line("Content-Length")
	n, err := strconv.Atoi(v)
	if err != nil {
		return -1
	}
	return n
}

// overrun says how much of what was written fits a declared Content-Length, in
// whole writes as HTTP/1 counts them, and whether a write did not fit.
func (s *seen) overrun() (fits int, refused bool) {
	limit := s.declared()
	if limit < 0 {
		return 0, false
	}
	for _, w := range s.writes {
		if refused = refused || fits+len(w) > limit; !refused {
			fits += len(w)
		}
	}
	return fits, refused
}

// rules are the differences that are meant, in the order in which they apply.
// One that no case needs fails the test.
var rules = []rule{
	{"an empty write is no error where no body is allowed", "bare, HTTP/2 refuses it; callers take that for a dead client", func(c *comparison) {
		c.bare.Notes = slices.DeleteFunc(c.bare.Notes, func(n string) bool {
			return n == fmt.Sprint("write of 0: 0, ", http.ErrBodyNotAllowed)
		})
	}},
	{"no 1xx to HTTP/1.0", "RFC 9110, section 15.2, forbids it", func(c *comparison) {
		if c.proto == http10 {
			c.bare.Interim = nil
		}
	}},
	{"what has not been sent is dropped at a panic", "up to BufferSize bytes are held; bare, they go out from 2048 bytes on, only to be cut", func(c *comparison) {
		s := &c.bare
		sent := max(s.flushed, 0)
		if n := len(s.wrote()) - sent; !s.died || n == 0 || n >= 4096 {
			return
		}
		if s.Body = s.Body[:min(len(s.Body), sent)]; s.flushed < 0 {
			s.Head, s.End = nil, cut
		}
	}},
	{"a whole response has its exact Content-Length", "it is held up to BufferSize, 4096; bare, up to 2048", func(c *comparison) {
		s := &c.bare
		n := max(len(s.wrote()), len(s.Body))
		if len(s.Head) == 0 || c.proto == h2 || s.End == cut || s.flushed >= 0 || c.unmeasured || s.declared() >= 0 || n >= 4096 {
			return
		}
		_, trailers := s.line("Trailer")
		trailers = trailers || s.early || len(s.late) > 0
		if n == 0 || trailers && c.proto == http1 || n < 2048 && !(trailers && c.proto == http10) {
			return
		}
		s.setLine("Transfer-Encoding", "")
		s.setLine("Content-Length", strconv.Itoa(n))
		s.End = complete
		if c.variant.name == "http10-keepalive" {
			s.setLine("Connection", "keep-alive")
			s.Reused = true
		}
	}},
	{"trailers with the prefix arrive", "bare, HTTP/1.1 measures a short response, and a response with a length has no trailers", func(c *comparison) {
		s := &c.bare
		if c.proto != http1 || len(s.late) == 0 || len(s.Trailer) > 0 || s.declared() < 0 {
			return
		}
		s.setLine("Content-Length", "")
		if !c.isHead() {
			s.setLine("Transfer-Encoding", "chunked")
			s.Trailer = s.late
		}
	}},
	{"HTTP/2 refuses what goes beyond the Content-Length as HTTP/1 does", "bare, it takes what its buffer takes, and says so late or never", func(c *comparison) {
		s := &c.bare
		fits, refused := s.overrun()
		if c.proto != h2 || !refused {
			return
		}
		if fits == 0 {
			s.setLine("Content-Type", "")
		}
		s.End, s.Reused = complete, true
		if !c.isHead() {
			s.Body = s.wrote()[:fits]
			if fits < s.declared() {
				s.End, s.Reused = cut, false
			}
		}
		s.Notes = slices.DeleteFunc(s.Notes, func(n string) bool { return strings.HasPrefix(n, "write of ") })
		var notes []string
		n := 0
		for _, w := range s.writes {
			if n += len(w); n > s.declared() {
				notes = append(notes, fmt.Sprintf("write of %d: 0, %v", len(w), http.ErrContentLength))
			}
		}
		s.Notes = append(notes, s.Notes...)
	}},
	{"a refused write does not cost the connection", "bare, refused bytes count, and a complete response ends its connection", func(c *comparison) {
		s := &c.bare
		if fits, refused := s.overrun(); refused && fits == s.declared() && s.End == complete && c.variant.name != "http10" {
			s.Reused = true
		}
	}},
	{"a file longer than the Content-Length does not run over", "bare, sendfile puts all of it on the wire, behind the end of the response", func(c *comparison) {
		s := &c.bare
		if s.longFile && c.proto != h2 {
			s.Notes[0] = "all false, failed true"
			s.Reused = c.variant.name != "http10"
		}
	}},
	{"HEAD over HTTP/2 takes any number of writes and flushes", "bare, they fail once headers are out (golang/go#66812)", func(c *comparison) {
		s := &c.bare
		if c.proto != h2 || !c.isHead() {
			return
		}
		s.Notes = slices.DeleteFunc(s.Notes, func(n string) bool {
			return strings.HasPrefix(n, "write of ") && !strings.HasSuffix(n, http.ErrContentLength.Error()) || strings.HasPrefix(n, "flush: ")
		})
		for i, n := range s.Notes {
			if n == "0, http2: request body closed due to handler exiting" {
				s.Notes[i] = fmt.Sprintf("%d, <nil>", s.declared())
			}
		}
	}},
	{"HEAD over HTTP/2 measures less than 4096 bytes", "bare, 4096 exactly still fit the server's buffer", func(c *comparison) {
		if s := &c.bare; c.proto == h2 && c.isHead() && s.flushed < 0 && len(s.wrote()) == 4096 {
			s.setLine("Content-Length", "")
		}
	}},
	{"Hijack hands down what was written", "bare, what is in the server's first buffer is lost", func(c *comparison) {
		if s := &c.bare; s.hijack && s.flushed < 0 && len(s.writes) > 0 {
			s.Body = (s.wrote() + s.Body)[:s.declared()]
			s.setLine("Content-Type", http.DetectContentType([]byte(s.wrote())))
		}
	}},
	{"MaxBytesReader does not end the connection", "it asks the server's own writer for that, by a method that cannot be passed on; give it that writer", func(c *comparison) {
		s := &c.bare
		if !s.limited || c.proto == h2 || len(c.upload) >= 256<<10 {
			return
		}
		s.setLine("Connection", "")
		s.Reused = c.variant.name != "http10"
		if c.variant.name == "http10-keepalive" {
			s.setLine("Connection", "keep-alive")
		}
	}},
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
	s.Notes, s.Log = slices.Clone(s.Notes), slices.Clone(s.Log)
	return s
}

// same reports whether two clients, handlers and operators saw the same.
func (s seen) same(o seen) bool {
	return slices.Equal(s.Head, o.Head) && slices.Equal(s.Interim, o.Interim) && s.Body == o.Body &&
		slices.Equal(s.Trailer, o.Trailer) && s.End == o.End && s.Reused == o.Reused &&
		slices.Equal(s.Notes, o.Notes) && slices.Equal(s.Log, o.Log)
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
		{"trailer", s.Trailer, o.Trailer}, {"end", s.End, o.End}, {"reused", s.Reused, o.Reused},
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

// TestDifferential runs every case bare and through NewHandler with the default
// options: client, handler and operator must see the same, but for the rules.
func TestDifferential(t *testing.T) {
	needed := make(map[string]bool)
	all := true
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			results := runCases(t, v, bare, wrappedBy(nil))
			for _, c := range casesFor(v) {
				r := results[c.name]
				if r == nil {
					all = false
					continue
				}
				t.Run("compare/"+c.name, func(t *testing.T) {
					cmp := comparison{diffCase: c, variant: v, bare: r[0].settle()}
					ours := r[1].settle()
					want := cmp.improved("")
					if !want.same(ours) {
						t.Error(want.differences(ours))
						return
					}
					for _, r := range rules {
						if !cmp.improved(r.name).same(ours) {
							needed[r.name] = true
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
