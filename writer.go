package flush

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
)

// startOwn is start for a Flusher that its maker ends. If OnStart panics, nobody
// has it yet who could.
func (f *Flusher) startOwn(r *http.Request) {
	started := false
	defer func() {
		if !started {
			f.finish(byPanic, errUnwound)
		}
	}()
	f.start(r)
	started = true
}

// Write accepts p. It goes to the top buffer if there is one, and else onto
// floor 2, which moves down by itself at [Options.BufferSize]: on the caller's
// goroutine, or in the background once the response is asynchronous. Write
// then waits only while floor 2 holds [Options.MaxPending] bytes; one of several
// times as many goes down from p itself, and waits for its last bytes, too, if the
// client has been quick so far.
//
// It returns the number of bytes accepted. Errors are the failure that sticks
// ([ErrTimeout], [ErrClientGone]), [ErrClosed], and [http.ErrContentLength],
// [http.ErrBodyNotAllowed] and [http.ErrHijacked] as in net/http. It keeps no
// reference to p. An empty write fixes status and headers where it does on the
// server (net/http, HTTP/3), and does no more.
func (f *Flusher) Write(p []byte) (int, error) {
	f.mu.Lock()
	if f.fitsAheadLocked(len(p)) {
		return f.writeAhead(p)
	}
	return write(f, p)
}

// WriteString is Write for a string, without a copy for the conversion.
func (f *Flusher) WriteString(s string) (int, error) {
	f.mu.Lock()
	if f.fitsAheadLocked(len(s)) {
		return f.writeStringAhead(s)
	}
	return write(f, s)
}

// write is called with mu held and returns without.
func write[T []byte | string](f *Flusher, p T) (int, error) {
	if spendLocked(&f.pipe, p) {
		f.mu.Unlock()
		return len(p), nil
	}
	return writeSlow(f, p)
}

// writeSlow is write where there is more to it than to append. It is called
// with mu held and returns without.
func writeSlow[T []byte | string](f *Flusher, p T) (int, error) {
	if holdOnTopLocked(f, p) {
		err := f.fail
		f.mu.Unlock()
		return len(p), err
	}
	defer f.mu.Unlock()
	if f.stack.active() {
		return writeStackLocked(f, p)
	}
	if f.refuse != nil {
		if f.hijacked && len(p) > 0 {
			f.complainLocked("response.Write on hijacked connection")
		}
		return 0, f.refuse
	}
	return writeLocked(f, p)
}

// writeLocked brings p onto floor 2: one write, with the implicit flush that
// follows it.
func writeLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	return writeOnLocked(f, p, f.stack.whole)
}

// writeOnLocked is writeLocked that does not wait if whole.
func writeOnLocked[T []byte | string](f *Flusher, p T, whole bool) (n int, err error) {
	f.fixEarlyLocked(http.StatusOK)
	if len(p) == 0 {
		if !f.fixed && f.srv.fixesEmpty {
			f.fixLocked(http.StatusOK)
		}
		return 0, nil
	}
	if err := f.admitLocked(len(p)); err != nil {
		return 0, err
	}
	if f.head && f.headersSent {
		f.absorbLocked()
		return len(p), nil
	}
	if whole {
		acceptWholeLocked(&f.pipe, p)
		f.acceptedLocked(nil, true)
		n = len(p)
	} else {
		n, err = acceptLocked(&f.pipe, p, f.stack.busy)
		if n < len(p) && !passes(err) {
			f.written -= int64(len(p) - n) // its wait has ended: what is left may be written again
		}
		if n > 0 {
			err = f.acceptedLocked(err, false)
		}
	}
	f.grantLocked()
	return n, err
}

// acceptedLocked is the step that follows bytes onto floor 2, whichever way they
// came: the interval begins, and the implicit flush is done, without waiting if
// whole. err is what their Write has met; it returns what the Write returns.
func (f *Flusher) acceptedLocked(err error, whole bool) error {
	f.watchIntervalLocked()
	if f.implicit != Off {
		return f.implicitLocked(err, whole)
	}
	return err
}

// shortWriteLocked is the part of the predicate of Write's short way that is
// not the pipe's: see grantLocked.
func (f *Flusher) shortWriteLocked() bool {
	return f.fixed && f.bodyAllowed() && !f.stack.active() && f.length < 0 && !f.head && f.implicit == Off && f.rarely().interval == nil
}

// shortAskLocked is the same for FlushAsync.
func (f *Flusher) shortAskLocked() bool { return !f.stack.follows() && f.srv.flushes }

// admitLocked says whether n more bytes may enter, as net/http would, and
// fixes the headers.
func (f *Flusher) admitLocked(n int) error {
	if err := f.haltedLocked(true); err != nil {
		return err
	}
	if !f.fixed {
		f.fixLocked(http.StatusOK)
	}
	if !f.bodyAllowed() {
		return http.ErrBodyNotAllowed
	}
	f.written += int64(n)
	if f.length >= 0 && f.written > f.length {
		return http.ErrContentLength
	}
	return nil
}

