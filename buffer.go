package flush

import (
	"slices"
	"sync"
)

// A Filter changes what a [Buffer] holds on its way down. It gets all of it
// and returns what goes on in its place; nothing, if that is empty.
//
// A Filter must neither change p nor keep it after it has returned. What it
// returns may be p, or a part of it, and must stay as it is until the Filter
// is called again.
//
// An error means that the Filter has failed: p goes on unchanged, whoever made
// it run gets the error, and the buffer is disabled for good (see
// [BufferStatus]). Writes, flushes of the response, [Flusher.FlushAll],
// [Flusher.Clean] and the end pass it by. Only the buffer's own Flush and Clean
// run the Filter again, as in PHP, with an empty p. A panic does the same and
// goes on.
//
// A Filter runs with no lock held, never twice at a time. While it runs, a
// Write to the response is accepted, whoever made it, and enters the buffer
// that is on top once the Filter has returned. Reading works, and so does
// flushing the response, which then leaves every buffer alone. What would
// change the stack returns [ErrReentrant]. [Flusher.Abort] marks the response
// and returns; before the headers it first has what was flushed go out, as it does
// everywhere, and whoever made the Filter run waits for that.
//
// What a Filter sets in the headers while [Flusher.HeadersSent] says false is
// sent. It finds them as they will be, without what the handler has set too
// late. Only a waiting flush or SendHeaders of the Filter's own sends them
// meanwhile. An asynchronous flush is done once it has returned; one of another
// goroutine that waits waits for that, and after SendTimeout returns an
// [ErrTimeout] that does not stick.
//
// A Content-Length of the handler's is removed when a Filter first lets through
// more or less than it was given; if it has been sent already the response is
// cut. A Content-Length that a Filter sets holds for what it lets through.
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
	Disabled  bool   // the filter has failed: what is written passes the buffer by
	Processed bool   // the filter has run and not failed
	NoClean   bool   // as given; true too once [Gzip] has begun
	NoFlush   bool   // as given
	NoRemove  bool   // as given; true too once [Gzip] has begun
}

// A Buffer is one of the user-level buffers above a response: it holds what is
// written until it is flushed, comes to its ChunkSize, or ends. Buffers make a
// stack. Writes go to the one on top, and what one lets through is written to
// the next below. Only the one on top can be worked on: on others Flush,
// Clean, Close and Discard return [ErrNotTop].
//
// All methods are safe for concurrent use. Those of a nil Buffer, which is what
// [Flusher.Top] returns without one, return [ErrBufferClosed], or nothing.
type Buffer struct {
	f     *Flusher
	opts  BufferOptions
	level int
	mem   *[]byte // nil: empty

	started, disabled, processed bool

	pinned bool // its filter has begun what only the end of the response may end

	gone error // why it is off the stack: ErrBufferClosed or ErrReentrant
}

// Flush gives what the buffer holds to its filter, and writes the result to
// the next buffer below or, from the lowest, to the response, which it does
// not flush. The filter runs even if the buffer is empty.
func (b *Buffer) Flush() error { return b.do(PhaseFlush) }

// Clean throws away what the buffer holds. The filter gets it all the same.
func (b *Buffer) Clean() error { return b.do(PhaseClean) }

// Close ends the buffer and passes on what it holds, as Flush does.
func (b *Buffer) Close() error { return b.do(PhaseFinal) }

// Discard ends the buffer and throws away what it holds, as Clean does.
func (b *Buffer) Discard() error { return b.do(PhaseClean | PhaseFinal) }

func (b *Buffer) do(phase Phase) (err error) {
	if b == nil {
		return ErrBufferClosed
	}
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
	case b.forbidsLocked(phase):
		return ErrForbidden
	}
	return f.runLocked(b, phase)
}

// forbidsLocked reports whether the buffer does not allow an operation.
func (b *Buffer) forbidsLocked(phase Phase) bool {
	switch {
	case phase&PhaseFinal != 0:
		return b.opts.NoRemove || b.pinned
	case phase&PhaseClean != 0:
		return b.opts.NoClean || b.pinned
	}
	return b.opts.NoFlush
}

// Bytes returns a copy of what the buffer holds, as it was written.
func (b *Buffer) Bytes() []byte {
	if b == nil {
		return nil
	}
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	if b.mem == nil {
		return nil
	}
	return slices.Clone(*b.mem)
}

