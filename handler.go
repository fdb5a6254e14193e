package flush

import (
	"context"
	"fmt"
	"net/http"
)

// NewHandler wraps h, or [http.DefaultServeMux] if h is nil: it and everything
// below it see a [Flusher] as their writer.
//
// The response is completed when the handler returns. It is aborted when the
// handler panics or calls runtime.Goexit: background work is stopped and
// joined, then the panic goes on to the server with its own value. Where the
// protocol can show a cut (HTTP/1.1 framing, HTTP/2) the client sees it.
//
// The handler gets a shallow copy of the request. Its context keeps the
// server's values and deadline, and its [context.Cause] is the failure that
// sticks, or else the server's own cause, or else [ErrClientGone]; after a
// normal end [ErrClosed].
//
// If the writer is a *Flusher already, that one is used: its options hold, its
// owner closes it, and of opts only OnStart and OnClose run.
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
	if f, ok := w.(*Flusher); ok && f != nil {
		f.join(h.cfg, r)
		h.next.ServeHTTP(f, r)
		return
	}
	f := new(Flusher)
	f.init(w, r, h.cfg)
	own := r.WithContext(f.newContext(r.Context()))
	own.Body = f.watchBody(r)

	returned := false
	defer func() {
		// The server removes multipart files through its own request, and
		// middleware above reads the pattern from it.
		if own.MultipartForm != nil {
			r.MultipartForm = own.MultipartForm
		}
		r.Pattern = own.Pattern
	}()
	defer func() {
		if !returned {
			f.finish(true, unwound(own.Context()))
			return // a panic or Goexit, which goes on
		}
		f.finish(false, nil)
		f.rethrow()
		if f.aborted {
			panic(http.ErrAbortHandler)
		}
	}()
	f.start(own)
	h.next.ServeHTTP(f, own)
	returned = true
}

// unwound is the failure of a response whose handler did not return. Handlers
// such as httputil.ReverseProxy panic because the client has gone: then that is
// worth knowing.
func unwound(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", errUnwound, cause)
	}
	return errUnwound
}
