package e2e

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"path"
	"strings"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

// streams are what is probed from behind the servers: an application that
// streams, under several middlewares.
var streams = map[string]http.Handler{
	"endpoint":   flushtest.Endpoint(),
	"log":        http.HandlerFunc(writeLog),
	"gzip-never": compressing(flushtest.Endpoint()),
	"gzip-ours":  flush.NewHandler(flushtest.Endpoint(), &flush.Options{OnStart: openGzip}),
	"timeout":    http.TimeoutHandler(flushtest.Endpoint(), time.Minute, "late"),
	"holding":    holding(flushtest.Endpoint()),
	"length": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "640")
		flushtest.Endpoint().ServeHTTP(w, r)
	}),
	"no-flush": quiet(http.HandlerFunc(writeLog)),
}

// application serves each of them at every path that ends in its name.
var application = flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if h := streams[path.Base(r.URL.Path)]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}), nil)

func openGzip(f *flush.Flusher, r *http.Request) {
	f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
}

// writeLog is a stream like any: its lines do not say when they were written.
func writeLog(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for i := range 60 {
		fmt.Fprintf(w, "%d: step %x of the job took %d ms\n", i, i*i*7919, i%7)
		if flush.Flush(w, true) != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// A middleware's writer.
type through struct {
	http.ResponseWriter
	io.Writer
	flush func() error
}

func (t through) Write(p []byte) (int, error) { return t.Writer.Write(p) }
func (t through) FlushError() error           { return t.flush() }

// compressing is the middleware that everybody has written once: its flushes
// pass the compressor by.
func compressing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		h.ServeHTTP(through{w, z, http.NewResponseController(w).Flush}, r)
	})
}

// holding writes into a buffer that no flush reaches.
func holding(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := bufio.NewWriterSize(w, 64<<10)
		defer b.Flush()
		h.ServeHTTP(through{w, b, func() error { return nil }}, r)
	})
}

// quiet is a handler that never flushes.
func quiet(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(through{w, w, func() error { return nil }}, r)
	})
}

func listening(serve func(net.Listener) error) *lazy[string] {
	return &lazy[string]{start: func() (string, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		go serve(l) // until the process ends
		return l.Addr().String(), nil
	}}
}

var (
	appHTTP = listening(func(l net.Listener) error { return http.Serve(l, application) })
	appFCGI = listening(func(l net.Listener) error { return fcgi.Serve(l, application) })
)
