package main

import (
	"compress/gzip"
	"net/http"

	"github.com/fa492104/flush"
)

// options are this library's for a job. mode is what the Flush of a handler
// that knows nothing of this library means.
func (j *job) options(mode flush.Mode) *flush.Options {
	o := &flush.Options{Flush: mode, MaxPending: j.pending}
	if j.gzip {
		o.OnStart = func(f *flush.Flusher, r *http.Request) {
			f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, gzip.DefaultCompression), ChunkSize: 4096, FollowFlush: true})
		}
	}
	return o
}

// known has the server of c make its connections known.
func known(c contender) contender {
	open := c.open
	c.open = func(j job) server {
		s := open(j)
		s.(*http.Server).ConnContext = flush.ConnContext
		return s
	}
	return c
}

// background has what moves by itself move in the background from the start.
var background = contender{open: func(j job) server {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		j.flushed(w, r, func() error { return nil })
	})
	o := j.options(flush.Async)
	return httpServer(flush.NewHandler(h, o))
}}

// ours calls this library's Flush after each Write.
func ours(name string, wait bool) contender {
	how := "`flush.Flush(w, false)` after each `Write`"
	if wait {
		how = "`flush.Flush(w, true)` after each `Write`"
	}
	return contender{
		name: name, how: how, gzip: "the Gzip filter", ours: true,
		open: func(j job) server {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				j.flushed(w, r, func() error { return flush.Flush(w, wait) })
			})
			return httpServer(flush.NewHandler(h, j.options(flush.Wait)))
		},
	}
}
