package flush_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A detached is a response that a handler has let go of.
type detached struct {
	*flush.Flusher
	ctx context.Context
	r   *http.Request
}

// detacher returns a handler that does before, if it is given, detaches, and
// returns; and the responses that it has let go of.
func detacher(t *testing.T, opts *flush.Options, before func(w http.ResponseWriter, r *http.Request)) (http.Handler, <-chan detached) {
	out := make(chan detached, 16<<10)
	return flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil {
			before(w, r)
		}
		f, _ := flush.From(w)
		if err := f.Detach(); err != nil {
			if !errors.Is(err, flush.ErrClientGone) {
				t.Errorf("Detach: %v", err)
			}
			return
		}
		out <- detached{f, r.Context(), r}
	}), opts), out
}

// A detached response goes on after its handler has returned, on every protocol.
func TestDetachedResponseOutlivesItsHandler(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		h, out := detacher(t, nil, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a") })
		srv := harness.Serve(t, p, h)
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Expect("a")
		for _, want := range []string{"b", "c"} {
			io.WriteString(f, want)
			if err := f.FlushWait(harness.NoContext); err != nil {
				t.Fatal(err)
			}
			s.Expect(want)
		}
		if got := f.Stats().Detached; got != (p != harness.HTTP2) {
			t.Errorf("Stats.Detached is %v", got)
		}
		io.WriteString(f, "d")
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		s.ExpectEnd("d")
		if err := f.ctx.Err(); err != context.Canceled {
			t.Errorf("the context's error is %v", err)
		}
		if cause := flush.Cause(f.ctx); cause != flush.ErrClosed {
			t.Errorf("Cause is %v", cause)
		}
		if _, err := f.Write([]byte("x")); err != flush.ErrClosed {
			t.Errorf("Write after the end: %v", err)
		}
	})
}

// The client's leaving ends the context and the response, whoever watches.
func TestDetachedClientLeaves(t *testing.T) {
	eachWatch(t, func(t *testing.T) {
		harness.EachProto(t, func(t *testing.T, p harness.Proto) {
			type end struct {
				cause, err error
			}
			ends := make(chan end, 1)
			h, out := detacher(t, &flush.Options{OnClose: func(r *http.Request, _ flush.Stats, err error) {
				ends <- end{flush.Cause(r.Context()), err}
			}}, nil)
			srv := harness.Serve(t, p, h)
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			s.Leave()
			harness.Next(t, f.ctx.Done())
			e := harness.Next(t, ends)
			if !errors.Is(e.cause, flush.ErrClientGone) {
				t.Errorf("Cause is %v, and OnClose's error %v", e.cause, e.err)
			}
			if _, err := f.Write([]byte("x")); !errors.Is(err, flush.ErrClosed) {
				t.Errorf("Write: %v", err)
			}
		})
	})
}

// A channel of CloseNotify's is told of the client's leaving whenever it was asked
// for: before Detach, behind it, or when the handler has returned. Until then it is
// not told.
func TestDetachedCloseNotify(t *testing.T) {
	eachWatch(t, func(t *testing.T) {
		harness.EachProto(t, func(t *testing.T, p harness.Proto) {
			var before, again, behind <-chan bool
			out := make(chan *flush.Flusher, 1)
			srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				before = w.(interface{ CloseNotify() <-chan bool }).CloseNotify()
				again = f.CloseNotify()
				if err := f.Detach(); err != nil {
					t.Error(err)
				}
				behind = f.CloseNotify()
				out <- f
			}))
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			io.WriteString(f, "event")
			harness.Must(t, f.FlushWait(harness.NoContext))
			s.Expect("event")
			asked := map[<-chan bool]string{before: "before", again: "again", behind: "behind"} // some may be one
			if p != harness.HTTP2 {
				for !f.Stats().Detached { // the handler returns
					runtime.Gosched()
				}
				asked[f.CloseNotify()] = "later"
			}
			for gone, when := range asked {
				select {
				case <-gone:
					t.Errorf("asked %s: the client counts as gone", when)
				default:
				}
			}
			s.Leave()
			for gone := range asked {
				harness.Next(t, gone)
			}
			f.Close()
		})
	})
}

