package flush_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/deadline"
)

// This file holds what the tests of this package share: servers for every
// protocol, a client that reads a response step by step, an in-memory network
// for synctest bubbles, and connections that misbehave on cue.

// A proto is a way to speak HTTP between the test's client and its server.
type proto int

const (
	http1  proto = iota // HTTP/1.1 over TCP
	http10              // HTTP/1.0 over TCP
	https1              // HTTP/1.1 over TLS
	h2                  // HTTP/2 over TLS; in a bubble without TLS
)

func (p proto) String() string { return [...]string{"http1", "http10", "https1", "h2"}[p] }

func (p proto) version() string {
	if p == http10 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// eachProto runs f as one subtest per protocol.
func eachProto(t *testing.T, f func(t *testing.T, p proto)) {
	for _, p := range []proto{http1, http10, https1, h2} {
		t.Run(p.String(), func(t *testing.T) { f(t, p) })
	}
}

// bubble runs f in a synctest bubble of its own for HTTP/1.1, HTTP/1.0 and
// HTTP/2, as subtests. Inside, servers come from serveMemory, time is fake, and
// a goroutine left behind fails the test. Make channels inside f.
func bubble(t *testing.T, f func(t *testing.T, p proto)) {
	for _, p := range []proto{http1, http10, h2} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, p) })
		})
	}
}

// patience bounds every wait for something that must come: an upper bound for
// broken runs only. Fake time costs nothing, so in a bubble it is years.
func patience() time.Duration {
	if bubbled() {
		return 100000 * time.Hour
	}
	return 10 * time.Second
}

// bubbled reports whether it is called in a bubble, whose clock starts in 2000.
func bubbled() bool { return time.Now().Year() < 2015 }

// A server is a real http.Server that ends with its test.
type server struct {
	*http.Server // Addr is the address it listens on
	proto        proto

	memory   int                     // capacity of in-memory connections; 0: TCP
	small    bool                    // 4 KiB kernel buffers on both sides
	clear    bool                    // HTTP/2 without TLS
	wrap     func(net.Conn) net.Conn // around each accepted connection
	listener net.Listener
	log      safeBuffer

	once      sync.Once
	transport *http.Transport // HTTP/2 only
}

// A serveOption changes a server before it starts.
type serveOption func(*server)

// smallBuffers shrinks the kernel's buffers to 4 KiB on both sides, so that a
// client that does not read blocks its server after about 8 KB. Over HTTP/2 the
// client's stream window is 64 KiB, its least.
func smallBuffers(s *server) { s.small = true }

// cleartext makes an HTTP/2 server do without TLS, whose handshake is most of
// the cost of a short test.
func cleartext(s *server) { s.clear = true }

// configure edits the http.Server before it starts.
func configure(f func(*http.Server)) serveOption { return func(s *server) { f(s.Server) } }

// wrapConn puts f around each accepted connection, below TLS.
func wrapConn(f func(net.Conn) net.Conn) serveOption { return func(s *server) { s.wrap = f } }

// serve starts a server for p on 127.0.0.1. At the end of the test it is closed
// and must leave no goroutine (see checkGoroutines).
func serve(t *testing.T, p proto, h http.Handler, opts ...serveOption) *server {
	t.Helper()
	checkGoroutines(t)
	return start(t, &server{proto: p}, h, opts)
}

// serveMemory is serve inside a bubble: the connections are in memory and hold
// at most capacity bytes in each direction, so that a writer blocks when its
// peer does not read. 0 means 64 KiB. There is no TLS.
func serveMemory(t *testing.T, p proto, h http.Handler, capacity int, opts ...serveOption) *server {
	t.Helper()
	if capacity == 0 {
		capacity = 64 << 10
	}
	return start(t, &server{proto: p, memory: capacity}, h, opts)
}

