package main

import (
	"fmt"
	"regexp"
)

// checkPromises measures what was promised, in fewer pairs, and returns how
// many figures are beyond twice their margin.
//
// Noise makes a figure worse far more often than better. So a figure that is
// beyond has two more tries, each of more pairs, and the best of them counts. A
// difference has no noise.
func checkPromises(all []comparison, match *regexp.Regexp, repeat float64) (missed int) {
	fewer()
	for _, c := range all {
		if !c.promised() || !match.MatchString(c.name) {
			continue
		}
		if !c.possible() {
			continue
		}
		if c.few > 0 {
			c.n = [2]int{c.few, c.few}
		}
		pairs := max(int(float64(c.short)*repeat), 1)
		r := measure(c, pairs)
		for range 2 {
			if c.delta || !r.beyond(c.ci) && !r.allocating() {
				break
			}
			pairs *= 3
			again := measure(c, pairs)
			least := min(r.allocs, again.allocs)
			if c.better(again.ratio, r.ratio) {
				r = again
			}
			r.allocs = least
		}
		r.tidy()
		fmt.Println(r.line())
		missed += r.misses(c.ci)
	}
	return missed
}

// possible says whether the comparison can be measured here, and if not prints
// why.
func (c *comparison) possible() bool {
	if c.able == nil {
		return true
	}
	err := c.able()
	if err != nil {
		fmt.Printf("%-28s not measured here: %v\n", c.name, err)
	}
	return err == nil
}

// promised says whether there is anything that CI has to check.
func (c *comparison) promised() bool { return c.limit != 0 || c.allocs }

// beyond says whether the figure is worse than limit.
func (r *result) beyond(limit float64) bool { return limit != 0 && r.better(limit, r.ratio) }

// allocating says whether a unit allocates although it must not. The start of a
// carrier may, once for many units.
func (r *result) allocating() bool { return r.comparison.allocs && r.allocs >= 0.1 }

// misses says which figures are worse than limit, and by how much, and returns
// how many.
func (r *result) misses(limit float64) (n int) {
	if r.beyond(limit) {
		n++
		allowed := ""
		if limit != r.limit {
			allowed = fmt.Sprintf(", and %s is allowed here", r.bound(limit))
		}
		figure := fmt.Sprintf("%.3f×", r.ratio)
		if r.delta || r.alone {
			figure = r.figure(r.ratio)
		}
		fmt.Printf("  MISSED: %s is %s; promised is %s%s\n", r.name, figure, r.bound(r.limit), allowed)
	}
	if r.allocating() {
		n++
		fmt.Printf("  MISSED: %s allocates %.3f times; promised is 0\n", r.name, r.allocs)
	}
	return n
}

// bound writes a limit.
func (c *comparison) bound(limit float64) string {
	switch {
	case c.rate && limit == 1:
		return "more than 1×"
	case c.rate:
		return fmt.Sprintf("at least %.3g×", limit)
	case c.delta && limit < 1:
		return "none more"
	case c.alone:
		return "at most " + c.value(limit)
	case c.delta:
		return fmt.Sprintf("at most %.4g %s more", limit, c.unit)
	}
	return fmt.Sprintf("at most %.2f×", limit)
}
