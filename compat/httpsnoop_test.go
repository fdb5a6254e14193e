package compat_test

import (
	"net/http"

	"github.com/felixge/httpsnoop"
)

func httpsnoopRows() []subject {
	metrics := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { httpsnoop.CaptureMetrics(h, w, r) })
	}
	return wrapped("`httpsnoop.CaptureMetrics`", metrics, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, handlerWaits})
}
