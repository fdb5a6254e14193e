package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/fa492104/flush"
)

// transparent is middleware that wraps the writer and can be unwrapped.
type transparent struct{ http.ResponseWriter }

func (t transparent) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func wrapped(w http.ResponseWriter, n int) http.ResponseWriter {
	for range n {
		w = transparent{w}
	}
	return w
}

func bareHandler(h http.Handler) http.Handler { return h }
func ourHandler(h http.Handler) http.Handler  { return flush.NewHandler(h, nil) }

// bareFlush writes and flushes events on the server's own writer, as it is
// below wraps wrappers.
func bareFlush(wraps int) func(w http.ResponseWriter) func(n int) {
	return func(w http.ResponseWriter) func(n int) {
		rc := http.NewResponseController(wrapped(w, wraps))
		return func(n int) {
			for range n {
				w.Write(event.text)
				rc.Flush()
			}
		}
	}
}

func syncFlush(wraps int, http2 bool) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := inHandler(bareHandler, http2, 20, bareFlush(wraps))
		ours, stopOurs := inHandler(ourHandler, http2, 20, func(w http.ResponseWriter) func(n int) {
			w = wrapped(w, wraps)
			return func(n int) {
				for range n {
					w.Write(event.text)
					flush.Flush(w, true)
				}
			}
		})
		return bare, ours, both(stopBare, stopOurs)
	}
}

// waitedFor is a sync flush whose client waits for each event, as the clients
// of a stream do; the flush wakes it. The cost is the handler's time in Write
// and Flush, not the client's.
func waitedFor(wraps int) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := waited(bareHandler, func(w http.ResponseWriter, work func(io.Writer, func())) {
			w = wrapped(w, wraps)
			rc := http.NewResponseController(w) // made once, as it may be: a new one for each is an allocation
			work(w, func() { rc.Flush() })
		})
		ours, stopOurs := waited(ourHandler, func(w http.ResponseWriter, work func(io.Writer, func())) {
			w = wrapped(w, wraps)
			work(w, func() { flush.Flush(w, true) })
		})
		return bare, ours, both(stopBare, stopOurs)
	}
}

// waitedForDetached is the same on a detached response: its handler returns, and
// another goroutine writes.
func waitedForDetached() (lane, lane, func()) {
	bare, stopBare := waited(bareHandler, func(w http.ResponseWriter, work func(io.Writer, func())) {
		rc := http.NewResponseController(w)
		work(w, func() { rc.Flush() })
	})
	ours, stopOurs := waited(ourHandler, func(w http.ResponseWriter, work func(io.Writer, func())) {
		f, _ := flush.From(w)
		check(f.Detach())
		go func() {
			work(f, func() { flush.Flush(f, true) })
			f.Close()
		}()
	})
	return bare, ours, both(stopBare, stopOurs)
}

// waited opens a stream whose client says when it has an event. stream is its
// handler, which calls work.
func waited(wrap func(http.Handler) http.Handler, stream func(w http.ResponseWriter, work func(io.Writer, func()))) (lane, func()) {
	counts, took, got := make(chan int), make(chan float64), make(chan bool, 1) // the end, too, is got
	work := func(w io.Writer, flushEvent func()) {
		for n := range counts {
			costs := make([]float64, n)
			for i := range costs {
				began := time.Now()
				w.Write(event.text)
				flushEvent()
				costs[i] = float64(time.Since(began))
				<-got
			}
			took <- quantile(costs, 0.5)
		}
	}
	addr, stop := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		stream(w, func(out io.Writer, flushEvent func()) {
			flushEvent() // the headers, which are out already if it is detached
			out.Write(event.text)
			flushEvent()
			<-got
			work(out, flushEvent)
		})
	})))
	c := dial(addr)
	go func() {
		// The headers may come by themselves or with the first event.
		br := bufio.NewReader(c)
		if _, err := http.ReadResponse(br, nil); err != nil {
			return
		}
		for buf := make([]byte, 4096); ; {
			if _, err := br.Read(buf); err != nil {
				return
			}
			got <- true
		}
	}()
	return func(n int) float64 {
			counts <- n
			return <-took
		}, func() {
			close(counts)
			c.Close()
			stop()
		}
}

// fastest writes and flushes events as fast as they are taken; a slice ends when
// its last event has been handed over.
func fastest(http2 bool) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := inHandler(bareHandler, http2, 2000, bareFlush(0))
		ours, stopOurs := inHandler(ourHandler, http2, 100000, func(w http.ResponseWriter) func(n int) {
			f, _ := flush.From(w)
			return func(n int) {
				for range n {
					f.Write(event.text)
					f.FlushAsync()
				}
				f.FlushWait(context.Background())
			}
		})
		return bare, ours, both(stopBare, stopOurs)
	}
}
