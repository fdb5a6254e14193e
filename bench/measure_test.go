package main

import (
	"math"
	"testing"
)

// CI fails only beyond twice a margin, or later, where a short run on a shared
// machine could not tell the two apart, or the figure is known to miss.
func TestTwiceTheMargin(t *testing.T) {
	for _, c := range comparisons {
		if c.limit == 0 {
			continue
		}
		want := 1 + 2*(c.limit-1)
		switch {
		case c.rate && c.limit == 1:
			want = 1
		case c.rate:
			want = c.limit / 2
		case c.delta || c.alone:
			want = c.limit * 2
		}
		if c.better(c.ci, want) && math.Abs(c.ci-want) > 1e-9 {
			t.Errorf("%s: CI allows %v, want at least %v", c.name, c.ci, want)
		}
		if c.short == 0 {
			t.Errorf("%s: promised, but not checked", c.name)
		}
	}
}

func TestMisses(t *testing.T) {
	for _, test := range []struct {
		r    result
		want int
	}{
		{result{comparison: comparison{limit: 1.05}, ratio: 1.04}, 0},
		{result{comparison: comparison{limit: 1.05}, ratio: 1.06}, 1},
		{result{comparison: comparison{limit: 50, rate: true}, ratio: 51}, 0},
		{result{comparison: comparison{limit: 50, rate: true}, ratio: 49}, 1},
		{result{comparison: comparison{limit: 1024, delta: true}, ratio: 1025}, 1},
		{result{comparison: comparison{allocs: true}, ratio: 9, allocs: 0.001}, 0},
		{result{comparison: comparison{limit: 1.05, allocs: true}, ratio: 1.06, allocs: 1}, 2},
		{result{ratio: 9}, 0},
	} {
		if got := test.r.misses(test.r.limit); got != test.want {
			t.Errorf("%+v: %d misses, want %d", test.r, got, test.want)
		}
	}
}

// The lanes take turns, and the figure is the median of the ratios.
func TestMeasure(t *testing.T) {
	for _, test := range []struct {
		c    comparison
		want result
	}{
		{comparison{}, result{bare: 3, ours: 9, ratio: 3}},
		{comparison{rate: true}, result{bare: 1e9 / 3, ours: 1e9 / 9, ratio: 1. / 3}},
		{comparison{delta: true}, result{bare: 3, ours: 9, ratio: 6}},
	} {
		order := ""
		bares, ourses := []float64{0, 2, 3, 40}, []float64{0, 6, 9, 120} // the first warm up
		next := func(costs *[]float64, who string) lane {
			return func(int) float64 {
				order += who
				cost := (*costs)[0]
				*costs = (*costs)[1:]
				return cost
			}
		}
		test.c.open = func() (lane, lane, func()) {
			return next(&bares, "b"), next(&ourses, "o"), func() { order += "." }
		}
		got := measure(test.c, 3)
		if got.bare != test.want.bare || got.ours != test.want.ours || got.ratio != test.want.ratio {
			t.Errorf("%+v: %v → %v, %v; want %v → %v, %v", test.c, got.bare, got.ours, got.ratio, test.want.bare, test.want.ours, test.want.ratio)
		}
		if want := "bo" + "bo" + "ob" + "bo" + "."; order != want {
			t.Errorf("the lanes ran as %s, want %s", order, want)
		}
	}
}
