package flush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Errors of user-level buffers.
var (
	// ErrNotTop says that a buffer is not the one on top.
	ErrNotTop = errors.New("flush: buffer is not on top")

	// ErrBufferClosed says that a buffer has ended.
	ErrBufferClosed = errors.New("flush: buffer has ended")

	// ErrForbidden says that NoClean, NoFlush or NoRemove forbids it.
	ErrForbidden = errors.New("flush: buffer does not allow this")

	// ErrReentrant says that a filter is running, and that the stack of
	// buffers cannot be worked on meanwhile.
	ErrReentrant = errors.New("flush: a filter is running")
)

// A Filter changes what a [Buffer] holds on its way down. It gets all of it
// and returns what goes on in its place; nothing, if that is empty.
//
// A Filter must neither change p nor keep it after it has returned. What it
// returns may be p, or a part of it, and must stay as it is until the Filter
// is called again.
//
// An error means that the Filter has failed: p goes on unchanged, the Filter
// is not used again (see [BufferStatus]), and whoever made it run gets the
// error. A panic does the same and goes on.
//
// A Filter runs with no lock held, never twice at a time. While it runs, a
// Write to the response is accepted, whoever made it, and enters the buffer
// that is on top once the Filter has returned. Reading works, and so does
// flushing the response, which then leaves every buffer alone. What would
// change the stack returns [ErrReentrant].
type Filter func(p []byte, phase Phase) ([]byte, error)

// A Phase tells a [Filter] why it runs. It is a set of bits; a write that
// brought the buffer to its ChunkSize sets none but PhaseStart.
type Phase uint8

const (
	PhaseStart Phase = 1 // the first call; or the first since Flusher.Clean
	PhaseClean Phase = 2 // the result will be thrown away
	PhaseFlush Phase = 4 // the buffer is flushed and goes on
	PhaseFinal Phase = 8 // the buffer ends: the last call
)

// BufferOptions are the options of [Flusher.StartBuffer].
type BufferOptions struct {
	Name        string // for BufferStatus
	Filter      Filter // nil: what is written goes on unchanged
	ChunkSize   int    // flush by itself once a write brings it to this size; ≤ 0: never
	NoClean     bool   // Clean is forbidden
	NoFlush     bool   // Flush is forbidden
	NoRemove    bool   // Close and Discard are forbidden; the end of the response is not
	FollowFlush bool   // a flush of the response goes through this buffer first
}

// BufferStatus is the state of a [Buffer].
type BufferStatus struct {
	Name      string // as given
	Level     int    // 0 is the lowest; -1 once it is off the stack
	Len       int    // bytes held
	ChunkSize int    // as given; 0: never
	Started   bool   // the filter has run
	Disabled  bool   // the filter has failed: writes pass the buffer by
	Processed bool   // the filter has run and not failed
	NoClean   bool   // as given
	NoFlush   bool   // as given
	NoRemove  bool   // as given
}

// A Buffer is one of the user-level buffers above a response: it holds what is
// written until it is flushed, comes to its ChunkSize, or ends. Buffers make a
// stack. Writes go to the one on top, and what one lets through is written to
// the next below. Only the one on top can be worked on: on others Flush,
// Clean, Close and Discard return [ErrNotTop].
//
// All methods are safe for concurrent use.
type Buffer struct {
	f     *Flusher
	opts  BufferOptions
	level int
	mem   *[]byte // nil: empty

	started, disabled, processed bool

	gone error // why it is off the stack: ErrBufferClosed or ErrReentrant
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

// active reports whether output must go through the stack.
func (s *stack) active() bool { return len(s.bufs) > 0 || s.busy }

// top returns the buffer that is written to, or nil.
func (s *stack) top() *Buffer {
	if n := len(s.bufs); n > 0 {
		return s.bufs[n-1]
	}
	return nil
}

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
	s := &f.stack
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
	s := &f.stack
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
	s := &f.stack
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
	s := &f.stack
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
	f.stats.Lost += int64(n)
	s.bufs, s.late, s.follow, s.passing = nil, nil, 0, false
}

