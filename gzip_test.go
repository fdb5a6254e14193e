package flush_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// gzipEverything are options that compress every response, as api.md has it.
func gzipEverything() *flush.Options {
	return &flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
	}}
}

// unzip decodes one whole gzip stream.
func unzip(t *testing.T, p []byte) string {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatalf("%v in %q", err, harness.Clip(p))
	}
	got, err := io.ReadAll(zr)
	if err != nil {
		t.Fatalf("%v after %q", err, harness.Clip(got))
	}
	return string(got)
}

// Each event can be decoded before the next one is written, however it is
// flushed.
func TestGzipEventByEvent(t *testing.T) {
	for name, flushing := range map[string]struct {
		implicit flush.Mode
		flush    func(*flush.Flusher)
	}{
		"Flush":         {0, func(f *flush.Flusher) { f.Flush() }},
		"FlushAsync":    {0, func(f *flush.Flusher) { f.FlushAsync() }},
		"FlushAll":      {0, func(f *flush.Flusher) { f.FlushAll(false) }},
		"implicit":      {flush.Wait, func(f *flush.Flusher) { f.Top().Flush() }},
		"implicitAsync": {flush.Async, func(f *flush.Flusher) { f.Top().Flush() }},
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				const events = 20
				event := func(i int) string { return fmt.Sprintf("data: event %d %d\n\n", i, i*i) }
				park := harness.NewPark(t)
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					f.SetImplicit(flushing.implicit)
					w.Header().Set("Content-Type", "text/event-stream")
					for i := range events {
						park.Here()
						io.WriteString(w, event(i))
						flushing.flush(f)
					}
				}), gzipEverything()))
				s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
				park.Next()
				if h := s.Header(); h.Get("Content-Encoding") != "gzip" || h.Get("Vary") != "Accept-Encoding" {
					t.Fatalf("header %v", h)
				}
				zr, err := gzip.NewReader(harness.BodyReader{S: s})
				if err != nil {
					t.Fatal(err)
				}
				for i := range events {
					if i > 0 {
						park.Next()
					}
					got := make([]byte, len(event(i)))
					if _, err := io.ReadFull(zr, got); err != nil || string(got) != event(i) {
						t.Fatalf("event %d: %q, %v", i, got, err)
					}
				}
				if rest, err := io.ReadAll(zr); len(rest) > 0 || err != nil {
					t.Errorf("rest: %q, %v", rest, err)
				}
			})
		})
	}
}

