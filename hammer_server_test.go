package flush_test

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// A hammerServer is the server's writer below a response of the hammer. What
// its calls do is settled by the script and the number of the call.
type hammerServer struct {
	r        *reply
	deadline deadline.Deadline
	inside   atomic.Pointer[string] // the call that is under way
	over     atomic.Bool            // the response has ended: nobody may call
	hijacked atomic.Bool
	pushing  atomic.Int32
	calm     atomic.Bool               // nothing goes wrong or takes time any more
	own      atomic.Pointer[time.Time] // the deadline that the handler has set last

	mu       sync.Mutex
	header   http.Header
	calls    int
	status   int
	got      int // bytes taken
	flushed  int // of those
	flushes  int
	failure  error // what a call failed with that must have been the last
	broken   error // what a call has met that could not tell
	refused  bool  // bytes were refused: there is a gap where they would be
	panicked bool
	longest  time.Duration // stretch: a call, or a Write and the Flush right behind it
	wrote    time.Time     // when the last call, a Write, began
	ended    time.Time     // when the last call ended
	until    time.Time     // the deadline
	took     time.Time     // when bytes were taken last
	stalled  time.Time     // when the call under way stalled; zero: it does not
	moved    int64         // what a client has moved that stalled
	movedAt  time.Time
	acked    int64 // of got and moved
	wire     wire
	body     *hammerBody
}

// newHammerServer returns it as a chain of layers, each with one of the things
// that the script lets it do.
func newHammerServer(r *reply) (*hammerServer, http.ResponseWriter) {
	s := &hammerServer{r: r, header: make(http.Header), wire: wire{r: r}}
	var w http.ResponseWriter = s
	switch r.flushes {
	case 1:
		w = flushLayer{hammerLayer{s, w}}
	case 2:
		w = flushErrorLayer{hammerLayer{s, w}}
	}
	if r.h.has&hasNoDeadline == 0 {
		w = deadlineLayer{hammerLayer{s, w}}
	}
	w = connLayer{hammerLayer{s, w}}
	if r.h.has&hasSendfile != 0 {
		w = readFromLayer{hammerLayer{s, w}}
	}
	if r.write > 0 {
		s.setDeadline(time.Now().Add(r.write))
	}
	return s, w
}

type hammerLayer struct {
	*hammerServer
	below http.ResponseWriter
}

func (l hammerLayer) Unwrap() http.ResponseWriter { return l.below }

type flushLayer struct{ hammerLayer }

func (l flushLayer) Flush() { l.flush(false) }

type flushErrorLayer struct{ hammerLayer }

func (l flushErrorLayer) FlushError() error { return l.flush(true) }

type deadlineLayer struct{ hammerLayer }

func (l deadlineLayer) SetWriteDeadline(t time.Time) error {
	l.touched("SetWriteDeadline")
	l.setDeadline(t)
	return nil
}

func (l deadlineLayer) SetReadDeadline(t time.Time) error {
	l.touched("SetReadDeadline")
	if l.body != nil {
		l.body.until.Set(t)
	}
	return nil
}

type connLayer struct{ hammerLayer }

func (l connLayer) EnableFullDuplex() error {
	defer l.begin("EnableFullDuplex")()
	if l.body != nil {
		l.body.duplex.Store(true)
	}
	return nil
}

func (l connLayer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	defer l.begin("Hijack")()
	l.setDeadline(time.Time{}) // as net/http
	l.r.h.sleep(time.Duration(mix(l.r.seed)&127) * time.Microsecond)
	if _, err := l.weather("Hijack", nil); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.until.IsZero() && l.until.Before(time.Now()) {
		l.r.report("hijacked deadline", "the caller's connection has a deadline in the past")
	}
	l.hijacked.Store(true)
	a, b := net.Pipe()
	b.Close()
	return a, bufio.NewReadWriter(bufio.NewReader(a), bufio.NewWriter(a)), nil
}

// Push may be called beside the others, as HTTP/2 has it.
func (l connLayer) Push(string, *http.PushOptions) error {
	l.touched("Push")
	l.pushing.Add(1)
	defer l.pushing.Add(-1)
	l.r.h.sleep(time.Duration(mix(l.r.seed)&255) * time.Microsecond)
	return nil
}

type readFromLayer struct{ hammerLayer }