// ReadFrom copies src to the response until its end.
//
// A regular [os.File], bare or in one [io.LimitedReader], keeps the server's
// own ReadFrom (sendfile) if no buffer stands in the way; it is handed over in
// slices of at most 1 MiB, so that the send timeout rolls, on the caller's
// goroutine. Any other
// source is read with no lock held, then written; with implicit flush on it
// flushes after each read, so that io.Copy streams.
func (f *Flusher) ReadFrom(src io.Reader) (n int64, err error) {
	if reg, limit, lr := regularFile(src); reg != nil {
		n, err = f.sendFile(reg, limit)
		if lr != nil {
			lr.N -= n
		}
		if err != nil {
			return n, err
		}
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.freeCopyLocked(buf, err)
	}()
	for {
		m, rerr := src.Read(buf[:])
		if m > 0 {
			w, werr := f.Write(buf[:m])
			n += int64(w)
			if werr != nil {
				return n, werr
			}
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// regularFile returns the regular file that src is, or is one limit around,
// and how much of it may be read; -1 is no limit. One that has nothing to read, or
// cannot be read, is none: a copy of nothing must not fix the headers.
func regularFile(src io.Reader) (reg file, limit int64, lr *io.LimitedReader) {
	limit = -1
	if l, ok := src.(*io.LimitedReader); ok {
		src, limit, lr = l.R, max(l.N, 0), l
	}
	reg, ok := src.(file)
	if !ok {
		return nil, 0, nil
	}
	if fi, err := reg.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, 0, nil
	}
	at, err := reg.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, nil
	}
	var first [1]byte
	if n, _ := reg.ReadAt(first[:], at); n == 0 {
		return nil, 0, nil
	}
	return reg, limit, lr
}

// sendFile hands limit bytes of reg, or all of it, to the server's own
// ReadFrom. It stops early, without an error, where that cannot be used, and
// at the declared Content-Length.
func (f *Flusher) sendFile(reg file, limit int64) (n int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.srv.writer().(io.ReaderFrom); !ok {
		return 0, nil
	}
	if f.stack.active() { // which may take what is refused below it
		return 0, nil
	}
	if f.refuse != nil {
		return 0, f.refuse
	}
	if f.head || f.holding || f.carrierOnly() || limit == 0 {
		return 0, nil
	}
	if err := f.takePenLocked(false); err != nil {
		return 0, err
	}
	defer f.dropPenLocked()
	if n, err = f.passFileLocked(reg, limit); n > 0 && f.fail == nil {
		err = f.acceptedLocked(err, false)
	}
	if f.fail != nil {
		err = f.fail
	}
	return n, err
}

// passFileLocked is the part of sendFile with the baton.
func (f *Flusher) passFileLocked(reg file, limit int64) (n int64, err error) {
	if err := f.takeBatonLocked(true); err != nil {
		return 0, err
	}
	defer f.releaseLocked()
	if err := f.admitLocked(0); err != nil {
		return 0, err
	}
	if f.length >= 0 {
		if left := f.length - f.written; limit < 0 || limit > left {
			limit = left
		}
	}
	f.moveLocked()
	if f.fail == nil {
		f.sendHeadersLocked(false)
	}
	rf := f.srv.writer().(io.ReaderFrom)
	f.watchFileLocked(reg)
	defer f.unwatchFileLocked()
	defer f.passPieceLocked(0)
	for slices := 0; f.fail == nil && limit != 0; slices++ {
		size := int64(f.fileSliceLocked(slices))
		if limit > 0 {
			size = min(size, limit)
		}
		began := now()
		f.passPieceLocked(began)
		var m int64
		m, err = f.sendSliceLocked(rf, reg, size)
		f.written += m
		f.noteThroughLocked(m)
		n += m
		if limit > 0 {
			limit -= m
		}
		if err != nil || m < size {
			break // failed, or the end of the file
		}
		f.tookSliceLocked(int(m), began)
	}
	return n, err
}

// Unwrap returns the server's writer, for [http.ResponseController]. Writing
// to it goes past the Flusher. A detached response has none: nil.
func (f *Flusher) Unwrap() http.ResponseWriter {
	w := f.serverWriter()
	if _, ours := w.(*wire); ours {
		return nil
	}
	return w
}

// serverWriter is floor 1.
func (f *Flusher) serverWriter() http.ResponseWriter {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.srv.keeps = false // who writes to it may fill it
	f.ahead.end()
	return f.srv.writer()
}

// Hijack takes the connection over, as [http.Hijacker]. It waits for
// background work, SendTimeout at most, hands floor 2 down and drops
// user-level buffers. Later calls get [http.ErrHijacked].
func (f *Flusher) Hijack() (conn net.Conn, rw *bufio.ReadWriter, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, ok := find[http.Hijacker](f.srv.w)
	if f.refuse != nil {
		return nil, nil, f.refuse
	}
	if !ok {
		return nil, nil, fmt.Errorf("flush: response writer cannot be hijacked: %w", http.ErrNotSupported)
	}
	f.lendLocked()
	defer f.takeBackLocked()
	if err := f.takeBatonLocked(f.stack.busy); err != nil {
		return nil, nil, err
	}
	defer f.releaseLocked()
	f.parkLocked(true) // what is accepted from here on would not get down any more
	defer f.parkLocked(false)
	if f.fixed {
		f.moveLocked()
		if f.fail == nil {
			f.sendHeadersLocked(false)
		}
		if f.fail == nil && f.accepted > 0 {
			f.pushLocked()
		}
		if f.fail != nil {
			return nil, nil, f.fail
		}
	}
	if conn, rw, err = f.hijackConnLocked(h); err != nil {
		return nil, nil, err
	}
	f.hijacked = true
	if f.context != nil {
		f.context.hijack()
	}
	f.takeAwayLocked(http.ErrHijacked)
	f.leaveGroupsLocked()
	f.partFromGroupsLocked()
	f.stopTimersLocked()
	f.dropStackLocked()
	return conn, rw, nil
}

// hijackConnLocked is one call of the server's Hijack. From then on its deadlines
// are not ours.
func (f *Flusher) hijackConnLocked(h http.Hijacker) (conn net.Conn, rw *bufio.ReadWriter, err error) {
	f.hijacking = true
	defer func() { f.hijacking = false }()
	f.callLocked(func() { conn, rw, err = h.Hijack() })
	r := f.rarely()
	for _, do := range r.besideHijack {
		if err != nil {
			do()
		}
	}
	if r.besideHijack != nil {
		r.besideHijack = nil
	}
	return conn, rw, err
}

// EnableFullDuplex lets the handler read the request body after the response
// has begun, as [http.ResponseController.EnableFullDuplex].
//
// Without it, on HTTP/1, the server drains what is left of the request body
// when headers go out. So until the body has been read to its end, a Write, a
// flush that waits, SendHeaders and Close may block on the upload as in net/http.
// FlushAsync, TryWrite and timers leave that to the background; with [New]
// headers leave only on the goroutine of a call, FlushAsync included.
func (f *Flusher) EnableFullDuplex() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.goneLocked(); err != nil {
		return err
	}
	f.lendLocked()
	defer f.takeBackLocked()
	if err := f.takeBatonLocked(f.stack.busy); err != nil {
		return err
	}
	defer f.releaseLocked()
	d, ok := find[interface{ EnableFullDuplex() error }](f.srv.w)
	if !ok {
		return fmt.Errorf("flush: response writer has no full duplex: %w", http.ErrNotSupported)
	}
	var err error
	if f.callLocked(func() { err = d.EnableFullDuplex() }); err != nil {
		return err
	}
	f.fullDuplex = true
	return nil
}