// What Gzip leaves alone, and what it does to the headers.
func TestGzipDecides(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 100)
	write := func(w http.ResponseWriter) { io.WriteString(w, page) }
	set := func(kv ...string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(kv); i += 2 {
				w.Header().Add(kv[i], kv[i+1])
			}
			write(w)
		}
	}
	tests := []struct {
		name   string
		accept string // gzip by default, none for "-"
		do     func(w http.ResponseWriter)
		gzip   bool
		header map[string]string // values joined by "|"
		body   string            // the page by default, none for "-"
	}{
		{name: "page", do: write, gzip: true, header: map[string]string{
			"Vary": "Accept-Encoding", "Content-Type": "text/plain; charset=utf-8",
		}},
		{name: "not asked for", accept: "br", do: write, header: map[string]string{"Vary": "Accept-Encoding"}},
		{name: "no header", accept: "-", do: write, header: map[string]string{"Vary": "Accept-Encoding"}},
		{name: "q=0", accept: "gzip;q=0", do: write},
		{name: "star", accept: "*", do: write, gzip: true},
		{name: "vary there", do: set("Vary", "Cookie, accept-encoding"), gzip: true, header: map[string]string{"Vary": "Cookie, accept-encoding"}},
		{name: "vary more", do: set("Vary", "Cookie"), gzip: true, header: map[string]string{"Vary": "Cookie|Accept-Encoding"}},
		{name: "vary star", do: set("Vary", "*"), gzip: true, header: map[string]string{"Vary": "*"}},
		{name: "Content-Length", do: set("Content-Length", fmt.Sprint(len(page))), gzip: true},
		{name: "Content-Length after WriteHeader", do: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(page)))
			w.WriteHeader(http.StatusOK)
			write(w)
		}, gzip: true},
		{name: "type", do: set("Content-Type", "text/x-novel"), gzip: true, header: map[string]string{"Content-Type": "text/x-novel"}},
		{name: "no type", do: func(w http.ResponseWriter) { w.Header()["Content-Type"] = nil; write(w) }, gzip: true, header: map[string]string{"Content-Type": ""}},
		{name: "strong tag", do: set("Etag", `"1"`), gzip: true, header: map[string]string{"Etag": `W/"1"`}},
		{name: "weak tag", do: set("Etag", `W/"1"`), gzip: true, header: map[string]string{"Etag": `W/"1"`}},
		{name: "declined tag", accept: "br", do: set("Etag", `"1"`), header: map[string]string{"Etag": `"1"`}},
		{name: "ranges", do: set("Accept-Ranges", "bytes"), gzip: true, header: map[string]string{"Accept-Ranges": ""}},
		{name: "encoded", do: set("Content-Encoding", "br"), header: map[string]string{"Content-Encoding": "br"}},
		{name: "encoded before WriteHeader only", do: func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "br")
			w.WriteHeader(http.StatusOK)
			w.Header().Del("Content-Encoding")
			write(w)
		}, header: map[string]string{"Content-Encoding": "br"}},
		{name: "no-transform", do: set("Cache-Control", "max-age=3, no-transform"), header: map[string]string{"Vary": "Accept-Encoding"}},
		{name: "partial", do: func(w http.ResponseWriter) { w.WriteHeader(http.StatusPartialContent); write(w) }},
		{name: "range", do: set("Content-Range", "bytes 0-3/2200")},
		{name: "not found", do: func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound); write(w) }, gzip: true},
		{name: "short", do: func(w http.ResponseWriter) { io.WriteString(w, page[:511]) }, header: map[string]string{"Vary": "Accept-Encoding", "Content-Length": "511"}, body: page[:511]},
		{name: "just long enough", do: func(w http.ResponseWriter) { io.WriteString(w, page[:512]) }, gzip: true, body: page[:512]},
		{name: "short but flushed", do: func(w http.ResponseWriter) { io.WriteString(w, "x"); flush.Flush(w, true) }, gzip: true, body: "x"},
		{name: "empty", do: func(w http.ResponseWriter) {}, body: "-"},
		{name: "204", do: func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent); flush.Flush(w, true) }, body: "-"},
		{name: "304", do: func(w http.ResponseWriter) { w.Header().Set("Etag", `"1"`); w.WriteHeader(http.StatusNotModified) }, header: map[string]string{"Etag": `W/"1"`, "Vary": "Accept-Encoding"}, body: "-"},
		{name: "304, declined", accept: "br", do: func(w http.ResponseWriter) { w.Header().Set("Etag", `"1"`); w.WriteHeader(http.StatusNotModified) }, header: map[string]string{"Etag": `"1"`}, body: "-"},
		{name: "304 with a length", do: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusNotModified)
		}, header: map[string]string{"Content-Length": ""}, body: "-"},
		{name: "304 of an image", do: func(w http.ResponseWriter) {
			w.Header().Set("Etag", `"1"`)
			w.Header().Set("Content-Type", "image/png")
			w.WriteHeader(http.StatusNotModified)
		}, header: map[string]string{"Etag": `"1"`}, body: "-"},
		{name: "compressed type", do: set("Content-Type", "image/png", "Etag", `"1"`), header: map[string]string{"Etag": `"1"`, "Vary": "Accept-Encoding"}},
		{name: "compressed by its looks", do: func(w http.ResponseWriter) { io.WriteString(w, "\x89PNG\r\n\x1a\n"+page) }, header: map[string]string{"Content-Type": "image/png"}, body: "\x89PNG\r\n\x1a\n" + page},
		{name: "digests", do: set("Content-Digest", "sha-256=:x:", "Repr-Digest", "sha-256=:x:", "Digest", "sha-256=x", "Content-MD5", "x", "Want-Repr-Digest", "sha-256=1", "Want-Content-Digest", "sha-256=1"), gzip: true, header: map[string]string{
			"Content-Digest": "", "Repr-Digest": "", "Digest": "", "Content-Md5": "", "Want-Repr-Digest": "sha-256=1", "Want-Content-Digest": "sha-256=1",
		}},
		{name: "digests, declined", accept: "br", do: set("Content-Digest", "sha-256=:x:", "Content-MD5", "x"), header: map[string]string{"Content-Digest": "sha-256=:x:", "Content-Md5": "x"}},
		{name: "type set too late", do: func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8") // what Gzip will find, too
			write(w)
		}, gzip: true, header: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
		{name: "encoded too late", do: func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Content-Encoding", "gzip")
			write(w)
		}, gzip: true},
		{name: "length set late", do: func(w http.ResponseWriter) {
			w.Write([]byte(page[:100]))
			f, _ := flush.From(w)
			f.Top().Flush()
			w.Header().Set("Content-Length", fmt.Sprint(len(page)))
			w.Write([]byte(page[100:]))
		}, gzip: true},
		{name: "flushed empty", do: func(w http.ResponseWriter) { flush.Flush(w, true) }, gzip: true, body: "-"},
		{name: "flushed empty, then more", do: func(w http.ResponseWriter) { flush.Flush(w, true); write(w) }, gzip: true},
		{name: "headers sent", do: func(w http.ResponseWriter) {
			f, _ := flush.From(w)
			f.SendHeaders()
			write(w)
		}, header: map[string]string{"Vary": ""}},
		{name: "cleaned", do: func(w http.ResponseWriter) {
			f, _ := flush.From(w)
			w.Header().Set("Etag", `"1"`)
			io.WriteString(w, strings.Repeat("gone", 3000)) // some of it on floor 2, compressed
			if err := f.Clean(); err != nil {
				panic(err)
			}
			write(w)
		}, gzip: true, header: map[string]string{"Etag": "", "Vary": "Accept-Encoding"}},
		{name: "cleaned for a short one", do: func(w http.ResponseWriter) {
			f, _ := flush.From(w)
			io.WriteString(w, strings.Repeat("gone", 3000))
			f.Clean()
			http.Error(w, "sorry", http.StatusInternalServerError)
		}, body: "sorry\n"},
	}
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			i, _ := strconv.Atoi(r.URL.Path[1:])
			tests[i].do(w)
		}), gzipEverything()))
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				line := harness.AcceptGzip
				switch tt.accept {
				case "":
				case "-":
					line = "X-Nothing: nothing"
				default:
					line = "Accept-Encoding: " + tt.accept
				}
				s := harness.Open(t, srv, "GET", fmt.Sprint("/", i), nil, line)
				h := s.Header()
				body, _, end := s.Rest()
				if end == harness.Cut {
					t.Fatalf("cut after %q", harness.Clip([]byte(body)))
				}
				if got := h.Get("Content-Encoding") == "gzip"; got != tt.gzip {
					t.Errorf("compressed: %v, header %v", got, h)
				} else if got {
					body = unzip(t, []byte(body))
				}
				want := tt.body
				switch want {
				case "":
					want = page
				case "-":
					want = ""
				}
				if body != want {
					t.Errorf("body %q, want %q", harness.Clip([]byte(body)), harness.Clip([]byte(want)))
				}
				for k, v := range tt.header {
					if got := strings.Join(h.Values(k), "|"); got != v {
						t.Errorf("%s: %q, want %q", k, got, v)
					}
				}
			})
		}
	})
}

