// Package steps is a small language of output operations, so that one script
// can be run by this library (Handler, here), by PHP (steps.php) and by
// ngx_http_lua (steps.lua), and the three be compared on the wire.
//
// A request names its script in the query:
//
//	run  the id of the test's run
//	ctl  host:port of the test's control server
//	s    the operations, separated by commas, arguments after a colon
//
// The operations:
//
//	w:TEXT      write TEXT
//	n:TEXT      write TEXT and a newline
//	z           write the empty string
//	x:N         write N bytes
//	f, a        flush and wait, flush asynchronously
//	p           park: tell the control server the results so far, go on when it answers
//	s:CODE      set the status
//	h:NAME=V    set a header
//	i:on, i:off implicit flush
//	ia          implicit flush, asynchronous (Go only)
//	H           send the headers
//	eof         end the response
//	b, bf, bc, be   open, flush, clean, end a user-level buffer
//	g           open a buffer that compresses
//	l:N:SIZE    N times write SIZE bytes and flush; stops at the first failure
//	q           wait for the client to leave, or until the control server says that
//	            it is enough; the result is "told" or "never told" (Go only)
//	cut         abort the response, and end (Go only)
//	T           wait until the process has been told to stop (Go only)
//	pid         the result is the process's id (Go only)
//	k           keep a connection to the control server until the end, so that
//	            it notices that the process has gone (Go only)
//	ef:N, ea:N  N events of 24 bytes, each flushed (waiting, asynchronously)
//
// Flush operations leave a result: "ok" or the name of the failure.
package steps

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/fa492104/flush"
)

// PHP and Lua are the interpreters for the originals.
var (
	//go:embed steps.php
	PHP []byte
	//go:embed steps.lua
	Lua []byte
)

// Event is what ef and ea write: 24 bytes.
const Event = "data: 0123456789abcdef\n\n"

// Stopping is closed when the process has been told to stop. It is set before
// the first request.
var Stopping <-chan struct{}

// Handler runs the script that the request names.
var Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s := &session{w: w, r: r, run: q.Get("run"), ctl: q.Get("ctl")}
	s.f, _ = flush.FromContext(r.Context())
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	s.ctx = ctx
	for op := range strings.SplitSeq(q.Get("s"), ",") {
		if !s.do(op) {
			return
		}
	}
})

type session struct {
	w        http.ResponseWriter
	r        *http.Request
	f        *flush.Flusher  // nil on a bare server
	ctx      context.Context // ends when the handler returns
	run, ctl string
	results  []string
}

func (s *session) do(op string) (goOn bool) {
	name, arg, _ := strings.Cut(op, ":")
	switch name {
	case "":
	case "w":
		io.WriteString(s.w, arg)
	case "n":
		io.WriteString(s.w, arg+"\n")
	case "z":
		io.WriteString(s.w, "")
	case "x":
		io.WriteString(s.w, strings.Repeat("x", number(arg)))
	case "f":
		s.result(flush.Flush(s.w, true))
	case "a":
		s.result(flush.Flush(s.w, false))
	case "p":
		return s.park()
	case "s":
		s.w.WriteHeader(number(arg))
	case "h":
		k, v, _ := strings.Cut(arg, "=")
		s.w.Header().Set(k, v)
	case "i":
		mode := flush.Off
		if arg == "on" {
			mode = flush.Wait
		}
		s.f.SetImplicit(mode)
	case "ia":
		s.f.SetImplicit(flush.Async)
	case "H":
		s.result(s.f.SendHeaders())
	case "eof":
		s.f.Close()
	case "b":
		s.f.StartBuffer(nil)
	case "bf":
		s.f.Top().Flush()
	case "bc":
		s.f.Top().Clean()
	case "be":
		s.f.Top().Close()
	case "g":
		s.f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(s.f, s.r, -1), FollowFlush: true})
	case "k":
		// The answer stays open; the request ends with the handler.
		if _, err := s.get("watch"); err != nil {
			panic(err)
		}
	case "q":
		s.results = append(s.results, s.untilLeft())
	case "T":
		<-Stopping
	case "pid":
		s.results = append(s.results, strconv.Itoa(os.Getpid()))
	case "cut":
		s.f.Abort(errors.New("steps: cut"))
		return false
	case "l":
		n, size, _ := strings.Cut(arg, ":")
		s.loop(number(n), strings.Repeat("x", number(size)), true)
	case "ef":
		s.loop(number(arg), Event, true)
	case "ea":
		s.loop(number(arg), Event, false)
	default:
		panic("steps: no operation " + strconv.Quote(op))
	}
	return true
}

func (s *session) loop(n int, text string, wait bool) {
	p := []byte(text)
	push := func() error { return flush.Flush(s.w, wait) }
	if s.f == nil {
		push = http.NewResponseController(s.w).Flush
	}
	var err error
	for i := 0; i < n && err == nil; i++ {
		if _, err = s.w.Write(p); err == nil {
			err = push()
		}
	}
	s.result(err)
}

func (s *session) result(err error) { s.results = append(s.results, name(err)) }

// name gives a failure the word that ngx.flush has for it, where it has one.
func name(err error) string {
	for _, e := range []struct {
		err  error
		name string
	}{
		{nil, "ok"},
		{flush.ErrBuffering, "buffering"},
		{flush.ErrTimeout, "timeout"},
		{flush.ErrClientGone, "client aborted"},
		{flush.ErrClosed, "seen eof"},
	} {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return err.Error()
}

// park reports and waits.
func (s *session) park() bool {
	resp, err := s.get("park")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// untilLeft waits as a handler does that has nothing to write.
func (s *session) untilLeft() string {
	enough := make(chan struct{})
	go func() {
		if resp, err := s.get("enough"); err == nil {
			resp.Body.Close()
			close(enough)
		}
	}()
	select {
	case <-s.r.Context().Done():
		return "told"
	case <-enough:
		return "never told"
	}
}

// get asks the control server. The connection is new each time: a process that
// serves one request must not be kept by an idle one.
func (s *session) get(what string) (*http.Response, error) {
	u := fmt.Sprintf("http://%s/%s?run=%s&res=%s", s.ctl, what, s.run, url.QueryEscape(strings.Join(s.results, ",")))
	req, err := http.NewRequestWithContext(s.ctx, "GET", u, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	return http.DefaultClient.Do(req)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
