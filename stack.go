package flush

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"time"
)

var (
	errResized = errors.New("flush: a filter has changed the length of the response")
	errShort   = fmt.Errorf("flush: response is shorter than its Content-Length: %w", io.ErrUnexpectedEOF)
)

// StartBuffer opens a buffer on top of the stack. opts nil means the zero
// BufferOptions. After the response has ended, and inside a [Filter], the
// Buffer it returns is off the stack, and says so when it is used.
func (f *Flusher) StartBuffer(opts *BufferOptions) *Buffer {
	b := &Buffer{f: f}
	if opts != nil {
		b.opts = *opts
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.gone = f.takeTurnLocked(false); b.gone != nil {
		return b
	}
	defer f.passTurnLocked()
	if f.closing || f.hijacked {
		b.gone = ErrBufferClosed
		return b
	}
	f.slowLocked() // Writes must look at the stack from here on
	s := f.stack
	b.level = len(s.bufs)
	s.bufs = append(s.bufs, b)
	if b.opts.FollowFlush {
		s.follow++
	}
	return b
}

// Top returns the buffer on top of the stack, the one that is written to, or
// nil if there is none.
func (f *Flusher) Top() *Buffer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stack.top()
}

// Level returns the number of open buffers. While a buffer that was flushed
// passes its bytes on, it does not count.
func (f *Flusher) Level() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.stack.bufs)
	if n > 0 && f.stack.passing {
		n--
	}
	return n
}

// FlushAll flushes every buffer, from the top down, and then the response:
// all that was written is on its way to the client. With wait it is as
// [Flusher.FlushWait], else as [Flusher.FlushAsync]. Buffers with NoFlush keep
// what they hold, and FlushAll then returns an error that matches
// [ErrForbidden] after it has done the rest.
func (f *Flusher) FlushAll(wait bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !wait {
		ferr := f.flushAllAsyncLocked()
		if ferr == ErrReentrant {
			return ferr
		}
		return joinErrors(f.flushAsyncLocked(nil), ferr)
	}
	ferr := f.flushStackLocked(true, false)
	if ferr == ErrReentrant {
		return ferr
	}
	if f.waitEndedLocked(ferr) {
		return joinErrors(ferr, f.flushAsyncLocked(nil)) // it does not wait twice
	}
	return joinErrors(f.flushWaitLocked(context.Background()), ferr)
}

// stack is the user-level buffers of a response. All of it is guarded by
// Flusher.mu.
//
// An operation that moves bytes takes several steps and gives up the lock
// between them, for a filter and for floor 2. So it first takes its turn,
// which it keeps until it has ended.
//
// Headers and filters are one decision: a filter that found the headers unsent
// must be able to set them until it returns. Who runs such a filter therefore
// has the baton meanwhile, as does Clean from when it has looked until it has
// acted. The states of that are
//
//	free      no filter runs, or the headers are out
//	withheld  who runs the filter, or Clean, has the baton
//	lent      a call of the filter's own has let it go, to hand the headers over;
//	          if it did not, the baton is taken back as the call returns
//
// Others that flush meanwhile ask and go, or wait for the baton. Who waits for
// longer than the send timeout gets an ErrTimeout that does not stick: the
// filter may be waiting for him.
//
// Invariants, whenever mu is free:
//
//  1. running is set only while somebody has the turn.
//  2. withheld is set only while the headers are unsent and nothing has failed;
//     then held is set, and nobody calls the server.
//  3. Bytes that a buffer has let through are on the way down in one call, on
//     floor 2, or in rest. While there is any rest nothing passes it.
//  4. An operation that must not wait, while whole is set, waits for nobody who
//     calls the server: a filter that could not begin before is owed, or stays for
//     the next that comes through (filterOwedLocked).
type stack struct {
	bufs      []*Buffer   // the lowest first
	follow    int         // how many of them have FollowFlush
	busy      bool        // somebody has the turn
	passing   bool        // the top has been flushed and its bytes are on their way: Level does not count it
	cleaning  bool        // the turn is Clean's
	unwinding bool        // the turn is the end's
	flushing  bool        // the turn is that of a flush of the response
	whole     bool        // what comes down meanwhile enters floor 2 whole: the operation must not wait
	owesAll   bool        // what is owed is every buffer, not only those with FollowFlush
	paying    bool        // a carrier is at what is owed
	withheld  bool        // the baton is with who has the turn
	lent      bool        // a call of the running filter's has let the baton go
	threw     bool        // a filter has not returned: its panic hides from the caller what else went wrong
	ownLength bool        // a filter has set the Content-Length: what the stack lets through is held to it
	resized   bool        // a filter let through more or less than it was given
	sniffed   string      // the Content-Type that Gzip has found in the body and set
	running   *Buffer     // whose filter runs
	view      filterView  // of the headers, as it has them
	grown     int64       // by how much filters have lengthened the body under a length that was sent
	late      []byte      // written while a filter ran
	rest      []byte      // let through by the lowest buffer when a wait for floor 2 ended
	waiting   []chan bool // for the turn, in order of arrival
	runs      int         // of filters that found the headers unsent
}

