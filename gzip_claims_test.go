package flush_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// What the headers and trailers of a compressed response claim of its body.

var longPage = "<html>" + strings.Repeat("All work and no play. ", 100)

// The type that Gzip has found in a body goes with that body.
func TestGzipTypeIsCleaned(t *testing.T) {
	for _, test := range []struct{ name, set, late, want string }{
		{"found", "", "", "text/plain; charset=utf-8"},
		{"the handler's", "text/html; charset=utf-8", "", "text/html; charset=utf-8"},
		{"changed since", "", "application/json", "application/json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					if test.set != "" {
						w.Header().Set("Content-Type", test.set)
					}
					io.WriteString(w, longPage)
					expectError(t, "Flush", f.Top().Flush(), nil)
					if test.late != "" {
						w.Header().Set("Content-Type", test.late)
					}
					expectError(t, "Clean", f.Clean(), nil)
					w.WriteHeader(500)
					io.WriteString(w, "no luck")
				}), gzipEverything()))
				s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
				if got := s.Header().Get("Content-Type"); got != test.want {
					t.Errorf("the error page is %s, want %s", got, test.want)
				}
				s.ExpectEnd("no luck")
			})
		})
	}
}

// A digest of the plain body does not become a trailer without an announcement
// either, early or late; other trailers do.
func TestGzipUnannouncedDigest(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		for _, accept := range []string{"gzip", "br"} {
			t.Run(fmt.Sprint(fixed, accept), func(t *testing.T) {
				harness.EachProto(t, func(t *testing.T, p harness.Proto) {
					srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if fixed {
							w.WriteHeader(200)
						}
						io.WriteString(w, longPage)
						w.Header().Set(http.TrailerPrefix+"Content-Digest", "sha-256=:plain:")
						w.Header().Set(http.TrailerPrefix+"X-Other", "1")
					}), gzipEverything()))
					s := harness.Open(t, srv, "GET", "/", nil, "Accept-Encoding: "+accept)
					_, trailer, end := s.Rest()
					if end == harness.Cut {
						t.Fatal("cut")
					}
					if p == harness.HTTP10 {
						return // it has no trailers
					}
					if got := trailer.Get("Content-Digest"); (got == "") != (accept == "gzip") || trailer.Get("X-Other") != "1" {
						t.Errorf("trailers %v", trailer)
					}
				})
			})
		}
	}
}

// A profile's own type is sent ahead of a compressed body, as ahead of a plain
// one.
func TestGzipProfileType(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush.Flush(w, true)
		io.WriteString(w, longPage)
	}), &flush.Options{SAPI: flush.FPM(), OnStart: gzipEverything().OnStart}))
	for _, accept := range []string{"gzip", "br"} {
		s := harness.Open(t, srv, "GET", "/", nil, "Accept-Encoding: "+accept)
		if got := s.Header().Get("Content-Type"); got != flush.FPM().ContentType {
			t.Errorf("%s: %q", accept, got)
		}
		s.Rest()
	}
}

// HEAD is held to a declared length as GET is.
func TestGzipHeadBeyondTheLength(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "600")
			io.WriteString(w, longPage)
		}), gzipEverything()))
		var lengths []string
		for _, method := range []string{"GET", "HEAD"} {
			s := harness.Open(t, srv, method, "/", nil, harness.AcceptGzip)
			lengths = append(lengths, s.Header().Get("Content-Length"))
			s.Rest()
		}
		if lengths[0] != lengths[1] || lengths[0] == "" {
			t.Errorf("the lengths of GET and HEAD: %q", lengths)
		}
	})
}

// A structured suffix says that a type is compressed by itself.
func TestGzipStructuredTypes(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/epub+zip": false, "application/vnd.x+gzip": false, "application/vnd.x+zstd; v=1": false,
		"application/ld+json": true, "application/zip+json": true, "text/x+zip": true, "application/+": true,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		rec := httptest.NewRecorder()
		f := flush.New(rec, r, gzipEverything())
		f.Header().Set("Content-Type", kind)
		io.WriteString(f, longPage)
		expectError(t, "Close", f.Close(), nil)
		if got := rec.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("%q: compressed %v", kind, got)
		}
	}
}

// A second flush with nothing between adds nothing.
func TestGzipFlushesNothingTwice(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	f := flush.New(rec, r, gzipEverything())
	f.Header().Set("Content-Type", "text/plain")
	io.WriteString(f, "event")
	var sizes []int
	for range 3 {
		if err := f.FlushAll(true); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, rec.Body.Len())
	}
	if sizes[0] == 0 || sizes[1] != sizes[0] || sizes[2] != sizes[0] {
		t.Errorf("after each flush: %d bytes", sizes)
	}
	io.WriteString(f, "another")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := unzip(t, rec.Body.Bytes()); got != "eventanother" {
		t.Errorf("got %q", got)
	}
}

// Of a stream that never began nothing is left, not even that it was one.
func TestGzipOfNothing(t *testing.T) {
	for name, opts := range map[string]*flush.Options{"flushed": gzipEverything(), "not flushed": gzipEverything()} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Accept-Encoding", "gzip")
			rec := httptest.NewRecorder()
			f := flush.New(rec, r, opts)
			f.Header().Set("Content-Type", "text/plain")
			if name == "flushed" {
				if err := f.Top().Flush(); err != nil {
					t.Fatal(err)
				}
				if got := f.Header().Get("Content-Encoding"); got != "" {
					t.Errorf("after the flush of its empty buffer it is encoded as %q", got)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got := rec.Result().Header.Get("Content-Encoding"); got != "" || rec.Body.Len() > 0 {
				t.Errorf("encoded as %q, %d bytes", got, rec.Body.Len())
			}
		})
	}
}

// A Content-Length that is switched off stays off.
func TestGzipLengthSwitchedOff(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Length"] = nil
		io.WriteString(w, longPage)
	}), gzipEverything()))
	s := harness.Open(t, srv, "GET", "/", nil, harness.AcceptGzip)
	if h := s.Header(); h.Get("Content-Encoding") != "gzip" || h.Get("Content-Length") != "" {
		t.Errorf("headers %v", h)
	}
	s.Rest()
}

// What is beyond the declared length is refused, and counted as lost.
func TestGzipBeyondTheLengthIsLost(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	f := flush.New(rec, r, gzipEverything())
	f.Header().Set("Content-Length", "600")
	io.WriteString(f, longPage)
	if err := f.Close(); err != http.ErrContentLength {
		t.Errorf("Close: %v", err)
	}
	if got, st := unzip(t, rec.Body.Bytes()), f.Stats(); got != longPage[:600] || st.Lost != int64(len(longPage)-600) {
		t.Errorf("the client got %d bytes; %+v", len(got), st)
	}
}
