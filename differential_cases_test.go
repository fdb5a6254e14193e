package flush_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

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
			return // there the server's writer has no such method
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

	get("asked what it can", func(w http.ResponseWriter, r *http.Request) {
		_, flusher := w.(http.Flusher)
		_, flushError := w.(interface{ FlushError() error })
		_, stringWriter := w.(io.StringWriter)
		_, closeNotifier := w.(http.CloseNotifier) //lint:ignore SA1019 asserted in the wild
		_, pusher := w.(http.Pusher)
		_, hijacker := w.(http.Hijacker)
		_, readerFrom := w.(io.ReaderFrom)
		note(r, "flush %t %t, string %t, close notify %t, push %t", flusher, flushError, stringWriter, closeNotifier, pusher)
		note(r, "hijack %t, read from %t", hijacker, readerFrom)
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
	return append(cases, filterCases()...)
}

const multipartBody = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nvalue\r\n" +
	"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\nthe file\r\n--B--\r\n"

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }
