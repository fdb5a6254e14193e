package edges_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Close in a handler completes the response where the protocol lets it: the
// client has the end while the handler goes on. Elsewhere it has all but the end.
func TestCloseInAHandler(t *testing.T) {
	for _, test := range []struct {
		name, method, body string
		h                  func(f *flush.Flusher)
		length             int64
		complete           map[harness.Proto]bool // with the handler blocked
	}{
		{"nothing written", "GET", "", func(*flush.Flusher) {}, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"status only", "GET", "", func(f *flush.Flusher) { f.WriteHeader(404) }, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"short", "GET", "short", func(f *flush.Flusher) { f.WriteString("sh"); f.WriteString("ort") }, 5, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"short, with headers of its own", "GET", "short", func(f *flush.Flusher) { f.Header().Set("X-Own", "1"); f.WriteString("short") }, 5, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"longer than net/http measures", "GET", strings.Repeat("x", 3000), func(f *flush.Flusher) { f.WriteString(strings.Repeat("x", 3000)) }, 3000, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"declared", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteString("decl")
			f.FlushError()
			f.WriteString("ared")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"declared, asynchronous", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteString("decl")
			f.FlushAsync()
			f.WriteString("ared")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"chunked", "GET", "chunked", func(f *flush.Flusher) { f.WriteString("chun"); f.FlushError(); f.WriteString("ked") }, -1, nil},
		{"buffered", "GET", "BUFFERED", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				return []byte(strings.ToUpper(string(p))), nil
			}})
			f.WriteString("buffered")
		}, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
		{"length switched off", "GET", "off", func(f *flush.Flusher) { f.Header()["Content-Length"] = nil; f.WriteString("off") }, -1, nil},
		{"HEAD", "HEAD", "", func(f *flush.Flusher) { f.WriteString("not sent") }, 8, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true, harness.HTTP2: true}},
		{"204", "GET", "", func(f *flush.Flusher) { f.WriteHeader(204) }, 0, map[harness.Proto]bool{harness.HTTP1: true, harness.HTTP10: true, harness.HTTPS1: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				ended := make(chan error, 1)
				opts := &flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) { ended <- err }}
				srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					test.h(harness.Flusher(w))
					if err := harness.Flusher(w).Close(); err != nil {
						t.Error("Close:", err)
					}
					if err := r.Context().Err(); err != nil && (p != harness.HTTP2 || test.method != "HEAD") {
						t.Error("the context has ended:", err)
					}
					if _, err := io.WriteString(w, "late"); !errors.Is(err, flush.ErrClosed) {
						t.Error("Write after Close:", err)
					}
					park.Here()
				}))
				s := harness.Open(t, srv, test.method, "/", nil)
				park.Wait() // Close does not wait for the client
				if err := <-ended; err != nil {
					t.Error("OnClose:", err)
				}
				resp := s.Response()
				if resp.ContentLength != test.length && saysLength(resp) {
					t.Errorf("Content-Length %d, want %d", resp.ContentLength, test.length)
				}
				if test.complete[p] {
					s.ExpectEnd(test.body)
					park.Resume()
				} else {
					s.Expect(test.body)
					s.ExpectNothing()
					park.Resume()
					s.ExpectEnd("")
				}
				if p == harness.HTTP1 {
					n := s.Again("GET", "/", nil) // waits for the handler's return, and no longer
					park.Next()
					n.Rest()
				}
			})
		})
	}
}

// saysLength reports whether resp says how long its body is.
func saysLength(resp *http.Response) bool { return resp.StatusCode != http.StatusNoContent }

// The Close of NewHandler pushes nothing: a response is as short as without us.
func TestReturnPushesNothing(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) {
			if s.Pushes != 0 || err != nil {
				t.Errorf("%+v, %v", s, err)
			}
		}}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "whole") }))
		s := harness.Open(t, srv, "GET", "/", nil)
		if s.Response().ContentLength != 5 {
			t.Errorf("Content-Length %d", s.Response().ContentLength)
		}
		s.ExpectEnd("whole")
	})
}
