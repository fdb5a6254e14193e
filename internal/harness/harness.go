// Package harness is what the tests of this module share: servers for every
// protocol, a client that reads a response step by step, an in-memory network for
// synctest's bubbles, connections that misbehave on cue, and a server's writer of
// each kind.
package harness

import (
	"testing"
	"testing/synctest"
	"time"
)

// A Proto is a way to speak HTTP between the test's client and its server.
type Proto int

const (
	HTTP1  Proto = iota // HTTP/1.1 over TCP
	HTTP10              // HTTP/1.0 over TCP
	HTTPS1              // HTTP/1.1 over TLS
	HTTP2               // HTTP/2 over TLS; in a bubble without TLS
)

func (p Proto) String() string { return [...]string{"http1", "http10", "https1", "h2"}[p] }

func (p Proto) version() string {
	if p == HTTP10 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// EachProto runs f as one subtest per protocol.
func EachProto(t *testing.T, f func(t *testing.T, p Proto)) {
	for _, p := range []Proto{HTTP1, HTTP10, HTTPS1, HTTP2} {
		t.Run(p.String(), func(t *testing.T) { f(t, p) })
	}
}

// Bubble runs f in a synctest bubble of its own for HTTP/1.1, HTTP/1.0 and
// HTTP/2, as subtests. Inside, servers come from ServeMemory, time is fake, and
// a goroutine left behind fails the test. Make channels inside f.
func Bubble(t *testing.T, f func(t *testing.T, p Proto)) {
	for _, p := range []Proto{HTTP1, HTTP10, HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, p) })
		})
	}
}

// Patience bounds every wait for something that must come: an upper bound for
// broken runs only. Fake time costs nothing, so in a bubble it is years.
func Patience() time.Duration {
	if bubbled() {
		return 100000 * time.Hour
	}
	return 30 * time.Second
}

// bubbled reports whether it is called in a bubble, whose clock starts in 2000.
func bubbled() bool { return time.Now().Year() < 2015 }
