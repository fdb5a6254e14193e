package flush_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Every write is a record of its own: a capital letter for who wrote it, three
// digits for which of his it is, and small letters. So what comes down can be
// read as it comes, a record that was torn is seen by the capital in its middle,
// and one that was torn by another by the small letters after that. Filters put
// braces around what they let through.
type entry struct {
	by    *writer
	seq   int
	data  []byte
	began int64 // as tick says
	ended int64 // 0: it has not returned
	n     int   // what it has returned
	told  bool  // that the server, or a length, refused some of it
	gone  bool  // taken back on purpose: by a Clean, a Discard, a filter that swallows

	// what the server has of it; guarded by the server's mu
	down   int
	gap    bool // the server refused something while it came
	wireAt int  // 1 for the first to come, 0: it has not
}

// A writer is who writes records, one at a time.
type writer struct {
	id  byte
	all []*entry // guarded by reply.mu
}

// returned is how many records of each writer have returned.
type returned []int

var smallLetters = bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), 110000/26)

// begins makes the writer's next record.
func (r *reply) begins(w *writer, size int) *entry {
	size = max(size, 4)
	tick := r.h.tick()
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := &entry{by: w, seq: len(w.all), data: make([]byte, size), began: tick}
	rec.data[0] = w.id
	for i, n := 3, rec.seq; i > 0; i, n = i-1, n/10 {
		rec.data[i] = byte('0' + n%10)
	}
	copy(rec.data[4:], smallLetters[rec.seq%26:])
	w.all = append(w.all, rec)
	return rec
}

// ends notes what the write has returned. -1: it has not, it panicked.
func (r *reply) ends(rec *entry, n int) {
	tick := r.h.tick()
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.ended, rec.n = tick, n
	if n >= 0 {
		r.accepted += int64(n)
	} else {
		r.inexact = "a write panicked, or did not tell"
	}
}

func (r *reply) newWriter() *writer {
	r.mu.Lock()
	defer r.mu.Unlock()
	const ids = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if len(r.writers) == len(ids) {
		return nil
	}
	w := &writer{id: ids[len(r.writers)]}
	r.writers = append(r.writers, w)
	return w
}

// soFar returns which records have returned.
func (r *reply) soFar() returned {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(returned, len(r.writers))
	for i, w := range r.writers {
		all[i] = len(w.all)
		for all[i] > 0 && w.all[all[i]-1].ended == 0 {
			all[i]-- // ReadFrom begins several
		}
	}
	return all
}

// onFloor2 notes that what had been written at that time has left the buffers,
// and onItsWay that it will.
func (r *reply) onFloor2(upTo returned) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor2.raise(upTo)
}

func (r *reply) onItsWay(upTo returned) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owed.raise(upTo)
}

func (r *returned) raise(to returned) {
	for i, n := range to {
		if i == len(*r) {
			*r = append(*r, 0)
		}
		(*r)[i] = max((*r)[i], n)
	}
}

// known returns which records must be on floor 2, or further down.
func (r *reply) known() returned {
	if !r.buffers.Load() {
		// Nobody has opened a buffer before, so none of these is in one.
		if all := r.soFar(); !r.buffers.Load() {
			return all
		}
	}
	r.lookForBuffers()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.floor2)
}

// lookForBuffers notes that all has left the buffers if there is none, and
// nobody is at work, the end of the response neither, who may still be passing on
// what one held.
func (r *reply) lookForBuffers() {
	begun, all := r.begun.Load(), r.soFar()
	if r.inside.Load() == 0 && r.f.Top() == nil && r.begun.Load() == begun && !r.closing.Load() {
		r.onFloor2(all)
	}
}

// takenBack notes that p, which came to a buffer, goes no further.
func (r *reply) takenBack(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(p) > 0 {
		if p[0] == '{' || p[0] == '}' {
			p = p[1:]
			continue
		}
		rec := r.findLocked(p)
		if rec == nil || len(rec.data) > len(p) {
			r.report("torn", "a filter is given %q", harness.Clip(p))
			return
		}
		rec.gone = true
		p = p[len(rec.data):]
	}
}

