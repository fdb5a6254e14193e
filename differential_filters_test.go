package flush_test

import (
	"net/http"

	"github.com/fa492104/flush"
)

// filterCases are late headers beside those of a filter: whatever fixed the
// headers, they are the page's as the filter has left them, and what comes too
// late counts for trailers only.
func filterCases() (cases []diffCase) {
	fixes := []struct {
		name string
		held bool // the output is in the buffer then, and headers are open
		do   func(w http.ResponseWriter, r *http.Request)
	}{
		{"the status", false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }},
		{"a write", true, func(w http.ResponseWriter, r *http.Request) { put(w, r, "one, ") }},
		{"a flush", false, flushNow},
		{"a flushed write", false, func(w http.ResponseWriter, r *http.Request) { put(w, r, "one, "); flushNow(w, r) }},
	}
	filters := []struct {
		name string
		set  func(h http.Header)
	}{
		{"sets", func(h http.Header) {
			h.Set("X-Filter", "filter")
			h.Set("X-Page", "filter")
			h.Set("Content-Type", "text/x-filter")
		}},
		{"deletes and declares", func(h http.Header) {
			h.Del("X-Page")
			h.Add("X-More", "filter")
			h.Set("Trailer", "X-Sum")
		}},
	}
	lates := []struct {
		name string
		set  func(h http.Header)
	}{
		{"nothing", func(http.Header) {}},
		{"another", func(h http.Header) { h.Set("X-Late", "late") }},
		{"the filter's", func(h http.Header) { h.Set("X-Filter", "late") }},
		{"the filter's as the filter", func(h http.Header) { h.Set("X-Filter", "filter") }},
		{"the page's", func(h http.Header) { h.Set("X-Page", "late") }},
		{"the page's, deleted", func(h http.Header) { h.Del("X-Page") }},
		{"a type", func(h http.Header) { h.Set("Content-Type", "text/x-late") }},
		{"an encoding", func(h http.Header) { h.Set("Content-Encoding", "late") }},
	}
	for _, fix := range fixes {
		for _, filter := range filters {
			for _, late := range lates {
				h := func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Page", "page")
					if f, ok := flush.From(w); ok {
						f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
							if phase&flush.PhaseStart != 0 {
								filter.set(w.Header())
							}
							return p, nil
						}})
					} else {
						filter.set(w.Header())
					}
					fix.do(w, r)
					late.set(w.Header())
					put(w, r, "two, ")
					flushNow(w, r)
					w.Header().Set("X-Sum", "42")
					put(w, r, "three")
				}
				c := diffCase{name: "a filter " + filter.name + ", fixed by " + fix.name + ", late " + late.name, handler: h}
				if fix.held {
					c.open = http.Header{"X-Page": {"page"}}
					late.set(c.open)
					filter.set(c.open)
				}
				cases = append(cases, c)
				if late.name == "the page's" {
					c.name, c.method = "HEAD "+c.name, "HEAD"
					cases = append(cases, c)
				}
			}
		}
	}
	return cases
}
