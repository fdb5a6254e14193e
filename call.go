package flush

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// Floor 1: this file alone calls the server's writer, for the holder of the
// baton, and says what its answers mean. The exceptions, which need no baton:
//
//   - deadlines (deadline.go): they end a call that is under way;
//   - Push, which concerns another stream (handler.go);
//   - Header, and net/http's own WriteHeader on HTTP/1, which only takes notes
//     (headers.go);
//   - writeAhead and writeStringAhead, whose bytes it only copies.

// callLocked calls the server with mu dropped. The holder of the baton calls
// it, and then verdictLocked with the error of the call, if it has one.
func (f *Flusher) callLocked(call func()) {
	f.wakeLocked() // who must not wait for it: see filterOwedLocked
	f.handLocked(false, 0, call)
}

// handLocked is callLocked for a call that hands size bytes over, and flushes
// with push. It reports whether the server was called: not if the response failed
// before its turn came.
func (f *Flusher) handLocked(push bool, size int, call func()) bool {
	if !f.enterCallLocked(push, size) {
		return false
	}
	f.mu.Unlock()
	returned := false
	defer func() {
		f.mu.Lock()
		f.endCallLocked()
		if !returned {
			f.failLocked(errPanicked)
		}
	}()
	call()
	returned = true
	return true
}

// enterCallLocked is the beginning of a call, until its turn has come beside the
// handler's reading. It reports whether the call is to be made.
func (f *Flusher) enterCallLocked(push bool, size int) bool {
	f.excludeBodyLocked(push, size)
	f.beginCallLocked()
	if f.awaitReadLocked() {
		return true
	}
	f.endCallLocked()
	return false
}

// callAsideLocked calls the server without the baton and with mu dropped. The
// end of the response waits for it.
func (f *Flusher) callAsideLocked(call func()) {
	f.aside++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.aside--
		f.wakeLocked()
	}()
	call()
}

// writeLocked is one Write of the server and, with push, if that went well, one
// flush.
func (f *Flusher) writeLocked(p []byte, push bool) (n int, pushed bool, err error) {
	if !f.enterCallLocked(push, len(p)) {
		return 0, false, f.fail
	}
	f.mu.Unlock()
	returned := false
	defer func() {
		if !returned {
			f.mu.Lock()
			f.endCallLocked()
			f.failLocked(errPanicked)
		}
	}()
	var perr error
	asked := push
	n, err = f.srv.w.Write(p)
	n, err = wrote(n, len(p), err)
	if push = push && err == nil && f.srv.flushes; push {
		perr = f.srv.w.FlushError()
	}
	returned = true
	f.mu.Lock()
	if asked && !push {
		f.spareBodyLocked(len(p)) // it was not flushed
	}
	f.endCallLocked()
	if push {
		f.notePushLocked(perr)
		return n, true, nil
	}
	return n, false, f.refusedBytesLocked(err)
}

// pushPlain is writeLocked with push for a plain flush, which has begun. It is called
// with mu held and returns without, unless keeps. It returns the failure, or what the
// server's flush said that does not stick.
func (f *Flusher) pushPlain(keeps bool) error {
	seq, piece := f.asked.seq, f.q.head.held()
	f.beginCallLocked()
	f.mu.Unlock()
	returned, pushed := false, false
	defer func() {
		if !returned {
			f.pushPanicked(keeps)
		}
	}()
	n, err := f.srv.w.Write(piece)
	if err == nil && n == len(piece) {
		err, pushed = f.srv.w.FlushError(), true
	}
	returned = true
	f.mu.Lock()
	f.timeout.calling = false
	f.movedLocked()
	if err != nil || !f.endPlainLocked(seq, n, f.timeout.brisk, f.keepsLocked()) {
		return f.endPlainSlow(keeps, seq, len(piece), n, pushed, err)
	}
	if p := f.timeout.progress; p != nil {
		p.room.ended(true)
	}
	if !keeps {
		f.mu.Unlock()
	}
	return nil
}

// writeAhead gives p, for which there is room ahead, to the server's writer, and
// writeStringAhead gives s. They are called with mu held and return without.
func (f *Flusher) writeAhead(p []byte) (int, error) {
	n, err := f.srv.w.Write(p)
	return f.wroteAhead(len(p), n, err)
}

func (f *Flusher) writeStringAhead(s string) (int, error) {
	n, err := io.WriteString(f.srv.w, s)
	return f.wroteAhead(len(s), n, err)
}

// wroteAhead is their end: of size bytes the server has taken n, and said err.
func (f *Flusher) wroteAhead(size, n int, err error) (int, error) {
	if err != nil || n != size {
		n, err = wrote(n, size, err)
		err = f.verdictLocked(err)
	}
	f.wentAheadLocked(n)
	f.mu.Unlock()
	return n, err
}

