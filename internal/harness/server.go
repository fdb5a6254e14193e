package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fa492104/flush/flushtest"
)

// A Server is a real http.Server that ends with its test.
type Server struct {
	*http.Server // Addr is the address it listens on
	Proto        Proto

	memory   int                     // capacity of in-memory connections; 0: TCP
	small    bool                    // 4 KiB kernel buffers on both sides
	Clear    bool                    // HTTP/2 without TLS
	Wrap     func(net.Conn) net.Conn // around each accepted connection
	Listener net.Listener
	log      SafeBuffer

	once      sync.Once
	transport *http.Transport // HTTP/2 only
}

// A ServeOption changes a server before it starts.
type ServeOption func(*Server)

// SmallBuffers shrinks the kernel's buffers to 4 KiB on both sides, so that a
// client that does not read blocks its server after about 8 KB. Over HTTP/2 the
// client's stream window is 64 KiB, its least.
func SmallBuffers(s *Server) { s.small = true }

// Cleartext makes an HTTP/2 server do without TLS, whose handshake is most of
// the cost of a short test.
func Cleartext(s *Server) { s.Clear = true }

// Configure edits the http.Server before it starts.
func Configure(f func(*http.Server)) ServeOption { return func(s *Server) { f(s.Server) } }

// WrapConn puts f around each accepted connection, below TLS.
func WrapConn(f func(net.Conn) net.Conn) ServeOption { return func(s *Server) { s.Wrap = f } }

// Serve starts a server for p on 127.0.0.1. At the end of the test it is closed
// and must leave no goroutine (see CheckGoroutines).
func Serve(t *testing.T, p Proto, h http.Handler, opts ...ServeOption) *Server {
	t.Helper()
	CheckGoroutines(t)
	return Start(t, &Server{Proto: p}, h, opts)
}

// ServeMemory is serve inside a bubble: the connections are in memory and hold
// at most capacity bytes in each direction, so that a writer blocks when its
// peer does not read. 0 means 64 KiB. There is no TLS.
func ServeMemory(t *testing.T, p Proto, h http.Handler, capacity int, opts ...ServeOption) *Server {
	t.Helper()
	if capacity == 0 {
		capacity = 64 << 10
	}
	return Start(t, &Server{Proto: p, memory: capacity}, h, opts)
}

func Start(t *testing.T, s *Server, h http.Handler, opts []ServeOption) *Server {
	t.Helper()
	s.Server = &http.Server{Handler: h, ErrorLog: log.New(&s.log, "", 0), Protocols: new(http.Protocols)}
	s.TLSConfig = new(tls.Config)
	for _, o := range opts {
		o(s)
	}
	s.Protocols.SetHTTP1(s.Proto != HTTP2)
	s.Protocols.SetHTTP2(s.Proto == HTTP2 && s.Tls())
	s.Protocols.SetUnencryptedHTTP2(s.Proto == HTTP2 && !s.Tls())
	if s.Tls() {
		s.TLSConfig.Certificates = []tls.Certificate{certificate()}
	}
	if s.memory > 0 {
		s.Listener = flushtest.Listen(s.memory)
	} else {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.Listener = ln
	}
	s.Addr = s.Listener.Addr().String()
	served := make(chan error, 1)
	go func() {
		ln := net.Listener(wrapListener{s.Listener, s})
		if s.Tls() {
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

func (s *Server) Tls() bool {
	return s.memory == 0 && (s.Proto == HTTPS1 || s.Proto == HTTP2 && !s.Clear)
}

// Logged returns what the server has written to its ErrorLog.
func (s *Server) Logged() string { return s.log.String() }

// URL returns the address of a path on the server.
func (s *Server) URL(path string) string {
	if s.Tls() {
		return "https://" + s.Addr + path
	}
	return "http://" + s.Addr + path
}

// Dial opens a connection to the server, with TLS where the protocol has it.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	if s.memory > 0 {
		return s.Listener.(*flushtest.Listener).Dial(ctx, "", "")
	}
	var d net.Dialer
	if s.small {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { setReceiveBuffer(fd, 4<<10) })
		}
	}
	c, err := d.DialContext(ctx, "tcp", s.Addr)
	if err != nil || s.Proto != HTTPS1 {
		return c, err
	}
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}), nil
}

// Client returns the server's own HTTP/2 transport: one connection, shared by
// all streams.
func (s *Server) Client() *http.Transport {
	s.once.Do(func() {
		s.transport = &http.Transport{
			DisableCompression: true,
			Protocols:          new(http.Protocols),
			HTTP2:              new(http.HTTP2Config),
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}},
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx) },
		}
		s.transport.Protocols.SetHTTP2(s.Tls())
		s.transport.Protocols.SetUnencryptedHTTP2(!s.Tls())
		if s.small || s.memory > 0 {
			s.transport.HTTP2.MaxReceiveBufferPerStream = 64 << 10
		}
	})
	return s.transport
}

// A wrapListener shrinks and wraps the connections that it accepts.
type wrapListener struct {
	net.Listener
	s *Server
}

func (l wrapListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok && l.s.small {
		tcp.SetWriteBuffer(4 << 10)
	}
	if l.s.Wrap != nil {
		c = l.s.Wrap(c)
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

// A Script says how a scripted connection misbehaves when it is written to.
// Offsets count the bytes written since the connection was accepted. The zero
// value does nothing wrong.
type Script struct {
	Max     int           // most bytes handed on at a time; 0: no limit
	StallAt int           // with release: Write stops at this offset until release is closed
	Release chan struct{} // nil: no stall
	Stalled chan struct{} // if not nil: closed when the stall begins
	FailAt  int           // with err: Write fails at this offset and from then on
	Err     error         // nil: no failure
}

// Scripted returns an option that gives every accepted connection to s. A
// stalled Write obeys the write deadline and Close.
func Scripted(s Script) ServeOption {
	f := flushtest.Script{
		MaxWrite: s.Max,
		StallAt:  int64(s.StallAt), Release: s.Release,
		FailAt: int64(s.FailAt), Err: s.Err,
	}
	if s.Stalled != nil {
		f.Stalled = sync.OnceFunc(func() { close(s.Stalled) })
	}
	return WrapConn(func(c net.Conn) net.Conn { return flushtest.NewConn(c, f) })
}
