package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A reply is one response of a hammerRun.
type reply struct {
	replyScript
	h      *hammerRun
	id     int
	method string
	server *hammerServer
	w      http.ResponseWriter
	req    *http.Request
	below  http.ResponseWriter // as the handler got it
	f      *flush.Flusher
	cancel func()

	buffers atomic.Bool // somebody has begun to open a buffer
	closing atomic.Bool // the response may be ending: its headers wait for no Read
	tried   atomic.Bool // TryWrite has been called
	ended   atomic.Bool // the response has ended

	begun  atomic.Int64 // calls
	inside atomic.Int64 // of those, under way

	group        flush.Group
	broadcasting chan struct{} // holds one while somebody broadcasts

	abortedAt  atomic.Int64 // when Abort was first called, counted from the begin of the run; 0: never
	abortShows atomic.Bool  // before the headers: it shows first what is due

	mu         sync.Mutex
	writers    []*writer
	floor2     returned
	owed       returned // to floor 2, by FlushAll(false)
	accepted   int64
	stopped    bool   // a filter's panic has ended a flush: what that was to bring down nobody owes
	filtered   int64  // bytes that filters added, less what they took
	inexact    string // why the balance cannot be drawn
	toldLength bool   // http.ErrContentLength was returned to somebody
	closed     int    // times OnClose ran
	closeErr   error  // what it was given
	closeCause error  // Err then
	panicked   any    // what the handler's ServeHTTP panicked with
	exited     bool   // it was left by runtime.Goexit
	left       bool   // the server's context had ended by then: the client is gone
}

func newReply(h *hammerRun, i int) *reply {
	r := &reply{replyScript: h.replies[i], h: h, id: i, cancel: func() {}, broadcasting: make(chan struct{}, 1)}
	r.method = r.replyScript.method(h.has)
	r.server, r.w = newHammerServer(r)
	r.opts.OnClose = r.onClose
	if r.noRequest && !r.handler {
		return r
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	if r.write > 0 || len(r.replyScript.body) > 0 || r.seed&1 == 0 {
		ctx = context.WithValue(ctx, http.ServerContextKey, &http.Server{WriteTimeout: r.write})
	} else if r.write > 0 {
		r.write = 0
	}
	if h.has&hasConn != 0 {
		ctx = harness.WithConn(ctx, r.server.conn())
	}
	req, _ := http.NewRequestWithContext(ctx, r.method, "/", nil)
	switch {
	case r.http2:
		req.ProtoMajor, req.ProtoMinor = 2, 0
	case h.has&hasHTTP10 != 0:
		req.ProtoMajor, req.ProtoMinor = 1, 0
	}
	if len(r.replyScript.body) > 0 {
		r.server.body = newHammerBody(r)
		req.Body, req.ContentLength = r.server.body, int64(r.server.body.size())
	}
	r.req = req
	return r
}

func (r *reply) String() string {
	how := "New"
	if r.handler {
		how = "NewHandler"
	}
	o := r.opts
	return fmt.Sprintf("%s, ends with %v, flush %v, implicit %v, buffer %d, pending %d, send timeout %v, faults %v",
		how, r.ending, o.Flush, o.Implicit, o.BufferSize, o.MaxPending, o.SendTimeout, r.faults)
}

func (h *hammerRun) String() string {
	lines := []string{h.has.String()}
	for i := range h.replies {
		lines = append(lines, fmt.Sprintf("%d: %v", i, &reply{replyScript: h.replies[i]}))
	}
	return strings.Join(lines, "\n\t")
}

func (r *reply) report(kind, format string, args ...any) {
	r.h.report(kind, "%d: "+format, append([]any{r.id}, args...)...)
}

func (r *reply) onClose(_ *http.Request, _ flush.Stats, err error) {
	if name := r.server.inside.Load(); name != nil {
		r.report("OnClose", "%s is under way", *name)
	}
	cause := r.f.Err()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed++
	r.closeErr, r.closeCause = err, cause
}

// serve runs the response from its begin to its end.
func (r *reply) serve() {
	if r.leaves >= 0 {
		timer := time.AfterFunc(r.leaves, r.cancel)
		defer timer.Stop()
	}
	defer r.cancel()
	var workers sync.WaitGroup
	done := make(chan struct{})
	c := r.h.beginCall(fmt.Sprintf("response %d", r.id))
	go func() {
		defer close(done)
		defer r.h.endCall(c)
		ctx := context.Background()
		if r.req != nil {
			ctx = r.req.Context()
		}
		defer r.over()
		if !r.handler {
			r.f = flush.New(r.w, r.req, &r.opts)
			r.handle(&workers)
			return
		}
		exited := true
		defer func() {
			v := recover()
			r.mu.Lock()
			defer r.mu.Unlock()
			r.panicked, r.exited = v, exited && v == nil
			r.left = ctx.Err() != nil
			switch v.(type) {
			case nil, hammerPanic:
			default:
				if v != http.ErrAbortHandler {
					r.report("panic", "ServeHTTP: %v", v)
				}
			}
		}()
		flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.f, _ = flush.From(w)
			r.below = w
			r.req = req
			r.handle(&workers)
		}), &r.opts).ServeHTTP(r.w, r.req)
		exited = false
	}()
	<-done
	workers.Wait()
	r.try("Write after the end", atOnce, 0, func() error {
		if n, err := r.f.Write([]byte("late")); n != 0 || err == nil {
			r.report("after the end", "Write: %d, %v", n, err)
		}
		if err := r.f.FlushWait(harness.NoContext); !errors.Is(err, flush.ErrClosed) && !errors.Is(err, http.ErrHijacked) {
			r.report("after the end", "FlushWait: %v", err)
		}
		if err := r.f.TryWrite([]byte("late")); !errors.Is(err, flush.ErrClosed) && !errors.Is(err, http.ErrHijacked) {
			r.report("after the end", "TryWrite: %v", err)
		}
		if n := r.group.Len(); n != 0 {
			r.report("after the end", "%d are in the group", n)
		}
		return nil
	})
}