// Where several handlers share a response more of it is kept behind them, for
// their OnClose; what CloseNotify needs of the server goes all the same, and once.
func TestDetachedCloseNotifyInTwoHandlers(t *testing.T) {
	opts, closed := harness.TellClosing(flush.Options{})
	var gone <-chan bool
	h, out := detacher(t, opts, func(w http.ResponseWriter, _ *http.Request) { gone = harness.Flusher(w).CloseNotify() })
	outer, returned := flush.NewHandler(h, nil), make(chan struct{})
	srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outer.ServeHTTP(w, r)
		close(returned)
	}))
	s := harness.Open(t, srv, "GET", "/", nil)
	f := harness.Next(t, out)
	s.Response()
	harness.Next(t, returned)
	harness.Must(t, f.Close())
	harness.Next(t, closed)
	harness.Next(t, gone)
	s.ExpectEnd("")
	if log := srv.Logged(); log != "" {
		t.Error(log)
	}
}

// A client that ends only its own half gets what was accepted, and the end.
func TestDetachedHalfClose(t *testing.T) {
	eachWatch(t, func(t *testing.T) {
		h, out := detacher(t, nil, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Trailer", "X") })
		srv := harness.Serve(t, harness.HTTP1, h)
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		f.Header().Set("X", "y")
		s.Response()
		io.WriteString(f, "held")
		s.Conn.(interface{ CloseWrite() error }).CloseWrite()
		body, trailer, end := s.Rest()
		if body != "held" || trailer.Get("X") != "y" || end != harness.Complete {
			t.Errorf("got %q, %v, %s", body, trailer, end)
		}
		harness.Next(t, f.ctx.Done())
		if cause := flush.Cause(f.ctx); cause != flush.ErrClientGone {
			t.Errorf("Cause is %v", cause)
		}
	})
}

// Abort, a failure, and a panic of the handler's after Detach cut the response,
// and the client sees it.
func TestDetachedCut(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		cut  func(f *flush.Flusher)
	}{
		{"Abort in the handler", func(f *flush.Flusher) { f.Abort(boom) }},
		{"Abort later", nil},
		{"panic", func(*flush.Flusher) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				out := make(chan detached, 1)
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					io.WriteString(f, "half")
					if err := f.Detach(); err != nil {
						t.Error(err)
					}
					out <- detached{f, r.Context(), r}
					if c.cut != nil {
						c.cut(f)
					}
				}), nil))
				s := harness.Open(t, srv, "GET", "/", nil)
				f := harness.Next(t, out)
				if c.cut == nil {
					s.Expect("half")
					f.Abort(boom)
				}
				if _, _, end := s.Rest(); end != harness.Cut {
					t.Errorf("the client saw it %s", end)
				}
				harness.Next(t, f.ctx.Done())
				if c.name != "panic" && !errors.Is(flush.Cause(f.ctx), boom) {
					t.Errorf("Cause is %v", flush.Cause(f.ctx))
				}
			})
		})
	}
}

// Each refusal of section 9, on a server that lets go and on one that does not.
func TestDetachRefused(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		for _, c := range []struct {
			name string
			want error
			try  func(w http.ResponseWriter, r *http.Request, f *flush.Flusher) error
		}{
			{"headers are out", flush.ErrHeadersSent, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				f.SendHeaders()
				return f.Detach()
			}},
			{"a byte is out", flush.ErrHeadersSent, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				io.WriteString(f, "a")
				f.FlushWait(harness.NoContext)
				return f.Detach()
			}},
			{"Connection: close set too late", flush.ErrHeadersSent, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				f.SendHeaders()
				f.Header().Set("Connection", "close")
				return f.Detach()
			}},
			{"Connection: close taken back too late", nil, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				f.Header().Set("Connection", "close")
				f.SendHeaders()
				f.Header().Del("Connection")
				err := f.Detach()
				f.Close()
				return err
			}},
			{"in a filter", flush.ErrReentrant, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) (err error) {
				b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
					if err == nil {
						err = f.Detach()
					}
					return p, nil
				}})
				f.Write([]byte("a"))
				b.Flush()
				return err
			}},
			{"closed", flush.ErrClosed, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				f.Close()
				return f.Detach()
			}},
			{"aborted", io.ErrNoProgress, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				f.Abort(io.ErrNoProgress)
				return f.Detach()
			}},
			{"twice", nil, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				err := errors.Join(f.Detach(), f.Detach())
				f.Close()
				return err
			}},
			{"again after the end", flush.ErrClosed, func(_ http.ResponseWriter, _ *http.Request, f *flush.Flusher) error {
				f.Detach()
				f.Close()
				return f.Detach()
			}},
			{"New", http.ErrNotSupported, func(w http.ResponseWriter, r *http.Request, f *flush.Flusher) error {
				n := flush.New(f.Unwrap(), r, nil)
				defer n.Close()
				return n.Detach()
			}},
			{"NewOutput", http.ErrNotSupported, func(http.ResponseWriter, *http.Request, *flush.Flusher) error {
				return flush.NewOutput(io.Discard, nil).Detach()
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				got := make(chan error, 1)
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					f, _ := flush.From(w)
					got <- c.try(w, r, f)
				}), nil))
				s := harness.Open(t, srv, "GET", "/", nil)
				if err := harness.Next(t, got); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				s.Rest()
			})
		}
	})
	t.Run("hijacked", func(t *testing.T) {
		got := make(chan error, 1)
		srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			c, _, err := f.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			got <- f.Detach()
			c.Close()
		}), nil))
		s := harness.Open(t, srv, "GET", "/", nil)
		if err := harness.Next(t, got); !errors.Is(err, http.ErrHijacked) {
			t.Errorf("got %v", err)
		}
		s.Rest()
	})
}

