package flush

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// A Flusher is an [http.ResponseWriter] whose response can be flushed
// synchronously, asynchronously and implicitly. Make one with [New],
// [NewHandler] or [NewOutput].
//
// Any goroutine may write and flush at any time; one Write is never torn apart
// by another, and they enter first come first served. Header maps are what
// they are in net/http: finish headers before another goroutine writes or
// flushes. After the response has ended every call returns [ErrClosed] and the
// server's writer is not touched again.
type Flusher struct {
	// Its size is most of what an idle stream costs. What a Write and a flush look
	// at stands in the middle, in five lines of the processor's cache: an event of one
	// stream of many finds none of them there. What few responses need is behind
	// pointers.

	deadline writeDeadline
	req      *http.Request   // the handler's; nil: none. Set before the first use; dropped by releaseLocked
	context  *requestContext // the handler's; nil: none. Never changed
	conn     *tcp.Known      // nil: not known. Never changed
	groups   *groups         // that it is in; nil: never was in one
	began    time.Duration   // as now says. Never changed
	rare     *rare           // nil: nothing of it
	headers

	// From the flags at the end of the headers to the rarer fields of the pipe:

	body    *requestBody // nil: no request body to wait for. Changed by Detach alone
	timeout sendTimeout
	response
	cfg  *config // never changed
	srv  server  // changed by Detach alone, with the baton and no call aside under way
	pipe         // floor 2; its mu guards all that is not marked

	member *member // in the budget; nil: holds nothing yet, or there is none
}

// response is what is known of the response, apart from its bytes' way down.
type response struct {
	fullDuplex bool
	hijacked   bool
	hijacking  bool // the server's Hijack is under way: the deadlines may not be ours any more
	closing    bool // Close, Abort or the return of the handler has begun
	aborted    bool // it must not be taken for complete
	ended      bool // the server's writer is not ours any more
	detached   detachState
	implicit   Mode
	handler    atomic.Uint32 // what became of NewHandler's handler: a set of handler…
	aside      int16         // calls of the server without the baton, under way
	status     int16         // 0: WriteHeader has not been called, nothing written

	stack *stack // of user-level buffers
}

// bodyAllowed reports whether the status allows a body.
func (r *response) bodyAllowed() bool { return bodyAllowed(int(r.status)) }

// What has become of the handler.
const (
	handlerReturned = 1 << iota // it has returned, and nothing of it lives on
	handlerShutOut              // its writer refuses: see Detach
)

// rare is what few responses ever have.
type rare struct {
	handlerDeadline time.Time      // set by SetWriteDeadline
	serverDeadline  time.Time      // when the server's WriteTimeout ends
	readDeadline    time.Time      // set by SetReadDeadline
	lastPush        error          // what the server's last flush said that does not stick
	refused         error          // bytes that the server did not take, without failing; filters that failed at the end
	panicked        any            // from the carrier or the showing before a cut, for the handler's goroutine
	torn            bool           // the server refused accepted bytes
	abort           bool           // Abort was called
	bare            bool           // SendHeaders has sent the headers alone
	fed             int            // how many Flushers above with a budget write to it
	feeds           []*Flusher     // those below that it feeds
	besideHijack    []func()       // what waits for a Hijack, to be done if that fails
	cutBy           error          // why the response is cut at its end; nil: a Write that had begun did not finish
	hooks           []closeHook    // of handlers that joined
	interval        *flushInterval // nil: none
	file            *sentFile      // that the server is sending; nil: none
	handover        *handover      // until the handler returns; nil: Detach was not called
	leaving         *leaving       // of the client, as CloseNotify tells it; nil: nobody has asked
	framing         *framing       // of a response that may be detached though its headers are out; nil: the plain one
}

// rareLocked returns f.rare for writing. For reading there is rarely.
func (f *Flusher) rareLocked() *rare {
	if f.rare == nil {
		f.rare = new(rare)
	}
	return f.rare
}

var noRare rare

// rarely returns f.rare for reading.
func (f *Flusher) rarely() *rare {
	if f.rare == nil {
		return &noRare
	}
	return f.rare
}

type closeHook struct {
	fn func(*http.Request, Stats, error)
	r  *http.Request
}

