package main

import (
	"fmt"
	"runtime"
	"slices"
)

// A lane does n groups of work and returns what one unit of it cost, in the
// unit of its comparison.
type lane func(n int) float64

// A comparison is one line of the table.
type comparison struct {
	name string
	what string // for the table
	unit string // of the medians

	pairs int    // how many
	short int    // how many of them to check what was promised
	n     [2]int // groups of work in one slice of the bare lane and of ours
	few   int    // the same for both to check what was promised; 0: n
	size  int    // units of work in a group of ours, if allocs
	opens int    // how often the lanes are opened for all pairs; 0: once
	open  func() (bare, ours lane, shut func())

	// less says what the ratio is: costs, and less is better, or rates, which
	// are reported for costs in nanoseconds as 1e9/cost.
	rate   bool
	limit  float64 // promised bound of the ratio; 0: none
	ci     float64 // the bound at twice the margin, beyond which -short fails
	delta  bool    // the figure is ours minus bare, not a ratio
	alone  bool    // the figure is ours
	why    string  // what is known of why a promise may be missed
	allocs bool    // and no allocation per unit was promised

	able func() error // why it cannot be measured here; nil: it can be everywhere
}

// better says whether ratio a is better than ratio b.
func (c *comparison) better(a, b float64) bool {
	if c.rate {
		return a > b
	}
	return a < b
}

// A result is what was measured of a comparison.
type result struct {
	comparison
	bare, ours float64 // medians
	ratio      float64 // median of the pairs' ratios, or of their differences
	low, high  float64 // quartiles of those
	allocs     float64 // median of allocations per unit, ours
	pairs      int
}

func measure(c comparison, pairs int) result {
	return measureTogether([]comparison{c}, pairs)[0]
}

// measureTogether measures a pair of each in turn, so that what else the
// machine does hits all of them.
func measureTogether(all []comparison, pairs int) []result {
	var running []*series
	for _, c := range all {
		s := start(c)
		defer func() { s.shut() }()
		running = append(running, s)
	}
	runtime.GC()
	for i := range pairs {
		for _, s := range running {
			if each := pairs / max(s.opens, 1); i > 0 && each > 0 && i%each == 0 {
				s.reopen()
			}
			s.pair(i%2 == 0)
		}
	}
	var results []result
	for _, s := range running {
		results = append(results, s.result())
	}
	return results
}

// A series is a comparison that is being measured.
type series struct {
	comparison
	bare, ours                   lane
	shut                         func()
	bares, ourses, ratios, count []float64
}

// start opens the lanes of c and warms them up.
func start(c comparison) *series {
	s := &series{comparison: c, shut: func() {}}
	s.reopen()
	return s
}

// reopen opens the lanes anew. What TCP has come to think of a connection, the size of
// its window among it, stays as long as the connection, and makes more of a difference
// than what is measured.
func (s *series) reopen() {
	s.shut()
	s.bare, s.ours, s.shut = s.open()
	s.bare(s.n[0])
	s.ours(s.n[1])
}

func (s *series) pair(bareFirst bool) {
	var b, o float64
	if bareFirst {
		b = s.bare(s.n[0])
	}
	var before, after runtime.MemStats
	if s.allocs {
		runtime.ReadMemStats(&before)
	}
	o = s.ours(s.n[1])
	if s.allocs {
		runtime.ReadMemStats(&after)
		s.count = append(s.count, float64(after.Mallocs-before.Mallocs)/float64(s.n[1]*s.size))
	}
	if !bareFirst {
		b = s.bare(s.n[0])
	}
	ratio := o / b
	switch {
	case s.rate:
		b, o = 1e9/b, 1e9/o
		ratio = o / b
	case s.delta:
		ratio = o - b
	case s.alone:
		ratio = o
	}
	s.bares, s.ourses, s.ratios = append(s.bares, b), append(s.ourses, o), append(s.ratios, ratio)
}

func (s *series) result() result {
	return result{
		comparison: s.comparison,
		bare:       quantile(s.bares, 0.5), ours: quantile(s.ourses, 0.5),
		ratio: quantile(s.ratios, 0.5), low: quantile(s.ratios, 0.25), high: quantile(s.ratios, 0.75),
		allocs: quantile(s.count, 0.5),
		pairs:  len(s.ratios),
	}
}

func (r *result) line() string {
	s := fmt.Sprintf("%-28s %10.5g → %10.5g %-9s %8.3f  [%.3f … %.3f] of %d", r.name, r.bare, r.ours, r.unit, r.ratio, r.low, r.high, r.pairs)
	if r.comparison.allocs {
		s += fmt.Sprintf("  %.4f allocs", r.allocs)
	}
	return s
}

// quantile returns the q-quantile of values, which it sorts.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	if len(values) == 0 {
		return 0
	}
	at := q * float64(len(values)-1)
	i := int(at)
	if i+1 == len(values) {
		return values[i]
	}
	return values[i] + (at-float64(i))*(values[i+1]-values[i])
}
