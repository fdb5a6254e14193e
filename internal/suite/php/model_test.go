package php_test

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/fa492104/flush"
)

// model says what a Flusher with BufferSize -1 does, for one goroutine and on
// plain slices. Under the rules of testdata/php-differences.md it is what the
// conformance cases are compared with, and FuzzBuffers lets both run in step.
type model struct {
	method   string
	cli      bool
	rec      *record
	header   http.Header
	fixed    http.Header
	status   int
	sent     bool
	implicit bool
	err      error
	ended    bool

	bufs     []*modelBuffer
	running  bool
	cleaning bool
	async    bool // a carrier decides when the headers leave, and with that what comes of Clean
	clean    cleanOutcome
	told     int  // overtaken: so many filters were told of the Clean
	showing  bool // the filter that runs has the fixed headers before it
	passing  bool
	late     []byte
	thrown   any     // what a filter panicked with in the operation under way
	hidden   []error // by a panic, from the caller: Close tells
}

type cleanOutcome int

const (
	refused   cleanOutcome = iota
	overtaken              // by a flush of a filter's
	cleaned
)

type modelBuffer struct {
	m                            *model
	o                            flush.BufferOptions
	level                        int
	data                         []byte
	started, disabled, processed bool
	gone                         error
}

func (m *model) Header() http.Header { return m.header }
func (m *model) HeadersSent() bool   { return m.sent }
func (m *model) Err() error          { return m.err }
func (m *model) SetImplicit(mode flush.Mode) {
	m.implicit = mode != flush.Off
}

func (m *model) WriteHeader(code int) {
	if m.status == 0 {
		m.status, m.fixed = code, m.header.Clone()
	}
}

// takeOver fixes what the filter that runs has made of fixed headers.
func (m *model) takeOver() {
	if m.showing && !m.sent {
		m.fixed = m.header.Clone()
	}
}

func (m *model) sendHeaders() {
	if m.sent {
		return
	}
	m.takeOver()
	m.WriteHeader(http.StatusOK)
	m.sent = true
	if !m.cli {
		m.rec.headers(m.status, m.fixed)
	}
}

// sink is floor 2.
func (m *model) sink(p []byte) error {
	switch {
	case len(p) == 0:
		return nil
	case m.err != nil:
		return m.err
	}
	m.WriteHeader(http.StatusOK)
	switch {
	case m.status == http.StatusNoContent || m.status == http.StatusNotModified:
		return http.ErrBodyNotAllowed
	case m.sent && m.method == http.MethodHead:
		return nil
	}
	m.sendHeaders()
	if m.method != http.MethodHead && !m.rec.write(p) {
		m.err = flush.ErrClientGone
	}
	if m.err == nil && m.implicit {
		m.push()
	}
	return m.err
}

func (m *model) push() {
	if !m.rec.flush() {
		m.err = flush.ErrClientGone
	}
}

func (m *model) FlushError() error {
	if m.err != nil {
		return m.err
	}
	var err error
	if !m.running {
		err = m.flushBuffers(func(b *modelBuffer) bool { return b.o.FollowFlush && !b.o.NoFlush })
	}
	return errors.Join(err, m.flushResponse())
}

func (m *model) flushResponse() error {
	if !m.cli {
		m.sendHeaders()
	}
	if m.err == nil && m.sent {
		m.push()
	}
	return m.err
}

func (m *model) FlushAll(bool) error {
	if m.running {
		return flush.ErrReentrant
	}
	var forbidden error
	err := m.flushBuffers(func(b *modelBuffer) bool {
		if b.o.NoFlush {
			forbidden = flush.ErrForbidden
		}
		return !b.o.NoFlush
	})
	return errors.Join(err, forbidden, m.flushResponse())
}

func (m *model) flushBuffers(which func(*modelBuffer) bool) error {
	var errs []error
	for _, b := range slices.Backward(slices.Clone(m.bufs)) {
		if m.thrown == nil && which(b) && !b.disabled {
			errs = append(errs, m.run(b, flush.PhaseFlush))
		}
	}
	m.rethrow(errs...)
	return errors.Join(errs...)
}

func (m *model) Clean() error {
	switch {
	case m.sent && !m.async || m.async && m.clean == refused:
		return flush.ErrHeadersSent
	case m.running:
		return flush.ErrReentrant
	}
	var errs []error
	m.cleaning = true
	told := 0
	for _, b := range slices.Backward(m.bufs) {
		if b.o.Filter == nil || m.thrown != nil || b.disabled {
			continue
		}
		if m.sent && !m.async || m.async && m.clean == overtaken && told == m.told {
			break
		}
		errs = append(errs, m.run(b, flush.PhaseClean))
		told++
	}
	if m.async {
		m.sent = m.clean == overtaken
	}
	for _, b := range m.bufs {
		if b.o.Filter == nil && m.thrown == nil && !m.sent {
			errs = append(errs, m.run(b, flush.PhaseClean))
		}
	}
	m.cleaning = false
	if m.sent { // a filter has flushed
		errs = append(errs, flush.ErrHeadersSent)
	} else if m.thrown == nil {
		m.status, m.fixed = 0, nil
		for _, b := range m.bufs {
			b.started, b.processed = false, false
		}
	}
	late := m.enterLate()
	m.rethrow(late) // of what was to be dropped nothing is lost
	return errors.Join(append(errs, late)...)
}

