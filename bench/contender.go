package main

import (
	"io"
	"net/http"
	"time"
)

// A contender is a way to stream events, written as its documentation has it.
type contender struct {
	name string // of the row
	how  string // how it sends an event, for the notes

	// open returns a server whose every response does the job.
	open func(j job) server

	gzip string // what compresses; "": nothing
	note string // what else a reader of the figures has to know
	ours bool   // it is this library, or has it around it

	sockets bool // it serves the kernel's connections alone
}

// does says whether there is anything to measure of c in a column.
func (c *contender) does(col column) bool {
	return (col.name != "gzip" || c.gzip != "") && !(col.inMemory && c.sockets)
}

// A job is what one response does.
type job struct {
	// source starts a response. What it returns gives message after message,
	// until there are no more. done is closed when the client has gone, and nil
	// where the server does not notice.
	source func(done <-chan struct{}) func() (message, bool)

	gzip      bool                // compress, and flush each event so that it can be decoded
	pending   int                 // Options.MaxPending of this library
	held      func(time.Duration) // told how long a handler took; nil: nobody asks
	unflushed bool                // no flushes
	deaf      bool                // do not ask the request's context for its end
}

// A message is one event.
type message struct {
	text []byte // as it goes over the wire
	data string // what is in it
}

// event is the message that most lanes send.
var event = newMessage("0123456789")

const (
	eventPrefix = "data: "
	eventEnd    = "\n\n"
)

func newMessage(data string) message {
	return message{[]byte(eventPrefix + data + eventEnd), data}
}

// timed reports how long a handler took that says: defer j.timed()().
func (j *job) timed() func() {
	if j.held == nil {
		return func() {}
	}
	began := time.Now()
	return func() { j.held(time.Since(began)) }
}

// send gives each message of a response to event, until there are no more or
// one fails.
func (j *job) send(done <-chan struct{}, event func(m message) error) {
	defer j.timed()()
	next := j.source(done)
	for m, ok := next(); ok; m, ok = next() {
		if event(m) != nil {
			return
		}
	}
}

// flushed writes the events of a response and calls flush after each.
func (j *job) flushed(w http.ResponseWriter, r *http.Request, flush func() error) {
	w.Header().Set("Content-Type", "text/event-stream")
	var done <-chan struct{}
	if !j.deaf {
		done = r.Context().Done()
	}
	j.send(done, func(m message) error {
		if _, err := w.Write(m.text); err != nil {
			return err
		}
		if j.unflushed {
			return nil
		}
		return flush()
	})
}

// repeated is a source of n messages m.
func repeated(m message, n int) func(<-chan struct{}) func() (message, bool) {
	return func(<-chan struct{}) func() (message, bool) {
		i := 0
		return func() (message, bool) {
			i++
			return m, i <= n
		}
	}
}

// A body reads as a source's messages, one at each Read.
type body struct {
	next func() (message, bool)
	rest []byte
}

func (b *body) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		m, ok := b.next()
		if !ok {
			return 0, io.EOF
		}
		b.rest = m.text
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) Close() error { return nil }