func start(t *testing.T, s *server, h http.Handler, opts []serveOption) *server {
	t.Helper()
	s.Server = &http.Server{Handler: h, ErrorLog: log.New(&s.log, "", 0), Protocols: new(http.Protocols)}
	s.TLSConfig = new(tls.Config)
	for _, o := range opts {
		o(s)
	}
	s.Protocols.SetHTTP1(s.proto != h2)
	s.Protocols.SetHTTP2(s.proto == h2 && s.tls())
	s.Protocols.SetUnencryptedHTTP2(s.proto == h2 && !s.tls())
	if s.tls() {
		s.TLSConfig.Certificates = []tls.Certificate{certificate()}
	}
	if s.memory > 0 {
		s.listener = flushtest.Listen(s.memory)
	} else {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.listener = ln
	}
	s.Addr = s.listener.Addr().String()
	served := make(chan error, 1)
	go func() {
		ln := net.Listener(wrapListener{s.listener, s})
		if s.tls() {
			served <- s.ServeTLS(ln, "", "")
		} else {
			served <- s.Serve(ln)
		}
	}()
	t.Cleanup(func() {
		if s.transport != nil {
			s.transport.CloseIdleConnections()
		}
		s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("server ended with %v", err)
		}
	})
	return s
}

func (s *server) tls() bool {
	return s.memory == 0 && (s.proto == https1 || s.proto == h2 && !s.clear)
}

// logged returns what the server has written to its ErrorLog.
func (s *server) logged() string { return s.log.String() }

// url returns the address of a path on the server.
func (s *server) url(path string) string {
	if s.tls() {
		return "https://" + s.Addr + path
	}
	return "http://" + s.Addr + path
}

// dial opens a connection to the server, with TLS where the protocol has it.
func (s *server) dial(ctx context.Context) (net.Conn, error) {
	if s.memory > 0 {
		return s.listener.(*flushtest.Listener).Dial(ctx, "", "")
	}
	var d net.Dialer
	if s.small {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { setReceiveBuffer(fd, 4<<10) })
		}
	}
	c, err := d.DialContext(ctx, "tcp", s.Addr)
	if err != nil || s.proto != https1 {
		return c, err
	}
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}), nil
}

// client returns the server's own HTTP/2 transport: one connection, shared by
// all streams.
func (s *server) client() *http.Transport {
	s.once.Do(func() {
		s.transport = &http.Transport{
			DisableCompression: true,
			Protocols:          new(http.Protocols),
			HTTP2:              new(http.HTTP2Config),
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}},
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
		}
		s.transport.Protocols.SetHTTP2(s.tls())
		s.transport.Protocols.SetUnencryptedHTTP2(!s.tls())
		if s.small || s.memory > 0 {
			s.transport.HTTP2.MaxReceiveBufferPerStream = 64 << 10
		}
	})
	return s.transport
}

// A wrapListener shrinks and wraps the connections that it accepts.
type wrapListener struct {
	net.Listener
	s *server
}

func (l wrapListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok && l.s.small {
		tcp.SetWriteBuffer(4 << 10)
	}
	if l.s.wrap != nil {
		c = l.s.wrap(c)
	}
	return c, nil
}

// certificate returns a self-signed certificate for the tests' servers.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, x, x, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// A safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// An ending is how the client saw a response end.
type ending string

const (
	complete ending = "complete" // last chunk, Content-Length reached, END_STREAM, or no body
	cut      ending = "cut"      // visibly short
	closed   ending = "closed"   // by the end of the connection: complete or not cannot be told
)

// An interim is a 1xx response.
type interim struct {
	code   int
	header http.Header
}

// A stream is one request whose response the test reads step by step, while the
// handler may be blocked. Nothing is read from an HTTP/1 connection before the
// test asks for it: a stream left alone is a client that does not read. Only
// one goroutine may use it.
type stream struct {
	t    *testing.T
	srv  *server
	conn net.Conn // HTTP/1 only
	br   *bufio.Reader
	raw  *safeBuffer // every byte received, HTTP/1 only

	method  string
	cancel  context.CancelFunc // HTTP/2 only
	reused  bool               // HTTP/2 only: the request went over a connection used before
	started bool
	seen    bool          // the test has asked for the head
	headed  chan struct{} // closed once resp or err is set
	proceed chan struct{} // closed once a body held back by Expect may go
	resp    *http.Response
	err     error
	interim []interim // once headed
	pending chan piece
	held    []byte // received, not yet expected
	readErr error  // what ended the body
}

type piece struct {
	p   []byte
	err error
}