func TestGzipAcceptEncoding(t *testing.T) {
	page := strings.Repeat("x", 1000)
	for accept, want := range map[string]bool{
		"gzip":                          true,
		"GZIP":                          true,
		"x-gzip":                        true,
		"deflate, gzip;q=1.0, *;q=0.5":  true,
		"br;q=1.0, gzip;q=0.8, *;q=0.1": true,
		"gzip;q=0.001":                  true,
		"gzip ; q=0.5":                  true,
		"*":                             true,
		"*;q=0.1":                       true,
		"gzip;q=1, identity;q=0.5":      true,
		"gzip, identity":                true,
		"gzip, identity;q=1":            true,
		"gzip;q=1, identity":            true,
		"*, identity":                   true,
		"identity;q=0, gzip;q=0.1":      true,
		"br\x00gzip":                    false,
		"gzip;v=1, *":                   false,
		"gzip;q=2, *":                   false,
		"gzip;q=1.001, *":               false,
		"":                              false,
		"br":                            false,
		"identity":                      false,
		"gzip;q=0":                      false,
		"gzip;q=0.000":                  false,
		"gzip;q=0, *":                   false,
		"*;q=0":                         false,
		"gzip;q=0.5, identity":          false,
		"gzip;q=nonsense":               false,
		"gzip;Q=1.000":                  true,
		"gzip;q=0.":                     false,
		"gzip;q=1.":                     true,
		"gzip;q=0.5":                    true,
		"gzip;q=0.0001":                 false,
		"gzip;q=0.5000":                 false,
		"gzip;q=1.001":                  false,
		"gzip;q=+1":                     false,
		"gzip;q=1e0":                    false,
		"gzip;q=0x1":                    false,
		"gzip;q=01":                     false,
		"gzip;q=.5":                     false,
		"gzip;q=":                       false,
		"gzip;q":                        false,
		"gzip;":                         false,
		"gzip;q = 1":                    false,
		"gzip;v=1":                      false,
		"gzip;q=0.+1":                   false,
		"gzip;q=nonsense, *":            false,
		"gzip;q=-1":                     false,
		"gzip;q=2":                      false,
		"gzip;q=NaN":                    false,
		"notgzip":                       false,
		"gzip2":                         false,
	} {
		for _, lines := range [][]string{{accept}, strings.Split(accept, ",")} {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["Accept-Encoding"] = lines
			rec := httptest.NewRecorder()
			f := flush.New(rec, r, gzipEverything())
			io.WriteString(f, page)
			expectError(t, "Close", f.Close(), nil)
			if got := rec.Header().Get("Content-Encoding") == "gzip"; got != want {
				t.Errorf("%q: %v, want %v", lines, got, want)
			}
		}
	}
}

