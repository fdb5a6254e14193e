package compat_test

import (
	"net/http"

	"github.com/klauspost/compress/gzhttp"
)

func gzhttpRows() []subject {
	gz := func(h http.Handler) http.Handler { return gzhttp.GzipHandler(h) }
	return compressor("klauspost `gzhttp`", gz, cells{}, cells{})
}
