package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fa492104/flush"
)

// Close in a handler completes the response where the protocol lets it: the
// client has the end while the handler goes on. Elsewhere it has all but the end.
func TestCloseInAHandler(t *testing.T) {
	for _, test := range []struct {
		name, method, body string
		h                  func(f *flush.Flusher)
		length             int64
		complete           map[proto]bool // with the handler blocked
	}{
		{"nothing written", "GET", "", func(*flush.Flusher) {}, 0, map[proto]bool{http1: true, http10: true, https1: true}},
		{"status only", "GET", "", func(f *flush.Flusher) { f.WriteHeader(404) }, 0, map[proto]bool{http1: true, http10: true, https1: true}},
		{"short", "GET", "short", func(f *flush.Flusher) { f.WriteString("sh"); f.WriteString("ort") }, 5, map[proto]bool{http1: true, http10: true, https1: true}},
		{"short, with headers of its own", "GET", "short", func(f *flush.Flusher) { f.Header().Set("X-Own", "1"); f.WriteString("short") }, 5, map[proto]bool{http1: true, http10: true, https1: true}},
		{"longer than net/http measures", "GET", strings.Repeat("x", 3000), func(f *flush.Flusher) { f.WriteString(strings.Repeat("x", 3000)) }, 3000, map[proto]bool{http1: true, http10: true, https1: true}},
		{"declared", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteString("decl")
			f.FlushError()
			f.WriteString("ared")
		}, 8, map[proto]bool{http1: true, http10: true, https1: true}},
		{"declared, asynchronous", "GET", "declared", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "8")
			f.WriteString("decl")
			f.FlushAsync()
			f.WriteString("ared")
		}, 8, map[proto]bool{http1: true, http10: true, https1: true}},
		{"chunked", "GET", "chunked", func(f *flush.Flusher) { f.WriteString("chun"); f.FlushError(); f.WriteString("ked") }, -1, nil},
		{"buffered", "GET", "BUFFERED", func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				return []byte(strings.ToUpper(string(p))), nil
			}})
			f.WriteString("buffered")
		}, 8, map[proto]bool{http1: true, http10: true, https1: true}},
		{"length switched off", "GET", "off", func(f *flush.Flusher) { f.Header()["Content-Length"] = nil; f.WriteString("off") }, -1, nil},
		{"HEAD", "HEAD", "", func(f *flush.Flusher) { f.WriteString("not sent") }, 8, map[proto]bool{http1: true, http10: true, https1: true, h2: true}},
		{"204", "GET", "", func(f *flush.Flusher) { f.WriteHeader(204) }, 0, map[proto]bool{http1: true, http10: true, https1: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachProto(t, func(t *testing.T, p proto) {
				park := newPark(t)
				ended := make(chan error, 1)
				opts := &flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) { ended <- err }}
				srv := serve(t, p, wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					test.h(flusher(w))
					if err := flusher(w).Close(); err != nil {
						t.Error("Close:", err)
					}
					if err := r.Context().Err(); err != nil && (p != h2 || test.method != "HEAD") {
						t.Error("the context has ended:", err)
					}
					if _, err := io.WriteString(w, "late"); !errors.Is(err, flush.ErrClosed) {
						t.Error("Write after Close:", err)
					}
					park.here()
				}))
				s := open(t, srv, test.method, "/", nil)
				park.wait() // Close does not wait for the client
				if err := <-ended; err != nil {
					t.Error("OnClose:", err)
				}
				resp := s.response()
				if resp.ContentLength != test.length && saysLength(resp) {
					t.Errorf("Content-Length %d, want %d", resp.ContentLength, test.length)
				}
				if test.complete[p] {
					s.expectEnd(test.body)
					park.resume()
				} else {
					s.expect(test.body)
					s.expectNothing()
					park.resume()
					s.expectEnd("")
				}
				if p == http1 {
					n := s.again("GET", "/", nil) // waits for the handler's return, and no longer
					park.next()
					n.rest()
				}
			})
		})
	}
}

// saysLength reports whether resp says how long its body is.
func saysLength(resp *http.Response) bool { return resp.StatusCode != http.StatusNoContent }

// The Close of NewHandler pushes nothing: a response is as short as without us.
func TestReturnPushesNothing(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, wrapped(&flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) {
			if s.Pushes != 0 || err != nil {
				t.Errorf("%+v, %v", s, err)
			}
		}}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "whole") }))
		s := open(t, srv, "GET", "/", nil)
		if s.response().ContentLength != 5 {
			t.Errorf("Content-Length %d", s.response().ContentLength)
		}
		s.expectEnd("whole")
	})
}
