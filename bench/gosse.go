package main

import (
	"log"
	"net/http"

	"github.com/tmaxmax/go-sse"
)

var goSSE = contender{
	name: "go-sse",
	how:  "`Session.Send` and `Session.Flush`",
	open: func(j job) server {
		return httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sse.Upgrade(w, r)
			if err != nil {
				log.Fatal(err)
			}
			j.send(r.Context().Done(), func(m message) error {
				e := &sse.Message{}
				e.AppendData(m.data)
				if err := s.Send(e); err != nil {
					return err
				}
				return s.Flush()
			})
		}))
	},
}