func (r *reply) over() {
	if name := r.server.inside.Load(); name != nil {
		r.report("after the end", "%s is under way", *name)
	}
	if r.server.pushing.Load() > 0 {
		r.report("after the end", "Push is under way")
	}
	r.server.over.Store(true)
	r.ended.Store(true)
}

// handle is the handler.
func (r *reply) handle(workers *sync.WaitGroup) {
	if r.h.has&hasBroadcast != 0 {
		r.group.Add(r.f)
	}
	if r.length > 0 {
		r.f.Header().Set("Content-Length", fmt.Sprint(r.length))
	}
	var mine sync.WaitGroup
	for i, script := range r.workers {
		w := r.newWriter()
		mine.Add(1)
		workers.Go(func() {
			defer mine.Done()
			k := &worker{r: r, name: fmt.Sprintf("%d.%d", r.id, i), w: w}
			for _, o := range script {
				k.do(o)
			}
		})
	}
	if r.early >= 0 {
		time.Sleep(r.early)
	} else {
		mine.Wait()
		r.rest()
	}
	r.closing.Store(true)
	k := &worker{r: r, name: fmt.Sprintf("%d.handler", r.id)}
	switch r.ending {
	case endsClose:
		k.do(op{kind: opClose})
	case endsAbort:
		k.do(op{kind: opAbort})
	}
	if !r.handler {
		for {
			if err, _ := k.call("Close at the end", ends, 0, r.f.Close); err != flush.ErrReentrant {
				return
			}
			time.Sleep(10 * time.Microsecond) // another worker's filter runs
		}
	}
	switch r.ending {
	case endsPanic:
		panic(hammerPanic("handler"))
	case endsErrAbort:
		panic(http.ErrAbortHandler)
	case endsGoexit:
		runtime.Goexit()
	}
}