// Len returns the number of bytes that the buffer holds.
func (b *Buffer) Len() int {
	if b == nil {
		return 0
	}
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	return b.lenLocked()
}

// Status returns the state of the buffer. That of a nil Buffer is zero but for
// its Level.
func (b *Buffer) Status() BufferStatus {
	if b == nil {
		return BufferStatus{Level: -1}
	}
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
		NoClean:   b.opts.NoClean || b.pinned,
		NoFlush:   b.opts.NoFlush,
		NoRemove:  b.opts.NoRemove || b.pinned,
	}
	if b.gone != nil {
		s.Level = -1
	}
	return s
}

// runLocked gives what b holds to its filter and passes the result on, or
// throws it away, as phase says. It does so even if the filter panics or ends
// its goroutine. The caller has the turn.
func (f *Flusher) runLocked(b *Buffer, phase Phase) (err error) {
	s := f.stack
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
			if top {
				s.passing = false
			}
			err = joinErrors(err, f.keepLocked(out[n:], e))
		}
		freeBytes(mem)
		if !s.cleaning {
			err = joinErrors(err, f.enterLateLocked())
		}
		f.noteHiddenLocked(err)
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

// filterLocked runs b's filter. The headers do not leave meanwhile: see stack.
func (f *Flusher) filterLocked(b *Buffer, p []byte, phase Phase) (out []byte, err error) {
	s := f.stack
	s.running = b
	f.wakeLocked() // a Write that waits for what is owed
	// From here on those who wait for their turn might wait for themselves.
	for _, w := range s.waiting {
		w <- false
	}
	s.waiting = nil
	f.withholdLocked()
	var declared int64
	open := !f.headersSent
	if open {
		f.showHeaderLocked(&s.view)
		declared = f.declaredLocked()
	}
	f.mu.Unlock()
	returned := false
	defer func() {
		f.mu.Lock()
		s.threw = s.threw || !returned
		resized := returned && err == nil && phase&PhaseClean == 0 && len(out) != len(p)
		f.judgeLengthLocked(declared, resized, int64(len(out)-len(p)))
		s.running, s.lent = nil, false
		if open {
			f.hideHeaderLocked(&s.view)
		}
		if !s.cleaning {
			f.yieldLocked()
		}
	}()
	out, err = callFilter(b.opts.Filter, p, phase)
	returned = true
	return out, err
}

// noteHiddenLocked keeps for the end of the response an error that the caller does not
// get, as a filter's panic goes on in its place.
func (f *Flusher) noteHiddenLocked(err error) {
	if f.stack.threw && err != nil && f.fail == nil && !f.waitEndedLocked(err) {
		f.noteRefusedLocked(err)
	}
}

// judgeLengthLocked decides what becomes of a declared length after a filter
// has run. declared is the one that it found, by is what it made the body
// longer.
//
// A length that the filter has set holds for what comes out. One of the
// handler's holds only for a body whose length no filter changes: it goes when
// one first does. If it has been sent already the response is cut, at the
// latest at its end: a filter may hold back what it lets through later.
func (f *Flusher) judgeLengthLocked(declared int64, resized bool, by int64) {
	s := f.stack
	if !f.headersSent {
		now := f.declaredLocked()
		if now != declared {
			s.ownLength = now >= 0
		}
		s.resized = s.resized || resized // see freezeLocked
		return
	}
	if resized && f.length >= 0 && !s.ownLength && f.bodyAllowed() && !f.head {
		if s.grown += by; s.grown > 0 {
			f.cutLocked(errResized)
		}
	}
}

// cutLocked ends the response now, and badly; cutAtEndLocked after the rest has
// gone down.
func (f *Flusher) cutLocked(cause error) {
	f.aborted = true
	f.failLocked(cause)
}

func (f *Flusher) cutAtEndLocked(cause error) {
	if !f.cut {
		f.markCutLocked()
		f.rareLocked().cutBy = cause
	}
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

// holdLocked adds p, which is not empty, to what the buffer holds.
func holdLocked[T []byte | string](b *Buffer, p T) {
	if b.mem == nil {
		b.mem = bytesPool.Get().(*[]byte)
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

func freeBytes(p *[]byte) {
	if p != nil && cap(*p) <= mostBytes {
		*p = (*p)[:0]
		bytesPool.Put(p)
	}
}
