// Package compat tests flush together with the frameworks, middleware and
// protocols that people already use. The results are the table of
// ../docs/compat.md: every cell is a test here.
package compat_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// A subject is one row of the table: somebody else's code together with ours.
type subject struct {
	name  string // how the row begins
	place place
	want  cells

	// serve returns the whole handler, with flush.NewHandler in it, or an
	// other code's and ours as place says. It calls run once per request.
	serve func(t *testing.T, opts *flush.Options, run func(*session)) http.Handler

	gzip   bool   // the client accepts gzip, and must be answered in it
	post   string // what the client posts; "": it gets
	header http.Header
	path   string // after the slash
	h2only bool   // not for HTTP/1
}

type place string

const (
	inside  place = "inside"  // NewHandler(theirs(handler))
	outside place = "outside" // theirs(NewHandler(handler))
	handler place = "handler" // NewHandler(theirs), with the handler written for them
)

// A session is one response as the handler of a subject sees it.
type session struct {
	ctx context.Context

	// w is what the handler has as its writer; nil where the subject keeps it
	// to itself.
	w http.ResponseWriter

	// own writes a text and flushes it as the subject has it done.
	own func(text string) error
}

// plain is the session of a handler that knows nothing but net/http.
func plain(w http.ResponseWriter, r *http.Request) *session {
	return &session{r.Context(), w, func(text string) error {
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}}
}

// wrapped returns the two rows of a middleware: inside and outside ours.
func wrapped(name string, wrap func(http.Handler) http.Handler, in, out cells) []subject {
	run := func(run func(*session)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { run(plain(w, r)) })
	}
	return []subject{
		{name: name, place: inside, want: in, serve: func(_ *testing.T, opts *flush.Options, f func(*session)) http.Handler {
			return flush.NewHandler(wrap(run(f)), opts)
		}},
		{name: name, place: outside, want: out, serve: func(_ *testing.T, opts *flush.Options, f func(*session)) http.Handler {
			return wrap(flush.NewHandler(run(f), opts))
		}},
	}
}

// compressor is middleware for a client that accepts gzip.
func compressor(name string, wrap func(http.Handler) http.Handler, in, out cells) []subject {
	rows := wrapped(name, wrap, in, out)
	for i := range rows {
		rows[i].gzip = true
	}
	return rows
}

// A column of the table.
type column struct {
	title string
	cell  func(t *testing.T, s subject, p proto) string
	http1 bool // what it says is of HTTP/1.1 alone
}

// The columns of the table, in order.
var columns = []column{
	{"`flush.Flush(w, true)`", func(t *testing.T, s subject, p proto) string {
		return steps(t, s, p, &flush.Options{}, func(c *session) func(string) error { return flushing(c, true) })
	}, false},
	{"`flush.Flush(w, false)`", func(t *testing.T, s subject, p proto) string {
		return background(t, s, p, &flush.Options{}, func(c *session) func(string) error { return flushing(c, false) })
	}, false},
	{"own flush, `Wait`", func(t *testing.T, s subject, p proto) string {
		return steps(t, s, p, &flush.Options{}, func(c *session) func(string) error { return c.own })
	}, false},
	{"own flush, `Async`", func(t *testing.T, s subject, p proto) string {
		return background(t, s, p, &flush.Options{Flush: flush.Async}, func(c *session) func(string) error { return c.own })
	}, false},
	{"client gone", gone, false},
	{"`SendTimeout`", timesOut, false},
	{"finds the Flusher", finds, false},
	{"`SetWriteDeadline`", setsDeadline, false},
	{"`Detach` on HTTP/1.1", detaches, true},
}

// cells are the expected outcomes of a row, by column.
type cells [9]string

// What a cell can say.
const (
	yes        = "yes"
	none       = "–"                         // there is nothing to test
	refused    = "refused"                   // the error matches http.ErrNotSupported; bytes come at the end
	atEnd      = "at the end"                // no error, yet nothing comes before the end
	late       = "late"                      // no error; some steps come with later ones
	waits      = "waits"                     // it arrives, but the call waits for the client
	noError    = "no error"                  // writes go on without one
	goneBoth   = "`ErrClientGone`"           // from the call, and as the cause of the context
	goneCtx    = "cause of the context only" // the calls have no error to give
	laterWrite = "at a later write"          // the call that the client held up returns in time, but its error is lost
	onClose    = "`OnClose` only"            // it returns in time; no call of the handler's has an error to give
	waitOnly   = "wait only"                 // it returns ErrTimeout in time; the server's own write stays
	streamEnds = "ends `Stream`"
	cutOff     = "yes: cuts the upstream off"
	byCtx      = "`FromContext`" // From does not find it, FromContext does
	never      = "no"
)

