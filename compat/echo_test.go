package compat_test

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/fa492104/flush"
)

func echoRows() []subject {
	row := func(name string, want cells, m ...echo.MiddlewareFunc) subject {
		return subject{name: name, place: handler, want: want, serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
			e := echo.New()
			e.Logger = slog.New(slog.DiscardHandler)
			e.Use(m...)
			e.GET("/", func(c *echo.Context) error {
				run(plain(c.Response(), c.Request()))
				return nil
			})
			return flush.NewHandler(e, opts)
		}}
	}
	bare := row("echo", cells{yes, yes, yes, yes, goneBoth, yes, yes, yes})
	gz := row("echo with `middleware.Gzip`", cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes}, middleware.Gzip())
	gz.gzip = true
	return []subject{bare, gz}
}
