package flushtest

import (
	"errors"
	"net/http"
	"testing"
)

// ServeOptions are the options of [Serve]. Nil means all defaults.
type ServeOptions struct {
	HTTP2     bool               // speak HTTP/2, without TLS; else HTTP/1.1
	Capacity  int                // of each connection, see Pipe; 0: 64 KiB
	Script    Script             // what the server's connections do when it writes
	Configure func(*http.Server) // may change the server before it starts
}

// A Server is a real [http.Server] on a network in memory. See [Serve].
type Server struct {
	Config   *http.Server // the server itself
	Listener *Listener    // its Dial opens a connection of one's own
	URL      string       // what requests of its Client begin with: http://memory
	client   *http.Client
}

// Serve starts a server for h, which ends with the test, together with the
// responses of its client. It may be called in a [testing/synctest] bubble,
// and then all of it must be used there: handlers that sleep take no time, and
// one that does not return fails the test.
//
// To see that something has been flushed, read it while the handler is still
// at work.
func Serve(t testing.TB, h http.Handler, opts *ServeOptions) *Server {
	t.Helper()
	if opts == nil {
		opts = new(ServeOptions)
	}
	l := Listen(opts.Capacity)
	l.Script = opts.Script
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!opts.HTTP2)
	protocols.SetUnencryptedHTTP2(opts.HTTP2)
	s := &Server{Config: &http.Server{Handler: h, Protocols: protocols}, Listener: l, URL: "http://memory"}
	if opts.Configure != nil {
		opts.Configure(s.Config)
	}
	tr := &http.Transport{
		DialContext:        l.Dial,
		Protocols:          protocols,
		DisableCompression: true,
		// Small, so that a client that does not read stalls its server.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
	}
	s.client = &http.Client{Transport: closingTransport{tr, t}}
	served := make(chan error, 1)
	go func() { served <- s.Config.Serve(l) }()
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		s.Config.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("server ended with %v", err)
		}
	})
	return s
}

// Client returns a client of the server. It does not ask for compression by
// itself. What it leaves open is closed when the test ends.
func (s *Server) Client() *http.Client { return s.client }

// A closingTransport closes the bodies that the test has left open: each holds
// a goroutine, which a bubble waits for.
type closingTransport struct {
	*http.Transport
	t testing.TB
}

func (t closingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil {
		t.t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}
