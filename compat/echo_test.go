package compat_test

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/fa492104/flush"
)

func echoRows() []subject {
	row := func(name string, m ...echo.MiddlewareFunc) subject {
		return subject{name: name, place: handler, serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
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
	bare := row("echo")
	gz := row("echo with `middleware.Gzip`", middleware.Gzip())
	gz.gzip = true
	return []subject{bare, gz}
}

var _ = io.EOF
