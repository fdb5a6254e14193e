package main

import (
	"strconv"
	"strings"
	"time"
)

// paced has a contender send an event every millisecond, n in a response. The
// cost is how long after it was written the client has it, at the given
// quantile.
func paced(c contender, q float64) (lane, func()) {
	counts := make(chan int, 1)
	addr, stop := listen(c.open(job{source: func(<-chan struct{}) func() (message, bool) {
		n := <-counts
		tick := time.NewTicker(time.Millisecond)
		return func() (message, bool) {
			if n == 0 {
				tick.Stop()
				return message{}, false
			}
			n--
			<-tick.C
			return newMessage(pacedPrefix + strconv.FormatInt(time.Now().UnixNano(), 10)), true
		}
	}}), nil)
	r := startReader("-ask", addr, "-paced")
	return func(n int) float64 {
		counts <- n
		return quantile(r.ask().Latencies, q)
	}, both(r.stop, stop)
}

func pacedP50(c contender) (lane, func()) { return paced(c, 0.5) }
func pacedP99(c contender) (lane, func()) { return paced(c, 0.99) }

// The events of a paced stream say when they were written.
const pacedPrefix = "at "

// latency is how long before arrived the event of this line was written.
func latency(line string, arrived time.Time) (float64, bool) {
	text, ok := strings.CutPrefix(line, eventPrefix+pacedPrefix)
	if !ok {
		return 0, false
	}
	at, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	check(err)
	return float64(arrived.UnixNano() - at), true
}
