package flush_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

func TestHarnessStepByStep(t *testing.T) {
	eachProto(t, stepByStep(serve))
}

func TestHarnessStepByStepInBubble(t *testing.T) {
	bubble(t, stepByStep(func(t *testing.T, p proto, h http.Handler, opts ...serveOption) *server {
		return serveMemory(t, p, h, 0, opts...)
	}))
}

func stepByStep(serve func(*testing.T, proto, http.Handler, ...serveOption) *server) func(*testing.T, proto) {
	return func(t *testing.T, p proto) {
		park := newPark(t)
		srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			park.here()
			w.Header().Set("Trailer", "X-Last")
			io.WriteString(w, "one")
			flush.Flush(w, true)
			io.WriteString(w, "two")
			park.here()
			w.Header().Set("X-Last", "yes")
		}), nil))
		s := open(t, srv, "GET", "/", nil)
		park.wait()
		s.expectNothing()
		park.resume()
		s.expect("one")
		park.wait()
		s.expectNothing()
		park.resume()
		body, trailer, end := s.rest()
		if body != "two" {
			t.Errorf("rest: %q", body)
		}
		if p == http10 {
			if end != closed {
				t.Errorf("ended %s", end)
			}
			return
		}
		if end != complete || trailer.Get("X-Last") != "yes" {
			t.Errorf("ended %s, trailer %v", end, trailer)
		}
		again := s.again("GET", "/", nil)
		park.next()
		park.next()
		again.expectEnd("onetwo")
		if p == h2 && !again.reused {
			t.Error("second request on a second connection")
		}
	}
}

func TestHarnessCut(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		srv := serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "part")
			flush.Flush(w, true)
			panic("broken")
		}))
		body, _, end := open(t, srv, "GET", "/", nil).rest()
		want := cut
		if p == http10 {
			want = closed
		}
		if body != "part" || end != want {
			t.Errorf("%q, %s", body, end)
		}
		// An HTTP/2 server logs the panic after it has reset the stream.
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(patience()); !strings.Contains(srv.logged(), "broken"); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("logged %q", srv.logged())
			}
		}
	})
}

// Early hints and 100 Continue in one response are left out for HTTP/2, whose
// server suppresses the 100 after any other 1xx.
func TestHarnessContinueAndInterim(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		if p == http10 {
			return // HTTP/1.0 has neither
		}
		srv := serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hints" {
				w.Header().Set("Link", "</x>")
				w.WriteHeader(103)
			}
			got, _ := io.ReadAll(r.Body)
			w.Write(got)
		}))
		s := open(t, srv, "POST", "/", strings.NewReader("upload"), "Expect: 100-continue")
		s.expectEnd("upload")
		if len(s.interim) != 1 || s.interim[0].code != 100 {
			t.Errorf("interim %v", s.interim)
		}
		s = s.again("POST", "/hints", struct{ io.Reader }{strings.NewReader("chunked")})
		s.expectEnd("chunked")
		if len(s.interim) != 1 || s.interim[0].code != 103 || s.interim[0].header.Get("Link") != "</x>" {
			t.Errorf("interim %v", s.interim)
		}
	})
}

// A client that reads nothing blocks the server after little with small
// buffers, and a deadline ends the wait. Over TLS net/http closes the connection
// inside the failing Write, and crypto/tls waits 5 s there to send its
// close_notify: left out.
func TestHarnessSmallBuffers(t *testing.T) {
	eachProto(t, func(t *testing.T, p proto) {
		if p == https1 {
			return
		}
		result := make(chan int, 1)
		srv := serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
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
		}), smallBuffers)
		s := open(t, srv, "GET", "/", nil)
		if n := <-result; n > 100<<10 {
			t.Errorf("%d bytes were written to a client that reads nothing", n)
		}
		s.leave()
	})
}

func TestHarnessTimeInBubble(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		srv := serveMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "now")
			flush.Flush(w, true)
			<-time.After(time.Hour)
			io.WriteString(w, "later")
		}), 0)
		start := time.Now()
		s := open(t, srv, "GET", "/", nil)
		s.expect("now")
		if d := time.Since(start); d != 0 {
			t.Errorf("first bytes after %v", d)
		}
		s.expectNothing()
		s.expect("later")
		if d := time.Since(start); d != time.Hour {
			t.Errorf("the rest after %v", d)
		}
		s.expectEnd("")
	})
}
