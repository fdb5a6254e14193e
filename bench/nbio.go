package main

import (
	"net"
	"net/http"
	"time"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
)

// An nbioServer has its own engine, which accepts.
type nbioServer struct {
	h      http.Handler
	opened chan *nbhttp.Engine
}

func newNbioServer(h http.Handler) *nbioServer {
	logging.SetLevel(logging.LevelNone)
	return &nbioServer{h, make(chan *nbhttp.Engine, 1)}
}

func (s *nbioServer) Serve(l net.Listener) error {
	e := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp",
		Addrs:   []string{l.Addr().String()},
		Listen:  func(network, addr string) (net.Listener, error) { return l, nil },
		Handler: s.h,
		// Streams stay, however long nobody reads.
		KeepaliveTime: 24 * time.Hour,
	})
	err := e.Start()
	s.opened <- e
	return err
}

func (s *nbioServer) Close() error {
	(<-s.opened).Stop()
	return nil
}

var nbios = contender{
	name:    "nbio",
	how:     "`Flush` of its `nbhttp.Response` after each `Write`",
	note:    "Its connections never block: what a client does not take waits in memory, without a bound by default. It does not tell a handler that the client has gone, and cannot serve connections in memory, as those of the idle streams are here.",
	sockets: true,
	open: func(j job) server {
		return newNbioServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			flusher := w.(http.Flusher)
			j.flushed(w, r, func() error {
				flusher.Flush()
				return nil
			})
		}))
	},
}
