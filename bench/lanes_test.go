package main

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/fa492104/flush"
)

// Every kind of work can be done with every contender.
func TestColumns(t *testing.T) {
	for _, col := range columns {
		t.Run(col.name, func(t *testing.T) {
			for _, c := range contenders {
				if !c.does(col) || !tested(c.name) {
					continue
				}
				lane, stop := col.open(c)
				n := 1
				if col.inMemory {
					// What one stream holds is less than what the process may let go
					// meanwhile.
					n = 200
					lane(n)
				}
				if cost := lane(n); cost <= 0 {
					t.Errorf("%s: cost %v", c.name, cost)
				}
				stop()
			}
		})
	}
}

// A proxied stream has the same bytes through this library.
func TestProxiedBytes(t *testing.T) {
	const n = 2000
	upstream, stop := listen(netHTTP.open(job{source: repeated(event, n)}), nil)
	defer stop()
	want := bytes.Repeat(event.text, n)
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"bare": bareHandler,
		"flush": func(h http.Handler) http.Handler {
			return flush.NewHandler(h, &flush.Options{Flush: flush.Async})
		},
	} {
		got, err := io.ReadAll(request(t, httpServer(wrap(reverseProxy(upstream, nil))), false))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes arrived, want %d: %v", name, len(got), len(want), err)
		}
	}
}
