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
)

// gzipEverything are options that compress every response, as api.md has it.
func gzipEverything() *flush.Options {
	return &flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
	}}
}

const acceptGzip = "Accept-Encoding: gzip"

// bodyReader reads a stream's body as it comes.
type bodyReader struct{ s *stream }

func (b bodyReader) Read(p []byte) (int, error) {
	for len(b.s.held) == 0 {
		if b.s.readErr != nil {
			return 0, b.s.readErr
		}
		if !b.s.fill() {
			return 0, errors.New("nothing comes")
		}
	}
	n := copy(p, b.s.held)
	b.s.held = b.s.held[n:]
	return n, nil
}

// unzip decodes one whole gzip stream.
func unzip(t *testing.T, p []byte) string {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatalf("%v in %q", err, clip(p))
	}
	got, err := io.ReadAll(zr)
	if err != nil {
		t.Fatalf("%v after %q", err, clip(got))
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
			eachProto(t, func(t *testing.T, p proto) {
				const events = 20
				event := func(i int) string { return fmt.Sprintf("data: event %d %d\n\n", i, i*i) }
				park := newPark(t)
				srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					f.SetImplicit(flushing.implicit)
					w.Header().Set("Content-Type", "text/event-stream")
					for i := range events {
						park.here()
						io.WriteString(w, event(i))
						flushing.flush(f)
					}
				}), gzipEverything()))
				s := open(t, srv, "GET", "/", nil, acceptGzip)
				park.next()
				if h := s.header(); h.Get("Content-Encoding") != "gzip" || h.Get("Vary") != "Accept-Encoding" {
					t.Fatalf("header %v", h)
				}
				zr, err := gzip.NewReader(bodyReader{s})
				if err != nil {
					t.Fatal(err)
				}
				for i := range events {
					if i > 0 {
						park.next()
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
		{name: "304", do: func(w http.ResponseWriter) { w.Header().Set("Etag", `"1"`); w.WriteHeader(http.StatusNotModified) }, header: map[string]string{"Etag": `"1"`}, body: "-"},
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
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			i, _ := strconv.Atoi(r.URL.Path[1:])
			tests[i].do(w)
		}), gzipEverything()))
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				line := acceptGzip
				switch tt.accept {
				case "":
				case "-":
					line = "X-Nothing: nothing"
				default:
					line = "Accept-Encoding: " + tt.accept
				}
				s := open(t, srv, "GET", fmt.Sprint("/", i), nil, line)
				h := s.header()
				body, _, end := s.rest()
				if end == cut {
					t.Fatalf("cut after %q", clip([]byte(body)))
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
					t.Errorf("body %q, want %q", clip([]byte(body)), clip([]byte(want)))
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
		"identity;q=0, gzip;q=0.1":      true,
		"br\x00gzip":                    false,
		"":                              false,
		"br":                            false,
		"identity":                      false,
		"gzip;q=0":                      false,
		"gzip;q=0.000":                  false,
		"gzip;q=0, *":                   false,
		"*;q=0":                         false,
		"gzip;q=0.5, identity":          false,
		"gzip;q=nonsense":               false,
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

func TestGzipHead(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Header().Set("Etag", `"1"`)
			io.WriteString(w, strings.Repeat("x", 1000))
			flush.Flush(w, true)
		}), gzipEverything()))
		s := open(t, srv, "HEAD", "/", nil, acceptGzip)
		h := s.header()
		if h.Get("Content-Encoding") != "" || h.Get("Content-Length") != "1000" || h.Get("Etag") != `"1"` || h.Get("Vary") != "Accept-Encoding" {
			t.Errorf("header %v", h)
		}
		s.expectEnd("")
	})
}

