package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"sync"

	"github.com/lesismal/nbio/nbhttp"
	"github.com/tmaxmax/go-sse"

	"github.com/fa492104/flush"
)

// A gathering is a way to keep many event streams and tell all of them the same.
// Each sends one event as it opens, and then has what all are told.
type gathering struct {
	name string // of the row
	how  string // how it is done, for the notes
	ours bool   // it is this library, or has it around it

	// open returns a server of streams, and what tells all of them an event.
	open func() (s server, tell func(m message))
}

// The gatherings, the rows of the third table.
var (
	bareWrites = gathering{
		name: "bare writes",
		how:  "no HTTP: a loop that calls `Write` of one connection after the other. A server that says events to each of many connections cannot do with less",
		open: openBareWrites,
	}
	channels = gathering{
		name: "net/http, channels",
		how:  "the handler waits for its channel and its context; `Write` and `ResponseController.Flush`. The hub has a channel for each client",
		open: func() (server, func(message)) {
			h, tell := channelHub()
			return httpServer(h), tell
		},
	}
	channelsInFlush = gathering{
		name: "channels in flush",
		how:  "the same handler in `flush.NewHandler`",
		ours: true,
		open: func() (server, func(message)) {
			h, tell := channelHub()
			return httpServer(flush.NewHandler(h, nil)), tell
		},
	}
	joe = gathering{
		name: "go-sse",
		how:  "its `Server` with its own provider, `Publish`",
		open: openJoe,
	}
	hijackedNbio = gathering{
		name: "nbio, hijacked",
		how:  "the handler hijacks its connection and returns; a loop calls `Write` of each. Framing, timeouts and slow clients are left to the program",
		open: openHijackedNbio,
	}
	attachedGroup = gathering{
		name: "flush, Group",
		how:  "the handler waits for its context; `Group.Broadcast`",
		ours: true,
		open: func() (server, func(message)) { return openGroup(false) },
	}
	detachedGroup = gathering{
		name: "flush, Group, detached",
		how:  "the handler calls `Detach` and returns; `Group.Broadcast`",
		ours: true,
		open: func() (server, func(message)) { return openGroup(true) },
	}
)

var gatherings = []gathering{bareWrites, channels, joe, hijackedNbio, channelsInFlush, attachedGroup, detachedGroup}

func openBareWrites() (server, func(message)) {
	s := new(rawServer)
	return s, func(m message) {
		p := chunk(m)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.conns {
			c.Write(p)
		}
	}
}

// A rawServer speaks no more HTTP than to answer a request with the head of a
// stream and an event.
type rawServer struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (s *rawServer) Serve(l net.Listener) error {
	p := make([]byte, 4096)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := c.Read(p); err != nil {
			return err
		}
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		if _, err := c.Write(rawHead); err != nil {
			return err
		}
	}
}

func (s *rawServer) Close() error { return nil } // its process ends

const chunkHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

var rawHead = append([]byte(chunkHead), chunk(event)...)

// chunk is m as a chunk of HTTP/1.1.
func chunk(m message) []byte {
	const digits = "0123456789abcdef"
	p := []byte{digits[len(m.text)>>4], digits[len(m.text)&15], '\r', '\n'}
	return append(append(p, m.text...), "\r\n"...)
}

// channelHub is the hub that everybody writes: a channel for each client.
func channelHub() (http.Handler, func(message)) {
	var mu sync.Mutex
	clients := make(map[chan []byte]struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		events := make(chan []byte, 16)
		mu.Lock()
		clients[events] = struct{}{}
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			delete(clients, events)
		}()
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		w.Write(event.text)
		rc.Flush()
		for {
			select {
			case p := <-events:
				if _, err := w.Write(p); err != nil {
					return
				}
				if err := rc.Flush(); err != nil {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	return h, func(m message) {
		mu.Lock()
		defer mu.Unlock()
		for events := range clients {
			select {
			case events <- m.text:
			default:
				log.Fatal("a client is behind")
			}
		}
	}
}

func openJoe() (server, func(message)) {
	s := &sse.Server{Provider: &sse.Joe{Replayer: firstEvent{}}}
	return httpServer(s), func(m message) {
		e := &sse.Message{}
		e.AppendData(m.data)
		check(s.Publish(e))
	}
}

// firstEvent sends each subscriber an event as it joins.
type firstEvent struct{}

func (firstEvent) Put(m *sse.Message, _ []string) (*sse.Message, error) { return m, nil }

func (firstEvent) Replay(s sse.Subscription) error {
	e := &sse.Message{}
	e.AppendData(event.data)
	if err := s.Client.Send(e); err != nil {
		return err
	}
	return s.Client.Flush()
}

func openHijackedNbio() (server, func(message)) {
	var mu sync.Mutex
	var conns []net.Conn
	s := newNbioServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(*nbhttp.Response).Hijack()
		check(err)
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		_, err = c.Write(rawHead)
		check(err)
	}))
	return s, func(m message) {
		p := chunk(m)
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Write(p)
		}
	}
}

func openGroup(detach bool) (server, func(message)) {
	var g flush.Group
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		f, _ := flush.From(w)
		if detach {
			check(f.Detach())
		}
		check(g.Add(f))
		f.Write(event.text)
		if f.FlushWait(context.Background()) != nil {
			return
		}
		if !detach {
			<-r.Context().Done()
		}
	})
	return httpServer(flush.NewHandler(h, nil)), func(m message) {
		if missed := g.Broadcast(m.text); len(missed) > 0 {
			log.Fatalf("%d clients are behind", len(missed))
		}
	}
}
