package compat_test

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	echo4 "github.com/labstack/echo/v4"
	middleware4 "github.com/labstack/echo/v4/middleware"
	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/fa492104/flush"
)

func echoRows() []subject {
	type app func(run func(*session)) http.Handler
	v5 := func(m ...echo.MiddlewareFunc) app {
		return func(run func(*session)) http.Handler {
			e := echo.New()
			e.Logger = slog.New(slog.DiscardHandler)
			e.Use(m...)
			e.GET("/", func(c *echo.Context) error {
				run(plain(c.Response(), c.Request()))
				return nil
			})
			return e
		}
	}
	v4 := func(m ...echo4.MiddlewareFunc) app {
		return func(run func(*session)) http.Handler {
			e := echo4.New()
			e.Logger.SetOutput(io.Discard)
			e.Use(m...)
			e.GET("/", func(c echo4.Context) error {
				run(plain(c.Response(), c.Request()))
				return nil
			})
			return e
		}
	}
	row := func(name string, gzip bool, a app) subject {
		want := cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}
		return subject{name: name, place: handler, gzip: gzip, want: want, serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
			return flush.NewHandler(a(run), opts)
		}}
	}
	return []subject{
		row("echo v5", false, v5()),
		row("echo v5 with `middleware.Gzip`", true, v5(middleware.Gzip())),
		row("echo v4", false, v4()),
		row("echo v4 with `middleware.Gzip`", true, v4(middleware4.Gzip())),
	}
}
