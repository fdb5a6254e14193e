package main

import (
	"bytes"
	"io"
	"net"
	"strings"
	"time"
)

// slow has a contender send 256 KiB in 1000 events to a client that reads
// 32 KiB every five milliseconds from small kernel buffers. The cost is how
// long the handler is held. This library may hold it all.
func slow(c contender) (lane, func()) { return slowWith(c, 1<<20) }

// slowDefault is slow with the default MaxPending.
func slowDefault(c contender) (lane, func()) { return slowWith(c, 0) }

func slowWith(c contender, pending int) (lane, func()) {
	held := make(chan time.Duration, 1)
	m := newMessage(strings.Repeat("x", 256-len(eventPrefix)-len(eventEnd)))
	addr, stop := listen(c.open(job{
		source:  repeated(m, 1000),
		pending: pending,
		held:    func(d time.Duration) { held <- d },
	}), func(l net.Listener) net.Listener { return smallBuffers{l} })
	conn, err := net.Dial("tcp", addr)
	check(err)
	check(conn.(*net.TCPConn).SetReadBuffer(32 << 10))
	buf := make([]byte, 32<<10)
	return func(n int) float64 {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var total time.Duration
		for range n {
			_, err := io.WriteString(conn, requestText)
			check(err)
			for tail := []byte{}; !bytes.HasSuffix(tail, []byte(lastChunk)); {
				<-tick.C
				m, err := conn.Read(buf)
				check(err)
				tail = append(tail, buf[:m]...)
				tail = tail[max(0, len(tail)-len(lastChunk)):]
			}
			total += <-held
		}
		return float64(total) / float64(n)
	}, both(func() { conn.Close() }, stop)
}

const lastChunk = "0\r\n\r\n"