// open sends a request. Each of lines is a header line such as "Accept: */*".
// A body is sent in the background; it has a Content-Length if it has a method
// Len, as strings.Reader has. With "Expect: 100-continue" it is sent when the
// server asks for it.
func open(t *testing.T, srv *server, method, path string, body io.Reader, lines ...string) *stream {
	t.Helper()
	s := &stream{t: t, srv: srv}
	if srv.proto != h2 {
		c, err := srv.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.leave)
		s.conn, s.raw = c, new(safeBuffer)
		s.br = bufio.NewReader(io.TeeReader(c, s.raw))
	}
	s.send(method, path, body, lines)
	return s
}

// again sends another request: over HTTP/1 on the same connection, whose earlier
// response must have been read to its end.
func (s *stream) again(method, path string, body io.Reader, lines ...string) *stream {
	s.t.Helper()
	n := &stream{t: s.t, srv: s.srv, conn: s.conn, br: s.br, raw: s.raw}
	n.send(method, path, body, lines)
	return n
}

func (s *stream) send(method, path string, body io.Reader, lines []string) {
	s.t.Helper()
	s.method, s.headed, s.proceed = method, make(chan struct{}), make(chan struct{})
	if s.conn == nil {
		s.sendHTTP2(method, path, body, lines)
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", method, path, s.srv.proto.version(), s.srv.Addr)
	hold := false
	for _, l := range lines {
		b.WriteString(l + "\r\n")
		hold = hold || strings.EqualFold(l, "Expect: 100-continue") && s.srv.proto != http10
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
	if _, err := io.WriteString(s.conn, b.String()); err != nil {
		s.fail(err)
		return
	}
	if body == nil {
		return
	}
	if hold {
		s.start()
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
			io.Copy(s.conn, body)
			return
		}
		p := make([]byte, 4<<10)
		for {
			n, err := body.Read(p)
			if n > 0 {
				if _, err := fmt.Fprintf(s.conn, "%x\r\n%s\r\n", n, p[:n]); err != nil {
					return
				}
			}
			if err == io.EOF {
				io.WriteString(s.conn, "0\r\n\r\n")
			}
			if err != nil {
				return
			}
		}
	}()
}

func (s *stream) fail(err error) {
	s.started, s.err = true, err
	close(s.headed)
}

func (s *stream) sendHTTP2(method, path string, body io.Reader, lines []string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	s.cancel = cancel
	s.t.Cleanup(cancel)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { s.reused = i.Reused },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			s.interim = append(s.interim, interim{code, http.Header(h)})
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, method, s.srv.url(path), body)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ":")
		req.Header.Add(k, strings.TrimSpace(v))
	}
	tr := s.srv.client()
	if req.Header.Get("Expect") != "" {
		tr.ExpectContinueTimeout = patience()
	}
	s.started = true
	go func() {
		defer close(s.headed)
		s.resp, s.err = tr.RoundTrip(req)
		if s.err == nil {
			s.t.Cleanup(func() { s.resp.Body.Close() })
		}
	}()
}

// start begins to read the head of an HTTP/1 response.
func (s *stream) start() {
	if s.started {
		return
	}
	s.started = true
	go func() {
		defer close(s.headed)
		asked := false
		for {
			s.resp, s.err = http.ReadResponse(s.br, &http.Request{Method: s.method})
			if s.err != nil || s.resp.StatusCode >= 200 || s.resp.StatusCode == 101 {
				return
			}
			s.interim = append(s.interim, interim{s.resp.StatusCode, s.resp.Header})
			if s.resp.StatusCode == 100 && !asked {
				asked = true
				close(s.proceed)
			}
		}
	}()
}

// head waits for the final response's head, or for the error that came instead.
func (s *stream) head() (*http.Response, error) {
	s.t.Helper()
	s.start()
	s.seen = true
	timer := time.NewTimer(patience())
	defer timer.Stop()
	select {
	case <-s.headed:
		return s.resp, s.err
	case <-timer.C:
		s.t.Fatal("no response head came")
		return nil, nil
	}
}