// HEAD and 304 describe what GET would have brought, under every profile.
func TestGzipHead(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 100)
	whole := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"1"`)
		io.WriteString(w, page)
	}
	// bodiless sets headers, and leaves the body of a HEAD away. Before that it does
	// first, and at its end last.
	bodiless := func(n int, kind string, length bool, first, last func(f *flush.Flusher)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"1"`)
			w.Header().Set("Content-Digest", "sha-256=:x:")
			w.Header().Set("Content-Type", kind)
			if length {
				w.Header().Set("Content-Length", fmt.Sprint(n))
			}
			first(harness.Flusher(w))
			if r.Method != "HEAD" {
				io.WriteString(w, page[:n])
			}
			last(harness.Flusher(w))
		}
	}
	nothing := func(*flush.Flusher) {}
	flushes := func(f *flush.Flusher) { flush.Flush(f, true) }
	asks := func(f *flush.Flusher) { flush.Flush(f, false) }
	closes := func(f *flush.Flusher) { f.Close() }
	for name, h := range map[string]http.HandlerFunc{
		"whole":        whole,
		"length":       bodiless(len(page), "text/plain", true, nothing, nothing),
		"short length": bodiless(100, "text/plain", true, nothing, nothing),
		"image":        bodiless(len(page), "image/png", true, nothing, nothing),
		"large": func(w http.ResponseWriter, r *http.Request) {
			whole(w, r)
			io.CopyN(w, rand.NewChaCha8([32]byte{}), 100000)
		},
		"short":                      func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "short") },
		"flushed":                    func(w http.ResponseWriter, r *http.Request) { whole(w, r); flush.Flush(w, true); whole(w, r) },
		"flushed first":              func(w http.ResponseWriter, r *http.Request) { flush.Flush(w, false); whole(w, r) },
		"nothing":                    func(w http.ResponseWriter, r *http.Request) {},
		"length 0, flushed":          bodiless(0, "text/plain", true, flushes, flushes),
		"length 0, closed":           bodiless(0, "text/plain", true, nothing, closes),
		"only a type":                bodiless(len(page), "text/plain", false, nothing, nothing),
		"only a type, closed":        bodiless(len(page), "text/plain", false, nothing, closes),
		"length, closed":             bodiless(len(page), "text/plain", true, nothing, closes),
		"short length, closed":       bodiless(100, "text/plain", true, nothing, closes),
		"only a type, flushed":       bodiless(len(page), "text/plain", false, flushes, flushes),
		"only a type, asked":         bodiless(len(page), "text/plain", false, asks, asks),
		"length, flushed":            bodiless(len(page), "text/plain", true, flushes, flushes),
		"short length, flushed":      bodiless(100, "text/plain", true, flushes, flushes),
		"image, flushed":             bodiless(len(page), "image/png", true, flushes, flushes),
		"only a type, flushed late":  bodiless(len(page), "text/plain", false, nothing, flushes),
		"length, flushed late":       bodiless(len(page), "text/plain", true, nothing, flushes),
		"short length, flushed late": bodiless(100, "text/plain", true, nothing, flushes),
		"length, asked late":         bodiless(len(page), "text/plain", true, nothing, asks),
		"length, headers sent":       bodiless(len(page), "text/plain", true, func(f *flush.Flusher) { f.SendHeaders() }, nothing),
		"only a type, its buffer flushed": bodiless(len(page), "text/plain", false, func(f *flush.Flusher) {
			f.Top().Flush()
		}, nothing),
		"an error": func(w http.ResponseWriter, r *http.Request) { http.Error(w, page, http.StatusNotFound) },
		"ServeContent": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"1"`)
			http.ServeContent(w, r, "page.txt", time.Unix(1e9, 0), strings.NewReader(page))
		},
	} {
		for _, sapi := range []flush.SAPI{flush.NetHTTP(), flush.FPM(), flush.OpenResty()} {
			t.Run(name+"/"+sapi.Name, func(t *testing.T) {
				harness.EachProto(t, func(t *testing.T, p harness.Proto) {
					opts := gzipEverything()
					opts.SAPI = sapi
					srv := harness.Serve(t, p, flush.NewHandler(h, opts))
					get, head := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip), harness.Open(t, srv, "HEAD", "/", nil, harness.AcceptGzip)
					want, got := get.Header().Clone(), head.Header().Clone()
					for _, h := range []http.Header{want, got} {
						delete(h, "Date")
						delete(h, "Connection")
					}
					if got["Content-Length"] == nil && want["Content-Encoding"] != nil || name == "nothing" {
						delete(want, "Content-Length") // nothing tells it: that of the compressed body, or none
					}
					if want, got := fmt.Sprint(want), fmt.Sprint(got); want != got || get.Response().StatusCode != head.Response().StatusCode {
						t.Errorf("HEAD says %v, GET %v", got, want)
					}
					get.Rest()
					head.ExpectEnd("")
				})
			})
		}
	}
}

// A flush of nothing, after which no header leaves, decides nothing: the handler may
// still say what the body is, and the body itself does. Twin: headers that leave
// without a body.
func TestGzipDecidesWithTheBody(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 100)
	png := "\x89PNG\x0D\x0A\x1A\x0A" + page
	inVain := map[string]func(f *flush.Flusher){
		"flush":          func(f *flush.Flusher) { flush.Flush(f, true) },
		"ask":            func(f *flush.Flusher) { flush.Flush(f, false) },
		"all":            func(f *flush.Flusher) { f.FlushAll(true) },
		"its own buffer": func(f *flush.Flusher) { f.Top().Flush() },
	}
	for name, test := range map[string]struct {
		header, value string
		body          string
		plain         bool
		kind          string
	}{
		"nothing":      {body: page, kind: "text/plain; charset=utf-8"},
		"an image":     {body: png, plain: true, kind: "image/png"},
		"a type":       {"Content-Type", "text/css", page, false, "text/css"},
		"a type of it": {"Content-Type", "image/png", page, true, "image/png"},
		"an encoding":  {"Content-Encoding", "br", page, true, ""},
		"no-transform": {"Cache-Control", "no-transform", page, true, "text/plain; charset=utf-8"},
		"a length":     {"Content-Length", fmt.Sprint(len(page)), page, false, "text/plain; charset=utf-8"},
	} {
		for first, flushes := range inVain {
			for _, sapi := range []flush.SAPI{flush.OpenResty(), flush.NetHTTP()} {
				if sapi.Headers == flush.HeadersFirst && first != "its own buffer" {
					continue
				}
				t.Run(name+"/"+first+"/"+sapi.Name, func(t *testing.T) {
					harness.Bubble(t, func(t *testing.T, p harness.Proto) {
						opts := gzipEverything()
						opts.SAPI = sapi
						srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
							flushes(harness.Flusher(w))
							if test.header != "" {
								w.Header().Set(test.header, test.value)
							}
							io.WriteString(w, test.body)
						}), 0)
						s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
						h := s.Header()
						got, _, end := s.Rest()
						if zipped := h.Get("Content-Encoding") == "gzip"; zipped == test.plain {
							t.Errorf("compressed: %t", zipped)
						} else if zipped {
							got = unzip(t, []byte(got))
						}
						if got != test.body || end == harness.Cut || h.Get("Content-Type") != test.kind || h.Get("Vary") != "Accept-Encoding" {
							t.Errorf("%q, %s, %v, want type %q", harness.Clip([]byte(got)), end, h, test.kind)
						}
					})
				})
			}
		}
	}
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		srv := harness.ServeMemory(t, p, harness.Wrapped(gzipEverything(), func(w http.ResponseWriter, r *http.Request) {
			flush.Flush(w, true)
			io.WriteString(w, page)
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
		if e := s.Header().Get("Content-Encoding"); e != "gzip" {
			t.Errorf("headers first: Content-Encoding %q", e)
		}
		if got, _, _ := s.Rest(); unzip(t, []byte(got)) != page {
			t.Error("another body")
		}
	})
}

func TestGzipNotModified(t *testing.T) {
	for _, test := range []struct{ path, accept, tag string }{
		{"/page.html", "gzip", `W/"1"`},
		{"/page", "gzip", `W/"1"`},
		{"/page.html", "br", `"1"`},
		{"/picture.png", "gzip", `"1"`},
		{"/picture.svg", "gzip", `W/"1"`},
	} {
		harness.EachProto(t, func(t *testing.T, p harness.Proto) {
			srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Etag", `"1"`)
				http.ServeContent(w, r, r.URL.Path, time.Unix(1e9, 0), strings.NewReader(strings.Repeat("x", 1000)))
			}), gzipEverything()))
			ask := func(lines ...string) *harness.Stream {
				return harness.Open(t, srv, "GET", test.path, nil, append(lines, "Accept-Encoding: "+test.accept)...)
			}
			for _, s := range []*harness.Stream{ask(), ask("If-None-Match: " + test.tag)} {
				if got := s.Header().Get("Etag"); got != test.tag || s.Header().Get("Vary") != "Accept-Encoding" {
					t.Errorf("%v: %d %v", test, s.Response().StatusCode, s.Header())
				}
				s.Rest()
			}
		})
	}
}

// A 304 has no body, be it flushed before its end, and nothing of it is lost. A page has
// both.
func TestGzipNotModifiedHasNoBody(t *testing.T) {
	for _, status := range []int{http.StatusNotModified, http.StatusOK} {
		harness.EachProto(t, func(t *testing.T, p harness.Proto) {
			opts, told := harness.TellClosing(*gzipEverything())
			srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(status)
				if status == http.StatusOK {
					io.WriteString(w, "page")
				}
				harness.Must(t, flush.Flush(w, true))
			}))
			body, _, _ := harness.Open(t, srv, "GET", "/", nil, "Accept-Encoding: gzip").Rest()
			if c := harness.Next(t, told); c.Err != nil || c.Lost != 0 || (len(body) > 0) != (status == http.StatusOK) {
				t.Errorf("%d: %d bytes came, %d are lost, %v", status, len(body), c.Lost, c.Err)
			}
		})
	}
}

// What is compressed already stays as it is.
func TestGzipContentTypes(t *testing.T) {
	for kind, want := range map[string]bool{
		"image/png": false, "image/jpeg": false, "IMAGE/WEBP": false, "image/svg+xml": true, "image/svg+xml; charset=utf-8": true,
		"video/mp4": false, "audio/ogg; codecs=opus": false, "application/zip": false, "application/gzip": false, "application/x-gzip": false,
		"application/zstd": false, "application/x-brotli": false, "font/woff": false, "font/woff2": false, "application/font-woff2": false,
		"font/ttf": true, "application/pdf": false, " application/pdf ;x=y": false, "application/json": true, "text/event-stream": true,
		"application/pdfx": true, "imagery/png": true, "": true,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		rec := httptest.NewRecorder()
		f := flush.New(rec, r, gzipEverything())
		f.Header().Set("Content-Type", kind)
		io.WriteString(f, strings.Repeat("x", 1000))
		expectError(t, "Close", f.Close(), nil)
		if got := rec.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("%q: compressed %v", kind, got)
		}
	}
}

// A digest of the plain body is not announced as a trailer either.
func TestGzipDigestTrailer(t *testing.T) {
	for _, others := range []bool{false, true} {
		harness.EachProto(t, func(t *testing.T, p harness.Proto) {
			srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Add("Trailer", "Content-Digest")
				if others {
					w.Header().Add("Trailer", "X-Rows, repr-digest")
				}
				io.WriteString(w, strings.Repeat("x", 10000))
				w.Header().Set("Content-Digest", "sha-256=:x:")
				w.Header().Set("X-Rows", "1")
			}), gzipEverything()))
			s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
			body, trailer, _ := s.Rest()
			if unzip(t, []byte(body)) != strings.Repeat("x", 10000) {
				t.Error("another body")
			}
			if trailer.Get("Content-Digest") != "" || s.Header().Get("Content-Digest") != "" || p != harness.HTTP10 && (trailer.Get("X-Rows") != "") != others {
				t.Errorf("header %v, trailer %v", s.Header(), trailer)
			}
		})
	}
}

// A response that ends short of the length it had declared is cut, as it is
// without Gzip; one that is too long ends where it said.
func TestGzipHoldsTheLength(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 5000)
	failing := func(n int) io.ReadSeeker {
		return &failingSeeker{strings.NewReader(page), n}
	}
	for name, test := range map[string]struct {
		h    http.HandlerFunc
		cut  bool
		body string
	}{
		"whole": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, page[:1000])
		}, false, page[:1000]},
		"in parts": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, page[:500])
			flush.Flush(w, true)
			io.WriteString(w, page[500:1000])
		}, false, page[:1000]},
		"short": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			io.WriteString(w, page[:600])
		}, true, page[:600]},
		"very short": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			io.WriteString(w, page[:60])
		}, true, page[:60]},
		"nothing": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "5000") }, true, ""},
		"flushed": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			io.WriteString(w, page[:600])
			flush.Flush(w, false)
		}, true, page[:600]},
		"large": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			io.WriteString(w, page[:99999])
		}, true, page[:99999]},
		"too long": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, page[:1001])
		}, false, page[:1000]},
		"too long by far": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10000")
			io.WriteString(w, page[:10000])
			io.WriteString(w, page)
		}, false, page[:10000]},
		"ServeContent fails": {func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "page.txt", time.Time{}, failing(40000))
		}, true, page[:40000]},
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				told := make(chan error, 1)
				opts := gzipEverything()
				opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) { told <- err }
				srv := harness.Serve(t, p, flush.NewHandler(test.h, opts))
				s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
				if _, err := s.Head(); err != nil {
					t.Fatalf("no head: a client would ask again: %v", err)
				}
				compressed := s.Header().Get("Content-Encoding") == "gzip"
				body, _, end := s.Rest()
				err := <-told
				want := harness.Complete
				if p == harness.HTTP10 && s.Response().ContentLength < 0 {
					want = harness.Closed
				} else if test.cut {
					want = harness.Cut
				}
				if end != want {
					t.Errorf("ended %s, want %s (%v)", end, want, err)
				}
				if compressed {
					zr, zerr := gzip.NewReader(strings.NewReader(body))
					if zerr != nil {
						t.Fatal(zerr)
					}
					plain, zerr := io.ReadAll(zr)
					if (zerr != nil) != test.cut || p != harness.HTTP2 && string(plain) != test.body || !strings.HasPrefix(test.body, string(plain)) {
						t.Errorf("%d bytes, then %v", len(plain), zerr)
					}
					if long := strings.HasPrefix(name, "too long"); (err != nil) != (test.cut || long) || long && !errors.Is(err, http.ErrContentLength) {
						t.Errorf("OnClose: %v", err)
					}
				}
			})
		})
	}
}

// A failingSeeker fails after so many bytes.
type failingSeeker struct {
	*strings.Reader
	left int
}

func (r *failingSeeker) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, harness.ErrBoom
	}
	n, err := r.Reader.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

func (r *failingSeeker) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

// A Gzip buffer that has begun ends with the response and not before, so that
// everything behind it is compressed as well; and whatever is tried the client
// can decode what comes.
func TestGzipIsImmutable(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 400)
	zip := func(f *flush.Flusher, r *http.Request, chunk int) *flush.Buffer {
		return f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: chunk, FollowFlush: true})
	}
	refused := func(t *testing.T, what string, err error) {
		t.Helper()
		if !errors.Is(err, flush.ErrForbidden) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for name, test := range map[string]struct {
		do   func(t *testing.T, f *flush.Flusher, r *http.Request)
		want string
	}{
		"Close": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			b := zip(f, r, 4096)
			io.WriteString(f, page)
			refused(t, "Close", b.Close())
			if s := b.Status(); !s.NoRemove || !s.NoClean || s.NoFlush || s.Level != 0 {
				t.Errorf("%+v", s)
			}
			io.WriteString(f, "footer")
		}, page + "footer"},
		"Close before it begins": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			b := zip(f, r, 0)
			io.WriteString(f, page)
			expectError(t, "Close", b.Close(), nil)
			io.WriteString(f, "footer")
		}, page + "footer"},
		"two in a row": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			for range 2 {
				b := zip(f, r, 4096)
				io.WriteString(f, page)
				b.Close()
			}
		}, page + page},
		"two in a row, before they begin": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			for range 2 {
				b := zip(f, r, 0)
				io.WriteString(f, page)
				b.Close()
			}
		}, page + page},
		"Discard of all": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			zip(f, r, 4096)
			f.StartBuffer(nil)
			io.WriteString(f, page)
			f.FlushAll(true)
			io.WriteString(f, "half a ")
			var err error
			for b := f.Top(); b != nil && err == nil; b = f.Top() {
				err = b.Discard()
			}
			refused(t, "Discard", err)
			io.WriteString(f, "sorry")
		}, page + "sorry"},
		"over a plain one that is discarded": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			plain := f.StartBuffer(nil)
			b := zip(f, r, 0)
			io.WriteString(f, page)
			b.Flush()
			refused(t, "Discard", b.Discard())
			if err := plain.Discard(); !errors.Is(err, flush.ErrNotTop) {
				t.Error("Discard of the plain one:", err)
			}
			io.WriteString(f, "sorry")
		}, page + "sorry"},
		"over a plain one, before it begins": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			plain := f.StartBuffer(nil)
			b := zip(f, r, 0)
			io.WriteString(f, page)
			expectError(t, "Close", b.Close(), nil)
			expectError(t, "Discard", plain.Discard(), nil)
			io.WriteString(f, "sorry")
		}, "sorry"},
		"Clean": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			b := zip(f, r, 4096)
			io.WriteString(f, page)
			io.WriteString(f, "more")
			refused(t, "Clean", b.Clean())
		}, page + "more"},
		"Flusher.Clean": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			b := zip(f, r, 0)
			io.WriteString(f, page)
			b.Flush()
			io.WriteString(f, "more")
			expectError(t, "Clean", f.Clean(), nil)
			if s := b.Status(); s.NoRemove || s.NoClean {
				t.Errorf("%+v", s)
			}
			expectError(t, "Discard", b.Discard(), nil)
			http.Error(f, "sorry", http.StatusInternalServerError)
		}, "sorry\n"},
		"a Clean that a flush overtakes": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			b := zip(f, r, 0)
			io.WriteString(f, page)
			b.Flush()
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseClean != 0 {
					expectError(t, "FlushWait", f.FlushWait(harness.NoContext), nil)
				}
				return p, nil
			}})
			io.WriteString(f, "half a ")
			if err := f.Clean(); !errors.Is(err, flush.ErrHeadersSent) {
				t.Error("Clean:", err)
			}
			io.WriteString(f, "more")
		}, page + "more"},
		"one that declined": {func(t *testing.T, f *flush.Flusher, r *http.Request) {
			f.Header().Set("Content-Encoding", "identity")
			b := zip(f, r, 1)
			io.WriteString(f, page)
			expectError(t, "Clean", b.Clean(), nil)
			expectError(t, "Discard", b.Discard(), nil)
			io.WriteString(f, "footer")
		}, page + "footer"},
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					test.do(t, f, r)
				}))
				s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
				encoded := s.Header().Get("Content-Encoding") == "gzip"
				body, _, end := s.Rest()
				if encoded {
					body = unzip(t, []byte(body))
				}
				if body != test.want || end == harness.Cut {
					t.Errorf("got %q, %s, want %q", harness.Clip([]byte(body)), end, harness.Clip([]byte(test.want)))
				}
			})
		})
	}
}

// A filter that begins while a flush of the headers is on its way finds them
// sent or sets them in time: never is a body compressed and not said to be.
func TestGzipBehindAFlush(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 400)
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		for name, opts := range map[string]*flush.Options{
			"FlushAsync": nil, "Flush": {Flush: flush.Async}, "Implicit": {Implicit: flush.Async}, "FlushInterval": {FlushInterval: 1},
		} {
			srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				switch name {
				case "FlushAsync":
					flush.Flush(w, false)
				case "Flush":
					f.Flush()
				}
				f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, 1), ChunkSize: 4096, FollowFlush: true})
				io.WriteString(w, page)
				go f.FlushAsync()
				io.WriteString(w, page)
			}))
			for range 25 {
				s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
				encoded := s.Header().Get("Content-Encoding") == "gzip"
				body, _, _ := s.Rest()
				if encoded {
					body = unzip(t, []byte(body))
				}
				if body != page+page {
					t.Fatalf("%s: encoded %v, got %q", name, encoded, harness.Clip([]byte(body)))
				}
				s.Leave()
			}
		}
	})
}

// Existing handlers, large and partial downloads included.
func TestGzipServeContent(t *testing.T) {
	var content strings.Builder
	for i := range 50000 {
		fmt.Fprintf(&content, "line %d\n", i)
	}
	modified := time.Unix(1e9, 0)
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		held := 0
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"1"`)
			src := readHook{strings.NewReader(content.String()), func() {
				f, _ := flush.From(w)
				held = max(held, f.Top().Len()+f.Buffered())
			}}
			http.ServeContent(w, r, "novel.txt", modified, src)
		}), gzipEverything()))
		s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
		h := s.Header()
		if h.Get("Content-Encoding") != "gzip" || h.Get("Content-Length") != "" || h.Get("Etag") != `W/"1"` {
			t.Errorf("header %v", h)
		}
		body, _, _ := s.Rest()
		if got := unzip(t, []byte(body)); got != content.String() {
			t.Errorf("%d bytes, want %d, or others", len(got), content.Len())
		}
		if len(body) > content.Len()/2 {
			t.Errorf("compressed to %d of %d bytes", len(body), content.Len())
		}
		if held > 100<<10 {
			t.Errorf("%d bytes held on the way", held)
		}

		s = harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip, "Range: bytes=1000-1999")
		if h := s.Header(); s.Response().StatusCode != 206 || h.Get("Content-Encoding") != "" || h.Get("Content-Length") != "1000" || h.Get("Etag") != `"1"` {
			t.Errorf("range: %d %v", s.Response().StatusCode, h)
		}
		s.ExpectEnd(content.String()[1000:2000])

		s = harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip, `If-None-Match: W/"1"`)
		if s.Response().StatusCode != 304 || s.Header().Get("Content-Encoding") != "" {
			t.Errorf("revalidation: %d %v", s.Response().StatusCode, s.Header())
		}
		s.ExpectEnd("")
	})
}

