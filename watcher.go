package flush

import (
	"sync"
	"time"
)

// A watcher asks the kernel about the responses whose write blocks: bytes that
// were acknowledged are progress. There is one for all of them, with one
// goroutine that lives while there is somebody to watch.
//
// A response is locked before the watcher, never after.
type watcher struct {
	mu      sync.Mutex
	blocked map[*Flusher]struct{}
	running bool
	every   time.Duration // the finest that anybody watched wants
}

var theWatcher watcher

// A progress lets bytes that the client's kernel has acknowledged while a call
// of the server blocks count as progress. Guarded by Flusher.mu.
type progress struct {
	conn    connection
	watcher *watcher
	watched bool
	looked  bool  // it has been watched: the client has looked stalled in this response
	acked   int64 // as last looked at
	plain   bool  // see knownConn
	room    sureRoom
}

// pollEvery is how often a response with send timeout d is looked at, and how
// long a write blocks before anybody looks.
func pollEvery(d time.Duration) time.Duration {
	return min(max(d/16, firstPoll), lastPoll)
}

// addLocked has f watched until its call of the server has returned. f.mu is
// held.
func (w *watcher) addLocked(f *Flusher) {
	acked, err := f.timeout.progress.conn.acked()
	if err != nil {
		return // the write will say so itself
	}
	f.timeout.progress.acked = acked
	f.timeout.progress.watched, f.timeout.progress.looked = true, true
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blocked == nil {
		w.blocked = make(map[*Flusher]struct{})
	}
	w.blocked[f] = struct{}{}
	every := pollEvery(f.timeout.d)
	if !w.running {
		w.running, w.every = true, every
		go w.run()
	}
	w.every = min(w.every, every)
}

func (w *watcher) run() {
	for {
		w.mu.Lock()
		if len(w.blocked) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		all := make([]*Flusher, 0, len(w.blocked))
		for f := range w.blocked {
			all = append(all, f)
		}
		every := w.every
		w.mu.Unlock()
		for _, f := range all {
			w.look(f)
		}
		time.Sleep(every)
	}
}

func (w *watcher) look(f *Flusher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &f.timeout
	if t.calling && !f.gone {
		if n, err := t.progress.conn.acked(); err == nil {
			if n != t.progress.acked {
				t.progress.acked = n
				f.progressedLocked()
			}
			return
		}
	}
	t.progress.watched = false
	if t.running {
		t.timer.Reset(pollEvery(t.d)) // to see the next block in time
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.blocked, f)
}
