package harness

import (
	"net/http"
	"time"

	"github.com/fa492104/flush"
)

// A Closing is what OnClose was told.
type Closing struct {
	flush.Stats
	Err error
	At  time.Time
}

// TellClosing returns options that are o with an OnClose that sends to the channel.
func TellClosing(o flush.Options) (*flush.Options, chan Closing) {
	told := make(chan Closing, 8)
	o.OnClose = func(_ *http.Request, s flush.Stats, err error) { told <- Closing{s, err, time.Now()} }
	return &o, told
}

// Bare leaves a handler as it is.
var Bare = func(h http.Handler) http.Handler { return h }

// WrappedBy returns NewHandler with the given options.
func WrappedBy(o *flush.Options) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return flush.NewHandler(h, o) }
}

// EndedNew wraps h as a handler that makes its Flusher with New and ends it as
// New says: with Close if all went well, and else with Abort.
func EndedNew(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := flush.New(w, r, nil)
		returned := false
		defer func() {
			if !returned {
				f.Abort(nil)
				return
			}
			f.Close()
		}()
		h.ServeHTTP(f, r)
		returned = true
	})
}

// Wrapped returns h behind NewHandler.
func Wrapped(opts *flush.Options, h http.HandlerFunc) http.Handler { return flush.NewHandler(h, opts) }

// Flusher returns the Flusher of a handler that was wrapped.
func Flusher(w http.ResponseWriter) *flush.Flusher {
	f, _ := flush.From(w)
	return f
}
