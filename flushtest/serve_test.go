package flushtest_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

func TestServe(t *testing.T) {
	for name, opts := range map[string]*flushtest.ServeOptions{
		"HTTP/1.1": nil,
		"HTTP/2":   {HTTP2: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := flushtest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, r.Proto)
					flush.Flush(w, true)
					time.Sleep(time.Hour)
					io.WriteString(w, "later")
				}), opts)
				start := time.Now()
				resp, err := s.Client().Get(s.URL + "/")
				if err != nil {
					t.Fatal(err)
				}
				p := make([]byte, 100)
				n, _ := resp.Body.Read(p)
				if want := resp.Proto; string(p[:n]) != want || (opts != nil) != (want == "HTTP/2.0") || time.Since(start) != 0 {
					t.Errorf("%q over %s after %v", p[:n], want, time.Since(start))
				}
				rest, err := io.ReadAll(resp.Body)
				if string(rest) != "later" || err != nil || time.Since(start) != time.Hour {
					t.Errorf("%q, %v after %v", rest, err, time.Since(start))
				}
			})
		})
	}
}

// A client that leaves a response half read stalls its handler, and the end of
// the test ends both.
func TestServeStall(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			failed := make(chan error, 1)
			s := flushtest.Serve(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := w.Write(make([]byte, 1<<10)); err != nil {
						failed <- err
						return
					}
				}
			}), &flush.Options{SendTimeout: time.Minute}), &flushtest.ServeOptions{HTTP2: http2, Capacity: 4 << 10})
			if _, err := s.Client().Get(s.URL); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := <-failed; !errors.Is(err, flush.ErrTimeout) || time.Since(start) != time.Minute {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	}
}

func TestServeScriptAndConfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := flushtest.Serve(t, nil, &flushtest.ServeOptions{
			Script:    flushtest.Script{Latency: time.Second},
			Configure: func(s *http.Server) { s.Handler = http.NotFoundHandler() },
		})
		start := time.Now()
		resp, err := s.Client().Get(s.URL)
		if err != nil || resp.StatusCode != http.StatusNotFound || time.Since(start) != time.Second {
			t.Errorf("%v, %v after %v", resp, err, time.Since(start))
		}
		c, err := s.Listener.Dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if s.Config.Handler == nil {
			t.Error("Config is not the server's")
		}
	})
}
