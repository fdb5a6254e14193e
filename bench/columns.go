package main

import (
	"fmt"
	"regexp"
)

// columns are those of the second table. Each has every contender measured
// beside net/http.
var columns = []column{
	{comparison{name: "burst", unit: "events/s", rate: true, pairs: 40, n: [2]int{1, 1}}, "burst of 20 000 events", burst, false},
	{comparison{name: "paced, p50", unit: "ns", pairs: 20, n: [2]int{50, 50}}, "an event a millisecond, p50", pacedP50, false},
	{comparison{name: "paced, p99", unit: "ns", pairs: 20, n: [2]int{100, 100}}, "the same, p99", pacedP99, false},
	{comparison{name: "slow client", unit: "ns", pairs: 10, n: [2]int{1, 1}}, "slow client, handler held", slow, false},
	{comparison{name: "idle heap", unit: "B", delta: true, pairs: 3, n: [2]int{1000, 1000}}, "idle stream, heap", idleHeap, true},
	{comparison{name: "idle goroutines", delta: true, pairs: 3, n: [2]int{1000, 1000}}, "idle stream, goroutines", idleGoroutines, true},
	{comparison{name: "gzip", unit: "events/s", rate: true, pairs: 40, n: [2]int{1, 1}}, "burst of 5000 events in gzip", zipped, false},
}

type column struct {
	comparison
	head string
	open func(contender) (lane, func())

	inMemory bool // over connections in memory
}

// measureColumns measures the second table, column by column. The comparison
// of net/http with itself shows how far the others can be trusted.
func measureColumns(match *regexp.Regexp, repeat float64) []result {
	var results []result
	for _, col := range columns {
		var all []comparison
		for _, c := range contenders {
			r := col.comparison
			r.name, r.open = cellName(col.name, c), pair(netHTTP, c, col.open)
			if col.rate {
				r.open = apart(r.open)
			}
			if match.MatchString(r.name) && c.does(col) {
				all = append(all, r)
			}
		}
		for _, r := range measureTogether(all, max(int(float64(col.pairs)*repeat), 1)) {
			r.tidy()
			fmt.Println(r.line())
			results = append(results, r)
		}
	}
	return results
}

func cellName(column string, c contender) string { return column + ": " + c.name }