// readHook calls a hook before each Read.
type readHook struct {
	io.ReadSeeker
	hook func()
}

func (r readHook) Read(p []byte) (int, error) {
	r.hook()
	return r.ReadSeeker.Read(p)
}

// A response that is cut is cut in its encoding, too, and over HTTP/1.1 and
// HTTP/2 in its framing.
func TestGzipPanic(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "first")
			flush.Flush(w, true)
			io.WriteString(w, "second")
			panic(http.ErrAbortHandler)
		}), gzipEverything()))
		s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
		body, _, end := s.Rest()
		if end == harness.Complete {
			t.Error("the response looks complete")
		}
		zr, err := gzip.NewReader(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(zr); string(got) != "first" || err == nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// Two filters, or one below a handler that compresses by itself, make one
// encoding.
func TestGzipTwice(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 100)
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, page)
		flush.Flush(w, true)
		io.WriteString(w, page)
	}), gzipEverything())
	srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(h, gzipEverything()))
	s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
	if got := s.Header().Values("Content-Encoding"); len(got) != 1 || got[0] != "gzip" {
		t.Errorf("Content-Encoding %q", got)
	}
	if got := s.Header().Values("Vary"); len(got) != 1 {
		t.Errorf("Vary %q", got)
	}
	body, _, _ := s.Rest()
	if got := unzip(t, []byte(body)); got != page+page {
		t.Errorf("got %q", harness.Clip([]byte(got)))
	}
}

