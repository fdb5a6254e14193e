package flush

import "sync"

// workers do what must not be done where it is asked for, on at most so many
// goroutines, which exist while there is work.
type workers struct {
	most int

	mu      sync.Mutex
	todo    []func()
	running int
}

// do has one of them call f.
func (w *workers) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.todo = append(w.todo, f)
	if w.running < w.most {
		w.running++
		go w.work()
	}
}

func (w *workers) work() {
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
func (w *workers) call(f func()) {
	returned := false
	defer func() {
		if !returned {
			go w.work()
		}
	}()
	f()
	returned = true
}