// noStack is the stack of all responses that have not opened a buffer. Nobody
// writes to it.
var noStack stack

// active reports whether output must go through the stack.
func (s *stack) active() bool {
	return s != &noStack && (len(s.bufs) > 0 || s.busy || len(s.rest) > 0)
}

// follows reports whether a flush of the response has something to bring down first.
func (s *stack) follows() bool { return s != &noStack && (s.follow > 0 || len(s.rest) > 0) }

// atHeader reports whether a filter may be at the handler's header map, and is
// not the caller.
func (s *stack) atHeader() bool { return s.running != nil && !s.lent }

// top returns the buffer that is written to, or nil.
func (s *stack) top() *Buffer {
	if n := len(s.bufs); n > 0 {
		return s.bufs[n-1]
	}
	return nil
}

// fromTop yields the buffers from the top down, for who runs their filters: not
// those that the end of the response has dropped meanwhile.
func (s *stack) fromTop() iter.Seq[*Buffer] {
	return func(yield func(*Buffer) bool) {
		for i := len(s.bufs) - 1; i >= 0; i-- {
			if i < len(s.bufs) && !yield(s.bufs[i]) {
				return
			}
		}
	}
}

// flushStackLocked flushes all buffers, or those with FollowFlush, from the
// top down. With whole, what they let through enters floor 2 whole and is not
// carried further on the caller's goroutine, and where a filter would have to wait
// before it begins, the rest is owed. ErrReentrant itself says that it could not
// begin.
func (f *Flusher) flushStackLocked(all, whole bool) (err error) {
	s := f.stack
	if !s.active() {
		return nil
	}
	if err := f.takeTurnLocked(false); err != nil {
		return err
	}
	defer f.settleTurnLocked(&err)
	s.flushing, s.whole = true, whole
	var forbidden error
	for b := range s.fromTop() {
		flushes := (all || b.opts.FollowFlush) && !b.opts.NoFlush && !b.disabled // a filter that has failed does not fail every flush
		if flushes && b.opts.Filter != nil && f.filterOwedLocked() {
			s.owesAll = s.owesAll || all
			f.oweLocked()
			break
		}
		switch {
		case flushes:
			err = joinErrors(err, f.runLocked(b, PhaseFlush))
		case all && b.opts.NoFlush && !s.paying: // else FlushAll has said so when it was called
			forbidden = ErrForbidden
		}
	}
	if !f.waitEndedLocked(err) { // it does not wait twice
		err = joinErrors(err, f.passRestLocked())
	}
	return joinErrors(wrapReentrant(err), forbidden)
}

// unwindStackLocked ends every buffer, from the top down. It waits for its
// turn, even while a filter runs. A filter that panics does not keep the
// others from ending.
func (f *Flusher) unwindStackLocked() (err error) {
	if !f.stack.active() {
		return nil
	}
	f.takeTurnLocked(true)
	f.stack.unwinding = true
	defer f.settleTurnLocked(&err)
	defer func() {
		for len(f.stack.rest) > 0 {
			if e := f.passRestLocked(); e != nil && !f.waitEndedLocked(e) {
				err = joinErrors(err, e)
				break
			}
		}
		if f.stack.grown != 0 && f.fail == nil {
			f.cutAtEndLocked(errResized)
		}
	}()
	return f.unwindTopLocked()
}

func (f *Flusher) unwindTopLocked() (err error) {
	b := f.stack.top()
	if b == nil {
		return nil
	}
	defer func() { err = joinErrors(err, f.unwindTopLocked()) }()
	return f.runLocked(b, PhaseFinal)
}

