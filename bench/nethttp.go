package main

import (
	"compress/gzip"
	"net/http"

	"github.com/klauspost/compress/gzhttp"
)

// netHTTP is net/http alone, which the others are compared with.
var netHTTP = contender{
	name: "net/http",
	how:  "`ResponseController.Flush` after each `Write`",
	gzip: "klauspost's gzhttp",
	open: func(j job) server {
		h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			j.flushed(w, r, http.NewResponseController(w).Flush)
		}))
		if j.gzip {
			wrap, err := gzhttp.NewWrapper(gzhttp.CompressionLevel(gzip.DefaultCompression))
			check(err)
			h = wrap(h)
		}
		return httpServer(h)
	},
}
