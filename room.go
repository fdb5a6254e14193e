package flush

import (
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// A sureRoom is what the kernel surely takes at once from an HTTP/1 connection
// that is known. FlushAsync asks it.
//
// A carrier costs the start of a goroutine and mostly the waking of a thread for
// it, which is more than an event costs. So an event that comes alone goes down
// on the caller's goroutine if the server's call cannot block. For that the
// kernel is asked how much room there is; what goes this way from then on counts
// as the most that it can occupy, and every other call of the server's ends what
// is known. (A machine that has no memory left for sockets may block a call all
// the same.)
//
// Guarded by Flusher.mu.
type sureRoom struct {
	known   tcp.Space
	next    tcp.Space     // known, after the call that is about to begin
	flushed bool          // the server's last call was a flush: it holds nothing back
	at      time.Duration // when it was last asked, or the call that it allowed ended
	asked   int64         // flushes that had been asked for by then
}

// A burst is better off with a carrier, which gathers: events that come closer
// than this are one.
const burstGap = 50 * time.Microsecond

// takesAtOnceLocked reports whether the server surely takes n bytes and flushes
// them without waiting for the client, and whether that is cheaper than a
// carrier. If it says so the next call of the server's is that one.
func (f *Flusher) takesAtOnceLocked(n int) bool {
	p := f.timeout.progress
	if p == nil || !p.conn.Plain || !p.room.flushed {
		return false
	}
	if _, wire := f.srv.w.(*wire); !wire && !f.srv.ownHeader {
		return false // who stands between may wait
	}
	r := &p.room
	at, asked := now(), f.flow.flushes
	alone := at-r.at > time.Duration(asked-r.asked+1)*burstGap
	if r.at, r.asked = at, asked; !alone {
		return false
	}
	left, ok := r.known.Less(n)
	if !ok {
		var err error
		if r.known, err = p.conn.Takes(); err != nil {
			return false
		}
		left, ok = r.known.Less(n)
	}
	r.next = left
	return ok
}

// begin notes that a call of the server's begins.
func (r *sureRoom) begin() {
	r.known, r.next, r.flushed = r.next, tcp.Space{}, false
}
