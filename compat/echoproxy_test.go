package compat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/fa492104/flush"
)

// Echo's proxy asks its upstream again when that fails, and not when the client
// has left: it tells the two by the error of the request's context.
func TestEchoProxyWhenTheClientLeaves(t *testing.T) {
	run := func(t *testing.T, wrap func(http.Handler) http.Handler) string {
		asked := make(chan struct{}, 16)
		var times atomic.Int32
		upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			times.Add(1)
			asked <- struct{}{}
			<-r.Context().Done()
		}))
		defer upstream.Close()
		target, err := url.Parse(upstream.URL)
		if err != nil {
			t.Fatal(err)
		}
		e := echo.New()
		e.Logger.SetOutput(io.Discard)
		ended := make(chan string, 1)
		e.HTTPErrorHandler = func(err error, c echo.Context) {
			ended <- strings.ReplaceAll(fmt.Sprintf("%v, is Canceled %t, cause %v", err, errors.Is(err, context.Canceled), context.Cause(c.Request().Context())), target.Host, "UPSTREAM")
			c.NoContent(http.StatusBadGateway)
		}
		e.Use(middleware.ProxyWithConfig(middleware.ProxyConfig{
			Balancer:   middleware.NewRandomBalancer([]*middleware.ProxyTarget{{URL: target}}),
			RetryCount: 3,
		}))
		front := httptest.NewUnstartedServer(wrap(e))
		front.Config.ErrorLog = log.New(io.Discard, "", 0)
		front.Start()
		defer front.Close()
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		req, err := http.NewRequestWithContext(ctx, "GET", front.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-asked
			leave()
		}()
		if _, err := http.DefaultTransport.RoundTrip(req); err == nil {
			t.Error("an answer")
		}
		why := within(t, ended)
		return fmt.Sprintf("asked %d times: %s", times.Load(), why)
	}
	bare := run(t, func(h http.Handler) http.Handler { return h })
	ours := run(t, func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) })
	if ours != bare {
		t.Errorf("%s\nbare %s", ours, bare)
	}
}