// rest sees that a response that is left alone has been flushed.
func (r *reply) rest() {
	if !r.quiet || r.flushes == 0 || r.method == http.MethodHead {
		return
	}
	r.server.calm.Store(true)
	time.Sleep((2*r.h.stretches()+6)*r.sendTimeout() + r.ownDeadline() + 2*time.Second) // stalls that are under way end
	r.onFloor2(r.owed)
	upTo := r.known()
	if err, returned := r.try("FlushAsync at rest", r.mustNotWait(), 0, r.f.FlushAsync); err != nil || !returned || r.ended.Load() {
		return
	}
	time.Sleep(time.Second)
	r.checkIdle("FlushAsync and then silence", upTo)
	d := r.opts.FlushInterval
	w := r.newWriter()
	if d <= 0 || r.f.Level() > 0 || w == nil {
		return
	}
	k := &worker{r: r, name: fmt.Sprintf("%d.handler", r.id), w: w}
	if r.h.has&hasReadFrom != 0 {
		k.readFrom("ReadFrom(file)", 1, 1000, func(p []byte, _ int) io.Reader { return hammerFile{bytes.NewReader(p)} })
	} else {
		k.write("Write", waits, 10, r.f.Write)
	}
	upTo = r.known()
	time.Sleep(d + time.Millisecond)
	r.checkIdle("FlushInterval and then silence", upTo)
}

// A worker is a goroutine that does what a script says.
type worker struct {
	r    *reply
	name string
	w    *writer
	bufs []*hammerBuffer // that it has opened
}

// call makes a call and judges how long it took. It returns false if the call
// panicked.
func (k *worker) call(what string, kind timeKind, most time.Duration, fn func() error) (error, bool) {
	return k.r.try(k.name+" "+what, kind, most, fn)
}

func (r *reply) try(what string, kind timeKind, most time.Duration, fn func() error) (err error, returned bool) {
	if r.h.keeps && r.f != nil && r.h.has&hasRefuse == 0 { // a flush that is refused leaves it full
		flush.KeepAhead(r.f)
	}
	began := time.Now()
	c := r.h.beginCall(what)
	r.h.note("%s {", what)
	r.begun.Add(1)
	r.inside.Add(1)
	defer func() {
		r.inside.Add(-1)
		took := r.h.endCall(c)
		if v := recover(); v != nil {
			err, returned = fmt.Errorf("panic: %v", v), false
			if _, ok := v.(hammerPanic); !ok {
				p := make([]byte, 4096)
				r.report("panic", "%s: %v\n%s", what, v, p[:runtime.Stack(p, false)])
			}
		}
		r.h.note("%s } %v", what, err)
		if errors.Is(err, http.ErrContentLength) || errors.Is(err, http.ErrBodyNotAllowed) {
			r.mu.Lock()
			r.toldLength = true
			r.mu.Unlock()
		}
		r.checkTime(fmt.Sprintf("%s, called at %v,", what, began.Sub(r.h.began)), took, kind, most)
	}()
	return fn(), true
}

// write makes a record and has it written by fn.
func (k *worker) write(what string, kind timeKind, size int, fn func(p []byte) (int, error)) {
	r := k.r
	late := r.ended.Load()
	rec := r.begins(k.w, size)
	what = fmt.Sprintf("%s(%s, %d)", what, rec.data[:4], len(rec.data))
	var n int
	err, returned := k.call(what, kind, 0, func() (err error) {
		n, err = fn(rec.data)
		return err
	})
	switch {
	case !returned:
		n = -1
	case n < 0 || n > len(rec.data):
		r.report("count", "%s %s: %d of %d", k.name, what, n, len(rec.data))
	case n < len(rec.data) && err == nil:
		r.report("count", "%s %s: %d of %d and no error", k.name, what, n, len(rec.data))
	case late && (n > 0 || err == nil):
		r.report("after the end", "%s %s: %d, %v", k.name, what, n, err)
	}
	rec.told = errors.Is(err, http.ErrContentLength)
	r.ends(rec, n)
}

func (k *worker) flush(what string, kind timeKind, most time.Duration, checks bool, upTo returned, fn func() error) {
	err, returned := k.call(what, kind, most, fn)
	if checks && returned && err == nil {
		k.r.checkFlushed(k.name+" "+what, upTo)
	}
}

