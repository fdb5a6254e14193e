package flush

import "github.com/fa492104/flush/internal/tcp"

// A sharedWrite is an event on its way to many responses, as it goes out on a
// detached one. Nobody writes to it.
type sharedWrite struct {
	chunk []byte // the event with what is around it in a chunk
	head  int    // how many bytes of that come before it
}

// newSharedWrite makes one of p, which is not empty.
func newSharedWrite(p []byte) *sharedWrite {
	chunk, head := appendChunk(make([]byte, 0, chunkHead+len(p)+len(crlf)), p)
	return &sharedWrite{chunk: chunk, head: head}
}

// event is what was broadcast.
func (s *sharedWrite) event() []byte { return s.chunk[s.head : len(s.chunk)-len(crlf)] }

// sureShared is up to which size a socket that polls as writable has room for an
// event.
const sureShared = 2 << 10

// surelyTakes reports whether the kernel takes all of out now.
func (w *wire) surelyTakes(out []byte) bool { return len(out) <= sureShared && w.writable() }

// writeShared writes the event to a detached response on which nothing stands in
// its way, flushed, and waits for nobody. What the kernel does not take is queued,
// so that the event is whole. It reports whether the event was taken, or has met
// the failure err, which sticks. If not, nothing of it was, and the caller goes
// the ordinary way: the response is not detached, has buffers, bytes queued or a
// carrier at work, or the kernel has no room at all. So it does if the Budget has
// none for what may have to be queued.
func (f *Flusher) writeShared(s *sharedWrite, now *tcp.NowWriter) (taken bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, ok := f.srv.w.(*wire)
	event := s.event()
	if !ok || w.raw == nil || !f.clearLocked() || f.length >= 0 && f.written+int64(len(event)) > f.length {
		return false, nil
	}
	out, head := s.chunk, s.head
	if w.body != chunked {
		out, head = event, 0
	}
	if w.tls {
		return f.writeSharedTLSLocked(w, out, head, len(event))
	}
	if f.marks.counted && f.budgetRoomLocked() == 0 && !w.surelyTakes(out) {
		return false, nil
	}
	n, err := now.Write(w.raw, out)
	if n == 0 && err == nil {
		return false, nil
	}
	ask := f.acceptSharedLocked(len(event))
	size := bodyBytes(n, head, len(event))
	f.noteSentLocked(size)
	switch {
	case err != nil:
		f.loseLocked(len(event) - size)
		return true, f.verdictLocked(err)
	case n == len(out):
		f.noteDoneLocked(ask)
		return true, nil
	}
	w.tear(out, n, head, len(event))
	if size < len(event) {
		f.queueRestLocked(event[size:])
	}
	f.carryAsyncLocked(nil)
	return true, nil
}

// writeSharedTLSLocked is writeShared over TLS, where a write cannot be taken
// back: the kernel is asked before.
func (f *Flusher) writeSharedTLSLocked(w *wire, out []byte, head, size int) (taken bool, err error) {
	if !w.surelyTakes(out) {
		return false, nil
	}
	f.seizeLocked()
	defer f.releaseLocked()
	ask := f.acceptSharedLocked(size)
	n := 0
	f.callLocked(func() { n, err = w.conn.Write(out) })
	n = bodyBytes(n, head, size)
	f.noteSentLocked(n)
	if err != nil {
		f.loseLocked(size - n)
		return true, f.verdictLocked(err)
	}
	f.noteDoneLocked(ask)
	return true, nil
}

// clearLocked reports whether nothing stands in the way of a write: what is
// written next goes out next, and whole.
func (f *Flusher) clearLocked() bool {
	f.absorbLocked()
	return f.refuse == nil && !f.held && f.q.len == 0 && f.asked.seq == f.done && f.sent == f.accepted &&
		!f.penTakenLocked() && !f.wanted && !f.owed && !f.stack.active()
}

// acceptSharedLocked takes in size bytes, and the flush of them.
func (f *Flusher) acceptSharedLocked(size int) mark {
	f.written += int64(size)
	return f.acceptPastLocked(size)
}

// tear notes that of out, a chunk with head bytes before its size, n have gone.
func (w *wire) tear(out []byte, n, head, size int) {
	if w.body != chunked {
		return
	}
	t := &tornChunk{open: size - bodyBytes(n, head, size)}
	if n < head {
		t.before = out[n:head]
	} else if t.open == 0 {
		t.before = out[n:]
	}
	w.torn = t
}