// response waits for the final response's head. Its Body is the stream's own.
func (s *stream) response() *http.Response {
	s.t.Helper()
	r, err := s.head()
	if err != nil {
		s.t.Fatalf("no response: %v", err)
	}
	return r
}

// header waits for the header of the final response.
func (s *stream) header() http.Header {
	s.t.Helper()
	return s.response().Header
}

// read begins to read more of the body, unless that is under way.
func (s *stream) read() {
	if s.pending != nil {
		return
	}
	s.pending = make(chan piece, 1)
	body, pending := s.resp.Body, s.pending
	go func() {
		p := make([]byte, 32<<10)
		n, err := body.Read(p)
		pending <- piece{p[:n], err}
	}()
}

func (s *stream) keep(got piece) {
	s.pending = nil
	s.held = append(s.held, got.p...)
	s.readErr = got.err
}

// fill waits for more of the body, and reports whether any came.
func (s *stream) fill() bool {
	s.read()
	timer := time.NewTimer(patience())
	defer timer.Stop()
	select {
	case got := <-s.pending:
		s.keep(got)
		return true
	case <-timer.C:
		return false
	}
}

// take reads exactly n bytes of the body.
func (s *stream) take(n int) []byte {
	s.t.Helper()
	s.response()
	for len(s.held) < n {
		if s.readErr != nil {
			s.t.Fatalf("got %d of %d bytes, %q, then %v", len(s.held), n, clip(s.held), s.readErr)
		}
		if !s.fill() {
			s.t.Fatalf("got %d of %d bytes, %q, then nothing", len(s.held), n, clip(s.held))
		}
	}
	p := s.held[:n:n]
	s.held = s.held[n:]
	return p
}

// expect reads exactly the bytes of want. What follows them stays unread.
func (s *stream) expect(want string) {
	s.t.Helper()
	if got := s.take(len(want)); string(got) != want {
		s.t.Fatalf("got %q, want %q", clip(got), clip([]byte(want)))
	}
}

// expectNothing fails if anything more has arrived: of the head, if the test has
// not asked for it yet, else of the body, its end included. In a bubble this is
// exact. On a real socket absence cannot be proved, so a short wait (50 ms) has
// to do: it can pass wrongly on a slow machine, never fail wrongly.
func (s *stream) expectNothing() {
	s.t.Helper()
	s.start()
	if !s.seen {
		s.settle()
		select {
		case <-s.headed:
			s.t.Fatalf("a head has arrived: %v %v", s.resp, s.err)
		default:
		}
		return
	}
	s.response()
	if len(s.held) == 0 && s.readErr == nil {
		s.read()
		s.settle()
		select {
		case got := <-s.pending:
			s.keep(got)
		default:
		}
	}
	if len(s.held) > 0 || s.readErr != nil {
		s.t.Fatalf("%q has arrived, then %v", clip(s.held), s.readErr)
	}
}

// settle gives what is under way the time to arrive.
func (s *stream) settle() {
	if s.srv.memory > 0 {
		synctest.Wait()
		return
	}
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
}

// rest reads the response to its end: what is left of the body, the trailers,
// and how it ended. No head at all is a cut.
func (s *stream) rest() (body string, trailer http.Header, end ending) {
	s.t.Helper()
	if _, err := s.head(); err != nil {
		return "", nil, cut
	}
	for s.readErr == nil {
		if !s.fill() {
			s.t.Fatalf("got %q, then neither more nor an end", clip(s.held))
		}
	}
	body, s.held = string(s.held), nil
	switch {
	case s.readErr != io.EOF:
		end = cut
	case s.conn != nil && s.method != "HEAD" && s.resp.ContentLength < 0 && len(s.resp.TransferEncoding) == 0:
		end = closed
	default:
		end = complete
	}
	return body, s.resp.Trailer, end
}

// expectEnd fails unless exactly want is left and the response ends properly
// after it: completely, or over HTTP/1.0 by the end of the connection.
func (s *stream) expectEnd(want string) {
	s.t.Helper()
	got, _, end := s.rest()
	if got != want {
		s.t.Fatalf("got %q, want %q", clip([]byte(got)), clip([]byte(want)))
	}
	if end == cut || end == closed && s.srv.proto != http10 {
		s.t.Fatalf("response ended %s (%v)", end, s.readErr)
	}
}

