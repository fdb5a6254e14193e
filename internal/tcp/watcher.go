package tcp

import (
	"sync"
	"time"
)

// A Watcher looks at those whose write blocks, again and again: bytes that were
// acknowledged meanwhile are progress. There is one for all of them, with one
// goroutine that lives while there is somebody to watch.
type Watcher struct {
	mu      sync.Mutex
	blocked map[Blocked]struct{}
	running bool
	every   time.Duration // the finest that anybody watched wants
}

var theWatcher Watcher

// A Blocked is one whose write blocks. It is locked before the watcher, never
// after.
type Blocked interface {
	// Look looks at it, and calls Remove once that is enough.
	Look()
}

const (
	FirstPoll = time.Millisecond
	LastPoll  = 50 * time.Millisecond
)

// Add has b looked at until Remove, at least as often as that.
func (w *Watcher) Add(b Blocked, every time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blocked == nil {
		w.blocked = make(map[Blocked]struct{})
	}
	w.blocked[b] = struct{}{}
	if !w.running {
		w.running, w.every = true, every
		go w.run()
	}
	w.every = min(w.every, every)
}

// Remove ends that.
func (w *Watcher) Remove(b Blocked) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.blocked, b)
}

func (w *Watcher) run() {
	for {
		w.mu.Lock()
		if len(w.blocked) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		all := make([]Blocked, 0, len(w.blocked))
		for b := range w.blocked {
			all = append(all, b)
		}
		every := w.every
		w.mu.Unlock()
		for _, b := range all {
			b.Look()
		}
		time.Sleep(every)
	}
}
