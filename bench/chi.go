package main

import (
	"compress/gzip"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

var chis = contender{
	name: "chi",
	how:  "`ResponseController.Flush` after each `Write`, behind its router",
	gzip: "its `middleware.Compress`",
	open: func(j job) server {
		e := chi.NewRouter()
		if j.gzip {
			e.Use(middleware.Compress(gzip.DefaultCompression, "text/event-stream"))
		}
		e.Get("/", func(w http.ResponseWriter, r *http.Request) {
			j.flushed(w, r, http.NewResponseController(w).Flush)
		})
		return httpServer(e)
	},
}
