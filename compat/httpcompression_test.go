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
	all := compressor("`httpcompression`", whole, cells{}, cells{})
	return append(all, compressor("`httpcompression`, `MinSize(0)`", small, cells{}, cells{})...)
}
