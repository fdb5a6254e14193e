package flush

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// NewHandler wraps h, or [http.DefaultServeMux] if h is nil: it and everything
// below it see a [Flusher] as their writer. [From] finds it there.
//
// The response is completed when the handler returns. It is aborted when the
// handler panics or calls runtime.Goexit: background work is stopped and
// joined, then the panic goes on to the server with its own value. Where the
// protocol can show a cut (HTTP/1.1 framing, HTTP/2) the client sees it.
//
// The handler's writer claims no more than the server's does when it is asked
// by a type assertion: it is an [http.Hijacker] and an [io.ReaderFrom] where
// that can be hijacked (HTTP/1), an [http.Pusher] where that can push (HTTP/2).
//
// The handler's request is a shallow copy. Its body gives what the server's
// gives, its Trailer follows the server's, and its MultipartForm and Pattern are
// carried back. Its context keeps the server's values and deadline. It ends with
// the server's, with a failure or Abort, and when the handler returns, with the
// error and the [context.Cause] that it would have without this package; why,
// says [Cause].
//
// If the writer is a Flusher's already, that one is used: its options hold, its
// owner closes it, and of opts only OnStart and OnClose run and Group is joined.
func NewHandler(h http.Handler, opts *Options) http.Handler {
	if h == nil {
		h = http.DefaultServeMux
	}
	return &handler{h, opts.compile()}
}

type handler struct {
	next http.Handler
	cfg  *config
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f, ok := flusherOf(w); ok && f != nil {
		f.join(h.cfg, r)
		h.next.ServeHTTP(f.handlerWriter(), r)
		return
	}
	f := new(Flusher)
	f.init(w, r, h.cfg)
	own := r.WithContext(f.newContext(r.Context()))
	f.giveBody(own, r)

	returned, lives, left := false, false, false
	defer func() {
		if !lives && !left {
			f.context.leave()
		}
		// The server removes multipart files through its own request, and
		// middleware above reads the pattern from it.
		if own.MultipartForm != nil {
			r.MultipartForm = own.MultipartForm
			if !lives && !f.serverHasIt() {
				own.MultipartForm.RemoveAll()
			}
		}
		r.Pattern = own.Pattern
	}()
	defer func() {
		if returned {
			if left = f.endBrief(); left {
				if f.broken() {
					panic(http.ErrAbortHandler)
				}
				return
			}
			if lives = f.outlives(own); lives {
				return
			}
		}
		f.handler.Or(handlerReturned)
		if !returned {
			f.finish(byPanic, f.unwound())
			return // a panic or Goexit, which goes on
		}
		f.finish(byClose, nil)
		f.rethrow()
		if f.broken() && f.serverHasIt() {
			panic(http.ErrAbortHandler)
		}
	}()
	f.start(own)
	h.next.ServeHTTP(f.handlerWriter(), own)
	returned = true
}

// unwound is the failure of a response whose handler did not return. Handlers
// such as httputil.ReverseProxy panic because the client has gone: then that is
// worth knowing.
func (f *Flusher) unwound() error {
	if cause := f.context.why(); cause != nil {
		return fmt.Errorf("%w: %w", errUnwound, cause)
	}
	return errUnwound
}

// The handler's writer is the Flusher behind one of three faces. Handlers and
// middleware choose their way by what a writer can be asserted to be, so a face
// must not claim what the server's writer cannot do. A face is one pointer, and
// an interface holds it without an allocation.
type (
	plainWriter struct{ face }
	http1Writer struct{ face }
	http2Writer struct{ face }
)

// A face has what all three have.
//
// After Detach it refuses: the response belongs to whoever holds the Flusher, and
// what middleware below has still to write at its end must not get into it.
type face struct{ f *Flusher }

// shut returns why the handler's writer refuses, or nil.
func (w face) shut() error {
	if w.f.handlerIs(handlerShutOut) {
		return ErrClosed
	}
	return nil
}

func (w face) Header() http.Header {
	if w.shut() != nil {
		return w.f.lastHeader()
	}
	return w.f.Header()
}

func (w face) WriteHeader(code int) {
	if w.shut() == nil {
		w.f.WriteHeader(code)
	}
}

func (w face) Write(p []byte) (int, error) {
	if err := w.shut(); err != nil {
		return 0, err
	}
	return w.f.Write(p)
}

func (w face) WriteString(s string) (int, error) {
	if err := w.shut(); err != nil {
		return 0, err
	}
	return w.f.WriteString(s)
}

func (w face) Flush() { w.FlushError() }

func (w face) FlushError() error {
	if err := w.shut(); err != nil {
		return err
	}
	return w.f.FlushError()
}

func (w face) CloseNotify() <-chan bool { return w.f.CloseNotify() }

func (w face) SetReadDeadline(t time.Time) error {
	if err := w.shut(); err != nil {
		return err
	}
	return w.f.SetReadDeadline(t)
}

func (w face) SetWriteDeadline(t time.Time) error {
	if err := w.shut(); err != nil {
		return err
	}
	return w.f.SetWriteDeadline(t)
}

func (w face) EnableFullDuplex() error {
	if err := w.shut(); err != nil {
		return err
	}
	return w.f.EnableFullDuplex()
}

func (w face) Unwrap() http.ResponseWriter { return w.f }

func (w http1Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.shut(); err != nil {
		return nil, nil, err
	}
	return w.f.Hijack()
}

func (w http1Writer) ReadFrom(src io.Reader) (int64, error) {
	if err := w.shut(); err != nil {
		return 0, err
	}
	return w.f.ReadFrom(src)
}

// Push is [http.Pusher]'s.
func (w http2Writer) Push(target string, opts *http.PushOptions) error {
	f := w.f
	if err := w.shut(); err != nil {
		return err
	}
	p, ok := find[http.Pusher](f.srv.w)
	if !ok {
		return http.ErrNotSupported
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.goneLocked(); err != nil {
		return err
	}
	var err error
	f.callAsideLocked(func() { err = p.Push(target, opts) })
	return err
}

// handlerWriter returns f as its handler is to see it. What cannot flush, such as
// http.TimeoutHandler's writer, holds the whole response: it pushes nothing
// ahead of it.
func (f *Flusher) handlerWriter() http.ResponseWriter {
	f.mu.Lock()
	w, own, flushes := f.srv.w, f.srv.ownHeader, f.srv.flushes
	f.mu.Unlock()
	if own {
		return http1Writer{face{f}} // net/http's own, which need not be asked
	}
	if !f.http1 && flushes {
		if _, ok := find[http.Pusher](w); ok {
			return http2Writer{face{f}}
		}
	}
	if _, ok := find[http.Hijacker](w); ok {
		return http1Writer{face{f}}
	}
	return plainWriter{face{f}}
}
