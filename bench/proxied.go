package main

import (
	"encoding/json"
	"net/http"
	"os"

	"github.com/fa492104/flush"
)

// proxiedTokens sends events as fast as they come from a server in a process
// of its own, through an unchanged ReverseProxy, to a client in another.
func proxiedTokens() (bare, ours lane, shut func()) {
	upstream, stopUpstream := startUpstream()
	open := func(wrap func(http.Handler) http.Handler) (lane, func()) {
		return answered(httpServer(wrap(reverseProxy(upstream, nil))), burstEvents)
	}
	bare, stopBare := open(bareHandler)
	ours, stopOurs := open(func(h http.Handler) http.Handler {
		return flush.NewHandler(h, &flush.Options{Flush: flush.Async})
	})
	return bare, ours, func() {
		stopBare()
		stopOurs()
		stopUpstream()
	}
}

// startUpstream runs this command as a server of events, and returns its
// address.
func startUpstream() (addr string, stop func()) {
	p := startServer("-upstream", "burst")
	return p.hearAddr(), p.stop
}

// serveEvents is the upstream: it answers until its standard input ends.
func serveEvents(of string) {
	j := job{source: repeated(event, burstEvents)}
	if of == "tokens" {
		j.source = tokenSource
	}
	addr, stop := listen(netHTTP.open(j), nil)
	defer stop()
	check(json.NewEncoder(os.Stdout).Encode(addr))
	os.Stdin.Read(make([]byte, 1))
}
