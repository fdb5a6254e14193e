package flush

import "time"

// An ahead is what a stream of flushes has given to floor 1 ahead of the next one.
//
// net/http's own writer keeps so many bytes by itself until it is flushed, and takes
// them without waiting for anybody. A flush empties it. So a small Write that is likely
// to be flushed soon need not be held on floor 2 and copied once more at its flush; nor
// need that ask again what has been asked for the one before. It is a third of what the
// library costs such an event. Invariants, whenever mu is free:
//
//  1. room > 0: the last call of the server was a plain flush, and what has gone ahead
//     since then and room are what the server keeps. Nothing has ended the state in
//     which Writes need not ask: what takes their credit back takes room, too. Whoever
//     calls the server takes it.
//  2. What goes ahead counts as sent. It passes nothing: while there is room floor 2 is
//     empty and no flush is due.
//  3. It goes down with mu held and the baton free, and is the only call of the
//     server's writer that is not its holder's.
//  4. room = underWay: a flush of it is under way, and nothing has come between.
//
// Guarded by Flusher.mu.
type ahead struct {
	room int32         // bytes that may go ahead; 0: none
	len  int32         // bytes that have, since the last flush
	at   time.Duration // when they came, as far as somebody has looked; else unseen
}

const underWay = -1

// end takes the room away; begin has a flush be under way instead.
func (a *ahead) end()   { a.room = 0 }
func (a *ahead) begin() { a.room = underWay }

// flushed notes that a flush has taken along what had gone ahead, and leaves room for
// more.
func (a *ahead) flushed(room int32) { *a = ahead{room: room} }

// see notes that what has gone unseen came now.
func (a *ahead) see() {
	if a.len > 0 && a.at == unseen {
		a.at = now()
	}
}

// settle ends it, and has what has gone be seen.
func (a *ahead) settle() {
	a.see()
	a.end()
}

// behind is how long the oldest byte has waited for its flush.
func (a *ahead) behind() time.Duration {
	if a.len == 0 {
		return 0
	}
	a.see()
	return max(now()-a.at, 1) // 0 says that there is none
}
