package main

import (
	"bufio"
	"io"
	"log"

	"github.com/valyala/fasthttp"
)

// A fastServer is closed as others are.
type fastServer struct{ *fasthttp.Server }

func (s fastServer) Close() error { return s.Shutdown() }

var fast = contender{
	name: "fasthttp",
	how:  "`SetBodyStreamWriter`, and `Flush` of its bufio.Writer after each `Write`",
	gzip: "its `CompressHandler`",
	note: "Its Flush hands over to another goroutine and returns; up to four events wait there, and are gathered. It does not tell a handler that the client has gone.",
	open: func(j job) server {
		h := func(c *fasthttp.RequestCtx) {
			c.SetContentType("text/event-stream")
			c.SetBodyStreamWriter(func(w *bufio.Writer) {
				j.send(nil, func(m message) error {
					if _, err := w.Write(m.text); err != nil {
						return err
					}
					return w.Flush()
				})
			})
		}
		if j.gzip {
			h = fasthttp.CompressHandlerLevel(h, fasthttp.CompressDefaultCompression)
		}
		return fastServer{&fasthttp.Server{Handler: h, Logger: log.New(io.Discard, "", 0)}}
	},
}