// wrapReentrant makes an ErrReentrant that a filter has returned another error
// than the one of an operation that could not begin.
func wrapReentrant(err error) error {
	if err == ErrReentrant {
		return fmt.Errorf("flush: filter failed: %w", err)
	}
	return err
}

// dropStackLocked ends every buffer without running a filter.
func (f *Flusher) dropStackLocked() {
	s := f.stack
	if s == &noStack {
		return
	}
	n := len(s.late) + len(s.rest)
	for _, b := range s.bufs {
		if b != s.running { // that one's fate is its operation's to tell
			n += b.lenLocked()
		}
		b.gone = ErrBufferClosed
		if !s.busy {
			freeBytes(b.mem)
			b.mem = nil
		}
	}
	f.loseLocked(n)
	s.bufs, s.late, s.rest, s.follow, s.passing = nil, nil, nil, 0, false
}

// writeStackLocked writes p to the buffer on top, where it does not just stay as things
// are: see holdOnTopLocked.
//
// After the response has failed, buffers go on taking what is written: it may
// be wanted for something else. The failure is returned all the same.
func writeStackLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	if f.stackClosedLocked() {
		return 0, f.refuse
	}
	if f.unpaidLocked() {
		if err := f.awaitPaidLocked(); err != nil {
			return 0, err
		}
		if f.stackClosedLocked() {
			return 0, f.refuse // the end has come meanwhile, and has not waited for this Write
		}
		if holdOnTopLocked(f, p) {
			return len(p), f.fail
		}
	}
	s := f.stack
	if f.takeTurnLocked(false) != nil {
		s.late = append(s.late, p...)
		return len(p), f.fail
	}
	defer f.settleTurnLocked(&err)
	n, err = enterLocked(f, len(s.bufs)-1, p)
	return n, joinErrors(f.fail, err)
}

// holdOnTopLocked is the short way of a Write into a buffer: p is added to the one on
// top if it just stays there, and nothing is to be waited for. It reports whether it
// was.
func holdOnTopLocked[T []byte | string](f *Flusher, p T) bool {
	s := f.stack
	b := s.top()
	if b == nil || s.busy || f.closing || f.gone || f.unpaidLocked() || !b.holdsLocked(len(p)) {
		return false
	}
	if len(p) > 0 {
		holdLocked(b, p)
	}
	return true
}

// stackClosedLocked reports whether the buffers take no more: the response ends,
// and it is no filter that may be writing its last.
func (f *Flusher) stackClosedLocked() bool { return f.gone || f.stack.running == nil && f.closing }

// enterLocked writes p to the buffer at level i; if there is none, to floor 2.
// The caller has the turn.
func enterLocked[T []byte | string](f *Flusher, i int, p T) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	s := f.stack
	for i = min(i, len(s.bufs)-1); i >= 0; i-- {
		b := s.bufs[i]
		switch {
		case b.disabled:
		case b.holdsLocked(len(p)):
			holdLocked(b, p)
			return len(p), nil
		case b.opts.Filter == nil && b.mem == nil:
			b.started, b.processed = true, true // p would only be copied
		default:
			holdLocked(b, p)
			if b.opts.Filter != nil && f.filterOwedLocked() {
				return len(p), nil // beyond its ChunkSize, until the next that comes through
			}
			return len(p), f.runLocked(b, 0)
		}
	}
	return descendLocked(f, p)
}

// filtersLocked reports whether a write of n bytes makes a filter run.
func (s *stack) filtersLocked(n int) bool {
	for b := range s.fromTop() {
		switch {
		case b.disabled:
		case b.holdsLocked(n):
			return false
		case b.opts.Filter != nil:
			return true
		default:
			n += b.lenLocked() // goes on with it
		}
	}
	return false
}

// comesAlong is how many bytes a Write may bring down before its own: what the buffers
// hold that let it through once it brings them to their ChunkSize.
func (s *stack) comesAlong() int {
	n := len(s.rest) + len(s.late)
	for b := range s.fromTop() {
		switch {
		case b.disabled:
		case b.opts.ChunkSize <= 0:
			return 0
		default:
			n += b.lenLocked()
		}
	}
	return n
}