// Available returns how many bytes a Write takes now without waiting. It is 0
// while a Write waits. What buffers with a ChunkSize hold is counted off, as it comes
// down before; a buffer without one keeps it all.
func (f *Flusher) Available() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return 0
	}
	return max(f.availableLocked()-f.stack.comesAlong(), 0)
}

// TryWrite accepts all of p if that can be done without waiting for the client,
// and else none of it and returns [ErrNoRoom]. It is what a hub calls for each
// of many responses.
//
// There is room if p fits below [Options.MaxPending], or if nothing is held at
// all and the [Budget] has room: an event larger than MaxPending reaches a
// client that keeps up. It is asked before any filter runs; what one then makes
// of p enters whole. What is written while a filter runs counts as held. There is no
// room while another Write waits, nor for a filter while the server is being called and
// the headers have not been sent, as for a 1xx.
//
// It does not flush. What moves by itself moves in the background. The time
// that a filter takes is the caller's. Other errors are those of
// [Flusher.Write].
func (f *Flusher) TryWrite(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tryWriteLocked(p)
}

// tryWriteLocked is TryWrite. It drops mu while a filter runs.
func (f *Flusher) tryWriteLocked(p []byte) error {
	s := f.stack
	switch {
	case f.gone:
		return f.refuse
	case f.fail != nil:
		return f.fail // a buffer would take it all the same
	case s.running != nil && len(p) > 0:
	case f.refuse != nil:
		return f.refuse
	case s.busy && len(p) == 0:
		return nil
	case s.busy, f.filterWaitsLocked() && s.filtersLocked(len(p)):
		return ErrNoRoom
	}
	late := len(s.late) // it comes down first
	if len(p)+late > f.availableLocked() && (f.overLocked() || f.q.len+late > 0) {
		f.outgrowLocked()
		return ErrNoRoom
	}
	if s.running != nil {
		_, err := writeStackLocked(f, p)
		return err
	}
	n, err := f.writeWholeLocked(p)
	if n < len(p) && err == nil {
		err = ErrNoRoom
	}
	return err
}

// writeWholeLocked is a Write that does not wait. Its caller has asked whether
// there is room.
func (f *Flusher) writeWholeLocked(p []byte) (n int, err error) {
	if !f.stack.active() {
		return writeOnLocked(f, p, true)
	}
	if err := f.takeTurnLocked(false); err != nil {
		return 0, err
	}
	defer f.settleTurnLocked(&err)
	f.stack.whole = true
	return enterLocked(f, len(f.stack.bufs)-1, p)
}
