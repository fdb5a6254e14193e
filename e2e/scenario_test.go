package e2e

import (
	"slices"
	"testing"
)

// A scenario is a script that an original and this library run in the same
// arrangement, and what has arrived at each park and in the end.
type scenario struct {
	name   string
	script string
	ask    ask
	want   []string
	// Where the server in front of FastCGI changes the picture for both.
	fcgi []string
	// On the command line; nil: want without the heads.
	cli []string
	// What the original does that this library does not, by the name of the
	// original. The reason stands beside it and in docs/parity.md.
	differs map[string][]string
	check   func(t *testing.T, v view)
}

// of is what the original does where this library does want.
func (s scenario) of(t *testing.T, original string, want []string) []string {
	t.Helper()
	d := s.differs[original]
	if d == nil {
		return want
	}
	if slices.Equal(d, want) {
		t.Error("the difference is none")
	}
	return d
}

// run steps through the scenario and returns the results at the last park.
func (s scenario) run(t *testing.T, p place, want []string) (results []string) {
	t.Helper()
	r := newRun(t)
	c := p.open(t, r, s.script, s.ask)
	for _, w := range want[:len(want)-1] {
		results = r.parked(t)
		if w != "nothing" {
			c.reach(func(v view) bool { return v.unzipped().String() == w })
		}
		if got := c.settle(t).unzipped().String(); got != w {
			t.Errorf("%s while the handler waits: %s has arrived, want %s", s.script, brief(got), w)
		}
		r.goOn()
	}
	v := c.reach(func(v view) bool { return v.closed }).unzipped()
	if w := want[len(want)-1]; v.String() != w {
		t.Errorf("%s in the end: %s has arrived, want %s", s.script, brief(v.String()), w)
	}
	if s.check != nil && c.http {
		s.check(t, v)
	}
	return results
}

// clientLeaves has a client that closes in the middle, and returns what the
// handler is told at last.
func clientLeaves(t *testing.T, p place) string {
	t.Helper()
	r := newRun(t)
	s := p.open(t, r, "w:one,f,p,l:2000:32768,p", ask{})
	r.parked(t)
	s.reach(func(v view) bool { return len(v.body) > 0 })
	s.close()
	r.goOn()
	results := r.parked(t)
	r.goOn()
	return results[len(results)-1]
}