// writeStackLocked writes p to the buffer on top.
//
// After the response has failed, buffers go on taking what is written: it may
// be wanted for something else. The failure is returned all the same.
func writeStackLocked[T []byte | string](f *Flusher, p T) (n int, err error) {
	s := &f.stack
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
	s := &f.stack
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

// runLocked gives what b holds to its filter and passes the result on, or
// throws it away, as phase says. It does so even if the filter panics or ends
// its goroutine. The caller has the turn.
func (f *Flusher) runLocked(b *Buffer, phase Phase) (err error) {
	s := &f.stack
	var out []byte
	if b.mem != nil {
		out = *b.mem
	}
	ok := false
	defer func() {
		if b.disabled && phase&PhaseFinal != 0 {
			out = nil
		} else {
			b.started = true
			b.processed = b.processed || ok
			b.disabled = b.disabled || !ok
		}
		// out may be part of mem, which is free for others only once out has
		// gone down.
		mem := b.mem
		b.mem = nil
		top := b == s.top()
		if top && phase&PhaseFinal != 0 {
			b.gone = ErrBufferClosed
			s.bufs[b.level] = nil
			s.bufs = s.bufs[:b.level]
			if b.opts.FollowFlush {
				s.follow--
			}
		}
		if phase&PhaseClean == 0 {
			if top && phase&PhaseFlush != 0 {
				s.passing = true
			}
			n, e := enterLocked(f, b.level-1, out)
			f.stats.Lost += int64(len(out) - n)
			if top {
				s.passing = false
			}
			err = joinErrors(err, e)
		}
		freeBytes(mem)
		err = joinErrors(err, f.enterLateLocked())
	}()
	switch {
	case b.disabled && phase&PhaseFinal != 0:
	case b.opts.Filter == nil:
		ok = true
	default:
		if !b.started {
			phase |= PhaseStart
		}
		var res []byte
		if res, err = f.filterLocked(b, out, phase); err == nil {
			out, ok = res, true
		}
	}
	return err
}

// filterLocked runs b's filter.
func (f *Flusher) filterLocked(b *Buffer, p []byte, phase Phase) ([]byte, error) {
	s := &f.stack
	s.running = b
	// From here on those who wait for their turn might wait for themselves.
	for _, w := range s.waiting {
		w <- false
	}
	s.waiting = nil
	f.rememberHeaderLocked(&s.before)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		s.running = nil
		f.refixLocked(&s.before)
	}()
	return b.opts.Filter(p, phase)
}

// enterLateLocked writes what was written while a filter ran to the buffer
// that is on top now. It fills that beyond its ChunkSize rather than run
// another filter.
func (f *Flusher) enterLateLocked() error {
	s := &f.stack
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
	f.stats.Lost += int64(len(p) - n)
	return err
}

// takeTurnLocked waits until nobody else works on the stack. While a filter
// runs it returns ErrReentrant, unless patient, since it may be the filter
// that asks.
func (f *Flusher) takeTurnLocked(patient bool) error {
	s := &f.stack
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
	s := &f.stack
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

// Flush gives what the buffer holds to its filter, and writes the result to
// the next buffer below or, from the lowest, to the response, which it does
// not flush. The filter runs even if the buffer is empty.
func (b *Buffer) Flush() error { return b.do(PhaseFlush, b.opts.NoFlush) }

// Clean throws away what the buffer holds. The filter gets it all the same.
func (b *Buffer) Clean() error { return b.do(PhaseClean, b.opts.NoClean) }

// Close ends the buffer and passes on what it holds, as Flush does.
func (b *Buffer) Close() error { return b.do(PhaseFinal, b.opts.NoRemove) }

// Discard ends the buffer and throws away what it holds, as Clean does.
func (b *Buffer) Discard() error { return b.do(PhaseClean|PhaseFinal, b.opts.NoRemove) }

func (b *Buffer) do(phase Phase, forbidden bool) (err error) {
	f := b.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.gone != nil {
		return b.gone
	}
	if err := f.takeTurnLocked(false); err != nil {
		return err
	}
	defer f.settleTurnLocked(&err)
	switch {
	case b.gone != nil: // while it waited
		return b.gone
	case b != f.stack.top():
		return ErrNotTop
	case forbidden:
		return ErrForbidden
	}
	return f.runLocked(b, phase)
}

// Bytes returns a copy of what the buffer holds, as it was written.
func (b *Buffer) Bytes() []byte {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	if b.mem == nil {
		return nil
	}
	return slices.Clone(*b.mem)
}

// Len returns the number of bytes that the buffer holds.
func (b *Buffer) Len() int {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	return b.lenLocked()
}

// Status returns the state of the buffer.
func (b *Buffer) Status() BufferStatus {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	s := BufferStatus{
		Name:      b.opts.Name,
		Level:     b.level,
		Len:       b.lenLocked(),
		ChunkSize: max(b.opts.ChunkSize, 0),
		Started:   b.started,
		Disabled:  b.disabled,
		Processed: b.processed,
		NoClean:   b.opts.NoClean,
		NoFlush:   b.opts.NoFlush,
		NoRemove:  b.opts.NoRemove,
	}
	if b.gone != nil {
		s.Level = -1
	}
	return s
}

func (b *Buffer) lenLocked() int {
	if b.mem == nil {
		return 0
	}
	return len(*b.mem)
}

// holdsLocked reports whether n more bytes just stay in the buffer.
func (b *Buffer) holdsLocked(n int) bool {
	return !b.disabled && (b.opts.ChunkSize <= 0 || n == 0 || n < b.opts.ChunkSize-b.lenLocked())
}

// holdLocked adds p to what the buffer holds.
func holdLocked[T []byte | string](b *Buffer, p T) {
	if len(p) == 0 {
		return
	}
	if b.mem == nil {
		b.mem = newBytes()
	}
	*b.mem = append(*b.mem, p...)
}

const (
	smallBytes = 4 << 10
	mostBytes  = 64 << 10 // larger ones do not go back to the pool
)

var bytesPool = sync.Pool{New: func() any {
	p := make([]byte, 0, smallBytes)
	return &p
}}

func newBytes() *[]byte { return bytesPool.Get().(*[]byte) }

func freeBytes(p *[]byte) {
	if p != nil && cap(*p) <= mostBytes {
		*p = (*p)[:0]
		bytesPool.Put(p)
	}
}
