package main

// columns are those of the second table. Each has every contender measured
// beside net/http.
var columns = []column{
	{comparison{name: "burst", unit: "events/s", rate: true, pairs: 20, n: [2]int{1, 1}}, "burst of 20 000 events", burst},
	{comparison{name: "paced, p50", unit: "ns", pairs: 20, n: [2]int{50, 50}}, "an event a millisecond, p50", pacedP50},
	{comparison{name: "paced, p99", unit: "ns", pairs: 10, n: [2]int{200, 200}}, "the same, p99", pacedP99},
	{comparison{name: "slow client", unit: "ns", pairs: 10, n: [2]int{1, 1}}, "slow client: handler held", slow},
	{comparison{name: "idle heap", unit: "B", delta: true, pairs: 3, n: [2]int{1000, 1000}}, "idle stream: heap", idleHeap},
	{comparison{name: "idle goroutines", delta: true, pairs: 3, n: [2]int{1000, 1000}}, "idle stream: goroutines", idleGoroutines},
	{comparison{name: "gzip", unit: "events/s", rate: true, pairs: 20, n: [2]int{1, 1}}, "burst of 5000 events in gzip", zipped},
}

type column struct {
	comparison
	head string
	open func(contender) (lane, func())
}

// why says why a contender has no figure here; "" if it has one.
func (col *column) why(c contender) string {
	if col.name == "gzip" && c.gzip == "" {
		return "has no gzip of its own"
	}
	return ""
}

// rivalries are the comparisons of the second table. That of net/http with
// itself shows how far the others can be trusted.
func rivalries() []comparison {
	var all []comparison
	for _, col := range columns {
		for _, c := range contenders {
			if col.why(c) != "" {
				continue
			}
			r := col.comparison
			r.name, r.open = cellName(col, c), pair(netHTTP, c, col.open)
			all = append(all, r)
		}
	}
	return all
}

func cellName(col column, c contender) string { return col.name + ": " + c.name }
