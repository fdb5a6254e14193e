// Package workers does what must not be done where it is asked for.
package workers

import "sync"

// A Pool does it on at most so many goroutines, which exist while there is work.
type Pool struct {
	Most int

	mu      sync.Mutex
	todo    []func()
	running int
}

// Do has one of them call f.
func (w *Pool) Do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.todo = append(w.todo, f)
	if w.running < w.Most {
		w.running++
		go w.work()
	}
}

func (w *Pool) work() {
	w.mu.Lock()
	for len(w.todo) > 0 {
		f := w.todo[0]
		w.todo[0] = nil
		w.todo = w.todo[1:]
		w.mu.Unlock()
		w.call(f)
		w.mu.Lock()
	}
	w.todo = nil
	w.running--
	w.mu.Unlock()
}

// call calls f. If f ends the goroutine, another takes its place.
func (w *Pool) call(f func()) {
	returned := false
	defer func() {
		if !returned {
			go w.work()
		}
	}()
	f()
	returned = true
}