// descendLocked brings p, which came through the stack, onto floor 2: behind what
// was left before it, and as far as a declared length lets it.
func descendLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	if err := f.passRestLocked(); err != nil {
		return 0, err
	}
	if !f.fixed && f.fail == nil {
		f.fixLocked(http.StatusOK)
	}
	fits := len(p)
	if f.length >= 0 && f.bodyAllowed() {
		fits = int(min(int64(fits), max(f.length-f.written, 0)))
	}
	if fits < len(p) && (f.stack.ownLength || f.stack.grown != 0) {
		f.cutAtEndLocked(errResized) // with all that fits it would look whole
		fits = 0
	}
	if fits > 0 || len(p) == 0 || f.fail != nil {
		n, err = writeLocked(f, p[:fits])
	}
	if fits < len(p) && err == nil {
		f.written += int64(len(p) - fits)
		err = http.ErrContentLength
	}
	return n, err
}

// passRestLocked brings onto floor 2 what a wait that has ended left behind.
func (f *Flusher) passRestLocked() error {
	s := f.stack
	if len(s.rest) == 0 {
		return nil
	}
	n, err := writeLocked(f, s.rest)
	if len(s.rest) == 0 { // the end of the response has dropped it meanwhile
		f.loseLocked(-n) // it was all counted
		return err
	}
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.rest = nil
	}
	return err
}

// keepLocked sees to what descendLocked did not bring down of a buffer's bytes, as
// err says. When only a wait has ended they stay, and go on with the next that
// comes through or at the end of the response; that is no error of the end.
func (f *Flusher) keepLocked(p []byte, err error) error {
	switch {
	case len(p) == 0:
	case f.waitEndedLocked(err), errors.Is(err, ErrClosed) && f.haltedLocked(true) == nil: // Close hands them over
		f.slowLocked() // Writes must not pass them
		f.stack.rest = append(f.stack.rest, p...)
		if f.stack.unwinding {
			return nil
		}
	default:
		f.loseLocked(len(p))
	}
	return err
}

// waitEndedLocked reports whether err is the end of a wait, after which the
// response goes on.
func (f *Flusher) waitEndedLocked(err error) bool {
	return isTimeout(err) && f.haltedLocked(true) == nil
}

// enterLateLocked writes what was written while a filter ran to the buffer
// that is on top now. It fills that beyond its ChunkSize rather than run
// another filter.
func (f *Flusher) enterLateLocked() error {
	s := f.stack
	if len(s.late) == 0 {
		return nil
	}
	p := s.late
	s.late = nil
	for _, b := range slices.Backward(s.bufs) {
		if !b.disabled {
			holdLocked(b, p)
			return nil
		}
	}
	n, err := descendLocked(f, p)
	return f.keepLocked(p[n:], err)
}

// takeTurnLocked waits until nobody else works on the stack. While a filter
// runs it returns ErrReentrant, unless patient, since it may be the filter
// that asks.
func (f *Flusher) takeTurnLocked(patient bool) error {
	if f.stack == &noStack {
		f.stack = new(stack)
	}
	s := f.stack
	for s.busy {
		if s.running != nil && !patient {
			return ErrReentrant
		}
		w := make(chan bool, 1)
		s.waiting = append(s.waiting, w)
		f.mu.Unlock()
		turn := <-w
		f.mu.Lock()
		if turn {
			return nil
		}
	}
	s.busy = true
	return nil
}

// passTurnLocked gives the turn to the one who has waited longest.
func (f *Flusher) passTurnLocked() {
	s := f.stack
	if len(s.waiting) == 0 {
		s.busy = false
		if f.owed {
			f.kickLocked() // nobody else would see that it can be paid now
		}
		return
	}
	w := s.waiting[0]
	s.waiting = slices.Delete(s.waiting, 0, 1)
	w <- true
}

// settleTurnLocked ends an operation; it is deferred, with f.mu held. After a
// panic there may be something left that was written while a filter ran.
func (f *Flusher) settleTurnLocked(err *error) {
	defer f.passTurnLocked()
	f.stack.passing = false
	*err = joinErrors(*err, f.enterLateLocked())
	f.noteHiddenLocked(*err)
	f.stack.threw = false
	whole := f.stack.whole
	f.stack.flushing, f.stack.whole = false, false
	if !whole && !f.held && f.callerOnlyLocked() && f.dueLocked() {
		f.workLocked() // who asked while a filter ran left it to us
	}
}