// Where the server does not let go, the handler's return waits for the end of the
// response; where it does, it does not.
func TestDetachWaitsWhereNobodyLetsGo(t *testing.T) {
	upload := func() io.Reader { return strings.NewReader("abc") }
	for _, c := range []struct {
		name   string
		proto  harness.Proto
		method string
		body   func() io.Reader
		lines  []string
		outer  func(http.Handler) http.Handler
		before func(w http.ResponseWriter, r *http.Request)
		lets   bool
	}{
		{name: "HTTP/1.1", lets: true},
		{name: "HTTP/1.0", proto: harness.HTTP10, lets: true},
		{name: "TLS", proto: harness.HTTPS1, lets: true},
		{name: "a body that was read", method: "POST", body: upload, lets: true,
			before: func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }},
		{name: "a chunked body that was read", method: "POST", body: func() io.Reader { return io.MultiReader(upload()) }, lets: true,
			before: func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }},
		{name: "an answered Expect", method: "POST", body: upload, lines: []string{"Expect: 100-continue"}, lets: true,
			before: func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }},
		{name: "a Content-Length", lets: true, before: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "4") }},
		{name: "Transfer-Encoding identity", lets: true, before: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Transfer-Encoding", "identity") }},
		{name: "middleware outside without a writer", lets: true, outer: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				h.ServeHTTP(w, r.WithContext(ctx))
			})
		}},

		{name: "HTTP/2", proto: harness.HTTP2},
		{name: "HEAD", method: "HEAD"},
		{name: "204", before: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{name: "304", before: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }},
		{name: "an unread body", method: "POST", body: upload},
		{name: "a body that was read in part", method: "POST", body: upload,
			before: func(_ http.ResponseWriter, r *http.Request) { r.Body.Read(make([]byte, 1)) }},
		{name: "a body that was closed", method: "POST", body: upload,
			before: func(_ http.ResponseWriter, r *http.Request) { r.Body.Close() }},
		{name: "an unanswered Expect", method: "POST", body: upload, lines: []string{"Expect: 100-continue"}},
		{name: "full duplex", before: func(w http.ResponseWriter, _ *http.Request) { http.NewResponseController(w).EnableFullDuplex() }},
		{name: "an odd Transfer-Encoding", before: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Transfer-Encoding", "gzip, chunked") }},
		{name: "a writer outside with Unwrap", outer: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrapped{w}, r) })
		}},
		{name: "a writer outside without Unwrap", outer: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
		}},
		{name: "http.TimeoutHandler", outer: func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Hour, "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, out := detacher(t, nil, c.before)
			if c.outer != nil {
				h = c.outer(h)
			}
			returned := make(chan struct{})
			srv := harness.Serve(t, c.proto, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				h.ServeHTTP(w, r)
			}))
			method := c.method
			if method == "" {
				method = "GET"
			}
			var body io.Reader
			if c.body != nil {
				body = c.body()
			}
			s := harness.Open(t, srv, method, "/", body, c.lines...)
			s.Start()
			f := harness.Next(t, out)
			if c.lets {
				harness.Next(t, returned)
			} else {
				timer := time.NewTimer(20 * time.Millisecond) // can pass wrongly, never fail wrongly
				select {
				case <-returned:
					t.Error("the handler has returned")
				case <-timer.C:
				}
				timer.Stop()
			}
			if got := f.Stats().Detached; got != c.lets {
				t.Errorf("Stats.Detached is %v", got)
			}
			f.Write([]byte("late"))
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			harness.Next(t, returned)
			want := "late"
			if s.Method == "HEAD" || strings.HasPrefix(c.name, "204") || strings.HasPrefix(c.name, "304") {
				want = ""
			}
			if got, _, end := s.Rest(); (got != want || end == harness.Cut) && c.name != "an odd Transfer-Encoding" { // which the client cannot read
				t.Errorf("got %q, %s", got, end)
			}
		})
	}
}