// A buffer that comes after a part of the body compresses nothing: the part
// would end up inside the encoding that the headers announce.
func TestGzipComesTooLate(t *testing.T) {
	for name, before := range map[string]func(f *flush.Flusher){
		"on floor 2":        func(f *flush.Flusher) { f.WriteString("before ") },
		"in a lower buffer": func(f *flush.Flusher) { f.StartBuffer(nil); f.WriteString("before ") },
		"sent":              func(f *flush.Flusher) { f.WriteString("before "); f.FlushWait(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			page := strings.Repeat("x", 1000)
			srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				before(f)
				f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1)})
				io.WriteString(w, page)
			}), nil))
			s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
			if got := s.Header().Get("Content-Encoding"); got != "" {
				t.Errorf("Content-Encoding %q", got)
			}
			s.ExpectEnd("before " + page)
		})
	}
}

// Without a request there is nothing to go by; without headers on the wire
// nothing can be announced.
func TestGzipPasses(t *testing.T) {
	page := strings.Repeat("x", 1000)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, nil, -1)})
	io.WriteString(f, page)
	expectError(t, "Close", f.Close(), nil)
	if got := rec.Result().Header; rec.Body.String() != page || got.Get("Vary") != "" {
		t.Errorf("%v %q", got, harness.Clip(rec.Body.Bytes()))
	}

	f, out := newOutput(t)
	f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1)})
	io.WriteString(f, page)
	expectError(t, "Close", f.Close(), nil)
	expectOutput(t, out, page)
}