// do does one op.
func (k *worker) do(o op) {
	r := k.r
	f := r.f
	if o.pause > 0 {
		time.Sleep(o.pause)
	} else if o.n&3 == 0 {
		runtime.Gosched()
	}
	if need := o.kind.needs(); r.h.has&need != need && k.w != nil {
		runtime.Gosched()
		return
	}
	body := len(r.replyScript.body) > 0
	holds := r.h.has&hasHTTP10 != 0
	switch o.kind {
	case opWrite:
		k.write("Write", waits, o.size, f.Write)
	case opWriteString:
		k.write("WriteString", waits, o.size, func(p []byte) (int, error) { return f.WriteString(string(p)) })
	case opTryWrite:
		t, ok := any(f).(interface{ TryWrite([]byte) error })
		if !ok {
			return
		}
		r.tried.Store(true)
		k.write("TryWrite", r.mustNotWait(), o.size, func(p []byte) (int, error) {
			ended := r.f.Err()
			switch err := t.TryWrite(p); {
			case errors.Is(err, errHammerFalse): // p has passed the filter unchanged
				return len(p), err
			case err != nil && ended == nil && r.buffers.Load() && !errors.Is(err, flush.ErrNoRoom):
				r.notExact("TryWrite does not tell what became of it")
				return 0, err
			case err != nil:
				return 0, err
			}
			return len(p), nil
		})
	case opReadFile:
		k.readFile(o)
	case opReadReader:
		k.readFrom("ReadFrom(reader)", o.n%5, min(o.size, 30000), func(p []byte, each int) io.Reader {
			return &hammerReader{p: p, each: each}
		})
	case opFlush:
		k.call("Flush", waits, 0, func() error { f.Flush(); return nil })
	case opFlushError:
		waited := r.opts.Flush != flush.Async && r.opts.Flush != flush.Off && !holds && r.h.has&hasFollow == 0 && r.opts.SAPI.HTTP10Buffer == 0
		k.flush("FlushError", waits, 0, waited, r.known(), f.FlushError)
	case opFlushAsync:
		k.call("FlushAsync", r.mustNotWait(), 0, f.FlushAsync)
	case opFlushWait:
		k.flush("FlushWait", waits, 0, true, r.known(), func() error { return f.FlushWait(harness.NoContext) })
	case opFlushCtx:
		ctx, cancel := context.WithTimeout(context.Background(), o.d)
		defer cancel()
		if body {
			k.flush("FlushWait(timeout)", waits, 0, true, r.known(), func() error { return f.FlushWait(ctx) })
			return
		}
		k.flush(fmt.Sprintf("FlushWait(%v)", o.d), byThen, o.d, true, r.known(), func() error { return f.FlushWait(ctx) })
	case opFlushCancel:
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		defer cancel()
		k.flush("FlushWait(cancel)", waits, 0, true, r.known(), func() error { return f.FlushWait(ctx) })
	case opFlushFront:
		wait := o.n&1 == 0
		kind := waits
		if !wait {
			kind = r.mustNotWait()
		}
		k.flush(fmt.Sprintf("flush.Flush(%v)", wait), kind, 0, wait, r.known(), func() error { return flush.Flush(f, wait) })
	case opFlushAll:
		wait := o.n&1 == 0
		kind := bounded
		if !wait {
			kind = r.mustNotWait()
		}
		upTo := r.soFar()
		k.flush(fmt.Sprintf("FlushAll(%v)", wait), kind, 0, wait, upTo, func() error {
			err := f.FlushAll(wait)
			switch {
			case err != nil:
			case wait:
				r.onFloor2(upTo)
			default:
				r.onItsWay(upTo)
			}
			return err
		})
	case opSendHeaders:
		k.call("SendHeaders", bounded, 0, f.SendHeaders)
	case opClean:
		// What a filter has said of it does not undo it.
		if err, returned := k.call("Clean", bounded, 0, f.Clean); err == nil || !returned || errors.Is(err, errHammerFalse) {
			r.allGone()
		} else if r.h.has&hasFilterAborts != 0 && errors.Is(err, errHammerAbort) {
			r.notExact("of a Clean whose filter aborts, what the buffers above held was taken back")
		}
	case opImplicit:
		k.call("SetImplicit", atOnce, 0, func() error { f.SetImplicit(flush.Mode(o.n % 4)); return nil })
	case opDeadline:
		var at time.Time
		if d := [...]time.Duration{0, -time.Millisecond, time.Millisecond, 10 * time.Millisecond, time.Hour, time.Hour}[o.n%6]; d != 0 {
			at = time.Now().Add(d)
		}
		k.call("SetWriteDeadline", bounded, 0, func() error {
			r.server.own.Store(&at)
			return f.SetWriteDeadline(at)
		})
	case opDuplex:
		k.call("EnableFullDuplex", bounded, 0, f.EnableFullDuplex)
	case opHijack:
		k.call("Hijack", ends, 0, func() error {
			conn, _, err := f.Hijack()
			if err == nil {
				conn.Close()
			}
			return err
		})
	case opStart:
		k.startBuffer(o)
	case opBufFlush, opBufClean, opBufClose, opBufDiscard:
		k.buffer(o)
	case opAbort:
		shows := !f.HeadersSent()
		if r.abortedAt.CompareAndSwap(0, max(int64(time.Since(r.h.began)), 1)) {
			r.abortShows.Store(shows)
		}
		r.closing.Store(true)
		k.call("Abort", ends, 0, func() error { f.Abort(errHammerAbort); return nil })
	case opClose:
		r.closing.Store(true)
		k.call("Close", ends, 0, f.Close)
	case opStatus:
		k.call("WriteHeader", atOnce, 0, func() error { f.WriteHeader([]int{200, 404, 204, 500}[o.n%4]); return nil })
	case opInform:
		kind := bounded
		if r.h.has&hasNoDeadline != 0 {
			kind = ends // the server has its map before it until its call returns
		}
		k.call("WriteHeader(103)", kind, 0, func() error { f.WriteHeader(103); return nil })
	case opRoll:
		if d := r.sendTimeout() / 150; d > 0 && d < time.Second/10 {
			for range 200 {
				k.call("SetWriteDeadline", bounded, 0, func() error { return f.SetWriteDeadline(time.Now().Add(time.Hour)) })
				time.Sleep(d)
			}
		}
	case opPush:
		p, ok := any(f).(http.Pusher)
		if !ok {
			p, ok = r.below.(http.Pusher)
		}
		if ok {
			k.call("Push", bounded, 0, func() error { return p.Push("/", nil) })
		}
	case opBroadcast:
		k.broadcast(o.size)
	case opFlushAcked:
		ctx, cancel := context.WithTimeout(context.Background(), o.d)
		defer cancel()
		kind := byThen
		if body {
			kind = waits
		}
		k.flush(fmt.Sprintf("FlushAcked(%v)", o.d), kind, o.d, true, r.known(), func() error { return f.FlushAcked(ctx) })
	case opReadBody:
		if body {
			k.call("Body.Read", byThen, forGood, func() error { _, err := r.req.Body.Read(make([]byte, 100)); return err })
		}
	case opLook:
		k.call("Stats", atOnce, 0, func() error {
			if n, m := f.Buffered(), f.Available(); n < 0 || m < 0 {
				r.report("count", "%d buffered, %d available", n, m)
			}
			f.Stats()
			f.Backlog()
			f.HeadersSent()
			f.Level()
			return f.Err()
		})
	}
}

