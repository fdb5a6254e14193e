package flushtest

import (
	"slices"
	"time"
)

// tooLate is how late a line is that was held.
const tooLate = 150 * time.Millisecond

// A lateness is what lines tell that say when they were written. One line may
// be late because a packet was lost: what the way does, it does most of the
// time. So it is judged by the steps in which lines come, and how many of them
// bring something late.
type lateness struct {
	lines, late int
	most        time.Duration // the most that a line was late
	last        time.Duration // how late the last one was
	steps       []step
}

// A step is what came in one go.
type step struct {
	written, arrived time.Duration // its first line, the oldest
	until            time.Duration // when its last line was written
	lines            int
}

// by returns how late the step's oldest line was.
func (s *step) by() time.Duration { return s.arrived - s.written }

// late reports whether the step brings what should have come before: because
// of the time that was lost, or as something came after it in the meantime.
func (s *step) late() bool {
	return s.by() >= tooLate || s.until-s.written >= 2*together
}

// note takes a line. One that says it was written after it came, or before the
// one above it, tells nothing: it has been in a cache, or says anything.
func (l *lateness) note(written, arrived time.Duration) {
	n := len(l.steps)
	if written > arrived+together || n > 0 && written < l.steps[n-1].until {
		return
	}
	if n == 0 || arrived-l.steps[n-1].arrived >= together {
		l.steps = append(l.steps, step{written: written, arrived: arrived})
		n++
	}
	s := &l.steps[n-1]
	s.until = written
	s.lines++
	l.lines++
	l.last = arrived - written
	l.most = max(l.most, l.last)
	if l.last >= tooLate {
		l.late++
	}
}

// lateSteps returns how many of the steps were late.
func (l *lateness) lateSteps() int {
	n := 0
	for i := range l.steps {
		if l.steps[i].late() {
			n++
		}
	}
	return n
}

// usual returns by how much steps are late: the one in the middle.
func (l *lateness) usual() time.Duration {
	var all []time.Duration
	for i := range l.steps {
		all = append(all, l.steps[i].by())
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// atEnd reports whether the last step, which came with the end of the response,
// brought most of the lines.
func (l *lateness) atEnd(end time.Duration) bool {
	s := l.steps[len(l.steps)-1]
	return s.late() && l.last < tooLate && end-s.arrived <= 2*together && s.lines >= 3 && 3*s.lines >= 2*l.lines
}
