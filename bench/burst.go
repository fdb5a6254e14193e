package main

import "log"

// Events in one response of a burst.
const (
	burstEvents = 20000
	gzipEvents  = 5000
)

// burst has a contender send events as fast as it can, a response at a time.
func burst(c contender) (lane, func()) {
	return answered(c.open(job{source: repeated(event, burstEvents)}), burstEvents)
}

// zipped is burst with the contender's gzip. The client does not decode it.
func zipped(c contender) (lane, func()) {
	return answered(c.open(job{source: repeated(event, gzipEvents), gzip: true}), gzipEvents, "-gzip")
}

// answered is a lane of responses of so many events each. The cost is that of
// one event, from the request to the client's last byte.
func answered(s server, events int, args ...string) (lane, func()) {
	addr, stop := listen(s, nil)
	r := startReader(append([]string{"-ask", addr}, args...)...)
	return func(n int) float64 {
		var total float64
		for range n {
			a := r.ask()
			if want := int64(events * len(event.text)); len(args) == 0 && a.Bytes != want {
				log.Fatalf("%d bytes arrived, want %d", a.Bytes, want)
			}
			total += a.Elapsed
		}
		return total / float64(n*events)
	}, both(r.stop, stop)
}
