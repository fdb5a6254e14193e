package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// control is where a script parks: its request is the news that it has got
// there, the answer lets it go on.
type control struct {
	addr string
	mu   sync.Mutex
	runs map[string]*run
	n    int
}

// run is one script being run by some server.
type run struct {
	ctl     *control
	id      string
	arrived chan []string // the results so far
	release chan struct{}
	enough  chan struct{} // closed when a handler has waited long enough for its client to leave
	over    chan struct{} // the test is
	lost    chan struct{} // closed when the handler's process has gone, for scripts that say k
}

var controls = &lazy[*control]{start: func() (*control, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &control{addr: l.Addr().String(), runs: map[string]*run{}}
	go http.Serve(l, c)
	return c, nil
}}

func newRun(t *testing.T) *run {
	c := controls.get(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	r := &run{
		ctl: c, id: fmt.Sprint(c.n),
		arrived: make(chan []string), release: make(chan struct{}), enough: make(chan struct{}), over: make(chan struct{}), lost: make(chan struct{}),
	}
	c.runs[r.id] = r
	// A script that still parks when its test ends goes on by itself.
	t.Cleanup(func() { close(r.over) })
	return r
}

func (c *control) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	c.mu.Lock()
	r := c.runs[req.FormValue("run")]
	c.mu.Unlock()
	if r == nil {
		http.NotFound(w, req)
		return
	}
	if req.URL.Path == "/watch" {
		http.NewResponseController(w).Flush()
		select {
		case <-req.Context().Done():
			close(r.lost)
		case <-r.over:
		}
		return
	}
	var results []string
	if s := req.FormValue("res"); s != "" {
		results = strings.Split(s, ",")
	}
	select {
	case r.arrived <- results:
	case <-r.over:
		http.Error(w, "the test is over", http.StatusGone)
		return
	}
	released := r.release
	if req.URL.Path == "/enough" {
		released = r.enough
	}
	select {
	case <-released:
	case <-r.over:
	}
}

// parked waits until the script parks and returns the results of its
// operations so far.
func (r *run) parked(t testing.TB) []string {
	t.Helper()
	select {
	case res := <-r.arrived:
		return res
	case <-time.After(2 * bound):
		t.Fatal("the script did not get to its next park")
		return nil
	}
}

func (r *run) goOn() { r.release <- struct{}{} }
