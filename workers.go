package flush

import (
	"sync"
	"time"
)

// workers do what must not be done where it is asked for, on at most so many
// goroutines, which exist while there is work. Where what they do may wait for
// others, they become more once none of it has come to an end for a while: so it
// holds up nobody for long.
type workers struct {
	most  int
	stuck time.Duration // that while; 0: they do not wait for others

	mu      sync.Mutex
	todo    []func()
	running int
	ended   int // calls that have come to an end
	watched bool
}

// do has one of them call f.
func (w *workers) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.todo = append(w.todo, f)
	switch {
	case w.running < w.most:
		w.moreLocked(1)
	case w.stuck > 0 && !w.watched:
		w.watchLocked()
	}
}

func (w *workers) moreLocked(n int) {
	w.running += n
	for range n {
		go w.work()
	}
}

func (w *workers) watchLocked() {
	w.watched = true
	ended := w.ended
	time.AfterFunc(w.stuck, func() { w.look(ended) })
}

// look doubles them if they are stuck.
func (w *workers) look(ended int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched = false
	if len(w.todo) == 0 {
		return
	}
	if w.ended == ended {
		w.moreLocked(min(len(w.todo), w.running))
	}
	w.watchLocked()
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
		w.ended++
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