// broadcast broadcasts a record to a group that has nobody else. What becomes of
// it where there was room is not told.
func (k *worker) broadcast(size int) {
	r := k.r
	r.broadcasting <- struct{}{}
	defer func() { <-r.broadcasting }()
	r.tried.Store(true)
	rec := r.begins(k.w, size)
	missed := false
	_, returned := k.call(fmt.Sprintf("Broadcast(%s, %d)", rec.data[:4], len(rec.data)), atOnce, 0, func() error {
		missed = len(r.group.Broadcast(rec.data)) > 0
		return nil
	})
	switch {
	case returned && missed:
		r.ends(rec, 0)
	case returned && r.f.Err() == nil && !r.closing.Load() && !r.server.hijacked.Load() && r.h.has&(hasLength|hasStatus|hasHijack|hasFilterFaults) == 0:
		r.ends(rec, len(rec.data))
	default:
		r.ends(rec, -1)
	}
}

// mustNotWait is what holds of a flush that does not wait. Under New nobody sees
// who reads the request body: there headers go out on the caller's goroutine.
func (r *reply) mustNotWait() timeKind {
	if !r.handler && len(r.replyScript.body) > 0 {
		return waits
	}
	return atOnce
}

// readFile reads from a file. It is given as sendfile likes it, or not, and
// its records are as large as a piece of the copy is a multiple of.
func (k *worker) readFile(o op) {
	n, size := 1+o.n%4, 1024
	if o.n%16 == 0 {
		n = 1 + o.n>>4%200
	}
	k.readFrom("ReadFrom(file)", n, size, func(p []byte, _ int) io.Reader {
		var src io.Reader = hammerFile{bytes.NewReader(p)}
		if k.r.h.has&hasLength != 0 {
			src = struct{ io.Reader }{src} // the server takes a file up to the length, in the middle of a record
		}
		if o.n&32 != 0 {
			src = io.LimitReader(src, int64(len(p)))
		}
		return src
	})
}