// flushing writes a text and flushes with the front door's Flush.
func flushing(c *session, wait bool) func(string) error {
	if c.w == nil {
		return nil
	}
	return func(text string) error {
		if _, err := io.WriteString(c.w, text); err != nil {
			return err
		}
		return flush.Flush(c.w, wait)
	}
}

// A proto is a protocol between client and server.
type proto int

const (
	http1 proto = iota
	http2
)

func (p proto) String() string { return [...]string{"HTTP/1.1", "HTTP/2"}[p] }

// A server is an http.Server on a network of its own, with one client.
type server struct {
	*network
	client *http.Client
}

// start serves h for p, in a bubble. The server is gone when the test ends.
func start(t *testing.T, h http.Handler, p proto, configure ...func(*http.Server)) *server {
	t.Helper()
	s := &server{network: newNetwork(t)}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(p == http1)
	srv.Protocols.SetUnencryptedHTTP2(p == http2)
	for _, c := range configure {
		c(srv)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.network) }()
	tr := &http.Transport{DialContext: s.Dial, DisableCompression: true, Protocols: srv.Protocols, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	s.client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		s.setHeld(false)
		tr.CloseIdleConnections()
		srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("server ended with %v", err)
		}
	})
	return s
}

// A response is read step by step.
type response struct {
	t      *testing.T
	cancel context.CancelFunc
	read   chan struct{} // closed once the client reads
	pieces chan piece
	got    []byte
	err    error // what ended the body
}

type piece struct {
	p   []byte
	err error
}

// request asks for the response of s and reads it in the background.
func (srv *server) request(t *testing.T, s subject) *response {
	t.Helper()
	r := srv.ask(t, s)
	close(r.read)
	return r
}

// ask is request by a client that reads nothing before r.read is closed.
func (srv *server) ask(t *testing.T, s subject) *response {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r := &response{t: t, cancel: cancel, read: make(chan struct{}), pieces: make(chan piece, 1<<12)}
	method, body := http.MethodGet, io.Reader(nil)
	if s.post != "" {
		method, body = http.MethodPost, strings.NewReader(s.post)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://server/"+s.path, body)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, s.header)
	if s.gzip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	go func() {
		resp, err := srv.client.Do(req)
		if err != nil {
			r.pieces <- piece{nil, err}
			return
		}
		defer resp.Body.Close()
		select {
		case <-r.read:
		case <-ctx.Done():
		}
		body := io.Reader(resp.Body)
		if s.gzip && resp.Header.Get("Content-Encoding") == "gzip" {
			if body, err = gzip.NewReader(body); err != nil {
				r.pieces <- piece{nil, err}
				return
			}
		}
		for {
			p := make([]byte, 4<<10)
			n, err := body.Read(p)
			r.pieces <- piece{p[:n], err}
			if err != nil {
				return
			}
		}
	}()
	return r
}

// has reports whether text has arrived by now.
func (r *response) has(text string) bool {
	synctest.Wait()
	for r.err == nil {
		select {
		case p := <-r.pieces:
			r.got = append(r.got, p.p...)
			r.err = p.err
			continue
		default:
		}
		break
	}
	return bytes.Contains(r.got, []byte(text))
}

// end waits for the end and returns the whole body.
func (r *response) end() string {
	for r.err == nil {
		p := <-r.pieces
		r.got = append(r.got, p.p...)
		r.err = p.err
	}
	return string(r.got)
}

// texts are what a handler sends, step by step.
var texts = []string{"the first step;", "the second step;", "the third step;"}

// A stage is a handler that stops at marked places.
type stage struct {
	at   chan error // what happened at the last step
	next chan struct{}
}

func newStage() *stage { return &stage{make(chan error), make(chan struct{})} }

// stop is the handler's: it reports err and waits for resume.
func (g *stage) stop(err error) {
	g.at <- err
	<-g.next
}

// reached reports whether the handler has come to its next stop, and what it
// reports.
func (g *stage) reached() (error, bool) {
	synctest.Wait()
	select {
	case err := <-g.at:
		return err, true
	default:
		return nil, false
	}
}

// steps is the outcome of three waiting flushes: what the client has got of
// each while the handler is stopped.
func steps(t *testing.T, s subject, p proto, opts *flush.Options, send func(*session) func(string) error) string {
	g := newStage()
	have := make(chan bool, 1)
	srv := start(t, s.serve(t, opts, func(c *session) {
		do := send(c)
		have <- do != nil
		if do == nil {
			return
		}
		for _, text := range texts {
			g.stop(do(text))
		}
	}), p)
	r := srv.request(t, s)
	if !<-have {
		r.end()
		return none
	}
	var arrived, refusals int
	for i, text := range texts {
		err, ok := g.reached()
		if !ok {
			t.Fatalf("the handler waits in step %d", i)
		}
		switch {
		case errors.Is(err, http.ErrNotSupported):
			refusals++
		case err != nil:
			t.Fatalf("step %d: %v", i, err)
		}
		if r.has(text) {
			arrived++
		}
		g.next <- struct{}{}
	}
	return outcome(t, r, arrived, refusals)
}

func outcome(t *testing.T, r *response, arrived, refusals int) string {
	t.Helper()
	body := r.end()
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("the response lacks %q: %q", text, body)
		}
	}
	if r.err != io.EOF {
		t.Errorf("the response ended with %v", r.err)
	}
	switch {
	case refusals == len(texts) && arrived == 0:
		return refused
	case refusals > 0:
		t.Fatalf("%d refused, %d arrived", refusals, arrived)
	case arrived == len(texts):
		return yes
	case arrived == 0:
		return atEnd
	}
	return late
}