// findLocked returns the record that begins as p does, which are four bytes.
func (r *reply) findLocked(p []byte) *entry {
	if len(p) < 4 || p[0] < 'A' || int(p[0]-'A') >= len(r.writers) {
		return nil
	}
	w := r.writers[p[0]-'A']
	seq := 0
	for _, c := range p[1:4] {
		if c < '0' || c > '9' {
			return nil
		}
		seq = 10*seq + int(c-'0')
	}
	if seq >= len(w.all) {
		return nil
	}
	return w.all[seq]
}

// notExact says why the balance cannot be drawn.
func (r *reply) notExact(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inexact = why
}

// allGone is what Flusher.Clean does to all that has begun.
func (r *reply) allGone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.writers {
		for _, rec := range w.all {
			rec.gone = true
		}
	}
	r.inexact = "Clean"
}

// A wire reads what the server is given. Guarded by the server's mu.
type wire struct {
	r       *reply
	head    []byte   // less than four bytes of a record
	stubs   []string // records that ended so early
	open    *entry   // nil: none
	order   []*entry
	down    [26]place // how far each writer's records have come
	flushed [26]place // and been flushed
	broken  bool
	gap     bool // since the last look the server has refused something
	maybe   bool // what comes next shows whether it has
}

// A place is a record and how much of it.
type place struct{ seq, n int }

func (w *wire) feed(p []byte) {
	if len(p) > 0 && w.maybe {
		w.gap, w.maybe = w.gap || !w.continues(p[0]), false
	}
	for len(p) > 0 && !w.broken {
		if w.gap {
			// Whatever is open has a gap; what comes is the rest of a record
			// that nobody can tell, or a new one.
			w.end()
			i := bytes.IndexFunc(p, func(c rune) bool { return c >= 'A' && c <= 'Z' })
			if i < 0 {
				return
			}
			w.gap, p = false, p[i:]
		}
		c := p[0]
		switch {
		case w.open != nil && c >= 'a' && c <= 'z':
			left := w.open.data[w.open.down:]
			n := 0
			for n < min(len(left), len(p)) && left[n] == p[n] {
				n++
			}
			if n == 0 {
				w.breaks("%q inside of a record", p)
				return
			}
			w.open.down += n
			w.down[w.open.by.id-'A'].n = w.open.down
			if p = p[n:]; w.open.down == len(w.open.data) {
				w.open = nil
			}
		case c == '{' || c == '}':
			w.end()
			p = p[1:]
		case c >= 'A' && c <= 'Z':
			w.end()
			w.head = append(w.head, c)
			p = p[1:]
		case c >= '0' && c <= '9' && len(w.head) > 0:
			w.head = append(w.head, c)
			if p = p[1:]; len(w.head) == 4 {
				w.start()
			}
		default:
			w.breaks("%q, where a record must begin", p)
		}
	}
}

// continues reports whether c goes on with what is open.
func (w *wire) continues(c byte) bool {
	switch {
	case len(w.head) > 0:
		return c >= '0' && c <= '9'
	case w.open != nil:
		return c == w.open.data[w.open.down]
	}
	return true
}

func (w *wire) start() {
	w.r.mu.Lock()
	rec := w.r.findLocked(w.head)
	w.r.mu.Unlock()
	if rec == nil {
		w.breaks("%q, which nobody has written", w.head)
		return
	}
	w.head = w.head[:0]
	place := &w.down[rec.by.id-'A']
	if rec.wireAt > 0 || place.n > 0 && rec.seq <= place.seq {
		w.breaks("record %s comes after %c%03d", rec.data[:4], rec.by.id, place.seq)
		return
	}
	w.order = append(w.order, rec)
	rec.wireAt, rec.down = len(w.order), 4
	*place = placeOf(rec.seq, 4)
	if len(rec.data) > 4 {
		w.open = rec
	}
}

func placeOf(seq, n int) place { return place{seq, n} }

// end is what another record, or a gap, does to the one that is open.
func (w *wire) end() {
	if len(w.head) > 0 {
		w.stubs = append(w.stubs, string(w.head))
		w.head = nil
	}
	if w.open != nil {
		w.open.gap = w.gap || w.maybe
		w.open = nil
	}
}

func (w *wire) flush() { w.flushed = w.down }

