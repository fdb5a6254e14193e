package main

import (
	"bytes"
	"io"
	"log"
	"net"
	"runtime"
	"time"
)

// idle holds streams of a contender that have sent one event; the cost of one
// is what it adds. Connections are in memory, as the system's limits on open
// files have no say there. Deaf handlers wait for the application alone.
func idle(c contender, deaf bool, added func(before, after idleState) float64) lane {
	return func(n int) float64 {
		over := make(chan struct{})
		s := c.open(job{deaf: deaf, source: func(done <-chan struct{}) func() (message, bool) {
			sent := false
			return func() (message, bool) {
				if !sent {
					sent = true
					return event, true
				}
				select {
				case <-done:
				case <-over:
				}
				return message{}, false
			}
		}})
		l := newPipeListener()
		go s.Serve(l)
		before := readIdle()
		conns := make([]net.Conn, n)
		buf := make([]byte, 4096)
		for i := range conns {
			client, server := net.Pipe()
			conns[i] = client
			l.conns <- server
			_, err := io.WriteString(client, requestText)
			check(err)
			for got := []byte{}; !bytes.Contains(got, event.text); {
				m, err := client.Read(buf)
				check(err)
				got = append(got, buf[:m]...)
			}
		}
		after := readIdle()
		for _, c := range conns {
			c.Close()
		}
		close(over)
		s.Close()
		for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before.goroutines; {
			if time.Now().After(deadline) {
				log.Fatalf("%s: streams have not ended", c.name)
			}
			time.Sleep(time.Millisecond)
		}
		return added(before, after) / float64(n)
	}
}

type idleState struct {
	heap       int64
	goroutines int
}

// readIdle reads what is held, after the carriers have gone and pools have
// been emptied.
func readIdle() idleState {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return idleState{int64(m.HeapAlloc), runtime.NumGoroutine()}
}

func idleHeap(c contender) (lane, func())     { return idle(c, false, addedHeap), func() {} }
func idleDeafHeap(c contender) (lane, func()) { return idle(c, true, addedHeap), func() {} }

func addedHeap(before, after idleState) float64 { return float64(after.heap - before.heap) }

func idleGoroutines(c contender) (lane, func()) {
	return idle(c, false, func(before, after idleState) float64 { return float64(after.goroutines - before.goroutines) }), func() {}
}