func (l readFromLayer) ReadFrom(src io.Reader) (n int64, err error) {
	defer l.begin("ReadFrom")()
	l.sendHeaders(true)
	for {
		p := make([]byte, 8<<10)
		m, rerr := src.Read(p)
		k, err := l.take("ReadFrom", p[:m])
		n += int64(k)
		switch {
		case err != nil:
			return n, err
		case k < m:
			return n, io.ErrShortWrite
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		}
	}
}

func (s *hammerServer) Header() http.Header { return s.header }

func (s *hammerServer) WriteHeader(code int) {
	defer s.begin("WriteHeader")()
	_, err := s.weather("WriteHeader", nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	if s.status == 0 && code >= 200 {
		s.status = code
	}
}

func (s *hammerServer) Write(p []byte) (int, error) {
	defer s.begin("Write")()
	s.mu.Lock()
	overflows := s.got+len(p) > 2048
	kept := s.r.h.keeps && s.got-s.flushed+len(p) <= 2048
	s.mu.Unlock()
	if kept {
		return s.keep(p)
	}
	s.sendHeaders(overflows)
	return s.take("Write", p)
}

// keep takes a p that is only copied until the next flush, as net/http's own writer
// has it: nothing goes wrong there, nor takes time.
func (s *hammerServer) keep(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return 0, s.failure
	}
	s.got += len(p)
	s.took = time.Now()
	s.wire.feed(p)
	return len(p), nil
}

func (s *hammerServer) flush(tells bool) error {
	defer s.begin("Flush")()
	s.mu.Lock()
	s.flushes++
	s.mu.Unlock()
	s.sendHeaders(true)
	began := time.Now()
	fault, err := s.weather("Flush", nil)
	if err != nil && !tells && s.pastOwnDeadline() {
		// The handler has ended this call, and the server tells nobody: the response
		// goes on, and the next call has all of the send timeout for itself.
		s.r.h.mu.Lock()
		s.r.h.slept += time.Since(began)
		s.r.h.mu.Unlock()
	}
	switch {
	case err != nil:
	case fault == faultFail:
		err = errHammerFault
	case fault == faultRefuse && tells:
		return http.ErrNotSupported
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && tells {
		s.failure = err
		return err
	}
	s.flushed = s.got
	s.wire.flush()
	return nil
}

// begin is the beginning of a call, and returns its end.
func (s *hammerServer) begin(name string) func() {
	if other := s.inside.Load(); other != nil {
		s.r.report("two calls", "%s while %s is under way", name, *other)
		return func() {}
	}
	if !s.inside.CompareAndSwap(nil, &name) {
		s.r.report("two calls", "%s while another is under way", name)
		return func() {}
	}
	s.touched(name)
	s.mu.Lock()
	headOnly := s.r.method == http.MethodHead && s.r.http2 // golang/go#66812: the failure is no failure
	if s.failure != nil && !headOnly && (name == "Write" || name == "ReadFrom" || name == "Flush") {
		s.r.report("after failure", "%s after the server has said %v", name, s.failure)
	}
	s.mu.Unlock()
	s.r.h.note("%d: server %s {", s.r.id, name)
	began := time.Now()
	if name == "Flush" && !s.wrote.IsZero() && s.ended.Equal(began) {
		began = s.wrote
	}
	s.wrote = time.Time{}
	if name == "Write" {
		s.wrote = began
	}
	return func() {
		s.r.h.note("%d: server %s }", s.r.id, name)
		s.ended = time.Now()
		s.mu.Lock()
		s.longest = max(s.longest, time.Since(began))
		s.mu.Unlock()
		s.inside.Store(nil)
	}
}

func (s *hammerServer) touched(name string) {
	if s.over.Load() {
		s.r.report("after the end", "%s", name)
	}
	if s.hijacked.Load() {
		s.r.report("after Hijack", "%s", name)
	}
}

func (s *hammerServer) setDeadline(t time.Time) {
	s.mu.Lock()
	s.until = t
	s.mu.Unlock()
	s.deadline.Set(t)
}

func (s *hammerServer) pastDeadline() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.until.IsZero() && !s.until.After(time.Now())
}

// pastOwnDeadline reports whether the deadline that has passed is the handler's, and
// none that the library has set.
func (s *hammerServer) pastOwnDeadline() bool {
	own := s.own.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	return own != nil && own.Equal(s.until) && !s.until.IsZero()
}

