package flushtest

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Recorder is an [http.ResponseWriter] without a client. It keeps what a
// handler does as a timeline of headers, bytes and flushes. The zero Recorder
// is ready for use, and its methods may be called from any goroutine.
//
// It stands for a server: what it notes is what reaches the server. A handler
// under test is called with it, bare or wrapped.
type Recorder struct {
	mu     sync.Mutex
	header http.Header
	status int
	began  time.Time
	events []Event
}

// An Event is one entry in the timeline of a [Recorder].
type Event struct {
	At     time.Duration // since the first event
	Kind   EventKind     // what happened
	Status int           // of Headers: the status, 1xx included
	Header http.Header   // of Headers: a copy of the header map
	Data   []byte        // of Bytes: what was written
}

// An EventKind says what an [Event] is.
type EventKind uint8

const (
	Headers EventKind = iota + 1 // WriteHeader, or what stands in for it
	Bytes                        // Write
	Flush                        // Flush or FlushError
)

// String returns "headers", "bytes" or "flush".
func (k EventKind) String() string {
	switch k {
	case Headers:
		return "headers"
	case Bytes:
		return "bytes"
	case Flush:
		return "flush"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// String returns the event without its time and header map: "headers 200",
// the bytes as a quoted string after "bytes", or "flush".
func (e Event) String() string {
	switch e.Kind {
	case Headers:
		return fmt.Sprintf("headers %d", e.Status)
	case Bytes:
		return fmt.Sprintf("bytes %q", e.Data)
	}
	return e.Kind.String()
}

// Header returns the header map that the handler fills.
func (r *Recorder) Header() http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headerLocked()
}

func (r *Recorder) headerLocked() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

// WriteHeader notes the status and the headers. As with a server, only the
// first final status counts.
func (r *Recorder) WriteHeader(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writeHeaderLocked(code)
}

func (r *Recorder) writeHeaderLocked(code int) {
	if r.status != 0 {
		return
	}
	if code >= 200 || code == http.StatusSwitchingProtocols {
		r.status = code
	}
	r.addLocked(Event{Kind: Headers, Status: code, Header: r.headerLocked().Clone()})
}

// Write notes p. The first one writes the headers with status 200. With a
// status that allows no body it returns [http.ErrBodyNotAllowed].
func (r *Recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status == 0 {
		r.writeHeaderLocked(http.StatusOK)
	}
	if r.status < 200 || r.status == http.StatusNoContent || r.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if len(p) > 0 {
		r.addLocked(Event{Kind: Bytes, Data: bytes.Clone(p)})
	}
	return len(p), nil
}

// Flush is FlushError for [http.Flusher].
func (r *Recorder) Flush() { r.FlushError() }

// FlushError notes a flush, before it the headers if need be. It returns nil.
func (r *Recorder) FlushError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status == 0 {
		r.writeHeaderLocked(http.StatusOK)
	}
	r.addLocked(Event{Kind: Flush})
	return nil
}

func (r *Recorder) addLocked(e Event) {
	if r.began.IsZero() {
		r.began = time.Now()
	}
	e.At = time.Since(r.began)
	r.events = append(r.events, e)
}

// Events returns the timeline. What the events refer to must not be changed.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Flushed returns the body as the flushes divide it, one piece for each flush
// that followed at least one byte: what a client could have in hand.
func (r *Recorder) Flushed() []string {
	flushed, _ := r.divide()
	return flushed
}

// Unflushed returns what was written after the last flush.
func (r *Recorder) Unflushed() string {
	_, rest := r.divide()
	return rest
}

func (r *Recorder) divide() (flushed []string, rest string) {
	var b strings.Builder
	for _, e := range r.Events() {
		switch {
		case e.Kind == Bytes:
			b.Write(e.Data)
		case e.Kind == Flush && b.Len() > 0:
			flushed = append(flushed, b.String())
			b.Reset()
		}
	}
	return flushed, b.String()
}

// String returns the timeline, a line for each event with its time, and the
// headers below their status.
func (r *Recorder) String() string {
	var b strings.Builder
	for _, e := range r.Events() {
		fmt.Fprintf(&b, "%10v  %v\n", e.At, e)
		for _, k := range slices.Sorted(maps.Keys(e.Header)) {
			fmt.Fprintf(&b, "%12s  %s: %s\n", "", k, strings.Join(e.Header[k], ", "))
		}
	}
	return b.String()
}

// Expect fails the test unless the timeline is exactly want, each in the form
// of [Event.String]. The failure says where they part, and shows all of it.
func (r *Recorder) Expect(t testing.TB, want ...string) {
	t.Helper()
	var got []string
	for _, e := range r.Events() {
		got = append(got, e.String())
	}
	r.compare(t, "event", got, want)
}

// ExpectFlushed fails the test unless [Recorder.Flushed] is exactly want and
// nothing is left unflushed.
func (r *Recorder) ExpectFlushed(t testing.TB, want ...string) {
	t.Helper()
	flushed, rest := r.divide()
	if r.compare(t, "flushed piece", flushed, want) && rest != "" {
		t.Errorf("%q was written and not flushed; the timeline:\n%s", rest, r)
	}
}

func (r *Recorder) compare(t testing.TB, what string, got, want []string) bool {
	t.Helper()
	if slices.Equal(got, want) {
		return true
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	item := func(s []string) string {
		if i < len(s) {
			return s[i]
		}
		return "nothing more"
	}
	t.Errorf("%s %d is %s, want %s; the timeline:\n%s", what, i+1, item(got), item(want), r)
	return false
}