func (w *wire) breaks(format string, args ...any) {
	w.broken = true
	for i, a := range args {
		if p, ok := a.([]byte); ok {
			args[i] = harness.Clip(p)
		}
	}
	last := ""
	if n := len(w.order); n > 0 {
		rec := w.order[n-1]
		last = fmt.Sprintf("; before it %d bytes of %s, which has %d", rec.down, rec.data[:4], len(rec.data))
	}
	w.r.report("torn", "on the wire: "+format+"%s", append(args, last)...)
}

// checkFlushed is what must hold once a flush, asked for when these records had
// returned, has said that it is done.
func (r *reply) checkFlushed(what string, upTo returned) {
	s := r.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused || s.wire.maybe || s.wire.broken || r.method == http.MethodHead || s.panicked {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	if r.toldLength || r.length > 0 && s.got >= r.length {
		return // what a buffer held is beyond the length, and somebody was told, or will be at the end
	}
	for i, n := range upTo {
		for n > 0 && (r.writers[i].all[n-1].gone || r.writers[i].all[n-1].n < 4) {
			n--
		}
		if n == 0 {
			continue
		}
		rec, place := r.writers[i].all[n-1], s.wire.flushed[i]
		if rec.gap {
			continue
		}
		if place.n == 0 || place.seq < rec.seq || place.seq == rec.seq && place.n < rec.n {
			r.report("flush lied", "%s returned nil, and of %s, %d bytes accepted before, %d are on the wire; flushed up to %d of %d",
				what, rec.data[:4], rec.n, rec.down, place.n, place.seq)
			return
		}
	}
}

// check is what must hold at the end.
func (r *reply) check() {
	s := r.server
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.f.Stats()
	hijacked := s.hijacked.Load()
	if r.closed != 1 {
		r.report("OnClose", "it ran %d times", r.closed)
	} else if !errors.Is(r.closeErr, r.closeCause) && r.closeCause != nil {
		r.report("OnClose", "it got %v, Err is %v", r.closeErr, r.closeCause)
	}
	if st.Bytes != int64(s.got) && !s.panicked {
		r.report("count", "%d bytes counted, %d sent", st.Bytes, s.got)
	}
	if r.method != http.MethodHead && !s.panicked && r.inexact == "" && st.Bytes+st.Lost != r.accepted+r.filtered {
		r.report("balance", "%d accepted, %d added by filters, %d taken: %d sent, %d lost", r.accepted, r.filtered, r.accepted+r.filtered, st.Bytes, st.Lost)
	}
	if st.Lost < 0 {
		r.report("balance", "%d lost", st.Lost)
	}
	limit := r.opts.MaxPending
	if limit == 0 {
		limit = 64 << 10
	}
	if r.opts.BufferSize == 0 {
		limit = max(limit, 4096)
	}
	limit = max(limit, r.opts.BufferSize, r.opts.HTTP10Buffer)
	if r.opts.SAPI.HTTP10Buffer > 0 && r.opts.HTTP10Buffer == 0 {
		limit = max(limit, r.opts.SAPI.HTTP10Buffer)
	}
	if most := limit + r.excess(); st.MaxPending > most {
		r.report("bound", "%d bytes were held, over %d", st.MaxPending, most)
	}
	if st.Pushes > st.Flushes+1 || st.Pushes > int64(s.flushes) {
		r.report("count", "%d pushes for %d flushes, the server saw %d", st.Pushes, st.Flushes, s.flushes)
	}
	r.checkFailureLocked()
	if r.method == http.MethodHead || s.wire.broken {
		return
	}
	r.checkWireLocked(st, hijacked)
}

// checkFailureLocked is that nobody fails who keeps up.
func (r *reply) checkFailureLocked() {
	s, err, has := r.server, r.f.Err(), r.h.has
	if r.panicked != nil || r.exited {
		return // the cause may be the context's
	}
	switch {
	case errors.Is(err, flush.ErrOverBudget):
		if s.longest < 100*time.Millisecond {
			r.report("early", "%v, and no call of the server took longer than %v", err, s.longest)
		}
	case errors.Is(err, flush.ErrTimeout):
		least := r.sendTimeout()
		least -= least >> 10 // calls that end the response may share a deadline: see setClosingDeadlineLocked
		if has&(hasBudget|hasDeadline) == 0 && r.write == 0 && (r.opts.SendTimeout < 0 || s.longest < least) {
			r.report("early", "%v, and no call of the server took longer than %v", err, s.longest)
		}
	case errors.Is(err, flush.ErrClientGone):
		if s.failure == nil && r.method != http.MethodHead {
			r.report("early", "%v, and the server has not failed", err)
		}
	}
}

// excess is how much a FollowFlush buffer, FlushAll(false), TryWrite or what an
// ended wait has left may bring beyond the mark: once. What a buffer holds is not
// bounded, so it is everything.
func (r *reply) excess() int {
	n := 0
	whole := r.buffers.Load() && (r.h.has&(hasFollow|hasFlushAll|hasNoDeadline) != 0 || r.tried.Load())
	for _, w := range r.writers {
		for _, rec := range w.all {
			if whole {
				n += len(rec.data) + 2
			} else if r.tried.Load() {
				n = max(n, len(rec.data))
			}
		}
	}
	return n
}

func (r *reply) checkWireLocked(st flush.Stats, hijacked bool) {
	s := r.server
	s.wire.end()
	var after int64
	for i, rec := range s.wire.order {
		if rec.ended > 0 && rec.ended < after {
			r.report("order", "record %s returned before another began that is before it", rec.data[:4])
			return
		}
		after = max(after, rec.began)
		switch {
		case rec.n < 0 || rec.gap || rec.told || s.refused && rec.n < len(rec.data) || s.panicked:
		case rec.down > rec.n:
			r.report("more", "of %s %d bytes were accepted and %d are on the wire", rec.data[:4], rec.n, rec.down)
		case rec.down < rec.n && i < len(s.wire.order)-1 && !rec.gone:
			r.report("torn", "of %s %d bytes were accepted and %d are on the wire, and then comes another", rec.data[:4], rec.n, rec.down)
		}
	}
	var missing []string
	for _, w := range r.writers {
		for _, rec := range w.all {
			if rec.wireAt == 0 && rec.n > 0 && rec.n < 4 && slices.Contains(s.wire.stubs, string(rec.data[:rec.n])) {
				continue
			}
			if rec.n > rec.down && !rec.gone && !rec.gap {
				missing = append(missing, fmt.Sprintf("%s (%d of %d)", rec.data[:4], rec.down, rec.n))
			}
		}
	}
	if len(missing) == 0 {
		return
	}
	what := fmt.Sprintf("%d records: %s", len(missing), strings.Join(missing[:min(len(missing), 3)], ", "))
	told := r.closeErr != nil || r.panicked != nil || r.toldLength
	switch {
	case hijacked && r.buffers.Load():
		// Hijack drops what buffers hold, and Stats tell.
	case !told:
		r.report("untold", "missing on the wire, and neither Close nor OnClose nor a cut says so: %s; %+v", what, st)
	case r.handler && r.panicked == nil && !r.exited && r.closeCause != nil && !hijacked && !r.left:
		r.report("uncut", "missing on the wire because of %q, and the client sees a whole response: %s; %+v", r.closeCause, what, st)
	}
	if st.Lost == 0 && r.inexact == "" && !s.refused && !s.panicked {
		r.report("untold", "missing on the wire, and none is lost: %s; %+v", what, st)
	}
}

// checkIdle is what must hold when an asynchronous flush was asked for and
// nothing moves any more.
func (r *reply) checkIdle(what string, upTo returned) {
	s := r.server
	if n := r.f.Buffered(); n > 0 && r.f.Err() == nil {
		r.report("idle", "%s, and %d bytes are held", what, n)
		return
	}
	s.mu.Lock()
	flushed, got := s.flushed, s.got
	s.mu.Unlock()
	if r.f.Err() != nil || s.hijacked.Load() {
		return
	}
	if flushed < got {
		r.report("idle", "%s, and %d of %d bytes have not been flushed", what, got-flushed, got)
		return
	}
	r.checkFlushed(what, upTo)
}

// checkTime is what must hold of how long a call took.
func (r *reply) checkTime(what string, took time.Duration, kind timeKind, most time.Duration) {
	slept, long := r.h.waited()
	has := r.h.has
	send := r.sendTimeout()
	switch kind {
	case atOnce, byThen:
		// What a filter takes is the time of the caller who has it run.
		if has&hasBuffers != 0 {
			most += r.h.filtersTook()
		}
	case waits, bounded, ends:
		if at := r.abortedAt.Load(); at > 0 && kind == waits && has&hasNoDeadline != 0 && has&hasBuffers == 0 && send > 0 {
			// Only a carrier calls such a server, and the caller must not wait
			// for that once the response has failed. Before the headers an Abort
			// first shows what is due.
			shows := time.Duration(0)
			if r.abortShows.Load() {
				shows = min(send, time.Second)
			}
			if late := time.Since(r.h.began) - time.Duration(at); min(late, took) > shows {
				r.report("late", "%s returned %v after Abort", what, late)
			}
		}
		if has&hasBudget != 0 && send == 0 {
			return // without a bound of its own it waits for others that hold something
		}
		factor := r.h.stretches()
		if len(r.replyScript.body) > 0 {
			factor++ // after a drain that has taken so long the response goes on
		}
		most = slept + factor*(send+send/16) + r.write + r.uploadTime() + time.Millisecond
		if has&hasConn != 0 {
			most += 100 * time.Millisecond // the kernel is asked every 50
		}
		most += r.ownDeadline()
		if kind == ends || has&hasNoDeadline != 0 && has&hasBuffers != 0 {
			most += long // in line for the buffers, behind the end of the response
		}
	}
	if took > most {
		r.report("late", "%s took %v, more than %v", what, took, most)
	}
}

// stretches is how many stretches of the send timeout a call may take. A
// response has failed after one, and a sixteenth of it. Where the wait alone
// ends, each has its own: in line for the pen, for room or the budget, for the
// carrier, for an implicit flush; and in line for the buffers, behind all who
// have to wait for those.
func (h *hammerRun) stretches() time.Duration {
	n := time.Duration(1)
	if h.has&hasBudget != 0 {
		n = 3
	}
	if h.has&hasNoDeadline != 0 {
		n = 4
		switch {
		case h.has&hasBuffers != 0:
			n *= 8
		case h.has&hasBudget != 0:
			n += 3 // in line for the pen, behind three that wait for the budget, each its own time
		}
	}
	return n
}

type timeKind int

const (
	atOnce  timeKind = iota // it may not wait for anything
	byThen                  // it has its own time
	waits                   // as bounded, and it only waits where calls of the server cannot be ended
	bounded                 // it may wait as long as the send timeout lets it
	ends                    // it may wait for the server, too, if that cannot be unblocked
)

// ownDeadline is how far a deadline of the handler's may be that stands in the
// place of the server's.
func (r *reply) ownDeadline() time.Duration {
	if r.write > 0 && r.opts.SendTimeout == 0 && r.h.has&hasDeadline != 0 {
		return time.Hour
	}
	return 0
}

// sendTimeout is the longest time without progress; 0: there is no bound.
func (r *replyScript) sendTimeout() time.Duration {
	switch d := r.opts.SendTimeout; {
	case d > 0:
		return d
	case d < 0:
		return 0
	}
	return time.Minute
}

func (r *reply) uploadTime() (d time.Duration) {
	for _, one := range r.replyScript.body {
		d += one
	}
	if len(r.replyScript.body) > 0 && !r.bodyEnds && r.write > 0 && r.opts.SendTimeout == 0 {
		d += r.bodyStall() // a WriteTimeout alone does not end the server's drain
	}
	return d
}

func (h *hammerRun) checkBudget() {
	b := h.hammerScript.budget
	if b == nil {
		return
	}
	if n := b.Stats().Held; n != 0 {
		h.report("budget", "%d bytes are held at the end", n)
	}
	if m := reflect.ValueOf(b).MethodByName("Stats"); m.IsValid() {
		st := m.Call(nil)[0]
		for _, name := range []string{"Held", "Members", "Waiting"} {
			if f := st.FieldByName(name); f.IsValid() && !f.IsZero() {
				h.report("budget", "%s at the end: %v", name, f)
			}
		}
	}
}
