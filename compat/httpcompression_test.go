package compat_test

import "github.com/CAFxX/httpcompression"

func httpcompressionRows() []subject {
	whole, err := httpcompression.DefaultAdapter()
	if err != nil {
		panic(err)
	}
	small, err := httpcompression.DefaultAdapter(httpcompression.MinSize(0))
	if err != nil {
		panic(err)
	}
	all := compressor("`httpcompression`", whole, cells{atEnd, atEnd, atEnd, atEnd, goneBoth, laterWrite, byCtx, refused, yes}, cells{atEnd, atEnd, atEnd, atEnd, goneBoth, waitOnly, yes, refused, handlerWaits})
	return append(all, compressor("`httpcompression`, `MinSize(0)`", small, cells{yes, waits, yes, yes, goneBoth, laterWrite, byCtx, refused, yes}, cells{yes, yes, yes, yes, goneBoth, waitOnly, yes, refused, handlerWaits})...)
}