// background is the outcome of three flushes that must not wait for the
// client, and arrive as soon as it reads.
func background(t *testing.T, s subject, p proto, opts *flush.Options, send func(*session) func(string) error) string {
	g := newStage()
	have := make(chan bool, 1)
	srv := start(t, s.serve(t, opts, func(c *session) {
		do := send(c)
		have <- do != nil
		if do == nil {
			return
		}
		g.stop(nil)
		for _, text := range texts {
			g.stop(do(text))
		}
	}), p)
	r := srv.request(t, s)
	if !<-have {
		r.end()
		return none
	}
	if _, ok := g.reached(); !ok {
		t.Fatal("the handler did not start")
	}
	n := srv.network
	if s.place == outside {
		n = networks[0] // in front of ours there may be a proxy
	}
	var arrived, refusals, waited int
	for i, text := range texts {
		n.setHeld(true)
		g.next <- struct{}{}
		err, ok := g.reached()
		n.setHeld(false)
		if !ok {
			waited++
			if err, ok = g.reached(); !ok {
				t.Fatalf("the handler waits in step %d although the client reads", i)
			}
		}
		switch {
		case errors.Is(err, http.ErrNotSupported):
			refusals++
		case err != nil:
			t.Fatalf("step %d: %v", i, err)
		}
		if r.has(text) {
			arrived++
		}
	}
	g.next <- struct{}{}
	got := outcome(t, r, arrived, refusals)
	if waited > 0 && got == yes {
		return waits
	}
	return got
}

// gone is the outcome of a client that leaves after the first step.
func gone(t *testing.T, s subject, p proto) string {
	result := make(chan string, 1)
	first := make(chan struct{})
	srv := start(t, s.serve(t, nil, func(c *session) {
		c.own(texts[0])
		close(first)
		<-c.ctx.Done()
		synctest.Wait() // whatever else the end of the context starts
		byCause := errors.Is(flush.Cause(c.ctx), flush.ErrClientGone)
		// A server may buffer what it is given, and say so one write later.
		var err error
		for range 20 {
			if err = c.own(noise(6 << 10)); err != nil {
				break
			}
		}
		byError := errors.Is(err, flush.ErrClientGone)
		switch {
		case byCause && errors.Is(err, errStreamEnded):
			result <- streamEnds
		case byCause && byError:
			result <- goneBoth
		case byCause:
			result <- goneCtx
		case errors.Is(err, io.ErrClosedPipe):
			result <- cutOff
		case err != nil:
			result <- "another error: " + err.Error()
		default:
			result <- noError
		}
	}), p)
	r := srv.request(t, s)
	<-first
	r.has(texts[0])
	r.cancel()
	return <-result
}

