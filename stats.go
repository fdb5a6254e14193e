package flush

import "time"

// Stats are the counts of one response.
//
// Behind is 0 for a client that keeps up, however much the kernel still holds
// for it: that is [Flusher.Backlog]. A byte in the server's own buffer that waits for its
// flush counts as held. Of a byte that came while others were held it
// may say up to as much more as the server's last call took. Of a byte in a stream of
// flushes that wait, each soon after the one before, it may say less, by a thirty-second
// of SendTimeout at most, unless Stats has been asked since it came: such flushes do not
// read the clock. Of what a Write hands down from its caller's own memory, or ReadFrom
// from a file, it is how long the piece under way has waited: nothing of that is held
// here.
type Stats struct {
	Status     int           // as sent; 0: nothing was
	Bytes      int64         // body bytes handed to the server
	Lost       int64         // accepted by Write, never handed over
	Flushes    int64         // flushes asked for, by calls, implicitly or by time
	Pushes     int64         // flushes the server really got; at most Flushes: they coalesce
	MaxPending int           // high-water mark of floor 2, in bytes
	Waited     time.Duration // time writers spent waiting for room
	Began      time.Time     // when the response began
	Behind     time.Duration // how long the oldest byte that is still held or under way has waited; 0: there is none
	Detached   bool          // it lives without its handler and without the server: see Detach
}

// Stats returns the counts so far.
func (f *Flusher) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.statsLocked()
}

func (f *Flusher) statsLocked() Stats {
	f.absorbLocked()
	f.measureHighestLocked()
	s := Stats{
		Bytes:      f.handedLocked(),
		Lost:       f.lostLocked(),
		Flushes:    f.flow.flushes,
		Pushes:     f.flow.pushes,
		MaxPending: f.flow.highest,
		Began:      epoch.Add(f.began),
		Behind:     f.behindLocked(),
		Detached:   f.detached >= taken,
	}
	if f.headersSent {
		s.Status = int(f.status)
	}
	if f.seldom != nil {
		s.Waited = f.seldom.waited
	}
	return s
}

// behindLocked is Stats.Behind.
func (f *Flusher) behindLocked() time.Duration {
	d := max(f.q.behind(), f.ahead.behind())
	if at := f.passing; at != 0 {
		if f.timeout.since != 0 { // the piece may have got on
			at = max(at, f.timeout.since)
		}
		d = max(d, now()-at, 1)
	}
	return d
}

// Err returns the failure that sticks, or nil.
func (f *Flusher) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail
}

// Buffered returns the number of bytes on floor 2. In a stream whose flushes come close
// together a small Write goes to the server's own buffer at once, and is not counted.
func (f *Flusher) Buffered() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.q.len
}