// pushAhead flushes what has gone ahead. It is called with mu held and returns without.
func (f *Flusher) pushAhead() error {
	seq := f.beginAheadLocked()
	f.beginCallLocked()
	f.ahead.begin()
	f.mu.Unlock()
	returned := false
	defer func() {
		if !returned {
			f.pushPanicked(false)
		}
	}()
	err := f.srv.w.FlushError()
	returned = true
	f.mu.Lock()
	f.timeout.calling = false
	if err != nil || !f.endAheadLocked(seq, f.keepsLocked()) {
		return f.endPlainSlow(false, seq, 0, 0, true, err)
	}
	if p := f.timeout.progress; p != nil {
		p.room.ended(true)
	}
	f.mu.Unlock()
	return nil
}

// keepsLocked is how many bytes the server keeps by itself before the flush that is
// likely to follow the one that has just ended.
func (f *Flusher) keepsLocked() int32 {
	if f.timeout.brisk && f.srv.keeps {
		return serverMeasures
	}
	return 0
}

// pushPanicked is the end of a plain flush whose call of the server has not returned. It
// is called without mu and returns so, unless keeps.
func (f *Flusher) pushPanicked(keeps bool) {
	f.mu.Lock()
	if !keeps {
		defer f.mu.Unlock()
	}
	f.timeout.calling = false
	f.movedLocked()
	f.failLocked(errPanicked)
	f.releaseLocked()
}

// wrote makes sense of what a Write of size bytes returned.
func wrote(n, size int, err error) (int, error) {
	if err == nil && n < size {
		err = io.ErrShortWrite
	}
	return min(max(n, 0), size), err
}

// writeBriefLocked is a Write of the server's at the end of a response, which only keeps p
// until the handler has returned: net/http's own, for what it measures by itself.
// Nobody watches it, and no part of the request is drained for it.
func (f *Flusher) writeBriefLocked(p []byte) (n int, err error) {
	f.timeout.calling = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.timeout.calling = false
		err = f.refusedBytesLocked(err)
	}()
	n, err = f.srv.w.Write(p)
	return wrote(n, len(p), err)
}

// refusedBytesLocked takes the verdict of a Write of what is on floor 2. An
// error that does not stick is kept for the end, as nobody else can be told.
func (f *Flusher) refusedBytesLocked(err error) error {
	if err = f.verdictLocked(err); err != nil && f.fail == nil {
		if r := f.rareLocked(); !r.torn { // one says it: each further piece may be refused, too
			r.torn = true
			f.noteRefusedLocked(err)
		}
	}
	return err
}

// noteRefusedLocked keeps err for the end of the response, which says it beside the
// failure.
func (f *Flusher) noteRefusedLocked(err error) {
	r := f.rareLocked()
	r.refused = joinErrors(r.refused, err)
}

// noteUntoldLocked keeps for the end of the response the first error of filters, or of
// bytes that found no place, in calls that have no result for it.
func (f *Flusher) noteUntoldLocked(err error) {
	if f.refuse == nil && f.rarely().refused == nil {
		f.rareLocked().refused = err
	}
}

// pushLocked is one flush of the server.
func (f *Flusher) pushLocked() bool {
	if f.fail != nil {
		return false
	}
	if !f.srv.flushes {
		f.rareLocked().lastPush = errCannotFlush
		return false
	}
	var err error
	if !f.handLocked(true, 0, func() { err = f.srv.w.FlushError() }) {
		f.rareLocked().lastPush = f.fail
		return false
	}
	f.notePushLocked(err)
	return true
}

// silentLocked takes the verdict of a call that says nothing of what it has met. It
// is the send timeout's, but for the end of the response, where the connection alone
// would have told: a call that the closing deadline has ended is no progress.
func (f *Flusher) silentLocked() {
	if f.closingPassedLocked() {
		f.verdictLocked(os.ErrDeadlineExceeded)
	}
}

// notePushLocked keeps what the server's last flush said that does not stick.
func (f *Flusher) notePushLocked(err error) {
	if f.timeout.closing && err == nil && !f.srv.flushTells() {
		f.silentLocked()
	}
	if err = f.verdictLocked(err); err != nil || f.rare != nil {
		f.rareLocked().lastPush = err
	}
	if p := f.timeout.progress; p != nil {
		p.room.ended(err == nil)
	}
}

// lastPushLocked is what the server's last flush said that does not stick. It is asked
// right after one, and none that went well and was plain.
func (f *Flusher) lastPushLocked() error { return f.rarely().lastPush }

// carrierOnly reports whether only a carrier may call the server, since a
// caller's wait could not be ended: the server has no deadlines.
func (f *Flusher) carrierOnly() bool { return !f.srv.deadlines && f.timeout.d > 0 }

