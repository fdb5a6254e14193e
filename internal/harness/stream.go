package harness

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/deadline"
)

// BodyReader reads a stream's body as it comes.
type BodyReader struct{ S *Stream }

func (b BodyReader) Read(p []byte) (int, error) {
	for len(b.S.held) == 0 {
		if b.S.readErr != nil {
			return 0, b.S.readErr
		}
		if !b.S.fill() {
			return 0, errors.New("nothing comes")
		}
	}
	n := copy(p, b.S.held)
	b.S.held = b.S.held[n:]
	return n, nil
}

// An Ending is how the client saw a response end.
type Ending string

const (
	Complete Ending = "complete" // last chunk, Content-Length reached, END_STREAM, or no body
	Cut      Ending = "cut"      // visibly short
	Closed   Ending = "closed"   // by the end of the connection: complete or not cannot be told
)

// An interim is a 1xx response.
type interim struct {
	Code   int
	Header http.Header
}

// A Stream is one request whose response the test reads step by step, while the
// handler may be blocked. Nothing is read from an HTTP/1 connection before the
// test asks for it: a stream left alone is a client that does not read. Only
// one goroutine may use it.
type Stream struct {
	T      *testing.T
	srv    *Server
	Conn   net.Conn // HTTP/1 only
	Reader *bufio.Reader
	Raw    *SafeBuffer // every byte received, HTTP/1 only

	Method  string
	Cancel  context.CancelFunc // HTTP/2 only
	Reused  bool               // HTTP/2 only: the request went over a connection used before
	started bool
	seen    bool          // the test has asked for the head
	headed  chan struct{} // closed once resp or err is set
	proceed chan struct{} // closed once a body held back by Expect may go
	Resp    *http.Response
	err     error
	Interim []interim // once headed
	pending chan piece
	held    []byte // received, not yet expected
	readErr error  // what ended the body
}

type piece struct {
	p   []byte
	err error
}

// Open sends a request. Each of lines is a header line such as "Accept: */*".
// A body is sent in the background; it has a Content-Length if it has a method
// Len, as strings.Reader has. With "Expect: 100-continue" it is sent when the
// server asks for it.
func Open(t *testing.T, srv *Server, method, path string, body io.Reader, lines ...string) *Stream {
	t.Helper()
	s := &Stream{T: t, srv: srv}
	if srv.Proto != HTTP2 {
		c, err := srv.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Leave)
		s.Conn, s.Raw = c, new(SafeBuffer)
		s.Reader = bufio.NewReader(io.TeeReader(c, s.Raw))
	}
	s.send(method, path, body, lines)
	return s
}

// Again sends another request: over HTTP/1 on the same connection, whose earlier
// response must have been read to its end.
func (s *Stream) Again(method, path string, body io.Reader, lines ...string) *Stream {
	s.T.Helper()
	n := &Stream{T: s.T, srv: s.srv, Conn: s.Conn, Reader: s.Reader, Raw: s.Raw}
	n.send(method, path, body, lines)
	return n
}