func (m *model) Close() error {
	if m.running {
		return flush.ErrReentrant
	}
	var errs []error
	for n := len(m.bufs); n > 0; n = len(m.bufs) {
		errs = append(errs, m.run(m.bufs[n-1], flush.PhaseFinal))
	}
	m.ended = true
	m.rethrow()
	m.sendHeaders()
	return errors.Join(append(append(errs, m.hidden...), m.err)...)
}

func (m *model) Write(p []byte) (int, error) {
	if m.running {
		m.late = append(m.late, p...)
		return len(p), nil
	}
	err := m.enter(len(m.bufs)-1, p)
	m.rethrow(err)
	return len(p), errors.Join(err, m.err)
}

func (m *model) enter(level int, p []byte) error {
	for ; level >= 0 && len(p) > 0; level-- {
		if b := m.bufs[level]; !b.disabled {
			b.data = append(b.data, p...)
			if b.o.ChunkSize > 0 && len(b.data) >= b.o.ChunkSize {
				return m.run(b, 0)
			}
			return nil
		}
	}
	return m.sink(p)
}

// run gives the contents of b to its filter and the result to the next level.
func (m *model) run(b *modelBuffer, phase flush.Phase) error {
	out, err, ok := b.data, error(nil), true
	if !b.disabled || phase&flush.PhaseFinal == 0 {
		if b.o.Filter != nil {
			if out, err, ok = m.call(b, phase); !ok {
				out, b.disabled = b.data, true
			}
		}
		b.started = true
		b.processed = b.processed || ok
	}
	b.data = nil
	if phase&flush.PhaseFinal != 0 {
		b.gone = flush.ErrBufferClosed
		m.bufs = m.bufs[:b.level]
	}
	if phase&flush.PhaseClean == 0 {
		top := b.level == len(m.bufs)-1
		m.passing = m.passing || top && phase == flush.PhaseFlush
		err = errors.Join(err, m.enter(b.level-1, out))
		m.passing = m.passing && !top
	}
	if m.cleaning {
		return err
	}
	return errors.Join(err, m.enterLate())
}

// enterLate brings what was written while a filter ran to the buffer on top.
func (m *model) enterLate() error {
	late := m.late
	m.late = nil
	for _, top := range slices.Backward(m.bufs) {
		if !top.disabled {
			top.data = append(top.data, late...)
			return nil
		}
	}
	return m.sink(late)
}

func (m *model) call(b *modelBuffer, phase flush.Phase) (out []byte, err error, ok bool) {
	if !b.started {
		phase |= flush.PhaseStart
	}
	m.running = true
	late, shown := m.header.Clone(), m.fixed.Clone()
	m.showing = shown != nil && !m.sent
	if m.showing { // a filter finds what will be sent, and can change it
		clear(m.header)
		maps.Copy(m.header, shown.Clone())
	}
	defer func() {
		m.running = false
		if v := recover(); v != nil {
			m.thrown = v
		}
		if !m.showing {
			return
		}
		m.takeOver()
		m.showing = false
		maps.DeleteFunc(m.header, func(k string, vv []string) bool { return slices.Equal(vv, shown[k]) && late[k] == nil })
		for k, vv := range late {
			if slices.Equal(m.header[k], shown[k]) {
				m.header[k] = vv
			}
		}
	}()
	out, err = b.o.Filter(bytes.Clone(b.data), phase)
	return out, err, err == nil
}

// rethrow ends an operation. errs are what else went wrong in it.
func (m *model) rethrow(errs ...error) {
	if v := m.thrown; v != nil {
		m.thrown = nil
		if m.err == nil {
			m.hidden = append(m.hidden, errs...)
		}
		panic(v)
	}
}

func (m *model) StartBuffer(o *flush.BufferOptions) buffer {
	b := &modelBuffer{m: m, level: len(m.bufs), o: *o}
	if m.running {
		b.gone = flush.ErrReentrant
	} else {
		m.bufs = append(m.bufs, b)
	}
	return b
}

func (m *model) Level() int {
	if m.passing {
		return len(m.bufs) - 1
	}
	return len(m.bufs)
}

func (m *model) Top() buffer {
	if n := len(m.bufs); n > 0 {
		return m.bufs[n-1]
	}
	return nil
}

func (b *modelBuffer) Flush() error   { return b.do(flush.PhaseFlush, b.o.NoFlush) }
func (b *modelBuffer) Clean() error   { return b.do(flush.PhaseClean, b.o.NoClean) }
func (b *modelBuffer) Close() error   { return b.do(flush.PhaseFinal, b.o.NoRemove) }
func (b *modelBuffer) Discard() error { return b.do(flush.PhaseClean|flush.PhaseFinal, b.o.NoRemove) }

func (b *modelBuffer) do(phase flush.Phase, forbidden bool) error {
	switch {
	case b.gone != nil:
		return b.gone
	case b.m.running:
		return flush.ErrReentrant
	case b.level != len(b.m.bufs)-1:
		return flush.ErrNotTop
	case forbidden:
		return flush.ErrForbidden
	}
	err := b.m.run(b, phase)
	b.m.rethrow(err)
	return err
}

func (b *modelBuffer) Bytes() []byte { return bytes.Clone(b.data) }
func (b *modelBuffer) Len() int      { return len(b.data) }
func (b *modelBuffer) Status() flush.BufferStatus {
	level := b.level
	if b.gone != nil {
		level = -1
	}
	return flush.BufferStatus{
		Name: b.o.Name, Level: level, Len: len(b.data), ChunkSize: max(b.o.ChunkSize, 0),
		Started: b.started, Disabled: b.disabled, Processed: b.processed,
		NoClean: b.o.NoClean, NoFlush: b.o.NoFlush, NoRemove: b.o.NoRemove,
	}
}
