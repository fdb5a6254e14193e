package flush

import (
	"context"
	"fmt"
	"net/http"
	"time"
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
	if f, ok := flusherOf(w); ok && f != nil {
		return f.flush(wait)
	}
	var outer http.ResponseWriter // the first layer above the Flusher that flushes
	for layer := range layers(w) {
		f, ok := flusherOf(layer)
		if !ok {
			if outer == nil && canFlush(layer) {
				outer = layer
			}
			continue
		}
		if f == nil {
			break
		}
		if outer == nil {
			return f.flush(wait)
		}
		return f.flushFrom(outer, wait)
	}
	if outer == nil {
		return errCannotFlush
	}
	return flushLayer(outer)
}

// flush is Flush on f alone.
func (f *Flusher) flush(wait bool) error {
	if wait {
		return f.flushWait(nil)
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
	if r != nil {
		f.newBody(r)
	}
	f.startOwn(r)
	return f
}

// From returns the Flusher that w is, or that is found below w through Unwrap.
func From(w http.ResponseWriter) (*Flusher, bool) {
	for layer := range layers(w) {
		if f, ok := flusherOf(layer); ok {
			return f, f != nil
		}
	}
	return nil, false
}

// FromContext returns the Flusher of the response that ctx belongs to, if its
// handler was wrapped by [NewHandler]. It finds the Flusher where From cannot:
// behind a writer without Unwrap. What such a writer holds back is not flushed
// with it.
//
// It says false once the handler has returned, and once its connection has been
// hijacked: requests may live on that whose contexts are derived from ctx.
func FromContext(ctx context.Context) (*Flusher, bool) {
	f, ok := ctx.Value(flusherKey{}).(*Flusher)
	return f, ok
}

// Options configure a [Flusher]. Nil means all defaults. Every value is valid.
// They are copied when given.
type Options struct {
	// SAPI is the profile of the server. Zero means [NetHTTP]; in [NewOutput],
	// [CLI].
	SAPI SAPI

	// Flush is what the Flush and FlushError calls of existing handlers mean:
	// [Wait], the default, or [Async]. [Off] makes them do nothing.
	Flush Mode

	// Implicit is the mode of the flush that follows each write: [Off],
	// [Async] or [Wait]. Zero means as the SAPI says.
	Implicit Mode

	// BufferSize is how many bytes floor 2 holds before it moves down by
	// itself, without a flush. 0 means 4096; negative: every write moves.
	BufferSize int

	// MaxPending is the high mark: the most bytes floor 2 holds, those in
	// flight included. A Write waits beyond it, and until half of it is free.
	// 0 means 64 KiB. It is never below BufferSize or HTTP10Buffer.
	MaxPending int

	// SendTimeout is the longest time without progress while bytes are
	// outstanding, as nginx's send_timeout; it is not a bound on the response.
	// 0 means the server's WriteTimeout if it has one, else 60 s; negative
	// means none. If not 0, it replaces the server's WriteTimeout. A stretch
	// without progress ends no earlier, and at most a sixteenth of it later.
	SendTimeout time.Duration

	// FlushInterval flushes what has waited this long for a flush.
	// 0 and negative values mean never.
	FlushInterval time.Duration

	// HTTP10Buffer is how many bytes of a response to an HTTP/1.0 request are
	// held for a Content-Length, as OpenResty's lua_http10_buffering. 0 means
	// as the SAPI says; negative: none.
	HTTP10Buffer int

	// NoProxyBuffering makes a response that streams ask proxies not to hold
	// it: X-Accel-Buffering: no, unless set, and Cache-Control: no-transform
	// beside what the handler says. It applies when a flush sends the headers.
	NoProxyBuffering bool

	// Budget bounds what all responses that share it hold on floor 2. Nil
	// means no bound but each one's MaxPending.
	Budget *Budget

	// Group is one that every response joins before OnStart: see [Group].
	Group *Group

	// OnStart is called before the handler, e.g. to open a buffer with a
	// filter for every response.
	OnStart func(*Flusher, *http.Request)

	// OnClose is called once per response, after background work has been
	// joined, also after a panic, runtime.Goexit and Hijack. The error is nil
	// if everything was handed to the server, which is not to say delivered.
	OnClose func(*http.Request, Stats, error)
}

// A Mode says when a flush is done. The zero Mode means the default of where
// it stands.
type Mode uint8

const (
	Off   Mode = iota + 1 // no flush
	Async                 // ask and return; the work is done in the background
	Wait                  // return when it is done
)

// String returns "default", "off", "async" or "wait".
func (m Mode) String() string {
	switch m {
	case 0:
		return "default"
	case Off:
		return "off"
	case Async:
		return "async"
	case Wait:
		return "wait"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

const (
	defaultBufferSize  = 4096
	defaultMaxPending  = 64 << 10
	defaultSendTimeout = 60 * time.Second
)

// config is Options with the defaults filled in. Responses share it; nobody
// writes to it.
type config struct {
	Options
	marks marks
}

func (o *Options) compile() *config {
	c := new(config)
	if o != nil {
		c.Options = *o
	}
	if c.SAPI == (SAPI{}) {
		c.SAPI = NetHTTP()
	}
	if c.Flush != Async && c.Flush != Off {
		c.Flush = Wait
	}
	if c.Implicit == 0 || c.Implicit > Wait {
		c.Implicit = c.SAPI.Implicit
	}
	if c.Implicit == 0 || c.Implicit > Wait {
		c.Implicit = Off
	}
	if c.HTTP10Buffer == 0 {
		c.HTTP10Buffer = c.SAPI.HTTP10Buffer
	}
	c.HTTP10Buffer = max(c.HTTP10Buffer, 0)
	if c.MaxPending <= 0 {
		c.MaxPending = defaultMaxPending
	}
	m := &c.marks
	m.buffer = max(c.BufferSize, 0)
	if c.BufferSize == 0 {
		m.buffer = defaultBufferSize
	}
	m.hold = c.HTTP10Buffer
	m.high = max(c.MaxPending, m.buffer, m.hold, 1)
	m.low = m.high / 2
	m.counted = c.Budget != nil
	return c
}

// flusherOf returns the Flusher that w is, or is a face of. It may be nil.
func flusherOf(w http.ResponseWriter) (*Flusher, bool) {
	switch w := w.(type) {
	case *Flusher:
		return w, true
	case http1Writer:
		return w.f, true
	case http2Writer:
		return w.f, true
	case plainWriter:
		return w.f, true
	}
	return nil, false
}
