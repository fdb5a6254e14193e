package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/fa492104/flush"
)

// inHandler opens a stream whose handler does the work of a lane, size units at
// a time; body gets ready and returns the work.
func inHandler(wrap func(http.Handler) http.Handler, http2 bool, size int, body func(w http.ResponseWriter) func(n int)) (lane, func()) {
	groups, took := make(chan int), make(chan float64)
	addr, stop := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		flush.Flush(w, true)
		work := body(w)
		for n := range groups {
			took <- medianCost(n, size, work)
		}
	})))
	reader := startReader("-stream", addr, "-http2="+strconv.FormatBool(http2))
	work := func(n int) float64 {
		groups <- n
		return <-took
	}
	return work, func() {
		close(groups)
		reader.stop()
		stop()
	}
}

// medianCost does size units of work n times over and returns the median of
// what one unit cost. A group in which the machine did something else does not
// count.
func medianCost(n, size int, work func(n int)) float64 {
	costs := make([]float64, n)
	for i := range costs {
		began := time.Now()
		work(size)
		costs[i] = float64(time.Since(began)) / float64(size)
	}
	return quantile(costs, 0.5)
}
