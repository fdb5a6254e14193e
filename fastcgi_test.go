//go:build unix

package flush_test

import (
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A panic in a handler of net/http/fcgi ends the process, and all other responses
// with it. So a client that leaves is no reason for one, whatever middleware stands
// between.
func TestFastCGIClientLeavesBehindMiddleware(t *testing.T) {
	for name, above := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"nothing":                   func(w http.ResponseWriter) http.ResponseWriter { return w },
		"a writer with Unwrap":      func(w http.ResponseWriter) http.ResponseWriter { return harness.Unwrapper{ResponseWriter: w} },
		"a writer that only writes": func(w http.ResponseWriter) http.ResponseWriter { return struct{ http.ResponseWriter }{w} },
	} {
		for way, wrap := range map[string]func(http.Handler) http.Handler{
			"once": harness.WrappedBy(nil), "async": harness.WrappedBy(&flush.Options{Flush: flush.Async}),
			"twice": func(h http.Handler) http.Handler { return flush.NewHandler(behind(flush.NewHandler(h, nil)), nil) },
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				pk := harness.NewPark(t)
				panicked, failed := make(chan any, 1), make(chan error, 1)
				h := wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, "hello")
					pk.Here()
					var err error
					for range 1000 {
						if _, err = io.WriteString(w, harness.Text(64<<10)); err != nil {
							break
						}
					}
					failed <- err
				}))
				go fcgi.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() { panicked <- recover() }()
					h.ServeHTTP(above(w), r)
				}))
				c, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				fcgiRequest(t, c, map[string]string{"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/"})
				pk.Wait()
				c.Close()
				pk.Resume()
				if err := <-failed; err == nil {
					t.Error("no Write has failed")
				}
				if v := <-panicked; v != nil {
					t.Errorf("panic %v", v)
				}
			})
		}
	}
}
