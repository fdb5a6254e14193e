package compat_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
)

// What the cell of Detach can say, apart from yes: the response lives without its
// handler.
const (
	handlerWaits = "handler waits"    // its return, for the end of the response
	tooLate      = "`ErrHeadersSent`" // the subject sends them before the handler can detach
)

// detaches is the outcome of a handler that detaches and returns. In any case
// what is written then comes, while the client reads, and nothing else does,
// although the middleware has ended around it.
func detaches(t *testing.T, s subject, p proto) string {
	type result struct {
		f   *flush.Flusher
		err error
	}
	out := make(chan result, 1)
	srv := start(t, s.serve(t, &flush.Options{}, func(c *session) {
		f, ok := flush.FromContext(c.ctx)
		if !ok {
			out <- result{}
			return
		}
		if s.place != outside {
			f.Header().Del("Content-Encoding") // some compressors say that they compress before they do
		}
		out <- result{f, f.Detach()}
	}), p)
	r := srv.request(t, s)
	detached := <-out
	switch f, err := detached.f, detached.err; {
	case f == nil:
		r.end()
		return none
	case errors.Is(err, flush.ErrHeadersSent):
		r.end()
		return tooLate
	case err != nil:
		t.Fatal(err)
	}
	f := detached.f
	synctest.Wait()
	for _, text := range texts {
		io.WriteString(f, text)
		f.FlushWait(t.Context())
		if came := r.has(text); !came && s.want[0] == yes {
			t.Errorf("%q has not come", text)
		}
	}
	lives := f.Stats().Detached
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got, want := r.end(), texts[0]+texts[1]+texts[2]; got != want || r.err != io.EOF {
		t.Errorf("got %q, %v", got, r.err)
	}
	if lives {
		return yes
	}
	return handlerWaits
}

// Over HTTP/2 nobody lets go of a stream: the same handlers do the same.
func TestDetachOverHTTP2(t *testing.T) {
	for _, s := range rows() {
		t.Run(s.name+"/"+string(s.place), func(t *testing.T) {
			want := handlerWaits
			switch {
			case s.h2only: // its cell is of HTTP/1
			case s.want[detachColumn] == none || s.want[detachColumn] == tooLate:
				want = s.want[detachColumn]
			case s.place == outside && s.name == "`httputil.ReverseProxy`":
				want = yes // it speaks HTTP/1 to the server behind it
			}
			synctest.Test(t, func(t *testing.T) {
				if got := detaches(t, s, http2); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

// An own writer of middleware's, which can be unwrapped or not.
type (
	unwrappable struct{ http.ResponseWriter }
	opaque      struct{ http.ResponseWriter }
)

func (u unwrappable) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func (u unwrappable) Flush() { http.NewResponseController(u.ResponseWriter).Flush() }
func (o opaque) Flush()      { http.NewResponseController(o.ResponseWriter).Flush() }

// Middleware of each kind, written out: inside ours, one that writes once the
// handler has returned, to a writer of its own or to ours, learns that it is too
// late; outside, a writer of its own makes the handler wait.
func TestDetachInMiddleware(t *testing.T) {
	ways := map[string]func(http.ResponseWriter) http.ResponseWriter{
		"no writer":          func(w http.ResponseWriter) http.ResponseWriter { return w },
		"with Unwrap":        func(w http.ResponseWriter) http.ResponseWriter { return unwrappable{w} },
		"without Unwrap":     func(w http.ResponseWriter) http.ResponseWriter { return opaque{w} },
		"three with Unwrap":  func(w http.ResponseWriter) http.ResponseWriter { return unwrappable{unwrappable{unwrappable{w}}} },
		"both, one on other": func(w http.ResponseWriter) http.ResponseWriter { return unwrappable{opaque{w}} },
	}
	for name, own := range ways {
		late := make(chan error, 16) // more than there are: a test that fails leaves some
		wrap := func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w = own(w)
				h.ServeHTTP(w, r)
				for range 2 {
					_, err := io.WriteString(w, "what comes too late")
					late <- err
				}
			})
		}
		places := wrapped(name, wrap, cells{yes}, cells{})
		for _, s := range places {
			if s.place == outside && name != "no writer" {
				// Outside the middleware has the server's own writer: what it writes
				// then is its own affair.
				s.serve = func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
					h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { run(plain(w, r)) }), opts)
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(own(w), r) })
				}
				s.want = cells{yes}
			} else if s.place == outside {
				continue
			}
			for _, p := range []proto{http1, http2} {
				t.Run(name+"/"+string(s.place)+"/"+p.String(), func(t *testing.T) {
					want := handlerWaits
					if s.place == inside && p == http1 {
						want = yes
					}
					synctest.Test(t, func(t *testing.T) {
						if got := detaches(t, s, p); got != want {
							t.Errorf("got %q, want %q", got, want)
						}
					})
					if s.place == outside {
						return
					}
					for range 2 {
						if err := <-late; !errors.Is(err, flush.ErrClosed) {
							t.Errorf("the middleware's late write: %v", err)
						}
					}
				})
			}
		}
	}
}

var detachColumn = slices.IndexFunc(columns, func(c column) bool { return c.http1 })