// Existing handlers, large and partial downloads included.
func TestGzipServeContent(t *testing.T) {
	var content strings.Builder
	for i := range 50000 {
		fmt.Fprintf(&content, "line %d\n", i)
	}
	modified := time.Unix(1e9, 0)
	eachProto(t, func(t *testing.T, p proto) {
		held := 0
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"1"`)
			src := readHook{strings.NewReader(content.String()), func() {
				f, _ := flush.From(w)
				held = max(held, f.Top().Len()+f.Buffered())
			}}
			http.ServeContent(w, r, "novel.txt", modified, src)
		}), gzipEverything()))
		s := open(t, srv, "GET", "/", nil, acceptGzip)
		h := s.header()
		if h.Get("Content-Encoding") != "gzip" || h.Get("Content-Length") != "" || h.Get("Etag") != `W/"1"` {
			t.Errorf("header %v", h)
		}
		body, _, _ := s.rest()
		if got := unzip(t, []byte(body)); got != content.String() {
			t.Errorf("%d bytes, want %d, or others", len(got), content.Len())
		}
		if len(body) > content.Len()/2 {
			t.Errorf("compressed to %d of %d bytes", len(body), content.Len())
		}
		if held > 100<<10 {
			t.Errorf("%d bytes held on the way", held)
		}

		s = open(t, srv, "GET", "/", nil, acceptGzip, "Range: bytes=1000-1999")
		if h := s.header(); s.response().StatusCode != 206 || h.Get("Content-Encoding") != "" || h.Get("Content-Length") != "1000" || h.Get("Etag") != `"1"` {
			t.Errorf("range: %d %v", s.response().StatusCode, h)
		}
		s.expectEnd(content.String()[1000:2000])

		s = open(t, srv, "GET", "/", nil, acceptGzip, `If-None-Match: W/"1"`)
		if s.response().StatusCode != 304 || s.header().Get("Content-Encoding") != "" {
			t.Errorf("revalidation: %d %v", s.response().StatusCode, s.header())
		}
		s.expectEnd("")
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
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "first")
			flush.Flush(w, true)
			io.WriteString(w, "second")
			panic(http.ErrAbortHandler)
		}), gzipEverything()))
		s := open(t, srv, "GET", "/", nil, acceptGzip)
		body, _, end := s.rest()
		if end == complete {
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
	srv := serve(t, http1, flush.NewHandler(h, gzipEverything()))
	s := open(t, srv, "GET", "/", nil, acceptGzip)
	if got := s.header().Values("Content-Encoding"); len(got) != 1 || got[0] != "gzip" {
		t.Errorf("Content-Encoding %q", got)
	}
	if got := s.header().Values("Vary"); len(got) != 1 {
		t.Errorf("Vary %q", got)
	}
	body, _, _ := s.rest()
	if got := unzip(t, []byte(body)); got != page+page {
		t.Errorf("got %q", clip([]byte(got)))
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
			srv := serve(t, http1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				before(f)
				f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1)})
				io.WriteString(w, page)
			}), nil))
			s := open(t, srv, "GET", "/", nil, acceptGzip)
			if got := s.header().Get("Content-Encoding"); got != "" {
				t.Errorf("Content-Encoding %q", got)
			}
			s.expectEnd("before " + page)
		})
	}
}

// A compressed buffer that is discarded or cleaned half way leaves a body that
// can be decoded.
func TestGzipDiscardAndClean(t *testing.T) {
	for name, do := range map[string]func(b *flush.Buffer) error{
		"Discard": (*flush.Buffer).Discard,
		"Clean":   (*flush.Buffer).Clean,
	} {
		for _, sent := range []string{"", "sent "} {
			t.Run(fmt.Sprintf("%s after %q", name, sent), func(t *testing.T) {
				srv := serve(t, http1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					io.WriteString(w, sent)
					f.Top().Flush()
					io.WriteString(w, "dropped ")
					expectError(t, name, do(f.Top()), nil)
					if b := f.Top(); b != nil {
						io.WriteString(w, "end")
					}
				}), gzipEverything()))
				s := open(t, srv, "GET", "/", nil, acceptGzip)
				encoded := s.header().Get("Content-Encoding") == "gzip"
				body, _, end := s.rest()
				if end != complete {
					t.Fatalf("ended %s", end)
				}
				if encoded {
					body = unzip(t, []byte(body))
				}
				want := sent
				if name == "Clean" {
					want += "end"
				}
				if body != want {
					t.Errorf("got %q, want %q", body, want)
				}
			})
		}
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
		t.Errorf("%v %q", got, clip(rec.Body.Bytes()))
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
				t.Errorf("level %d: got %q", level, clip([]byte(got)))
			}
		}
	}
}

// A client that goes away does not stop the handler from finding out.
func TestGzipClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		srv := serveMemory(t, http1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			random := rand.NewChaCha8([32]byte{})
			for p := make([]byte, 1000); err == nil; {
				random.Read(p)
				_, err = w.Write(p)
			}
			ended <- err
		}), gzipEverything()), 4<<10)
		s := open(t, srv, "GET", "/", nil, acceptGzip)
		s.take(100)
		s.leave()
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
				t.Fatalf("got %q", clip([]byte(got)))
			}
		}
		slow.open()
		expectError(t, "Close", <-closed, nil)
		if got := unzip(t, []byte(slow.String())); got != strings.Repeat("slow", 500) {
			t.Errorf("got %q", clip([]byte(got)))
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
