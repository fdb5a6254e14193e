package main

// contenders are the rows of the second table.
var contenders = []contender{
	netHTTP,
	proxies[0],
	gins[0],
	echoes,
	chis,
	fast,
	nbios,
	goSSE,
	oursSync,
	oursAsync,
	gins[1],
	proxies[1],
}

var (
	oursSync  = ours("flush, sync", true)
	oursAsync = ours("flush, async", false)
)