// withholdLocked keeps the headers from leaving while a filter runs, by taking
// the baton. If they are on their way already it waits until they are out.
func (f *Flusher) withholdLocked() {
	s := f.stack
	s.lent = false
	if s.withheld || f.headersSent && !f.parked || f.cfg.SAPI.Headers == OutputOnly {
		return
	}
	err := f.awaitLocked(true, nil, func() bool { return !f.held || f.headersSent })
	if f.headersSent || err != nil || !f.seizeLocked() {
		return
	}
	f.noteWithheldLocked()
}

// noteWithheldLocked is for who has taken the baton to withhold the headers. Who waits
// already is bounded as who comes later is.
func (f *Flusher) noteWithheldLocked() {
	f.stack.withheld = true
	f.stack.runs++
	if f.waiters > 0 {
		f.boundFilterLocked()
	}
}

// filterWaitsLocked reports whether a filter could not begin before a call of the
// server has returned, which may take as long as the client lets it: see withholdLocked.
// Such a call hands over something else than the headers, a 1xx for one; or it is a
// Hijack, which may leave nothing to come down to.
func (f *Flusher) filterWaitsLocked() bool {
	return f.parked || f.timeout.calling && !f.headersSent && f.cfg.SAPI.Headers != OutputOnly
}

// filterOwedLocked reports whether the operation that has the turn must leave a filter
// to others, as it must not wait. It waits only for who has the baton and is between
// two steps: a carrier that has not begun, on a busy machine. He sends the headers, or
// lets go, or begins a call after all.
func (f *Flusher) filterOwedLocked() bool {
	s := f.stack
	if !s.whole || s.paying {
		return false
	}
	for f.held && !s.withheld && !f.headersSent && f.cfg.SAPI.Headers != OutputOnly && f.haltedLocked(true) == nil && !f.filterWaitsLocked() {
		f.waitLocked()
	}
	return f.filterWaitsLocked()
}

// yieldLocked lets the baton go that was taken to withhold the headers, if it
// was.
func (f *Flusher) yieldLocked() {
	if s := f.stack; s.withheld {
		s.withheld = false
		f.releaseLocked()
	}
}

// lendLocked comes before what hands over headers on the caller's goroutine. If
// the running filter is the caller, it lets the baton go for that. Any other
// caller will wait for the baton, and so for the filter.
func (f *Flusher) lendLocked() {
	s := f.stack
	switch {
	case !s.withheld:
	case s.running == nil || !calledByFilter():
		f.boundFilterLocked()
	default:
		if f.fixed {
			f.freezeLocked()
		}
		s.lent = true
		f.yieldLocked()
	}
}

// takeBackLocked follows lendLocked, as the call returns.
func (f *Flusher) takeBackLocked() {
	s := f.stack
	if !s.lent {
		return
	}
	s.lent = false
	if !f.headersSent && f.haltedLocked(true) == nil && !f.dueLocked() {
		s.withheld = f.seizeLocked()
	}
}

// boundFilterLocked bounds the waits for the filter that runs.
func (f *Flusher) boundFilterLocked() {
	if f.timeout.d <= 0 {
		return
	}
	run := f.stack.runs
	time.AfterFunc(f.timeout.d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.stack.withheld && f.stack.runs == run {
			f.stalledLocked()
		}
	})
}

// callFilter calls a filter. Its frame is what calledByFilter looks for.
//
//go:noinline
func callFilter(filter Filter, p []byte, phase Phase) ([]byte, error) { return filter(p, phase) }

var callFilterEntry = reflect.ValueOf(callFilter).Pointer()

// calledByFilter reports whether a filter is what called this package, on this
// goroutine. It is asked only by who would otherwise wait for a filter.
func calledByFilter() bool {
	for size := 64; ; size *= 2 {
		pcs := make([]uintptr, size)
		n := runtime.Callers(2, pcs)
		for _, pc := range pcs[:n] {
			if fn := runtime.FuncForPC(pc - 1); fn != nil && fn.Entry() == callFilterEntry {
				return true
			}
		}
		if n < size {
			return false
		}
	}
}

// filterAbortsLocked reports whether it is a filter that calls Abort. Such a
// call cannot wait for the end of the response, which waits for the filter.
func (f *Flusher) filterAbortsLocked() bool {
	if f.stack.running == nil || !calledByFilter() {
		return false
	}
	f.dropStackLocked()
	return true
}
