package docs_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// The README is short, and so is its first program.
func TestReadmeIsShort(t *testing.T) {
	text := documents(t)["README.md"]
	if n := strings.Count(text, "\n"); n > 250 {
		t.Errorf("the README has %d lines, want at most 250", n)
	}
	first := goBlocks(text)[0]
	if n := strings.Count(first.code, "\n"); n > 25 || !first.isProgram() {
		t.Errorf("the first program has %d lines, want at most 25", n)
	}
}

// In docs/headers.md.
func TestDocumentFixedIsNotSent(t *testing.T) {
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
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, flush.NewHandler(mux, nil))

		s := harness.Open(t, srv, "GET", "/late", nil)
		if resp := s.Response(); resp.StatusCode != 200 || resp.ContentLength != 4 ||
			resp.Header.Get("X-When") != "in time" || resp.Header.Get("X-Late") != "" {
			t.Errorf("late: status %d, length %d, %v", resp.StatusCode, resp.ContentLength, resp.Header)
		}
		s.ExpectEnd("body")

		s = harness.Open(t, srv, "GET", "/clean", nil)
		resp := s.Response()
		if h := resp.Header; resp.StatusCode != 500 || resp.ContentLength != 6 || h.Get("X-Kept") != "first" || h.Get("X-New") != "yes" {
			t.Errorf("clean: status %d, length %d, %v", resp.StatusCode, resp.ContentLength, h)
		}
		for _, name := range []string{"Content-Encoding", "Content-Range", "Etag", "Last-Modified"} {
			if got := resp.Header.Get(name); got != "" {
				t.Errorf("clean: %s: %s", name, got)
			}
		}
		s.ExpectEnd("sorry\n")

		harness.Open(t, srv, "GET", "/sent", nil).ExpectEnd("half a page")

		s = harness.Open(t, srv, "GET", "/filter", nil)
		if resp := s.Response(); resp.StatusCode != 202 || resp.Header.Get("X-Open") != "yes" ||
			resp.Header.Get("X-Late") != "" || resp.Header.Get("X-Filter") != "yes" {
			t.Errorf("filter: status %d, %v", resp.StatusCode, resp.Header)
		}
		s.ExpectEnd("body")

		s = harness.Open(t, srv, "GET", "/trailer", nil)
		_, trailer, _ := s.Rest()
		want := "42 43 "
		if p == harness.HTTP10 {
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

// In docs/compat.md, under "The order to wrap in".
func TestDocumentMiddlewareOrder(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		for _, wait := range []bool{true, false} {
			for name, wrap := range map[string]func(http.Handler) http.Handler{
				"inside":  func(h http.Handler) http.Handler { return flush.NewHandler(compress(h), nil) },
				"outside": func(h http.Handler) http.Handler { return compress(flush.NewHandler(h, nil)) },
			} {
				park := harness.NewPark(t)
				srv := harness.Serve(t, p, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "first")
					if err := flush.Flush(w, wait); err != nil {
						t.Errorf("Flush(%v) with a compressor %s: %v", wait, name, err)
					}
					park.Here()
					io.WriteString(w, "second")
				})))
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Header()
				park.Wait()
				if got := readGzip(t, s, "first"); got != "first" {
					t.Errorf("Flush(%v) with a compressor %s: read %q", wait, name, got)
				}
				park.Resume()
				s.Rest()
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
	s := harness.Open(t, harness.Serve(t, harness.HTTP1, flush.NewHandler(hide, nil)), "GET", "/", nil)
	s.Expect("hidden")
	close(done)
	s.ExpectEnd("")

	whole := http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := flush.Flush(w, true); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush below http.TimeoutHandler: %v", err)
		}
	}), time.Hour, "")
	harness.Open(t, harness.Serve(t, harness.HTTP1, flush.NewHandler(whole, nil)), "GET", "/", nil).ExpectEnd("")

	recovered := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			f, _ := flush.From(w)
			f.Abort(fmt.Errorf("recovered from %v", recover()))
		}()
		io.WriteString(w, "half")
		flush.Flush(w, true)
		panic("a mistake")
	})
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		s := harness.Open(t, harness.Serve(t, p, flush.NewHandler(recovered, nil)), "GET", "/", nil)
		if _, _, end := s.Rest(); end == harness.Complete {
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
	s = harness.Open(t, harness.Serve(t, harness.HTTP1, flush.NewHandler(limited, nil)), "POST", "/", strings.NewReader("four"))
	if !s.Response().Close {
		t.Error("http.MaxBytesReader did not tell the server to close the connection")
	}
}

// readGzip decodes what has come of s until it has want.
func readGzip(t *testing.T, s *harness.Stream, want string) string {
	t.Helper()
	var raw, got []byte
	for range 100 {
		raw = append(raw, s.Take(1)...)
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
