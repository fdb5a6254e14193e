package flush

import (
	"context"
	"net/http"
)

// Flush flushes the response behind w. It is ngx.flush(wait) of OpenResty and
// PHP's flush().
//
// With wait it returns once all output has been handed to the kernel's send
// buffer, or has failed. (On HTTP/2: to the server's frame writer. On CGI and
// FastCGI: to the pipe or socket, whose errors are lost.) Without wait it asks
// for that and returns at once.
//
// The Flusher is w itself or is found below it through Unwrap. If w is an
// outer wrapper that can flush, such as a compressor, its own flush runs
// first, so that what it holds comes down. On a plain server writer, with no
// Flusher anywhere, both forms flush at once on the caller's goroutine, as
// nothing could own the background work. The same holds behind a writer that
// has no Unwrap; a Flusher below it then does what [Options.Flush] says, and
// [FromContext] finds it.
//
// Errors are those of [Flusher.FlushWait] and [Flusher.FlushAsync]; a writer
// that cannot flush gives one that matches [http.ErrNotSupported].
func Flush(w http.ResponseWriter, wait bool) error {
	for range maxLayers {
		if f, ok := flusherOf(w); ok {
			if f == nil {
				return errCannotFlush
			}
			return f.flush(wait)
		}
		u, below := w.(interface{ Unwrap() http.ResponseWriter })
		if !below || canFlush(w) {
			return flushBelow(w, wait)
		}
		w = u.Unwrap()
	}
	return errCannotFlush
}

// flushBelow is Flush from outer down, the first layer that flushes.
func flushBelow(outer http.ResponseWriter, wait bool) error {
	if !canFlush(outer) {
		return errCannotFlush
	}
	for layer := range layers(outer) {
		if f, ok := flusherOf(layer); f != nil {
			return f.flushFrom(outer, wait)
		} else if ok {
			break
		}
	}
	return flushLayer(outer)
}

// flush is Flush on f alone.
func (f *Flusher) flush(wait bool) error {
	if wait {
		return f.flushNow()
	}
	return f.FlushAsync()
}

// flushFrom flushes outer, a wrapper above f, and then f. While the wrapper
// flushes for a caller who does not wait, what it sends down must not wait
// either: asyncCalls says so to Write, Flush and FlushError.
func (f *Flusher) flushFrom(outer http.ResponseWriter, wait bool) error {
	if !wait {
		f.asyncCalls.Add(1)
		defer f.asyncCalls.Add(-1)
	}
	err := flushLayer(outer)
	return joinErrors(err, f.flush(wait))
}

// New returns a Flusher over w for one handler of one's own. End it with Close
// on the way of success and with Abort on any other: the response is not
// complete, and background work not joined, before one of them has returned.
// [NewHandler] does all that for a handler.
//
// r is the request that w answers. Nothing of it is changed. r may be nil: then
// there is no context and HTTP/1.1 is assumed. opts nil means defaults.
//
// New makes no context: r's own is the server's, and a failure shows in
// [Flusher.Err]. Nor is it told when the handler reads r.Body. So on HTTP/1 a
// request that has a body counts as one whose body is unread until the headers
// are out: they leave only on the goroutine of a caller, see
// [Flusher.EnableFullDuplex]. And if the client waits for a 100 Continue, headers
// go to the server as soon as they are fixed, so that none is sent then.
func New(w http.ResponseWriter, r *http.Request, opts *Options) *Flusher {
	f := new(Flusher)
	f.init(w, r, opts.compile())
	f.srv.keeps = false // its maker has w, too, and may fill it
	if r != nil {
		f.newBody(r)
	}
	f.startOwn(r)
	return f
}

// From returns the Flusher that w is, or that is found below w through Unwrap.
func From(w http.ResponseWriter) (*Flusher, bool) {
	f := flusherIn(w)
	return f, f != nil
}

// FromContext returns the Flusher of the response that ctx belongs to, if its
// handler was wrapped by [NewHandler]. It finds the Flusher where From cannot:
// behind a writer without Unwrap. What such a writer holds back is not flushed
// with it.
//
// It says false once the handler has returned, and once its connection has been
// hijacked: requests may live on that whose contexts are derived from ctx.
func FromContext(ctx context.Context) (*Flusher, bool) {
	f := flusherOn(ctx)
	return f, f != nil
}
