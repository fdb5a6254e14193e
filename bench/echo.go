package main

import (
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
)

var echoes = contender{
	name: "echo",
	how:  "`http.NewResponseController(c.Response()).Flush` after each `Write`",
	gzip: "its `middleware.Gzip`",
	open: func(j job) server {
		e := echo.New()
		e.Logger = slog.New(slog.DiscardHandler)
		if j.gzip {
			e.Use(middleware.Gzip())
		}
		e.GET("/", func(c *echo.Context) error {
			w := c.Response()
			j.flushed(w, c.Request(), http.NewResponseController(w).Flush)
			return nil
		})
		return httpServer(e)
	},
}