// weather is how the call goes that is under way: it yields, takes its time, or
// stalls, and then returns what else is wrong with it. half is run in the middle.
func (s *hammerServer) weather(name string, half func()) (fault, error) {
	s.mu.Lock()
	at := s.calls
	s.calls++
	s.mu.Unlock()
	fault := s.r.faults[at]
	dice := mix(s.r.seed + uint64(at))
	if s.calm.Load() {
		dice, fault = 0, faultNone
	}
	for range dice & 3 {
		runtime.Gosched()
	}
	if half != nil {
		half()
	}
	if s.r.h.has&hasSlow != 0 && dice>>2&7 == 0 {
		s.block(time.Duration(dice>>5&255)*time.Microsecond, false)
	} else if dice>>2&3 == 1 {
		s.r.h.sleep(time.Duration(dice >> 5 & 1023)) // for other orders of things
	}
	if fault == faultStall && name != "Hijack" { // net/http only waits for its own goroutine there
		s.r.h.note("%d: server %s stalls", s.r.id, name)
		s.block(0, true)
	}
	for range dice >> 20 & 3 {
		runtime.Gosched()
	}
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	switch {
	case broken != nil:
		return fault, broken
	case s.pastDeadline():
		return fault, os.ErrDeadlineExceeded
	}
	if fault == faultPanic {
		s.mu.Lock()
		s.panicked = true
		s.mu.Unlock()
		panic(hammerPanic("server"))
	}
	return fault, nil
}

// block waits for d, or as long as a stall lasts, or for the deadline. A
// deadline that was in the past, and is not any more when the waiter gets to
// see it, has not been: the netpoller forgets it.
func (s *hammerServer) block(d time.Duration, stall bool) {
	h := s.r.h
	most := s.r.sendTimeout()
	switch {
	case !stall:
	case most == 0:
		stall, d = false, 3*time.Millisecond
	case h.has&hasNoDeadline == 0:
		d = forGood
	default:
		d = most*(h.stretches()+2) + time.Duration(mix(s.r.seed)%1000)*time.Microsecond
	}
	if stall && h.has&hasNoDeadline == 0 {
		s.stall(true)
		defer s.stall(false)
	}
	h.mu.Lock()
	if stall {
		h.slept += s.r.moves
	}
	switch {
	case !stall:
		h.slept += d
	case d < forGood:
		h.long += d
	}
	h.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-h.over:
			return
		case <-s.deadline.Passed():
			if h.has&hasDeadline != 0 {
				h.sleep(time.Duration(mix(s.r.seed)&511) * time.Microsecond) // it is slow to run
			}
			if s.pastDeadline() {
				return
			}
			runtime.Gosched()
		}
	}
}

// stall notes that the call under way stalls, or does not any more.
func (s *hammerServer) stall(begins bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ackLocked()
	if s.stalled = (time.Time{}); begins {
		s.stalled = time.Now()
	}
}

// ackLocked sees to what the client's kernel has acknowledged by now: what was
// taken a while ago and, of a call that stalls, a little as long as it moves.
func (s *hammerServer) ackLocked() {
	if !s.stalled.IsZero() {
		if now := time.Now(); now.Sub(s.stalled) <= s.r.moves && now.Sub(s.movedAt) >= time.Millisecond/2 {
			s.moved++
			s.movedAt = now
		}
	}
	if lag := time.Duration(mix(s.r.seed)>>8&255) * time.Microsecond; time.Since(s.took) >= lag {
		s.acked = int64(s.got) + s.moved
	}
}

// conn is the connection as its kernel sees it.
func (s *hammerServer) conn() harness.FakeConn {
	return harness.FakeConn{
		AckedFunc: func() (int64, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ackLocked()
			return s.acked, nil
		},
		QueuedFunc: func() (unsent, unacked int64, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ackLocked()
			return 0, int64(s.got) + s.moved - s.acked, nil
		},
		RoomFunc: func() (int64, error) { return 1000, nil },
	}
}

