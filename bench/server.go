package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"sync"
)

// A server serves connections until it is closed.
type server interface {
	Serve(net.Listener) error
	Close() error
}

// httpServer is what all contenders but fasthttp run on.
func httpServer(h http.Handler) server { return &http.Server{Handler: h} }

// listen has s serve on 127.0.0.1; stop ends it. change may wrap the listener.
func listen(s server, change func(net.Listener) net.Listener) (addr string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	addr = l.Addr().String()
	if change != nil {
		l = change(l)
	}
	go s.Serve(l)
	return addr, func() { s.Close() }
}

// serve has h served with HTTP/1.1 and with HTTP/2 without TLS.
func serve(h http.Handler) (addr string, stop func()) {
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return listen(srv, nil)
}

const (
	requestText     = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	gzipRequestText = "GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
)

// dial opens a connection and asks for /.
func dial(addr string) net.Conn {
	c, err := net.Dial("tcp", addr)
	check(err)
	_, err = io.WriteString(c, requestText)
	check(err)
	return c
}

// smallBuffers gives the connections that it accepts small kernel buffers.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	return c, err
}

// A pipeListener accepts net.Pipe ends.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// both joins the stops of two lanes.
func both(a, b func()) func() {
	return func() {
		a()
		b()
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