func (s *Stream) send(method, path string, body io.Reader, lines []string) {
	s.T.Helper()
	s.Method, s.headed, s.proceed = method, make(chan struct{}), make(chan struct{})
	if s.Conn == nil {
		s.sendHTTP2(method, path, body, lines)
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", method, path, s.srv.Proto.version(), s.srv.Addr)
	hold := false
	for _, l := range lines {
		b.WriteString(l + "\r\n")
		hold = hold || strings.EqualFold(l, "Expect: 100-continue") && s.srv.Proto != HTTP10
	}
	chunked := false
	if body != nil {
		if l, ok := body.(interface{ Len() int }); ok {
			fmt.Fprintf(&b, "Content-Length: %d\r\n", l.Len())
		} else {
			b.WriteString("Transfer-Encoding: chunked\r\n")
			chunked = true
		}
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(s.Conn, b.String()); err != nil {
		s.fail(err)
		return
	}
	if body == nil {
		return
	}
	if hold {
		s.Start()
	} else {
		close(s.proceed)
	}
	go func() {
		select {
		case <-s.proceed:
		case <-s.headed:
			if !deadline.Closed(s.proceed) {
				return // answered without asking for the body
			}
		}
		// A server may close without reading the body: an error is the response's to tell.
		if !chunked {
			io.Copy(s.Conn, body)
			return
		}
		p := make([]byte, 4<<10)
		for {
			n, err := body.Read(p)
			if n > 0 {
				if _, err := fmt.Fprintf(s.Conn, "%x\r\n%s\r\n", n, p[:n]); err != nil {
					return
				}
			}
			if err == io.EOF {
				io.WriteString(s.Conn, "0\r\n\r\n")
			}
			if err != nil {
				return
			}
		}
	}()
}

func (s *Stream) fail(err error) {
	s.started, s.err = true, err
	close(s.headed)
}

func (s *Stream) sendHTTP2(method, path string, body io.Reader, lines []string) {
	s.T.Helper()
	ctx, cancel := context.WithCancel(s.T.Context())
	s.Cancel = cancel
	s.T.Cleanup(cancel)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { s.Reused = i.Reused },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			s.Interim = append(s.Interim, interim{code, http.Header(h)})
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, method, s.srv.URL(path), body)
	if err != nil {
		s.T.Fatal(err)
	}
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ":")
		req.Header.Add(k, strings.TrimSpace(v))
	}
	tr := s.srv.Client()
	if req.Header.Get("Expect") != "" {
		tr.ExpectContinueTimeout = Patience()
	}
	s.started = true
	go func() {
		defer close(s.headed)
		s.Resp, s.err = tr.RoundTrip(req)
		if s.err == nil {
			s.T.Cleanup(func() { s.Resp.Body.Close() })
		}
	}()
}

// Start begins to read the head of an HTTP/1 response.
func (s *Stream) Start() {
	if s.started {
		return
	}
	s.started = true
	go func() {
		defer close(s.headed)
		asked := false
		for {
			s.Resp, s.err = http.ReadResponse(s.Reader, &http.Request{Method: s.Method})
			if s.err != nil || s.Resp.StatusCode >= 200 || s.Resp.StatusCode == 101 {
				return
			}
			s.Interim = append(s.Interim, interim{s.Resp.StatusCode, s.Resp.Header})
			if s.Resp.StatusCode == 100 && !asked {
				asked = true
				close(s.proceed)
			}
		}
	}()
}

// Head waits for the final response's head, or for the error that came instead.
func (s *Stream) Head() (*http.Response, error) {
	s.T.Helper()
	s.Start()
	s.seen = true
	timer := time.NewTimer(Patience())
	defer timer.Stop()
	select {
	case <-s.headed:
		return s.Resp, s.err
	case <-timer.C:
		s.T.Fatal("no response head came")
		return nil, nil
	}
}

// Response waits for the final response's head. Its Body is the stream's own.
func (s *Stream) Response() *http.Response {
	s.T.Helper()
	r, err := s.Head()
	if err != nil {
		s.T.Fatalf("no response: %v", err)
	}
	return r
}

// Header waits for the header of the final response.
func (s *Stream) Header() http.Header {
	s.T.Helper()
	return s.Response().Header
}

// read begins to read more of the body, unless that is under way.
func (s *Stream) read() {
	if s.pending != nil {
		return
	}
	s.pending = make(chan piece, 1)
	body, pending := s.Resp.Body, s.pending
	go func() {
		p := make([]byte, 32<<10)
		n, err := body.Read(p)
		pending <- piece{p[:n], err}
	}()
}

func (s *Stream) keep(got piece) {
	s.pending = nil
	s.held = append(s.held, got.p...)
	s.readErr = got.err
}

// fill waits for more of the body, and reports whether any came.
func (s *Stream) fill() bool {
	s.read()
	timer := time.NewTimer(Patience())
	defer timer.Stop()
	select {
	case got := <-s.pending:
		s.keep(got)
		return true
	case <-timer.C:
		return false
	}
}