// take is a call that is given bytes.
func (s *hammerServer) take(name string, p []byte) (n int, err error) {
	half := len(p)/2 + 1
	keep := func(to int) {
		if to > n {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ackLocked()
			s.took = time.Now()
			s.got += to - n
			s.wire.feed(p[n:to])
			n = to
		}
	}
	fault, err := s.weather(name, func() { keep(min(half, len(p))) })
	switch {
	case err != nil:
	case fault == faultFail:
		err = errHammerFault
	case fault == faultShort:
		if n < len(p) {
			s.fails(io.ErrShortWrite)
		}
		return n, nil
	case fault == faultRefuse:
		if mix(s.r.seed)&3 != 0 {
			keep(len(p))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n < len(p) || len(p) >= 32<<10 { // of a slice the rest is not passed on either
			s.refused, s.wire.gap = true, true
		}
		s.wire.maybe = true // it may have been the last slice of what passed by floor 2
		return n, http.ErrContentLength
	}
	if err != nil {
		s.fails(err)
		return n, err
	}
	keep(len(p))
	return n, nil
}

func (s *hammerServer) fails(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
}

// sendHeaders is where net/http drains the request body: when its buffer, of 2048
// bytes, flows over or is flushed.
func (s *hammerServer) sendHeaders(now bool) {
	if s.body != nil && now {
		s.body.drain()
	}
}

// A hammerBody is a request body that comes in pieces; the last may never come.
type hammerBody struct {
	r       *reply
	pieces  chan int
	until   deadline.Deadline // of reads
	duplex  atomic.Bool
	drained atomic.Bool
	eof     atomic.Bool
	reading atomic.Int32
}

func newHammerBody(r *reply) *hammerBody {
	b := &hammerBody{r: r, pieces: make(chan int, len(r.body))}
	go func() {
		defer close(b.pieces)
		for _, d := range r.replyScript.body {
			time.Sleep(d)
			b.pieces <- 10
		}
		if !r.bodyEnds {
			time.Sleep(r.bodyStall()) // for all that we know for good
		}
	}()
	return b
}

func (r *replyScript) bodyStall() time.Duration { return 5*r.sendTimeout() + time.Second }

func (b *hammerBody) size() int { return 10 * len(b.r.replyScript.body) }

func (b *hammerBody) Close() error { return nil }

func (b *hammerBody) Read(p []byte) (int, error) {
	b.reading.Add(1)
	defer b.reading.Add(-1)
	if b.drained.Load() || b.r.server.over.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

func (b *hammerBody) read(p []byte) (int, error) {
	select {
	case n, ok := <-b.pieces:
		if !ok {
			b.eof.Store(true)
			return 0, io.EOF
		}
		return min(n, len(p)), nil
	case <-b.until.Passed():
		return 0, os.ErrDeadlineExceeded
	case <-b.r.h.over:
		return 0, io.ErrUnexpectedEOF
	}
}

func (b *hammerBody) drain() {
	if b.r.req.ProtoMinor == 0 || b.duplex.Load() || b.eof.Load() || b.drained.Swap(true) {
		return
	}
	if b.reading.Load() > 0 && b.r.handler && !b.r.closing.Load() { // under New net/http's own lock sees to that
		b.r.report("drain", "headers go out while the body is being read")
	}
	p := make([]byte, 10)
	for {
		if _, err := b.read(p); err != nil {
			return
		}
	}
}

// A hammerFile passes for a regular file.
type hammerFile struct{ r *bytes.Reader }

func (f hammerFile) Read(p []byte) (int, error) {
	runtime.Gosched()
	return f.r.Read(p)
}
func (f hammerFile) ReadAt(p []byte, at int64) (int, error)   { return f.r.ReadAt(p, at) }
func (f hammerFile) Seek(to int64, whence int) (int64, error) { return f.r.Seek(to, whence) }
func (f hammerFile) Stat() (os.FileInfo, error)               { return f, nil }
func (f hammerFile) SyscallConn() (syscall.RawConn, error)    { return nil, io.ErrUnexpectedEOF }
func (f hammerFile) Name() string                             { return "file" }
func (f hammerFile) Size() int64                              { return f.r.Size() }
func (f hammerFile) Mode() fs.FileMode                        { return 0o644 }
func (f hammerFile) ModTime() time.Time                       { return time.Time{} }
func (f hammerFile) IsDir() bool                              { return false }
func (f hammerFile) Sys() any                                 { return nil }

// mix is a number that looks random and is always the same.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
