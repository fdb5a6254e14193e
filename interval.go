package flush

import "time"

// A flushInterval asks for a flush of what has waited d for one. Its one timer
// runs only while something waits. Guarded by Flusher.mu.
type flushInterval struct {
	d       time.Duration
	since   time.Duration // when the oldest byte not asked for came
	upTo    int64         // the bytes before this position have been asked for, or are what since counts for
	timer   *time.Timer
	running bool
}

// watchIntervalLocked notes that bytes were accepted.
func (f *Flusher) watchIntervalLocked() {
	i := f.interval
	if f.accepted <= f.asked.pos || i.upTo > f.asked.pos {
		return // a flush is on its way, or an older byte counts already
	}
	i.since, i.upTo = now(), f.accepted
	if i.running {
		return
	}
	i.running = true
	if i.timer == nil {
		i.timer = time.AfterFunc(i.d, f.intervalFired)
	} else {
		i.timer.Reset(i.d)
	}
}

func (f *Flusher) intervalFired() {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.interval
	i.running = false
	if f.refuse != nil || f.accepted <= f.asked.pos {
		return
	}
	if left := i.since + i.d - now(); left > 0 {
		i.running = true
		i.timer.Reset(left)
		return
	}
	if _, err := f.askFlushLocked(); err != nil {
		i.upTo = 0 // HTTP/1.0 holds it: count anew with the next write
		return
	}
	f.kickLocked()
}
