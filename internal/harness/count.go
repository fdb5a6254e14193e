package harness

import "flag"

// Full has tests of many clients have as many as is promised. The whole of it:
//
//	go test -run 'TestBroadcastOverTheNetwork|Thousands' -v . ./internal/suite/many -full
var Full = flag.Bool("full", false, "tests of many clients have as many as is promised")

// Count is how many there are of what a test has many of.
func Count(promised, small int) int {
	if *Full {
		return promised
	}
	return small
}
