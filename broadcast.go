package flush

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fa492104/flush/internal/tcp"
)

// Broadcast writes p to every member and asks for a flush, as
// [Flusher.TryWrite] and [Flusher.FlushAsync]: it waits for no client. On a
// detached response with nothing queued p goes to the kernel as it is. Broadcast
// returns the members that had no room for p. They have got nothing of it; the
// usual answer is to abort them:
//
//	for _, f := range g.Broadcast(event) {
//		f.Abort(errSlow) // the client comes back with Last-Event-ID
//	}
//
// Abort waits for the server's call under way, which it ends. That of HTTP/2 on a
// connection that takes nothing at all only WriteByteTimeout ends, of
// [http.HTTP2Config]: set it, or abort on another goroutine.
//
// All members get the events of one Group in the same order, whoever calls. One
// that has ended has not missed anything. Buffers and filters are honoured;
// their time is the caller's, and others who broadcast wait for it. So a filter
// must not call Broadcast of a Group that its own response is in: it would wait
// for itself. What else it says is told by the end of the response, as is a length
// that p exceeds. A filter's panic goes on here once all others have got p.
//
// It keeps no reference to p.
func (g *Group) Broadcast(p []byte) (missed []*Flusher) {
	g.order.Lock()
	defer g.order.Unlock()
	g.fan = g.appendMembers(g.fan[:0])
	defer func() {
		clear(g.fan) // it must not keep those that end
		if cap(g.fan) > 4*max(len(g.fan), leastMembers) {
			g.fan = nil
		}
	}()
	out := fanOut{to: g.fan, p: p}
	if len(p) > 0 {
		out.shared = newSharedWrite(p)
	}
	workers := min(runtime.GOMAXPROCS(0), len(g.fan)/perWorker)
	if workers <= 1 {
		missed = out.work()
	} else {
		parts := make([][]*Flusher, workers)
		var wg sync.WaitGroup
		for i := 1; i < workers; i++ {
			wg.Go(func() { parts[i] = out.work() })
		}
		parts[0] = out.work()
		wg.Wait()
		missed = slices.Concat(parts...)
	}
	if out.panicked != nil {
		panic(out.panicked)
	}
	return missed
}

// perWorker is how many members a goroutine is worth.
const perWorker = 64

// A fanOut is one event on its way to many.
type fanOut struct {
	to     []*Flusher
	p      []byte
	shared *sharedWrite // p for detached ones; nil: p is empty
	next   atomic.Int64

	mu       sync.Mutex
	panicked any // the first panic of a filter
}

// A fanWorker is one goroutine's part of a fan-out.
type fanWorker struct {
	*fanOut
	mine   []*Flusher // whom it has taken, and not written to yet
	missed []*Flusher // those that had no room
	now    *tcp.NowWriter
}

// work writes to those whom nobody else has taken, until there are none left,
// and returns those that had no room.
func (o *fanOut) work() (missed []*Flusher) {
	w := fanWorker{fanOut: o, now: tcp.NewNowWriter()}
	defer w.now.Done()
	for !w.workOn() {
	}
	return w.missed
}

// take takes some more, if there are any left.
func (w *fanWorker) take() bool {
	last := int(w.next.Add(fanStep))
	w.mine = w.to[min(last-fanStep, len(w.to)):min(last, len(w.to))]
	prefetch(w.mine)
	return len(w.mine) > 0
}

// workOn is work until a filter panics. It reports whether it came to the end.
func (w *fanWorker) workOn() (done bool) {
	o := w.fanOut
	defer func() {
		if done {
			return
		}
		v := recover()
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.panicked == nil {
			o.panicked = v
		}
	}()
	for len(w.mine) > 0 || w.take() {
		f := w.mine[0]
		w.mine = w.mine[1:]
		if o.shared != nil {
			if taken, _ := f.writeShared(o.shared, w.now); taken {
				continue
			}
		}
		if f.offer(o.p) {
			w.missed = append(w.missed, f)
		}
	}
	return true
}

// fanStep is how many members a goroutine takes at a time.
const fanStep = 8

// prefetch has the memory of members come into the processor's caches. Of many
// none is there, and each would be waited for by itself: the lock of a Flusher first,
// which nothing passes by, and then its wire. What is touched together comes together.
//
// What is read is not looked at.
func prefetch(members []*Flusher) {
	for _, f := range members {
		f.touch()
	}
	var wires [fanStep]*wire
	for i, f := range members {
		if f.mu.TryLock() {
			wires[i], _ = f.srv.w.(*wire)
			f.mu.Unlock()
		}
	}
	for _, w := range wires {
		if w != nil {
			w.read.Load()
		}
	}
}

// offer is TryWrite with the flush that follows, and reports whether there was no
// room. It waits for nobody: where only a caller may flush (see callerOnlyLocked)
// the next one does it. Another error that does not stick is kept for the end, as
// nobody else can be told.
func (f *Flusher) offer(p []byte) (missed bool) {
	start := false
	f.mu.Lock()
	defer f.unlockLocked(&start)
	err := f.tryWriteLocked(p)
	if err == ErrNoRoom || f.refuse != nil {
		return err == ErrNoRoom
	}
	ferr := f.followAsyncLocked()
	ask, aerr := f.askFlushLocked()
	if aerr == nil && ask.seq > 0 && !f.callerOnlyLocked() {
		f.carryAsyncLocked(&start)
	}
	if err = joinErrors(err, ferr); err != nil {
		f.noteUntoldLocked(err)
	}
	return false
}