type unwrapped struct{ http.ResponseWriter }

func (u unwrapped) Unwrap() http.ResponseWriter { return u.ResponseWriter }
func (u unwrapped) FlushError() error           { return http.NewResponseController(u.ResponseWriter).Flush() }

// What the handler's writer was given to others refuses after Detach; only the
// Flusher lives.
func TestDetachedHandlersWriterRefuses(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		type result struct{ errs []error }
		results := make(chan result, 1)
		out := make(chan *flush.Flusher, 1)
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			w.Header().Set("X-Kept", "yes")
			if err := f.Detach(); err != nil {
				t.Error(err)
			}
			if w.Header().Get("X-Kept") != "yes" {
				t.Error("the handler's writer shows no header")
			}
			w.Header().Set("Trailer:X-Late", "no")
			w.WriteHeader(500)
			_, err1 := w.Write([]byte("no"))
			_, err2 := io.WriteString(w, "no")
			rc := http.NewResponseController(w)
			errs := []error{err1, err2, rc.Flush(), rc.SetWriteDeadline(time.Now()), rc.SetReadDeadline(time.Now()), rc.EnableFullDuplex()}
			if rf, ok := w.(io.ReaderFrom); ok {
				_, err := rf.ReadFrom(strings.NewReader("no"))
				_, _, herr := rc.Hijack()
				errs = append(errs, err, herr)
			}
			if ps, ok := w.(http.Pusher); ok {
				errs = append(errs, ps.Push("/", nil))
			}
			results <- result{errs}
			out <- f
		}), nil))
		s := harness.Open(t, srv, "GET", "/", nil)
		for i, err := range harness.Next(t, results).errs {
			if !errors.Is(err, flush.ErrClosed) {
				t.Errorf("%d: %v", i, err)
			}
		}
		f := harness.Next(t, out)
		io.WriteString(f, "yes")
		f.Close()
		body, trailer, end := s.Rest()
		if body != "yes" || len(trailer) > 0 || end == harness.Cut {
			t.Errorf("got %q, %v, %s", body, trailer, end)
		}
	})
}

// It has a header map all the same, which goes nowhere: what middleware inside sets
// costs nobody anything, while the handler runs, once it has returned, and after the end.
func TestDetachedHandlersWriterHasAMap(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		type both struct {
			w http.ResponseWriter
			f *flush.Flusher
		}
		out := make(chan both, 1)
		srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			if err := f.Detach(); err != nil {
				t.Error(err)
			}
			w.Header().Set("X-Late", "no")
			out <- both{w, f}
		}), nil))
		s := harness.Open(t, srv, "GET", "/", nil)
		d := harness.Next(t, out)
		s.Response()
		d.w.Header().Set("X-Late", "no")
		io.WriteString(d.f, "body")
		harness.Must(t, d.f.Close())
		d.w.Header().Set("X-Late", "no")
		body, trailer, end := s.Rest()
		if s.Header().Get("X-Late") != "" || body != "body" || len(trailer) > 0 || end == harness.Cut {
			t.Errorf("got %v, %q, %v, %s", s.Header(), body, trailer, end)
		}
	})
}

// The handler's context keeps its values, and nothing of the server's or of
// middleware's once the handler has returned. What was derived from it lives on.
func TestDetachedContext(t *testing.T) {
	type key struct{}
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		for _, early := range []bool{false, true} {
			derived := make(chan context.Context, 1)
			h, out := detacher(t, nil, func(_ http.ResponseWriter, r *http.Request) {
				if early {
					ctx, cancel := context.WithCancel(r.Context())
					t.Cleanup(cancel)
					derived <- ctx
				}
			})
			srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), key{}, "value"), time.Hour)
				defer cancel()
				h.ServeHTTP(w, r.WithContext(ctx))
			}))
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			if p != harness.HTTP2 {
				harness.WaitFor(t, func() bool { _, ok := f.ctx.Deadline(); return !ok })
			}
			if !early {
				ctx, cancel := context.WithCancel(f.ctx)
				t.Cleanup(cancel)
				derived <- ctx
			}
			d := harness.Next(t, derived)
			if f.ctx.Value(key{}) != "value" || d.Value(key{}) != "value" {
				t.Error("a value is gone")
			}
			if f.ctx.Err() != nil || d.Err() != nil || context.Cause(f.ctx) != nil || flush.Cause(f.ctx) != nil {
				t.Error(f.ctx.Err(), d.Err(), flush.Cause(d))
			}
			if got, ok := flush.FromContext(d); !ok || got != f.Flusher {
				t.Error("FromContext does not find it")
			}
			f.Close()
			harness.Next(t, f.ctx.Done())
			harness.Next(t, d.Done())
			if err := d.Err(); err != context.Canceled {
				t.Error(err)
			}
			if err := context.Cause(d); err != context.Canceled {
				t.Error(err)
			}
			if err := flush.Cause(d); err != flush.ErrClosed {
				t.Error(err)
			}
			s.Rest()
		}
	})
}

