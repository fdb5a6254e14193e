package flush_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// What was flushed before an end that cuts reaches the client first, and then
// the cut: a client that gets no byte takes a kept connection for stale and asks
// again. Abort does the same only while no header is out: see TestEnds.
func TestFlushedBeforeTheCut(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(f *flush.Flusher)
	}{
		{"panic", func(*flush.Flusher) { panic(http.ErrAbortHandler) }},
		{"Goexit", func(*flush.Flusher) { runtime.Goexit() }},
	} {
		for _, ask := range []struct {
			name string
			opts flush.Options
			do   func(w http.ResponseWriter)
		}{
			{"FlushAsync", flush.Options{}, func(w http.ResponseWriter) { flush.Flush(w, false) }},
			{"Async", flush.Options{Flush: flush.Async}, func(w http.ResponseWriter) { w.(http.Flusher).Flush() }},
			{"implicit", flush.Options{Implicit: flush.Async}, func(http.ResponseWriter) {}},
			{"Wait", flush.Options{}, func(w http.ResponseWriter) { flush.Flush(w, true) }},
		} {
			t.Run(end.name+"/"+ask.name, func(t *testing.T) {
				bubble(t, func(t *testing.T, p proto) {
					told := make(chan error, 1)
					opts := ask.opts
					opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) { told <- err }
					srv := serveMemory(t, p, wrapped(&opts, func(w http.ResponseWriter, _ *http.Request) {
						io.WriteString(w, "half of it")
						ask.do(w)
						end.do(flusher(w))
					}), 0)
					clock := newClock()
					s := open(t, srv, "GET", "/", nil)
					body, _, how := s.rest()
					if body != "half of it" || how == complete || how == closed && p != http10 {
						t.Errorf("the client got %q, %v", body, how)
					}
					if err := <-told; err == nil {
						t.Error("OnClose: nil")
					}
					if clock.now() != 0 {
						t.Error("it took", clock.now())
					}
				})
			})
		}
	}
}

// The time for that is bounded: by a second, and by SendTimeout.
func TestFlushedBeforeTheCutIsBounded(t *testing.T) {
	for _, limit := range []time.Duration{200 * time.Millisecond, time.Hour} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			bubble(t, func(t *testing.T, p proto) {
				ended := make(chan time.Duration, 1)
				clock := newClock()
				opts := &flush.Options{Flush: flush.Async, SendTimeout: limit, MaxPending: much, OnClose: func(*http.Request, flush.Stats, error) {
					ended <- clock.now()
				}}
				srv := serveMemory(t, p, wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					w.Write(make([]byte, much))
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}), 1000)
				s := open(t, srv, "GET", "/", nil)
				if at := <-ended; at > min(limit, time.Second) {
					t.Error("ended after", at)
				}
				if _, _, end := s.rest(); end == complete {
					t.Error("the client takes it for complete")
				}
			})
		})
	}
}
