package compat_test

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

// routed puts h behind a chi router with the given middleware.
func routed(m ...func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		r := chi.NewRouter()
		r.Use(m...)
		r.Handle("/", h)
		return r
	}
}

func chiRows() []subject {
	// Compress goes by the Content-Type, which a handler has to set first.
	typed := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			h.ServeHTTP(w, r)
		})
	}
	wrapWriter := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(middleware.NewWrapResponseWriter(w, r.ProtoMajor), r)
		})
	}
	compress := func(h http.Handler) http.Handler { return routed(middleware.Compress(5))(typed(h)) }
	var all []subject
	all = append(all, compressor("chi `Compress`", compress, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, handlerWaits})...)
	all = append(all, wrapped("chi `WrapResponseWriter`", routed(wrapWriter), cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, handlerWaits})...)
	all = append(all, wrapped("chi `Timeout`", routed(middleware.Timeout(time.Hour)), cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes})...)
	return all
}
