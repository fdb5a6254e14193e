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
	steps   []step
	after   []time.Duration // of each line: how long after it was written it came
	connect time.Duration   // how long the connection took
}

// mostLines bounds what is kept of them: no Endpoint writes more.
const mostLines = 100_000

// A step is what came in one go.
type step struct {
	written, arrived time.Duration // its first line, the oldest
	until            time.Duration // when its last line was written
	lines            int
}

// late reports whether the step brings what should have come before, from an end
// that is so far away: because of the time that was lost, or as something came
// after it in the meantime.
func (s *step) late(away time.Duration) bool {
	return s.arrived-s.written-away >= tooLate || s.until-s.written >= 2*together
}

// note takes a line. One that says it was written after it came, or before the
// one above it, tells nothing: it has been in a cache, or says anything.
func (l *lateness) note(written, arrived time.Duration) {
	n := len(l.steps)
	if len(l.after) == mostLines || written > arrived+together || n > 0 && written < l.steps[n-1].until {
		return
	}
	if n == 0 || arrived-l.steps[n-1].arrived >= together {
		l.steps = append(l.steps, step{written: written, arrived: arrived})
		n++
	}
	s := &l.steps[n-1]
	s.until = written
	s.lines++
	l.after = append(l.after, arrived-written)
}

// away returns for how long everything is on its way. That is how long the
// connection took, unless a line was faster: a busy machine takes its time to
// connect as well.
func (l *lateness) away() time.Duration {
	if len(l.after) == 0 {
		return l.connect
	}
	return max(0, min(l.connect, slices.Min(l.after)))
}

// count returns how many of the lines were late, and by how much at most.
func (l *lateness) count() (lines, late int, most time.Duration) {
	away := l.away()
	for _, d := range l.after {
		d -= away
		most = max(most, d)
		if d >= tooLate {
			late++
		}
	}
	return len(l.after), late, most
}

// lateSteps returns how many of the steps were late.
func (l *lateness) lateSteps() int {
	n, away := 0, l.away()
	for i := range l.steps {
		if l.steps[i].late(away) {
			n++
		}
	}
	return n
}

// usual returns by how much steps are late: the one in the middle.
func (l *lateness) usual() time.Duration {
	var all []time.Duration
	for i := range l.steps {
		all = append(all, l.steps[i].arrived-l.steps[i].written)
	}
	slices.Sort(all)
	return all[len(all)/2] - l.away()
}

// last returns by how much the last line was late.
func (l *lateness) last() time.Duration { return l.after[len(l.after)-1] - l.away() }

// atEnd reports whether the last step, which came with the end of the response,
// brought most of the lines.
func (l *lateness) atEnd(end time.Duration) bool {
	s, away := l.steps[len(l.steps)-1], l.away()
	return s.late(away) && l.last() < tooLate && end-s.arrived <= 2*together && s.lines >= 3 && 3*s.lines >= 2*len(l.after)
}
