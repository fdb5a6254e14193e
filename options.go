package flush

import (
	"fmt"
	"net/http"
	"time"
)

// A Mode says when a flush is done. The zero Mode means the default of where
// it stands.
type Mode uint8

const (
	Off   Mode = iota + 1 // no flush
	Async                 // ask and return; the work is done in the background
	Wait                  // return when it is done
)

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
	// without progress ends no earlier, save for a thousandth where the response
	// ends, and at most a sixteenth of it later.
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
