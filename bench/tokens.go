package main

import (
	"bufio"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A proxy of token streams: so many clients at a time, and a token of each
// every few milliseconds.
const (
	tokenStreams  = 50
	tokensEach    = 100
	tokenInterval = 10 * time.Millisecond
)

// tokens has a contender send token streams. The cost of a group is the time
// that one token takes, pauses included; processorOf says what it costs.
func tokens(c contender) (lane, func()) {
	addr, stop := listen(c.open(job{source: tokenSource}), nil)
	r := startReader("-ask", addr, "-clients", strconv.Itoa(tokenStreams))
	return func(n int) float64 {
		var total float64
		for range n {
			a := r.ask()
			if want := int64(tokenStreams * tokensEach * len(event.text)); a.Bytes != want {
				log.Fatalf("%d bytes arrived, want %d", a.Bytes, want)
			}
			total += a.Elapsed
		}
		return total / float64(n*tokenStreams*tokensEach)
	}, both(r.stop, stop)
}

// tokenSource is the source of a token stream.
func tokenSource(<-chan struct{}) func() (message, bool) {
	tick := time.NewTicker(tokenInterval)
	i := 0
	return func() (message, bool) {
		if i == tokensEach {
			tick.Stop()
			return message{}, false
		}
		i++
		<-tick.C
		return event, true
	}
}

// answerTogether is the reader that asks for so many responses at a time, at each
// line of its standard input.
func answerTogether(addr string, clients int) {
	conns := make([]net.Conn, clients)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		check(err)
		conns[i] = c
	}
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var wg sync.WaitGroup
		sizes := make([]int64, clients)
		began := time.Now()
		for i, c := range conns {
			wg.Go(func() {
				_, err := io.WriteString(c, requestText)
				check(err)
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				check(err)
				sizes[i], err = io.Copy(io.Discard, res.Body)
				check(err)
			})
		}
		wg.Wait()
		a := answer{Elapsed: float64(time.Since(began))}
		for _, n := range sizes {
			a.Bytes += n
		}
		check(out.Encode(a))
	}
}

// bulk has a contender send a body in writes of 1 MiB. The cost is that of one
// of them.
func bulk(c contender) (lane, func()) {
	m := message{text: []byte(strings.Repeat("x", 1<<20))}
	addr, stop := listen(c.open(job{source: repeated(m, bulkWrites), unflushed: true}), nil)
	r := startReader("-ask", addr)
	return func(n int) float64 {
		var total float64
		for range n {
			a := r.ask()
			if a.Bytes != bulkWrites<<20 {
				log.Fatalf("%d bytes arrived, want %d", a.Bytes, bulkWrites<<20)
			}
			total += a.Elapsed
		}
		return total / float64(n*bulkWrites)
	}, both(r.stop, stop)
}

const bulkWrites = 64
