package flush

import (
	"net/http"
	"strings"
	"sync"
)

// A headerNote is what fixed headers say, where they are few, have one value each,
// and say nothing that anything but the server looks at. It is cheaper than a
// copy of the map, which has to be made once somebody wants to change them.
type headerNote struct {
	n            int
	keys, values [8]string
}

var headerNotes = sync.Pool{New: func() any { return new(headerNote) }}

// noteHeaderLocked has noted say what the handler's map says, and reports whether it
// can. That is for a map that is shared, without user-level buffers: filters may
// change what is fixed.
func (f *Flusher) noteHeaderLocked() bool {
	if !f.shared || f.below != nil || f.noted != nil || f.stack != &noStack || f.detached != attached {
		return false
	}
	n := headerNotes.Get().(*headerNote)
	if len(f.header) > len(n.keys) || !n.take(f.header) {
		n.clear()
		headerNotes.Put(n)
		return false
	}
	f.noted = n
	return true
}

// take notes h, and reports whether it can.
func (n *headerNote) take(h http.Header) bool {
	for k, vv := range h {
		if len(vv) != 1 || k == "Connection" || k == "Transfer-Encoding" || strings.HasPrefix(k, "Trailer") {
			return false
		}
		n.keys[n.n], n.values[n.n] = k, vv[0]
		n.n++
	}
	return true
}

// says reports whether h still says what was noted.
func (n *headerNote) says(h http.Header) bool {
	if len(h) != n.n {
		return false
	}
	for i, k := range n.keys[:n.n] {
		if vv := h[k]; len(vv) != 1 || vv[0] != n.values[i] {
			return false
		}
	}
	return true
}

// fill makes an empty h say what was noted.
func (n *headerNote) fill(h http.Header) {
	values := make([]string, n.n)
	for i, k := range n.keys[:n.n] {
		values[i] = n.values[i]
		h[k] = values[i : i+1 : i+1]
	}
}

func (n *headerNote) clear() {
	clear(n.keys[:n.n])
	clear(n.values[:n.n])
	n.n = 0
}

func (f *Flusher) dropNoteLocked() {
	if f.noted == nil {
		return
	}
	f.noted.clear()
	headerNotes.Put(f.noted)
	f.noted = nil
}
