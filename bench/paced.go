package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/fa492104/flush"
)

// paced sends an event every millisecond. The cost is how long after it was
// written the client has it, at the given quantile.
func paced(q float64) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		open := func(wrap func(http.Handler) http.Handler, flushEvent func(w http.ResponseWriter)) (lane, func()) {
			counts := make(chan int)
			addr, stop := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				var p []byte
				for n := range counts {
					for range n {
						<-tick.C
						p = append(p[:0], pacedPrefix...)
						p = strconv.AppendInt(p, time.Now().UnixNano(), 10)
						w.Write(append(p, "\n\n"...))
						flushEvent(w)
					}
					<-tick.C
					w.Write([]byte(reportLine + "\n"))
					flushEvent(w)
				}
			})), nil)
			r := startReader(addr, false, true)
			return func(n int) float64 {
					counts <- n
					return quantile(r.latencies(), q)
				}, func() {
					close(counts)
					r.stop()
					stop()
				}
		}
		bare, stopBare := open(bareHandler, func(w http.ResponseWriter) { w.(http.Flusher).Flush() })
		ours, stopOurs := open(ourHandler, func(w http.ResponseWriter) { w.(*flush.Flusher).FlushAsync() })
		return bare, ours, both(stopBare, stopOurs)
	}
}
