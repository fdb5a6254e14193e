package compat_test

import (
	"net/http"

	"github.com/klauspost/compress/gzhttp"
)

func gzhttpRows() []subject {
	gz := func(h http.Handler) http.Handler { return gzhttp.GzipHandler(h) }
	return compressor("klauspost `gzhttp`", gz, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, handlerWaits})
}