// touch has the memory of f come into the processor's caches that an event looks at,
// all together: the lock, which nothing passes by, would be waited for alone. What is
// read is not looked at.
func (f *Flusher) touch() {
	f.asyncCalls.Load() // the lock's line
	f.asks.Load()
	f.handler.Load() // the send timeout's
}

func (f *Flusher) init(w http.ResponseWriter, r *http.Request, cfg *config) {
	var by any
	if r != nil {
		by = r.Context().Value(http.ServerContextKey)
	}
	f.cfg = cfg
	f.began = now()
	f.srv = newServer(w, r, by)
	f.stack = &noStack
	f.implicit = cfg.Implicit
	f.length = -1
	f.http1 = true
	if r != nil {
		f.req = r
		f.head = r.Method == http.MethodHead && cfg.SAPI.Headers != OutputOnly
		f.http1 = r.ProtoMajor <= 1
		f.http10 = r.ProtoMajor == 1 && r.ProtoMinor == 0
	}
	f.pipe.init(&cfg.marks, f, cfg.Flush == Async || cfg.Implicit == Async || cfg.FlushInterval > 0, f.holdsLocked())
	if cfg.FlushInterval > 0 {
		f.rareLocked().interval = &flushInterval{d: cfg.FlushInterval}
	}
	f.initTimeout(by)
	if cfg.Budget != nil && !f.srv.direct {
		f.feedBelow()
	}
	if r != nil {
		if f.conn = tcp.From(r.Context()); f.conn != nil && f.http1 && f.srv.deadlines {
			f.timeout.progress = f.newProgress()
		}
	}
}

// initTimeout settles the send timeout with the server's own WriteTimeout.
func (f *Flusher) initTimeout(by any) {
	var absolute time.Duration
	if srv, ok := by.(*http.Server); ok {
		absolute = srv.WriteTimeout
	}
	if d := f.cfg.SendTimeout; d != 0 {
		f.timeout.d = max(d, 0)
		if absolute > 0 {
			f.liftServerDeadline()
		}
		return
	}
	if absolute > 0 {
		if at := f.serverDeadline(absolute); !at.IsZero() {
			f.rareLocked().serverDeadline = at
			return
		}
	}
	f.timeout.d = defaultSendTimeout
}

// serverDeadline is when the server's WriteTimeout ends the response; zero: a Flusher
// below has lifted it.
func (f *Flusher) serverDeadline(absolute time.Duration) time.Time {
	if !f.srv.direct {
		if below := f.flusherBelow(); below != nil {
			below.mu.Lock()
			defer below.mu.Unlock()
			return below.rarely().serverDeadline
		}
	}
	return time.Now().Add(absolute)
}

// flusherBelow returns the Flusher that f writes to, with middleware between that may
// hide it, or nil.
func (f *Flusher) flusherBelow() *Flusher {
	f.mu.Lock()
	w, ctx := f.srv.writer(), f.serverContext()
	f.mu.Unlock()
	below := flusherIn(w)
	if below == nil && ctx != nil {
		below = flusherOn(ctx)
	}
	if below == f {
		return nil
	}
	return below
}

// start runs OnStart.
func (f *Flusher) start(r *http.Request) {
	f.req = r
	f.enterOwn(f.cfg.Group)
	if f.cfg.OnStart != nil {
		f.cfg.OnStart(f, r)
	}
}

// join lets another handler that was wrapped take part.
func (f *Flusher) join(cfg *config, r *http.Request) {
	if cfg.OnClose != nil {
		f.mu.Lock()
		f.rareLocked().hooks = append(f.rareLocked().hooks, closeHook{cfg.OnClose, r})
		f.mu.Unlock()
	}
	f.enterOwn(cfg.Group)
	if cfg.OnStart != nil {
		cfg.OnStart(f, r)
	}
}

// goneLocked returns why the server's writer is not ours any more, or nil. A
// failure does not take it away: deadlines can still be set, as in net/http.
func (f *Flusher) goneLocked() error {
	if f.closing || f.hijacked {
		return f.refuse
	}
	return nil
}

// openErr returns why nothing may be asked for any more, or nil.
func (f *Flusher) openErr() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refuse
}

// refusedLocked is f.refuse, but for what user-level buffers let through while
// the response closes: that was accepted before, and their filters may flush.
func (f *Flusher) refusedLocked() error {
	if f.closing && f.stack.busy && f.fail == nil && !f.hijacked && !f.ended {
		return nil
	}
	return f.refuse
}