// leave drops the connection (HTTP/2: resets the stream) as a client does that
// goes away. Over TCP the server meets a reset if something was left unread or
// comes later.
func (s *stream) leave() {
	switch c := s.conn.(type) {
	case nil:
		s.cancel()
	case *tls.Conn:
		c.NetConn().Close() // without a close_notify, which can wait 5 s for a stalled peer
	default:
		c.Close()
	}
}

// clip shortens what a failure shows.
func clip(p []byte) string {
	if len(p) <= 200 {
		return string(p)
	}
	return fmt.Sprintf("%s… (%d bytes) …%s", p[:100], len(p), p[len(p)-100:])
}

// A park holds a handler at marked places until the test lets it go on.
type park struct {
	t       *testing.T
	arrived chan struct{}
	release chan struct{}
}

func newPark(t *testing.T) *park {
	return &park{t, make(chan struct{}), make(chan struct{})}
}

// here is for the handler: it waits for the test to come to wait and to resume.
// It returns when the test is over, too.
func (p *park) here() {
	select {
	case p.arrived <- struct{}{}:
	case <-p.t.Context().Done():
		return
	}
	select {
	case <-p.release:
	case <-p.t.Context().Done():
	}
}

// wait returns once the handler has come to its next here.
func (p *park) wait() {
	p.t.Helper()
	timer := time.NewTimer(patience())
	defer timer.Stop()
	select {
	case <-p.arrived:
	case <-timer.C:
		p.t.Fatal("the handler has not come to its next stop")
	}
}

// resume lets the handler go on from where wait found it.
func (p *park) resume() {
	p.t.Helper()
	timer := time.NewTimer(patience())
	defer timer.Stop()
	select {
	case p.release <- struct{}{}:
	case <-timer.C:
		p.t.Fatal("the handler is not parked")
	}
}

// next is wait and resume: the handler passes its next stop.
func (p *park) next() {
	p.t.Helper()
	p.wait()
	p.resume()
}

// checkGoroutines fails the test if, once it and the cleanups registered after
// this one are over, goroutines of this package or of net/http run that did not
// run before. It polls, for at most 10 s. Not for parallel tests, and not for
// bubbles, which see to that themselves.
func checkGoroutines(t *testing.T) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var left []string
		for end := time.Now().Add(patience()); time.Now().Before(end); <-tick.C {
			left = left[:0]
			for id, stack := range goroutines() {
				if _, ok := before[id]; !ok && ours.MatchString(stack) {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("%d goroutines left behind, first:\n%s", len(left), left[0])
	})
}

// ours matches the stack of a goroutine that a test must not leave behind.
var ours = regexp.MustCompile(`fa492104/flush|net/http`)

// goroutines returns every goroutine's stack by its id.
func goroutines() map[string]string {
	p := make([]byte, 1<<20)
	n := runtime.Stack(p, true)
	for n == len(p) {
		p = make([]byte, 2*len(p))
		n = runtime.Stack(p, true)
	}
	m := make(map[string]string)
	for stack := range strings.SplitSeq(string(p[:n]), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		m[id] = stack
	}
	return m
}

// A script says how a scripted connection misbehaves when it is written to.
// Offsets count the bytes written since the connection was accepted. The zero
// value does nothing wrong.
type script struct {
	max     int           // most bytes handed on at a time; 0: no limit
	stallAt int           // with release: Write stops at this offset until release is closed
	release chan struct{} // nil: no stall
	stalled chan struct{} // if not nil: closed when the stall begins
	failAt  int           // with err: Write fails at this offset and from then on
	err     error         // nil: no failure
}

// scripted returns an option that gives every accepted connection to s. A
// stalled Write obeys the write deadline and Close.
func scripted(s script) serveOption {
	f := flushtest.Script{
		MaxWrite: s.max,
		StallAt:  int64(s.stallAt), Release: s.release,
		FailAt: int64(s.failAt), Err: s.err,
	}
	if s.stalled != nil {
		f.Stalled = sync.OnceFunc(func() { close(s.stalled) })
	}
	return wrapConn(func(c net.Conn) net.Conn { return flushtest.NewConn(c, f) })
}
