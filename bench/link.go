package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/fa492104/flush"
)

// roundTrip is that of the link.
const roundTrip = 100 * time.Millisecond

// A network is somewhere to listen and to dial from.
type network struct {
	listen func() (net.Listener, error)
	dial   func(addr string) (net.Conn, error)
	close  func()
}

// overLink has a handler answer over a slow link, each time on a connection of its
// own, which begins with a small window. The cost is the time from the request to
// the last byte.
func overLink(h http.HandlerFunc) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		link, err := openLink(roundTrip)
		check(err)
		bare, stopBare := link.answers(&http.Server{Handler: h})
		ours, stopOurs := link.answers(&http.Server{
			Handler:     flush.NewHandler(h, nil),
			ConnContext: flush.ConnOptions{NotSentLowat: 16 << 10}.ConnContext,
		})
		return bare, ours, both(both(stopBare, stopOurs), link.close)
	}
}

func (n *network) answers(srv *http.Server) (lane, func()) {
	l, err := n.listen()
	check(err)
	go srv.Serve(l)
	return func(groups int) float64 {
		took := make([]float64, groups)
		for i := range took {
			took[i] = n.answer(l.Addr().String())
		}
		return quantile(took, 0.5)
	}, func() { srv.Close() }
}

// answer asks for a response on a new connection and returns how long it took.
func (n *network) answer(addr string) float64 {
	c, err := n.dial(addr)
	check(err)
	defer c.Close()
	began := time.Now()
	_, err = io.WriteString(c, requestText)
	check(err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	check(err)
	_, err = io.Copy(io.Discard, res.Body)
	check(err)
	return float64(time.Since(began))
}

// linkText is written in pieces, as templates do.
var linkText = strings.Repeat("A line of some text that a browser shows. ", 50)

// ofSize writes so many bytes and returns. There is no flush.
func ofSize(size int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		writeText(w, size)
	}
}

func writeText(w io.Writer, size int) {
	for size > 0 {
		n, _ := io.WriteString(w, linkText[:min(size, len(linkText))])
		size -= n
	}
}

// inGzip writes lines through compress/gzip, which make some 64 KB.
func inGzip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Encoding", "gzip")
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	check(err)
	for i := range uint32(10000) {
		fmt.Fprintf(z, "line %d of the log: %08x\n", i, i*2654435761)
	}
	z.Close()
}