// readFrom has ReadFrom read n records from what source makes of them.
func (k *worker) readFrom(what string, n, size int, source func(p []byte, each int) io.Reader) {
	r := k.r
	var recs []*entry
	var p []byte
	for range n {
		recs = append(recs, r.begins(k.w, size))
		p = append(p, recs[len(recs)-1].data...)
	}
	var took int64
	err, returned := k.call(fmt.Sprintf("%s(%d, %d)", what, n, size), ends, 0, func() (err error) {
		took, err = r.f.ReadFrom(source(p, max(size, 4)))
		return err
	})
	if returned && err == nil && took != int64(len(p)) && r.length == 0 {
		r.report("count", "%s %s: %d of %d and no error", k.name, what, took, len(p))
	}
	for _, rec := range recs {
		m := min(took, int64(len(rec.data)))
		took -= m
		if !returned {
			m = -1
		}
		rec.told = errors.Is(err, http.ErrContentLength)
		r.ends(rec, int(m))
	}
}

// A hammerReader gives a record at a time.
type hammerReader struct {
	p    []byte
	each int
}

func (h *hammerReader) Read(p []byte) (int, error) {
	runtime.Gosched()
	if len(h.p) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.p[:h.each])
	h.p = h.p[n:]
	return n, nil
}

// A hammerBuffer is a buffer with the filter that the script gives it.
type hammerBuffer struct {
	*flush.Buffer
	r        *reply
	filtered bool
	w        *writer // writes in the filter
	seed     uint64
	calls    uint64
	running  atomic.Bool
}

func (k *worker) startBuffer(o op) {
	r := k.r
	b := &hammerBuffer{r: r, seed: o.seed}
	opts := &flush.BufferOptions{
		ChunkSize: []int{0, 0, 50, 2000}[o.n>>2%4],
		NoFlush:   o.n>>4%16 == 0,
	}
	if o.n>>8&1 == 0 && r.h.has&hasFollow != 0 {
		opts.FollowFlush = true
	}
	if r.h.has&hasFilters != 0 && o.n>>9%4 != 0 {
		b.filtered = true
		opts.Filter = b.filter
		if r.h.has&hasFilterCalls != 0 {
			b.w = r.newWriter()
		}
	}
	r.buffers.Store(true)
	k.call("StartBuffer", bounded, 0, func() error {
		b.Buffer = r.f.StartBuffer(opts)
		return nil
	})
	if b.Buffer != nil {
		k.bufs = append(k.bufs, b)
	}
}

// buffer does something to the last buffer that the worker has opened.
func (k *worker) buffer(o op) {
	if len(k.bufs) == 0 {
		return
	}
	r := k.r
	b := k.bufs[len(k.bufs)-1]
	if b.Status().Level < 0 {
		k.bufs = slices.Delete(k.bufs, len(k.bufs)-1, len(k.bufs))
		return
	}
	lowest := b.Status().Level == 0
	upTo := r.soFar()
	fn := b.Flush
	switch o.kind {
	case opBufClose:
		fn = b.Close
	case opBufClean:
		fn = b.Clean
	case opBufDiscard:
		fn = b.Discard
	}
	if !b.filtered && (o.kind == opBufClean || o.kind == opBufDiscard) {
		return // nobody would see what is taken back
	}
	err, returned := k.call(o.kind.String(), bounded, 0, fn)
	if returned && err == nil && lowest && (o.kind == opBufFlush || o.kind == opBufClose) {
		r.onFloor2(upTo)
	}
}