// An endingContext ends, once it is armed, while somebody asks whether it has.
type endingContext struct {
	context.Context
	end   context.CancelFunc
	armed *atomic.Bool
}

func (c endingContext) Err() error {
	err := c.Context.Err()
	if c.armed.Load() {
		c.end()
	}
	return err
}

// A server's context that ends just as the handler returns ends the response, too.
func TestDetachedContextEndsAsTheHandlerReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { ended <- err }}
		var armed atomic.Bool
		own := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Context().Done() // it is waited for
			harness.Must(t, harness.Flusher(w).Detach())
			armed.Store(true)
		}), opts)
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			own.ServeHTTP(w, r.WithContext(endingContext{ctx, cancel, &armed}))
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Response()
		if err := harness.Next(t, ended); err != nil {
			t.Errorf("OnClose: %v", err)
		}
		s.ExpectEnd("")
	})
}

// A context that is kept keeps nothing of a response that has ended.
func TestDetachedContextLetsGo(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		h, out := detacher(t, nil, nil)
		srv := harness.Serve(t, p, h)
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.Response()
		if got, ok := flush.FromContext(f.ctx); !ok || got != f.Flusher {
			t.Error("FromContext does not find it while it lives")
		}
		harness.Must(t, f.Close())
		s.ExpectEnd("")
		harness.WaitFor(t, func() bool { _, ok := flush.FromContext(f.ctx); return !ok })
		if cause := flush.Cause(f.ctx); cause != flush.ErrClosed {
			t.Errorf("Cause is %v", cause)
		}
	})
}

// A context that has ended by the handler's return ends the response with it.
func TestDetachedContextEndedBefore(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		h, out := detacher(t, nil, nil)
		srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancelCause(r.Context())
			cancel(os.ErrProcessDone)
			h.ServeHTTP(w, r.WithContext(ctx))
		}))
		s := harness.Open(t, srv, "GET", "/", nil)
		f := harness.Next(t, out)
		s.ExpectEnd("")
		if cause := flush.Cause(f.ctx); cause != os.ErrProcessDone {
			t.Errorf("Cause is %v", cause)
		}
	})
}

// While the connection changes hands nobody else goes on: a Write waits for the
// wire, and its bytes are on it.
func TestDetachTakesTheConnectionAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taking, goOn := make(chan struct{}), make(chan struct{})
		flushers := make(chan *flush.Flusher, 1)
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			flushers <- f
			harness.Must(t, f.Detach())
		}), 0, harness.Configure(func(s *http.Server) {
			s.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateHijacked {
					close(taking)
					<-goOn
				}
			}
		}))
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Start()
		f := <-flushers
		<-taking
		if err := f.TryWrite([]byte("x")); err != flush.ErrNoRoom {
			t.Errorf("TryWrite: %v", err)
		}
		written := harness.Go(func() error { _, err := f.Write([]byte("late")); return err })
		flushed := harness.Go(func() error { return f.FlushWait(harness.NoContext) })
		synctest.Wait()
		if len(written) > 0 || len(flushed) > 0 {
			t.Errorf("%d Writes and %d flushes did not wait", len(written), len(flushed))
		}
		close(goOn)
		harness.Must(t, <-written)
		harness.Must(t, <-flushed)
		harness.Must(t, f.Close())
		s.ExpectEnd("late")
	})
}

