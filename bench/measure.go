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
	size  int    // units of work in a group of ours, if allocs
	open  func() (bare, ours lane, shut func())

	// less says what the ratio is: costs, and less is better, or rates, which
	// are reported for costs in nanoseconds as 1e9/cost.
	rate   bool
	limit  float64 // promised bound of the ratio; 0: none
	ci     float64 // the bound at twice the margin, beyond which -short fails
	delta  bool    // the figure is ours minus bare, not a ratio
	allocs bool    // and no allocation per unit was promised
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
	bare, ours, shut := c.open()
	defer shut()
	bare(c.n[0]) // warm up
	ours(c.n[1])
	var bares, ourses, ratios, allocs []float64
	runtime.GC()
	for i := range pairs {
		var b, o float64
		runOurs := func() {
			var before, after runtime.MemStats
			if c.allocs {
				runtime.ReadMemStats(&before)
			}
			o = ours(c.n[1])
			if c.allocs {
				runtime.ReadMemStats(&after)
				allocs = append(allocs, float64(after.Mallocs-before.Mallocs)/float64(c.n[1]*c.size))
			}
		}
		if i%2 == 0 {
			b = bare(c.n[0])
			runOurs()
		} else {
			runOurs()
			b = bare(c.n[0])
		}
		ratio := o / b
		switch {
		case c.rate:
			b, o = 1e9/b, 1e9/o
			ratio = o / b
		case c.delta:
			ratio = o - b
		}
		bares, ourses, ratios = append(bares, b), append(ourses, o), append(ratios, ratio)
	}
	r := result{
		comparison: c,
		bare:       quantile(bares, 0.5), ours: quantile(ourses, 0.5),
		ratio: quantile(ratios, 0.5), low: quantile(ratios, 0.25), high: quantile(ratios, 0.75),
		pairs: pairs,
	}
	if c.allocs {
		r.allocs = quantile(allocs, 0.5)
	}
	return r
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
