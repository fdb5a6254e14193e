package main

import (
	"compress/gzip"
	"io"
	"net/http"

	gingzip "github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"

	"github.com/fa492104/flush"
)

// ginEngine answers / by gin's Stream, which flushes after each step.
func ginEngine(j job, m ...gin.HandlerFunc) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(m...)
	e.GET("/", func(c *gin.Context) {
		defer j.timed()()
		next := j.source(c.Request.Context().Done())
		c.Stream(func(io.Writer) bool {
			m, ok := next()
			if ok {
				c.SSEvent("", " "+m.data) // gin puts no space after the colon
			}
			return ok
		})
	})
	return e
}

var gins = []contender{
	{
		name: "gin",
		how:  "`c.Stream` with `c.SSEvent`",
		gzip: "gin-contrib/gzip",
		open: func(j job) server {
			if j.gzip {
				return httpServer(ginEngine(j, gingzip.Gzip(gzip.DefaultCompression)))
			}
			return httpServer(ginEngine(j))
		},
	},
	{
		name: "gin in flush",
		how:  "gin's, in `flush.NewHandler` with `Options{Flush: flush.Async}`",
		gzip: "the Gzip filter",
		ours: true,
		open: func(j job) server { return httpServer(flush.NewHandler(ginEngine(j), j.options(flush.Async))) },
	},
}