// panickedLocked keeps what a carrier met for the handler's goroutine.
func (f *Flusher) panickedLocked(v any) { f.rareLocked().panicked = v }

// verdictLocked takes the verdict of a call of the server: it returns err as
// this package reports it, after making it stick if it does.
func (f *Flusher) verdictLocked(err error) error {
	if err == nil {
		return nil
	}
	if passes(err) {
		return err
	}
	if f.head && f.headersSent && !f.http1 {
		return nil // the stream ended with the headers (golang/go#66812)
	}
	f.failLocked(f.classifyLocked(err))
	return f.fail
}

// classifyLocked says what an error of the server means. HTTP/2 reports an
// expired deadline as a closed stream.
func (f *Flusher) classifyLocked(err error) error {
	sentinel := ErrClientGone
	switch {
	case f.timeout.expired, errors.Is(err, os.ErrDeadlineExceeded), f.deadlinePassedLocked(),
		errors.Is(err, http.ErrHandlerTimeout): // http.TimeoutHandler's: the client is there, and has been answered
		sentinel = ErrTimeout
	case errors.Is(err, ErrClientGone):
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// sendSliceLocked is one call of the server's ReadFrom, for size bytes of reg. That
// may hand the headers over for the first byte. Where it need not have, it counts as
// not to have: then the server may drain the request body after us.
func (f *Flusher) sendSliceLocked(rf io.ReaderFrom, reg file, size int64) (n int64, err error) {
	if !f.handLocked(true, 0, func() {
		n, err = rf.ReadFrom(&io.LimitedReader{R: reg, N: size})
		f.spareBody(int(n))
	}) {
		return 0, f.fail
	}
	if read := (*fs.PathError)(nil); errors.As(err, &read) {
		return n, err // the file's, which costs nobody the response
	}
	return n, f.verdictLocked(err)
}

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
	at      time.Duration // when it was last asked, or the call that it allowed ended
	asked   uint32        // flushes that had been asked for by then
	flushed bool          // the server's last call was a flush: it holds nothing back
	allowed bool          // the next call has been allowed: known is what it leaves
	own     bool          // the last call was allowed
	paced   bool          // at is when that call began
}

const (
	// A burst is better off with a carrier, which gathers: events that come closer
	// than this are one.
	burstGap = 50 * time.Microsecond

	// Of an event that comes so long after the last the clock is not read again
	// when its call ends: that may have taken mostCall.
	pacedGap = 10 * burstGap
	mostCall = 4 * burstGap
)

// takesAtOnceLocked reports whether the server surely takes n bytes and flushes
// them without waiting for the client, and whether that is cheaper than a
// carrier. If it says so the next call of the server's is that one.
func (f *Flusher) takesAtOnceLocked(n int) bool {
	p := f.timeout.progress
	if p == nil || !p.direct || !p.room.flushed || !p.room.aloneLocked(f) {
		return false
	}
	r := &p.room
	left, ok := r.known.Less(n)
	if !ok {
		var err error
		if r.known, err = p.conn.Takes(); err != nil {
			return false
		}
		left, ok = r.known.Less(n)
	}
	if ok {
		r.known, r.allowed = left, true
	}
	return ok
}

// aloneLocked reports whether the event that is held is none of a burst.
func (r *sureRoom) aloneLocked(f *Flusher) bool {
	asked := uint32(f.flow.flushes)
	least := time.Duration(asked-r.asked+1) * burstGap
	last := r.at
	if r.paced {
		last += mostCall
	}
	at := time.Duration(unseen)
	if b := f.q.head; b != nil {
		at = b.at // an event that has come alone spares its flush the clock
	}
	if at == unseen || at-last <= least {
		at = now()
	}
	r.paced = at-r.at > max(least, pacedGap)
	r.at, r.asked = at, asked
	return at-last > least
}

// begin notes that a call of the server's begins.
func (r *sureRoom) begin() {
	if r.own = r.allowed; !r.own {
		r.known = tcp.Space{}
	}
	r.allowed, r.flushed = false, false
}

// ended notes that it has ended with a flush, which has gone well if flushed. After
// events that are paced the clock need not say when.
func (r *sureRoom) ended(flushed bool) {
	if r.flushed = flushed; r.own && !r.paced {
		r.at = now()
	}
}

// A regular file as ReadFrom may meet it: io.Copy hands over an *os.File inside
// a type of package os that hides its WriteTo. These are the methods that the
// server's own ReadFrom looks for.
type file interface {
	io.ReadSeeker
	io.ReaderAt
	Stat() (os.FileInfo, error)
	SyscallConn() (syscall.RawConn, error)
}
