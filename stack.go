package flush

import (
	"context"
	"fmt"
	"slices"
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
	ferr := f.flushStackLocked(true, !wait)
	switch {
	case ferr == ErrReentrant:
		return ferr
	case wait:
		return joinErrors(f.flushWaitLocked(context.Background()), ferr)
	default:
		return joinErrors(f.flushAsyncLocked(nil), ferr)
	}
}

// stack is the user-level buffers of a response. All of it is guarded by
// Flusher.mu.
//
// An operation that moves bytes takes several steps and gives up the lock
// between them, for a filter and for floor 2. So it first takes its turn,
// which it keeps until it has ended.
type stack struct {
	bufs    []*Buffer   // the lowest first
	follow  int         // how many of them have FollowFlush
	busy    bool        // somebody has the turn
	passing bool        // the top has been flushed and its bytes are on their way: Level does not count it
	running *Buffer     // whose filter runs
	late    []byte      // written while a filter ran
	before  fixedHeader // as the filter found it
	waiting []chan bool // for the turn, in order of arrival
}

// noStack is the stack of all responses that have not opened a buffer. Nobody
// writes to it.
var noStack stack

// active reports whether output must go through the stack.
func (s *stack) active() bool { return len(s.bufs) > 0 || s.busy }

// top returns the buffer that is written to, or nil.
func (s *stack) top() *Buffer {
	if n := len(s.bufs); n > 0 {
		return s.bufs[n-1]
	}
	return nil
}

// followFlushLocked flushes the buffers that follow a flush of the response.
// While a filter runs it does nothing.
func (f *Flusher) followFlushLocked(background bool) error {
	if f.stack.follow == 0 || f.stack.running != nil || f.refuse != nil {
		return nil
	}
	if err := f.flushStackLocked(false, background); err != ErrReentrant {
		return err
	}
	return nil
}

// flushStackLocked flushes all buffers, or those with FollowFlush, from the
// top down; with background, what they let through is not carried further on
// the caller's goroutine. ErrReentrant itself says that it could not begin.
func (f *Flusher) flushStackLocked(all, background bool) (err error) {
	s := f.stack
	if !s.active() {
		return nil
	}
	if err := f.takeTurnLocked(false); err != nil {
		return err
	}
	defer f.settleTurnLocked(&err)
	if background {
		f.asyncCalls.Add(1)
		defer f.asyncCalls.Add(-1)
	}
	for i := len(s.bufs) - 1; i >= 0; i-- {
		if i >= len(s.bufs) {
			continue // the response was aborted meanwhile
		}
		switch b := s.bufs[i]; {
		case !all && !b.opts.FollowFlush:
		case !b.opts.NoFlush:
			err = joinErrors(err, f.runLocked(b, PhaseFlush))
		case all:
			err = joinErrors(err, ErrForbidden)
		}
	}
	return wrapReentrant(err)
}

// unwindStackLocked ends every buffer, from the top down. It waits for its
// turn, even while a filter runs. A filter that panics does not keep the
// others from ending.
func (f *Flusher) unwindStackLocked() (err error) {
	if !f.stack.active() {
		return nil
	}
	f.takeTurnLocked(true)
	defer f.settleTurnLocked(&err)
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

// cleanStackLocked drops what the buffers hold, and has their filters begin
// anew. ErrReentrant itself says that it could not begin.
func (f *Flusher) cleanStackLocked() (err error) {
	s := f.stack
	if !s.active() {
		return nil
	}
	if err := f.takeTurnLocked(false); err != nil {
		return err
	}
	defer f.settleTurnLocked(&err)
	for _, b := range slices.Backward(s.bufs) {
		err = joinErrors(err, f.runLocked(b, PhaseClean))
		b.started, b.processed = false, false
	}
	return wrapReentrant(err)
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
	n := len(s.late)
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
	s.bufs, s.late, s.follow, s.passing = nil, nil, 0, false
}

// writeStackLocked writes p to the buffer on top.
//
// After the response has failed, buffers go on taking what is written: it may
// be wanted for something else. The failure is returned all the same.
func writeStackLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	s := f.stack
	if s.running == nil && (f.closing || f.hijacked) {
		return 0, f.refuse
	}
	if b := s.top(); b != nil && !s.busy && b.holdsLocked(len(p)) {
		holdLocked(b, p)
		return len(p), f.fail
	}
	if f.takeTurnLocked(false) != nil {
		s.late = append(s.late, p...)
		return len(p), f.fail
	}
	defer f.settleTurnLocked(&err)
	n, err = enterLocked(f, len(s.bufs)-1, p)
	return n, joinErrors(f.fail, err)
}

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
			return len(p), f.runLocked(b, 0)
		}
	}
	return writeLocked(f, p)
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
	n, err := writeLocked(f, p)
	f.loseLocked(len(p) - n)
	return err
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
}