// filter is the buffer's filter: it lets everything through, with or without
// braces around it, or swallows it, and does what else the script wants of it.
func (b *hammerBuffer) filter(p []byte, phase flush.Phase) (out []byte, err error) {
	if b.running.Swap(true) {
		b.r.report("filter", "it runs twice at a time")
	}
	defer b.running.Store(false)
	r := b.r
	has := r.h.has
	dice := mix(b.seed + b.calls)
	b.calls++
	r.h.note("%d: filter(%d bytes, %d) {", r.id, len(p), phase)
	defer func() { r.h.note("%d: filter } %d, %v", r.id, len(out), err) }()
	took := false
	defer func() {
		// What fails lets p through as it is.
		n := len(p)
		if took && err == nil {
			n = len(out)
		}
		if phase&flush.PhaseClean != 0 {
			r.takenBack(p)
			n = 0
		} else if n == 0 {
			r.takenBack(p)
		}
		r.mu.Lock()
		r.filtered += int64(n - len(p))
		r.mu.Unlock()
	}()
	for range dice & 3 {
		runtime.Gosched()
	}
	if dice>>2&7 == 0 {
		b.sleep(time.Duration(dice >> 5 & 255))
	}
	if has&hasFilterCalls != 0 {
		b.reenter(dice >> 16)
	}
	if has&hasFilterAborts != 0 && dice>>40&7 == 0 {
		b.abort()
	}
	if has&hasFilterFaults != 0 {
		switch dice >> 44 & 15 {
		case 0:
			return nil, errHammerFalse
		case 1:
			r.mu.Lock()
			r.stopped = true
			r.mu.Unlock()
			panic(hammerPanic("filter"))
		}
	}
	took = true
	switch b.seed & 7 {
	case 0, 1:
		out := append([]byte{'{'}, p...)
		return append(out, '}'), nil
	case 2:
		return nil, nil
	}
	return p, nil
}

func (b *hammerBuffer) sleep(d time.Duration) {
	b.took(d)
	time.Sleep(d)
}

// took notes that the filter makes its caller wait for d.
func (b *hammerBuffer) took(d time.Duration) {
	h := b.r.h
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slept += d
	h.filters += d
}

// abort is the filter's Abort. Before the headers it shows what is due, as every cut
// does, for at most the send timeout and a second: that is the filter's time, as it
// would be with a FlushWait of its own. Once they are out it waits for nothing.
func (b *hammerBuffer) abort() {
	r := b.r
	began, shows := time.Now(), !r.f.HeadersSent()
	r.f.Abort(errHammerAbort)
	took := time.Since(began)
	if !shows {
		r.checkTime("Abort in a filter, behind the headers,", took, atOnce, 0)
		return
	}
	slept, long := r.h.waited()
	bound := time.Second
	if d := r.sendTimeout(); d > 0 {
		bound = min(bound, d)
	}
	if most := bound + slept + long; took > most {
		r.report("late", "Abort in a filter took %v, more than %v", took, most)
	}
	b.took(took)
}

// reenter calls the Flusher from inside of a filter.
func (b *hammerBuffer) reenter(dice uint64) {
	r := b.r
	if b.w != nil && dice&3 == 0 {
		k := &worker{r: r, name: fmt.Sprintf("%d filter", r.id), w: b.w}
		rec := r.begins(b.w, 4+int(dice>>2&63))
		n, err := r.f.Write(rec.data)
		if n < len(rec.data) && err == nil {
			r.report("count", "%s: %d of %d and no error", k.name, n, len(rec.data))
		}
		r.ends(rec, n)
	}
	switch dice >> 8 & 15 {
	case 0:
		r.f.FlushAsync()
	case 1:
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
		defer cancel()
		b.took(100 * time.Microsecond)
		r.f.FlushWait(ctx)
	case 2:
		if err := r.f.Close(); err != flush.ErrReentrant {
			r.report("filter", "Close in it: %v", err)
		}
	case 3:
		if err := r.f.FlushAll(false); !errors.Is(err, flush.ErrReentrant) {
			r.report("filter", "FlushAll in it: %v", err)
		}
	case 4:
		r.f.Top()
		r.f.Level()
	}
}
