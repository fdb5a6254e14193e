package compat_test

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

func otelhttpRows() []subject {
	return wrapped("`otelhttp.NewHandler`", func(h http.Handler) http.Handler {
		return otelhttp.NewHandler(h, "stream")
	}, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, handlerWaits})
}
