package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/fa492104/flush"
)

var errSlow = errors.New("no room for the next event")

// A hub hands the live events to the streams of one instance. It waits for
// none of them: one that has no room for the next event is dropped. Its client
// comes back with the id of the last event it has read, and gets the rest from
// the store.
type hub struct {
	live flush.Group // all have had every event up to last

	mu      sync.Mutex                  // held while an event goes out, and while a stream joins
	last    uint64                      // of the events handed out
	ahead   map[uint64][]*flush.Flusher // that have had it from the store
	dropped int
}

const (
	sign = ":\n\n"
	gap  = "event: gap\ndata: events are missing here\n\n"
)

// anyNewline is what ends a line in an event stream.
var anyNewline = strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ")

// format returns event seq as text for a stream that has had the events up to
// cursor. Numbers follow each other: one that does not shows that the store has
// forgotten something.
func format(cursor, seq uint64, data []byte) string {
	before := ""
	if seq != cursor+1 {
		before = gap
	}
	return fmt.Sprintf("%sid: %d\ndata: %s\n\n", before, seq, anyNewline.Replace(string(data)))
}

// broadcast hands out event seq, and returns how many streams it has dropped.
// Streams that had it from the store before it came by are up to date with it.
func (h *hub) broadcast(seq uint64, data []byte) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	missed := h.live.Broadcast([]byte(format(h.last, seq, data)))
	for _, f := range missed {
		go f.Abort(errSlow) // what it holds is in the store
	}
	h.dropped += len(missed)
	h.last = seq
	for cursor, streams := range h.ahead {
		if cursor <= seq {
			for _, f := range streams {
				h.live.Add(f) // one that has ended is nobody's
			}
			delete(h.ahead, cursor)
		}
	}
	return len(missed)
}

// heartbeat shows proxies that the connections live, and us which do not. A
// stream with no room for it has enough to read.
func (h *hub) heartbeat() { h.live.Broadcast([]byte(sign)) }

// join makes f a live stream if it has all events up to the last, and reports
// whether it need not ask for more. One that is ahead, as the store may be, joins
// when its last event comes by.
func (h *hub) join(f *flush.Flusher, cursor uint64) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case cursor < h.last:
		return false, nil
	case cursor > h.last:
		h.ahead[cursor] = append(h.ahead[cursor], f)
		return true, nil
	}
	return true, h.live.Add(f)
}

// joinNow makes f a live stream that begins with the next event. It says so: a
// client that is cut off before that event has an id to come back with.
func (h *hub) joinNow(f *flush.Flusher) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := f.TryWrite(fmt.Appendf(nil, "id: %d\n\n", h.last)); err != nil {
		return err
	}
	if err := f.FlushAsync(); err != nil {
		return err
	}
	return h.live.Add(f)
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
	return count{h.live.Len(), h.dropped, h.last}
}
