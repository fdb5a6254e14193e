package flush_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// The first block is a whole program, and what the README says about building
// it from a checkout works without a network.
func TestReadmeProgram(t *testing.T) {
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	program := goBlocks(documents(t)["README.md"])[0].code
	if n := strings.Count(program, "\n"); n > 25 {
		t.Errorf("the first program has %d lines, want at most 25", n)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o666); err != nil {
		t.Fatal(err)
	}
	goCommand(t, dir, "mod", "init", "hello")
	goCommand(t, dir, "mod", "edit", "-replace", "github.com/fa492104/flush="+root)
	goCommand(t, dir, "mod", "tidy")
	goCommand(t, dir, "vet", ".")
	goCommand(t, dir, "build", "-o", os.DevNull, ".")
}

// The table of options has every field, in order, with its type.
func TestReadmeOptions(t *testing.T) {
	_, text, _ := strings.Cut(documents(t)["README.md"], "\n## Options\n")
	text, _, _ = strings.Cut(text, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| .*`).FindAllString(text, -1)
	var got, want []string
	for _, row := range rows[min(2, len(rows)):] {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		got = append(got, strings.Join(cells[:min(2, len(cells))], " "))
		if len(cells) != 5 || slices.Contains(cells, "") {
			t.Errorf("%s: %d cells, want 5, none of them empty", row, len(cells))
		}
	}
	options := reflect.TypeFor[flush.Options]()
	for i := range options.NumField() {
		field := options.Field(i)
		want = append(want, fmt.Sprintf("`%s` `%s`", field.Name, strings.ReplaceAll(field.Type.String(), "flush.", "")))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The table of profiles says what the profiles say.
func TestReadmeProfiles(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	headers := map[flush.HeaderOrder]string{
		flush.HeadersFirst:      "headers first",
		flush.HeadersWithOutput: "headers with the first output",
		flush.OutputOnly:        "output only",
	}
	implicit := map[flush.Mode]string{0: "off", flush.Wait: "after each write"}
	held := map[int]string{0: "–", 1 << 20: "1 MiB"}
	for _, p := range []struct {
		funcs string
		sapi  flush.SAPI
	}{
		{"`NetHTTP()`, the default", flush.NetHTTP()},
		{"`Apache2Handler()`", flush.Apache2Handler()},
		{"`CGI()`, `FastCGI()`", flush.CGI()},
		{"`CGI()`, `FastCGI()`", flush.FastCGI()},
		{"`FPM()`", flush.FPM()},
		{"`OpenResty()`", flush.OpenResty()},
		{"`CLI()`", flush.CLI()},
		{"`Embed()`", flush.Embed()},
	} {
		contentType := p.sapi.ContentType
		if contentType == "" {
			contentType = "–"
		}
		row := "\n| " + strings.Join([]string{
			p.funcs, p.sapi.Name, headers[p.sapi.Headers], contentType, implicit[p.sapi.Implicit], held[p.sapi.HTTP10Buffer],
		}, " | ") + " |\n"
		if !strings.Contains(string(text), row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
}

// Under "Fixed is not sent".
func TestReadmeFixedIsNotSent(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-When", "in time")
		io.WriteString(w, "body")
		w.Header().Set("X-When", "late")
		w.Header().Set("X-Late", "yes")
		w.WriteHeader(http.StatusTeapot)
	})
	mux.HandleFunc("/clean", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Kept", "first")
		for _, name := range []string{"Content-Encoding", "Content-Range", "Etag", "Last-Modified"} {
			w.Header().Set(name, "old")
		}
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "half a page")
		f, _ := flush.From(w)
		if err := f.Clean(); err != nil {
			t.Errorf("Clean: %v", err)
		}
		w.Header().Set("X-New", "yes")
		http.Error(w, "sorry", http.StatusInternalServerError)
	})
	mux.HandleFunc("/sent", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half ")
		if err := flush.Flush(w, true); err != nil {
			t.Errorf("Flush: %v", err)
		}
		f, _ := flush.From(w)
		if err := f.Clean(); !errors.Is(err, flush.ErrHeadersSent) {
			t.Errorf("Clean after a flush: %v", err)
		}
		io.WriteString(w, "a page")
	})
	mux.HandleFunc("/filter", func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			w.Header().Set("X-Filter", "yes")
			return p, nil
		}})
		io.WriteString(w, "body")
		w.Header().Set("X-Open", "yes")
		w.WriteHeader(http.StatusAccepted)
		w.Header().Set("X-Late", "yes")
	})
	mux.HandleFunc("/trailer", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Sum", "too early")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-More", "43")
		w.Header().Set("X-Unannounced", "44")
	})
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, flush.NewHandler(mux, nil))

		s := open(t, srv, "GET", "/late", nil)
		if resp := s.response(); resp.StatusCode != 200 || resp.ContentLength != 4 ||
			resp.Header.Get("X-When") != "in time" || resp.Header.Get("X-Late") != "" {
			t.Errorf("late: status %d, length %d, %v", resp.StatusCode, resp.ContentLength, resp.Header)
		}
		s.expectEnd("body")

		s = open(t, srv, "GET", "/clean", nil)
		resp := s.response()
		if h := resp.Header; resp.StatusCode != 500 || resp.ContentLength != 6 || h.Get("X-Kept") != "first" || h.Get("X-New") != "yes" {
			t.Errorf("clean: status %d, length %d, %v", resp.StatusCode, resp.ContentLength, h)
		}
		for _, name := range []string{"Content-Encoding", "Content-Range", "Etag", "Last-Modified"} {
			if got := resp.Header.Get(name); got != "" {
				t.Errorf("clean: %s: %s", name, got)
			}
		}
		s.expectEnd("sorry\n")

		open(t, srv, "GET", "/sent", nil).expectEnd("half a page")

		s = open(t, srv, "GET", "/filter", nil)
		if resp := s.response(); resp.StatusCode != 202 || resp.Header.Get("X-Open") != "yes" ||
			resp.Header.Get("X-Late") != "" || resp.Header.Get("X-Filter") != "yes" {
			t.Errorf("filter: status %d, %v", resp.StatusCode, resp.Header)
		}
		s.expectEnd("body")

		s = open(t, srv, "GET", "/trailer", nil)
		_, trailer, _ := s.rest()
		want := "42 43 "
		if p == http10 {
			want = "  " // the protocol has none
		}
		if got := fmt.Sprint(trailer.Get("X-Sum"), " ", trailer.Get("X-More"), " ", trailer.Get("X-Unannounced")); got != want {
			t.Errorf("trailers %q, want %q", got, want)
		}
	})
}

// hidingWriter is a writer of the kind that has no Unwrap.
type hidingWriter struct{ w http.ResponseWriter }

func (h hidingWriter) Header() http.Header         { return h.w.Header() }
func (h hidingWriter) WriteHeader(code int)        { h.w.WriteHeader(code) }
func (h hidingWriter) Write(p []byte) (int, error) { return h.w.Write(p) }

// gzipWriter is a compressor of the usual kind.
type gzipWriter struct {
	http.ResponseWriter
	z *gzip.Writer
}

func compress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		next.ServeHTTP(&gzipWriter{w, z}, r)
	})
}

func (g *gzipWriter) Write(p []byte) (int, error) { return g.z.Write(p) }
func (g *gzipWriter) Unwrap() http.ResponseWriter { return g.ResponseWriter }

func (g *gzipWriter) FlushError() error {
	if err := g.z.Flush(); err != nil {
		return err
	}
	return http.NewResponseController(g.ResponseWriter).Flush()
}

// Under "Order of middleware".
func TestReadmeMiddlewareOrder(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		for _, wait := range []bool{true, false} {
			for name, wrap := range map[string]func(http.Handler) http.Handler{
				"inside":  func(h http.Handler) http.Handler { return flush.NewHandler(compress(h), nil) },
				"outside": func(h http.Handler) http.Handler { return compress(flush.NewHandler(h, nil)) },
			} {
				park := newPark(t)
				srv := serve(t, p, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "first")
					if err := flush.Flush(w, wait); err != nil {
						t.Errorf("Flush(%v) with a compressor %s: %v", wait, name, err)
					}
					park.here()
					io.WriteString(w, "second")
				})))
				s := open(t, srv, "GET", "/", nil)
				s.header()
				park.wait()
				if got := readGzip(t, s, "first"); got != "first" {
					t.Errorf("Flush(%v) with a compressor %s: read %q", wait, name, got)
				}
				park.resume()
				s.rest()
			}
		}
	})

	done := make(chan struct{})
	hide := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w = hidingWriter{w}
		if _, ok := flush.From(w); ok {
			t.Error("From sees through a writer without Unwrap")
		}
		f, ok := flush.FromContext(r.Context())
		if !ok {
			t.Error("FromContext finds no Flusher")
			return
		}
		io.WriteString(w, "hidden")
		if err := f.FlushWait(r.Context()); err != nil {
			t.Errorf("FlushWait: %v", err)
		}
		<-done
	})
	s := open(t, serve(t, http1, flush.NewHandler(hide, nil)), "GET", "/", nil)
	s.expect("hidden")
	close(done)
	s.expectEnd("")

	whole := http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := flush.Flush(w, true); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush below http.TimeoutHandler: %v", err)
		}
	}), time.Hour, "")
	open(t, serve(t, http1, flush.NewHandler(whole, nil)), "GET", "/", nil).expectEnd("")

	recovered := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			f, _ := flush.From(w)
			f.Abort(fmt.Errorf("recovered from %v", recover()))
		}()
		io.WriteString(w, "half")
		flush.Flush(w, true)
		panic("a mistake")
	})
	eachProto(t, func(t *testing.T, p proto) {
		s := open(t, serve(t, p, flush.NewHandler(recovered, nil)), "GET", "/", nil)
		if _, _, end := s.rest(); end == complete {
			t.Error("the response of a handler that was recovered and aborted looks complete")
		}
	})

	limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		_, err := io.ReadAll(http.MaxBytesReader(f.Unwrap(), r.Body, 3))
		if tooLarge := new(http.MaxBytesError); !errors.As(err, &tooLarge) {
			t.Errorf("read %v", err)
		}
	})
	s = open(t, serve(t, http1, flush.NewHandler(limited, nil)), "POST", "/", strings.NewReader("four"))
	if !s.response().Close {
		t.Error("http.MaxBytesReader did not tell the server to close the connection")
	}
}

// readGzip decodes what has come of s until it has want.
func readGzip(t *testing.T, s *stream, want string) string {
	t.Helper()
	var raw, got []byte
	for range 100 {
		raw = append(raw, s.take(1)...)
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			continue // the gzip header is not whole
		}
		if got, _ = io.ReadAll(z); string(got) == want {
			break
		}
	}
	return string(got)
}
