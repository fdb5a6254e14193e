package flushtest

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// mark begins each line of an Endpoint. What follows is its number and how
// many seconds after the start of the response it was written.
const mark = "flushprobe "

// Endpoint returns a handler that is known to stream, to be put behind the
// proxy in question and probed through it: it writes a line and flushes it, and
// again after a while. The lines say when they were written, so that [Probe]
// sees how late they come.
//
// The query may say how many lines (n=10, the default, at most 100,000), how far
// apart (every=300ms; from 1ms to 1m), how long each, its newline included
// (size=64, at most 1 MiB; a line is never shorter than what it says), of which
// content type (type=text/plain; with text/event-stream each line is an event),
// and with hints=1 that proxies are asked not to hold the response. What cannot
// be read is the default. It ends with its client. Where a flush is not supported
// it writes all the same, to show what becomes of that.
func Endpoint() http.Handler { return http.HandlerFunc(serveEndpoint) }

func serveEndpoint(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	number := func(name string, unset, least, most int) int {
		n, err := strconv.Atoi(q.Get(name))
		if err != nil {
			return unset
		}
		return min(max(n, least), most)
	}
	n := number("n", 10, 1, 100_000)
	size := number("size", 64, 0, 1<<20)
	every, err := time.ParseDuration(q.Get("every"))
	if err != nil {
		every = 300 * time.Millisecond
	}
	every = min(max(every, time.Millisecond), time.Minute)
	kind := q.Get("type")
	if kind == "" {
		kind = "text/plain; charset=utf-8"
	}
	before, after := "", "\n"
	if strings.HasPrefix(kind, "text/event-stream") {
		before, after = "data: ", "\n\n"
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if q.Get("hints") == "1" {
		h.Set("Cache-Control", "no-store, no-transform")
		h.Set("X-Accel-Buffering", "no")
	}

	start := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	c := http.NewResponseController(w)
	for i := range n {
		if i > 0 {
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
		line := fmt.Sprintf("%s%s%d %.6f ", before, mark, i, time.Since(start).Seconds())
		pad := strings.Repeat(".", max(0, size-len(line)-len(after)))
		if _, err := fmt.Fprint(w, line, pad, after); err != nil {
			return
		}
		if err := c.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return // where there is no flush, the probe shall see what that makes of a stream
		}
	}
}

// parseMark returns when the Endpoint wrote line.
func parseMark(line string) (at time.Duration, ok bool) {
	_, line, ok = strings.Cut(line, mark)
	fields := strings.Fields(line)
	if !ok || len(fields) < 2 {
		return 0, false
	}
	s, err := strconv.ParseFloat(fields[1], 64)
	if err != nil || !(s >= 0 && s < 1e6) {
		return 0, false
	}
	return time.Duration(s * float64(time.Second)), true
}
