package compat_test

import (
	"io"
	"net/http"

	"github.com/gorilla/handlers"
)

func gorillaRows() []subject {
	logging := func(h http.Handler) http.Handler { return handlers.CombinedLoggingHandler(io.Discard, h) }
	recovery := handlers.RecoveryHandler()
	var all []subject
	all = append(all, compressor("gorilla `CompressHandler`", handlers.CompressHandler, cells{}, cells{})...)
	all = append(all, wrapped("gorilla `CombinedLoggingHandler`", logging, cells{}, cells{})...)
	all = append(all, wrapped("gorilla `RecoveryHandler`", recovery, cells{}, cells{})...)
	return all
}
