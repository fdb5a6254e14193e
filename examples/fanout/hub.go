package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/fa492104/flush"
)

var errSlow = errors.New("no room for the next event")

// A hub hands the live events to the streams of one instance. It waits for
// none of them: a Flusher is a bounded queue, and a stream whose queue has no
// room for the next event is dropped. Its client comes back with the id of
// the last event it has read.
type hub struct {
	mu      sync.Mutex
	last    uint64 // of the events handed out
	streams map[*stream]struct{}
	dropped int
}

// A stream is the response to one client. Once it has joined the hub, the
// hub's mutex guards cursor, and nobody else writes.
type stream struct {
	f      *flush.Flusher
	cursor uint64      // the last event the client has, or has queued
	drop   func(error) // ends it, without waiting
}

const (
	sign = ":\n\n"
	gap  = "event: gap\ndata: events are missing here\n\n"
)

// anyNewline is what ends a line in an event stream.
var anyNewline = strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ")

// format returns event seq as text. Numbers follow each other: one that does
// not shows that the store has forgotten something.
func (s *stream) format(seq uint64, data []byte) string {
	before := ""
	if seq != s.cursor+1 {
		before = gap
	}
	return fmt.Sprintf("%sid: %d\ndata: %s\n\n", before, seq, anyNewline.Replace(string(data)))
}

func (h *hub) broadcast(seq uint64, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = seq
	for s := range h.streams {
		if seq > s.cursor { // else it had the event from the store
			h.sendLocked(s, s.format(seq, data))
			s.cursor = seq
		}
	}
}

// heartbeat shows proxies that the connections live, and us which do not.
func (h *hub) heartbeat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		if s.f.Available() >= len(sign) {
			h.sendLocked(s, sign)
		}
	}
}

// sendLocked queues text for a stream, or drops the stream. As nobody else
// writes, the Write does not wait.
func (h *hub) sendLocked(s *stream, text string) {
	if s.f.Available() >= len(text) {
		s.f.WriteString(text)
		if s.f.FlushAsync() == nil {
			return
		}
	} else if s.f.Err() == nil {
		h.dropped++
		s.drop(errSlow)
	}
	delete(h.streams, s) // its handler, if it has one, knows by its context
}

// join makes s a live stream if it has all events before the next, and
// reports whether it did.
func (h *hub) join(s *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.cursor < h.last {
		return false
	}
	h.streams[s] = struct{}{}
	return true
}

// joinNow makes s a live stream that begins with the next event. It says so:
// a client that is cut off before that event has an id to come back with.
func (h *hub) joinNow(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.cursor = h.last
	h.streams[s] = struct{}{}
	h.sendLocked(s, fmt.Sprintf("id: %d\n\n", s.cursor))
}

func (h *hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}

// end ends all streams that have no handler to do it: what they hold still goes
// out.
func (h *hub) end() {
	h.mu.Lock()
	streams := slices.Collect(maps.Keys(h.streams))
	h.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range streams {
		if s.f.Stats().Detached {
			wg.Go(func() { s.f.Close() })
		}
	}
}

// A count is what GET /stats answers.
type count struct {
	Streams int    `json:"streams"`
	Dropped int    `json:"dropped"`
	Last    uint64 `json:"last"`
}

func (h *hub) count() count {
	h.mu.Lock()
	defer h.mu.Unlock()
	return count{len(h.streams), h.dropped, h.last}
}