// A connection that somebody else has taken meanwhile is none to go on with: Detach
// says so, and does not wait for an end that nobody could hand over.
func TestDetachOfAConnectionThatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *thief, 1)
		opts, told := harness.TellClosing(flush.Options{})
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			conn := <-conns
			conn.take = func() {
				_, _, err := f.Unwrap().(http.Hijacker).Hijack()
				harness.Must(t, err)
			}
			if err := f.Detach(); !errors.Is(err, http.ErrHijacked) || f.Stats().Detached {
				t.Errorf("Detach: %v; detached: %v", err, f.Stats().Detached)
			}
			expectError(t, "Err", f.Err(), http.ErrHijacked)
		}), 0, harness.WrapConn(func(c net.Conn) net.Conn {
			conn := &thief{Conn: c}
			conns <- conn
			return conn
		}))
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Start()
		if c := <-told; !errors.Is(c.Err, http.ErrHijacked) {
			t.Errorf("OnClose: %v", c.Err)
		}
		s.Leave()
	})
}

// A thief is a connection that is taken away from the server while that writes.
type thief struct {
	net.Conn
	take func() // nil: it has been done
}

func (c *thief) Write(p []byte) (int, error) {
	if take := c.take; take != nil {
		c.take = nil
		take() // which writes p first
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// WriteTimeout ends with Detach. SendTimeout holds, and the handler's own deadline
// does.
func TestDetachedDeadlines(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		for _, c := range []struct {
			name     string
			timeout  time.Duration // the server's
			deadline time.Duration // the handler's, from its start
			send     time.Duration
			idle     time.Duration // before anything is written
			want     error
			after    time.Duration // of the blocked write
		}{
			{name: "an idle stream outlives WriteTimeout", timeout: 10 * time.Second, idle: time.Hour},
			{name: "60 s then", timeout: 10 * time.Second, idle: time.Hour, want: flush.ErrTimeout, after: time.Minute},
			{name: "SendTimeout", send: 5 * time.Second, idle: time.Hour, want: flush.ErrTimeout, after: 5 * time.Second},
			{name: "the handler's deadline", deadline: 20 * time.Second, idle: time.Second, want: flush.ErrTimeout, after: 19 * time.Second},
		} {
			if p == harness.HTTP2 && c.deadline > 0 {
				continue // HTTP/2 resets the stream at its deadline, as without us
			}
			out := make(chan detached, 1)
			srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				if c.deadline > 0 {
					f.SetWriteDeadline(time.Now().Add(c.deadline))
				}
				if err := f.Detach(); err != nil {
					t.Error(err)
				}
				out <- detached{f, r.Context(), r}
			}), &flush.Options{SendTimeout: c.send}), 1024, harness.Configure(func(s *http.Server) { s.WriteTimeout = c.timeout }))
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			time.Sleep(c.idle)
			if c.want == nil {
				io.WriteString(f, "late")
				if err := f.Close(); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				s.ExpectEnd("late")
				continue
			}
			began := time.Now()
			_, err := f.Write(bytes.Repeat([]byte("x"), 1<<20))
			if !errors.Is(err, c.want) {
				t.Errorf("%s: Write: %v", c.name, err)
			}
			if took := time.Since(began); took < c.after || took > c.after+c.after/16+time.Second {
				t.Errorf("%s: it took %v", c.name, took)
			}
			harness.Next(t, f.ctx.Done())
			if cause := flush.Cause(f.ctx); !errors.Is(cause, c.want) {
				t.Errorf("%s: Cause is %v", c.name, cause)
			}
			if _, _, end := s.Rest(); end == harness.Complete {
				t.Errorf("%s: the client saw it %s", c.name, end)
			}
		}
	})
}

// eachWatch runs f as a subtest with each way to notice that a client leaves.
func eachWatch(t *testing.T, f func(t *testing.T)) {
	t.Run("system", f)
	t.Run("portable", func(t *testing.T) {
		defer flush.NoEpoll()()
		f(t)
	})
}

// A client learns that its connection ends with a detached response also where the
// headers were fixed before.
func TestDetachSaysCloseInFixedHeaders(t *testing.T) {
	opts, told := harness.TellClosing(flush.Options{})
	h, out := detacher(t, opts, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Set", "1")
		w.WriteHeader(http.StatusAccepted)
	})
	s := harness.Open(t, harness.Serve(t, harness.HTTP1, h), "GET", "/", nil)
	head := s.Response()
	if !head.Close || head.StatusCode != http.StatusAccepted || head.Header.Get("X-Set") != "1" {
		t.Errorf("%s, %v, Close %v", head.Status, head.Header, head.Close)
	}
	harness.Must(t, harness.Next(t, out).Close())
	s.ExpectEnd("")
	<-told
}