func TestGzipLevels(t *testing.T) {
	page := strings.Repeat("All work and no play. ", 1000)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	for _, level := range []int{-99, gzip.HuffmanOnly, gzip.DefaultCompression, gzip.NoCompression, 1, 9, 99} {
		for range 2 { // the second one uses the first one's memory
			rec := httptest.NewRecorder()
			f := flush.New(rec, r, nil)
			f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, level), ChunkSize: 500})
			io.WriteString(f, page)
			expectError(t, "Close", f.Close(), nil)
			if got := unzip(t, rec.Body.Bytes()); got != page {
				t.Errorf("level %d: got %q", level, harness.Clip([]byte(got)))
			}
		}
	}
}

// A client that goes away does not stop the handler from finding out.
func TestGzipClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		srv := harness.ServeMemory(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			random := rand.NewChaCha8([32]byte{})
			for p := make([]byte, 1000); err == nil; {
				random.Read(p)
				_, err = w.Write(p)
			}
			ended <- err
		}), gzipEverything()), 4<<10)
		s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
		s.Take(100)
		s.Leave()
		expectError(t, "Write", <-ended, flush.ErrClientGone)
	})
}

// The end of one response may still be on its way down when the next one takes
// its compressor from the pool.
func TestGzipOutputIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		respond := func(w http.ResponseWriter, page string) error {
			f := flush.New(w, r, &flush.Options{BufferSize: -1, SendTimeout: -1})
			f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, 1)})
			io.WriteString(f, page)
			return f.Close()
		}
		slow := gateResponse{newGate(), http.Header{}}
		closed := make(chan error, 1)
		go func() { closed <- respond(slow, strings.Repeat("slow", 500)) }()
		synctest.Wait()
		for range 20 {
			rec := httptest.NewRecorder()
			expectError(t, "Close", respond(rec, strings.Repeat("quick", 500)), nil)
			if got := unzip(t, rec.Body.Bytes()); got != strings.Repeat("quick", 500) {
				t.Fatalf("got %q", harness.Clip([]byte(got)))
			}
		}
		slow.open()
		expectError(t, "Close", <-closed, nil)
		if got := unzip(t, []byte(slow.String())); got != strings.Repeat("slow", 500) {
			t.Errorf("got %q", harness.Clip([]byte(got)))
		}
	})
}

// gateResponse is a gate as an http.ResponseWriter.
type gateResponse struct {
	*gate
	header http.Header
}

func (g gateResponse) Header() http.Header { return g.header }
func (g gateResponse) WriteHeader(int)     {}
func (g gateResponse) Flush()              {}
