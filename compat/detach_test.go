package compat_test

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
)

// A handler in each of the rows detaches and returns: what is written then comes,
// and nothing else does, although the middleware has ended around it. Where it is
// inside, over HTTP/1, the response lives without its handler.
func TestDetach(t *testing.T) {
	for _, s := range rows() {
		if s.place == handler && s.name != "net/http" {
			continue // has ways of its own to send, which the handler's code here does not take
		}
		t.Run(s.name+"/"+string(s.place), func(t *testing.T) {
			for _, p := range []proto{http1, http2} {
				if s.h2only && p == http1 {
					continue
				}
				t.Run(p.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { detaches(t, s, p) })
				})
			}
		})
	}
}

// writerless is middleware that puts no writer of its own around the server's, so
// that it is not in the way from outside. (Behind ReverseProxy there is another
// server, over HTTP/1.)
var writerless = map[string]bool{"chi `Timeout`": true, "gorilla `RecoveryHandler`": true}

func detaches(t *testing.T, s subject, p proto) {
	out := make(chan *flush.Flusher, 1)
	srv := start(t, s.serve(t, &flush.Options{}, func(c *session) {
		f, ok := flush.FromContext(c.ctx)
		if !ok {
			t.Error("no Flusher")
			out <- nil
			return
		}
		if s.place == inside {
			f.Header().Del("Content-Encoding") // gorilla's compressor says that it compresses before it does
		}
		if err := f.Detach(); err != nil {
			t.Error(err)
		}
		out <- f
	}), p)
	r := srv.request(t, s)
	f := <-out
	if f == nil {
		return
	}
	synctest.Wait()
	want := p == http1 && s.place == inside || s.place == outside && (p == http1 && writerless[s.name] || s.name == "`httputil.ReverseProxy`")
	if lives := f.Stats().Detached; lives != want {
		t.Errorf("detached: %v, want %v", lives, want)
	}
	for _, text := range texts {
		io.WriteString(f, text)
		f.FlushWait(t.Context())
		if s.place == inside && !r.has(text) {
			t.Errorf("%q has not come", text)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got, want := r.end(), texts[0]+texts[1]+texts[2]; got != want || r.err != io.EOF {
		t.Errorf("got %q, %v", got, r.err)
	}
}