// sendTimeout is far below the 60 s and 90 s that others use.
const sendTimeout = 10 * time.Second

// timesOut is the outcome of a client that does not read: the worse of what
// events give that fit the Flusher's buffer, so that the flush meets that client,
// and of what larger ones give, where it is the write.
func timesOut(t *testing.T, s subject, p proto) string {
	small, large := stalls(t, s, p, 2<<10), stalls(t, s, p, 6<<10)
	switch {
	case small == large || small == laterWrite && large == yes:
		return small
	case small == yes && large == laterWrite:
		return large
	}
	t.Errorf("small events give %q, large ones %q", small, large)
	return ""
}

// stalls is timesOut for events of one size.
func stalls(t *testing.T, s subject, p proto, size int) string {
	type end struct {
		err    error
		after  time.Duration // when the call returned that the client held up
		late   int           // err is that of a call so many after it
		sticks bool
	}
	result := make(chan end, 1)
	closed := make(chan error, 1)
	opts := &flush.Options{SendTimeout: sendTimeout, OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}
	srv := start(t, s.serve(t, opts, func(c *session) {
		f, known := flush.FromContext(c.ctx) // grpc-go returns to the server while this still runs
		// What others do once, after the first step, is over before the stall.
		err := c.own(texts[0])
		time.Sleep(time.Nanosecond)
		began := time.Now()
		e := end{}
		for range 64 {
			if err != nil || e.late == 20 {
				break
			}
			if e.after > 0 {
				e.late++
			}
			err = c.own(noise(size))
			if e.after == 0 {
				e.after = time.Since(began)
			}
		}
		e.err = err
		e.sticks = known && f.Err() != nil
		result <- e
	}), p)
	r := srv.ask(t, s)
	got := <-result
	close(r.read)
	r.end()
	err := <-closed
	switch {
	case got.after == 0 && (got.err == nil || errors.Is(got.err, http.ErrNotSupported)):
		return none
	case got.after < sendTimeout || got.after > sendTimeout+sendTimeout/16:
		t.Fatalf("the handler got %v after %v (%d later, sticks: %v), and OnClose %v", got.err, got.after, got.late, got.sticks, err)
	case got.sticks && r.err == io.EOF:
		t.Errorf("the client takes %d bytes for the whole", len(r.got))
	case got.sticks && errors.Is(got.err, flush.ErrTimeout) && errors.Is(err, flush.ErrTimeout):
		if got.late > 0 {
			return laterWrite
		}
		return yes
	case got.sticks && errors.Is(got.err, errStreamEnded) && errors.Is(err, flush.ErrTimeout):
		return streamEnds
	case got.sticks && errors.Is(err, flush.ErrTimeout):
		return onClose
	case !got.sticks && errors.Is(got.err, io.ErrClosedPipe) && errors.Is(err, flush.ErrTimeout):
		return cutOff
	case !got.sticks && errors.Is(got.err, flush.ErrTimeout):
		return waitOnly
	}
	t.Fatalf("the handler got %v (sticks: %v), and OnClose %v", got.err, got.sticks, err)
	return ""
}

// noise is text that does not compress well, a third longer than n bytes.
func noise(n int) string {
	p := make([]byte, n)
	rand.Read(p)
	return base64.StdEncoding.EncodeToString(p)
}

// once runs f on one session and finishes the response.
func once(t *testing.T, s subject, p proto, f func(*session) string) string {
	result := make(chan string, 1)
	srv := start(t, s.serve(t, nil, func(c *session) { result <- f(c) }), p)
	srv.request(t, s).end()
	return <-result
}

// finds is how a handler comes to the Flusher.
func finds(t *testing.T, s subject, p proto) string {
	return once(t, s, p, func(c *session) string {
		want, ok := flush.FromContext(c.ctx)
		if !ok {
			return never
		}
		if c.w == nil {
			return byCtx
		}
		switch f, ok := flush.From(c.w); {
		case !ok:
			return byCtx
		case f != want:
			return "another one"
		}
		return yes
	})
}

// setsDeadline is whether the handler's own write deadline has an effect.
func setsDeadline(t *testing.T, s subject, p proto) string {
	return once(t, s, p, func(c *session) string {
		if c.w == nil {
			return none
		}
		switch err := http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(time.Hour)); {
		case err == nil:
			return yes
		case errors.Is(err, http.ErrNotSupported):
			return refused
		default:
			return err.Error()
		}
	})
}
