package harness

import (
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// CheckGoroutines fails the test if, once it and the cleanups registered after
// this one are over, goroutines of this package or of net/http run that did not
// run before. It polls, for at most Patience. Not for parallel tests, and not for
// bubbles, which see to that themselves.
func CheckGoroutines(t *testing.T) {
	t.Helper()
	before := Goroutines()
	t.Cleanup(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var left []string
		for end := time.Now().Add(Patience()); time.Now().Before(end); <-tick.C {
			left = left[:0]
			for id, stack := range Goroutines() {
				if _, ok := before[id]; !ok && ours.MatchString(stack) {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("%d goroutines left behind, first:\n%s", len(left), left[0])
	})
}

// ours matches the stack of a goroutine that a test must not leave behind.
var ours = regexp.MustCompile(`fa492104/flush|net/http`)

// Goroutines returns every goroutine's stack by its id.
func Goroutines() map[string]string {
	p := make([]byte, 1<<20)
	n := runtime.Stack(p, true)
	for n == len(p) {
		p = make([]byte, 2*len(p))
		n = runtime.Stack(p, true)
	}
	m := make(map[string]string)
	for stack := range strings.SplitSeq(string(p[:n]), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		m[id] = stack
	}
	return m
}
