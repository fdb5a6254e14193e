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
	all = append(all, compressor("gorilla `CompressHandler`", handlers.CompressHandler, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, handlerWaits})...)
	all = append(all, wrapped("gorilla `CombinedLoggingHandler`", logging, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, handlerWaits})...)
	all = append(all, wrapped("gorilla `RecoveryHandler`", recovery, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes})...)
	return all
}
