package harness_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

func TestHarnessStepByStep(t *testing.T) {
	harness.EachProto(t, stepByStep(harness.Serve))
}

func TestHarnessStepByStepInBubble(t *testing.T) {
	harness.Bubble(t, stepByStep(func(t *testing.T, p harness.Proto, h http.Handler, opts ...harness.ServeOption) *harness.Server {
		return harness.ServeMemory(t, p, h, 0, opts...)
	}))
}

func stepByStep(serve func(*testing.T, harness.Proto, http.Handler, ...harness.ServeOption) *harness.Server) func(*testing.T, harness.Proto) {
	return func(t *testing.T, p harness.Proto) {
		park := harness.NewPark(t)
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			park.Here()
			w.Header().Set("Trailer", "X-Last")
			io.WriteString(w, "one")
			flush.Flush(w, true)
			io.WriteString(w, "two")
			park.Here()
			w.Header().Set("X-Last", "yes")
		}), nil))
		s := harness.Open(t, srv, "GET", "/", nil)
		park.Wait()
		s.ExpectNothing()
		park.Resume()
		s.Expect("one")
		park.Wait()
		s.ExpectNothing()
		park.Resume()
		body, trailer, end := s.Rest()
		if body != "two" {
			t.Errorf("rest: %q", body)
		}
		if p == harness.HTTP10 {
			if end != harness.Closed {
				t.Errorf("ended %s", end)
			}
			return
		}
		if end != harness.Complete || trailer.Get("X-Last") != "yes" {
			t.Errorf("ended %s, trailer %v", end, trailer)
		}
		again := s.Again("GET", "/", nil)
		park.Next()
		park.Next()
		again.ExpectEnd("onetwo")
		if p == harness.HTTP2 && !again.Reused {
			t.Error("second request on a second connection")
		}
	}
}

func TestHarnessCut(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "part")
			flush.Flush(w, true)
			panic("broken")
		}))
		body, _, end := harness.Open(t, srv, "GET", "/", nil).Rest()
		want := harness.Cut
		if p == harness.HTTP10 {
			want = harness.Closed
		}
		if body != "part" || end != want {
			t.Errorf("%q, %s", body, end)
		}
		// An HTTP/2 server logs the panic after it has reset the stream.
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(harness.Patience()); !strings.Contains(srv.Logged(), "broken"); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("logged %q", srv.Logged())
			}
		}
	})
}

// Early hints and 100 Continue in one response are left out for HTTP/2, whose
// server suppresses the 100 after any other 1xx.
func TestHarnessContinueAndInterim(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		if p == harness.HTTP10 {
			return // HTTP/1.0 has neither
		}
		srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hints" {
				w.Header().Set("Link", "</x>")
				w.WriteHeader(103)
			}
			got, _ := io.ReadAll(r.Body)
			w.Write(got)
		}))
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"), "Expect: 100-continue")
		s.ExpectEnd("upload")
		if len(s.Interim) != 1 || s.Interim[0].Code != 100 {
			t.Errorf("interim %v", s.Interim)
		}
		s = s.Again("POST", "/hints", struct{ io.Reader }{strings.NewReader("chunked")})
		s.ExpectEnd("chunked")
		if len(s.Interim) != 1 || s.Interim[0].Code != 103 || s.Interim[0].Header.Get("Link") != "</x>" {
			t.Errorf("interim %v", s.Interim)
		}
	})
}

// A client that reads nothing blocks the server after little with small
// buffers, and a deadline ends the wait. Over TLS net/http closes the connection
// inside the failing Write, and crypto/tls waits 5 s there to send its
// close_notify: left out.
func TestHarnessSmallBuffers(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		if p == harness.HTTPS1 {
			return
		}
		result := make(chan int, 1)
		srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			p, n := make([]byte, 1<<10), 0
			for range 1 << 10 {
				m, err := w.Write(p)
				n += m
				if err != nil {
					break
				}
			}
			result <- n
		}), harness.SmallBuffers)
		s := harness.Open(t, srv, "GET", "/", nil)
		if n := <-result; n > 100<<10 {
			t.Errorf("%d bytes were written to a client that reads nothing", n)
		}
		s.Leave()
	})
}

func TestHarnessTimeInBubble(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "now")
			flush.Flush(w, true)
			<-time.After(time.Hour)
			io.WriteString(w, "later")
		}), 0)
		start := time.Now()
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Expect("now")
		if d := time.Since(start); d != 0 {
			t.Errorf("first bytes after %v", d)
		}
		s.ExpectNothing()
		s.Expect("later")
		if d := time.Since(start); d != time.Hour {
			t.Errorf("the rest after %v", d)
		}
		s.ExpectEnd("")
	})
}