// Take reads exactly n bytes of the body.
func (s *Stream) Take(n int) []byte {
	s.T.Helper()
	s.Response()
	for len(s.held) < n {
		if s.readErr != nil {
			s.T.Fatalf("got %d of %d bytes, %q, then %v", len(s.held), n, Clip(s.held), s.readErr)
		}
		if !s.fill() {
			s.T.Fatalf("got %d of %d bytes, %q, then nothing", len(s.held), n, Clip(s.held))
		}
	}
	p := s.held[:n:n]
	s.held = s.held[n:]
	return p
}

// Expect reads exactly the bytes of want. What follows them stays unread.
func (s *Stream) Expect(want string) {
	s.T.Helper()
	if got := s.Take(len(want)); string(got) != want {
		s.T.Fatalf("got %q, want %q", Clip(got), Clip([]byte(want)))
	}
}

// ExpectNothing fails if anything more has arrived: of the head, if the test has
// not asked for it yet, else of the body, its end included. In a bubble this is
// exact. On a real socket absence cannot be proved, so a short wait (50 ms) has
// to do: it can pass wrongly on a slow machine, never fail wrongly.
func (s *Stream) ExpectNothing() {
	s.T.Helper()
	s.Start()
	if !s.seen {
		s.Settle()
		select {
		case <-s.headed:
			s.T.Fatalf("a head has arrived: %v %v", s.Resp, s.err)
		default:
		}
		return
	}
	s.Response()
	if len(s.held) == 0 && s.readErr == nil {
		s.read()
		s.Settle()
		select {
		case got := <-s.pending:
			s.keep(got)
		default:
		}
	}
	if len(s.held) > 0 || s.readErr != nil {
		s.T.Fatalf("%q has arrived, then %v", Clip(s.held), s.readErr)
	}
}

// Settle gives what is under way the time to arrive.
func (s *Stream) Settle() {
	if s.srv.memory > 0 {
		synctest.Wait()
		return
	}
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
}

// Rest reads the response to its end: what is left of the body, the trailers,
// and how it ended. No head at all is a cut.
func (s *Stream) Rest() (body string, trailer http.Header, end Ending) {
	s.T.Helper()
	if _, err := s.Head(); err != nil {
		return "", nil, Cut
	}
	for s.readErr == nil {
		if !s.fill() {
			s.T.Fatalf("got %q, then neither more nor an end", Clip(s.held))
		}
	}
	body, s.held = string(s.held), nil
	switch {
	case s.readErr != io.EOF:
		end = Cut
	case s.Conn != nil && s.Method != "HEAD" && s.Resp.ContentLength < 0 && len(s.Resp.TransferEncoding) == 0:
		end = Closed
	default:
		end = Complete
	}
	return body, s.Resp.Trailer, end
}

// ExpectEnd fails unless exactly want is left and the response ends properly
// after it: completely, or over HTTP/1.0 by the end of the connection.
func (s *Stream) ExpectEnd(want string) {
	s.T.Helper()
	got, _, end := s.Rest()
	if got != want {
		s.T.Fatalf("got %q, want %q", Clip([]byte(got)), Clip([]byte(want)))
	}
	if end == Cut || end == Closed && s.srv.Proto != HTTP10 {
		s.T.Fatalf("response ended %s (%v)", end, s.readErr)
	}
}

// Leave drops the connection (HTTP/2: resets the stream) as a client does that
// goes away. Over TCP the server meets a reset if something was left unread or
// comes later.
func (s *Stream) Leave() {
	switch c := s.Conn.(type) {
	case nil:
		s.Cancel()
	case *tls.Conn:
		c.NetConn().Close() // without a close_notify, which can wait 5 s for a stalled peer
	default:
		c.Close()
	}
}

// Clip shortens what a failure shows.
func Clip(p []byte) string {
	if len(p) <= 200 {
		return string(p)
	}
	return fmt.Sprintf("%s… (%d bytes) …%s", p[:100], len(p), p[len(p)-100:])
}
