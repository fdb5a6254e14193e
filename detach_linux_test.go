package flush_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A link that goes dead, so that nobody says anything any more, ends the response
// by TCP's keepalive, or, while bytes are on the way, by the kernel's timeout; one
// on which the client's kernel answers is left alone. The dead one is a client
// whose socket drops whatever arrives, so that its kernel does not answer.
func TestDetachedLinkGoesDead(t *testing.T) {
	for _, test := range []struct {
		name  string
		proto harness.Proto
		keep  net.KeepAliveConfig
		opts  flush.ConnOptions
		event string
	}{
		{"idle", harness.HTTP1, net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}, flush.ConnOptions{}, ""},
		{"idle, TLS", harness.HTTPS1, net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}, flush.ConnOptions{}, ""},
		{"bytes on the way", harness.HTTP1, net.KeepAliveConfig{}, flush.ConnOptions{UserTimeout: time.Second}, "event"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, out := detacher(t, nil, nil)
			srv := harness.Serve(t, test.proto, h, harness.WrapConn(func(c net.Conn) net.Conn {
				if err := c.(*net.TCPConn).SetKeepAliveConfig(test.keep); err != nil {
					t.Error(err)
				}
				return c
			}), harness.Configure(func(s *http.Server) { s.ConnContext = test.opts.ConnContext }))
			harness.Open(t, srv, "GET", "/", nil).Response()
			live := harness.Next(t, out)
			s := harness.Open(t, srv, "GET", "/", nil)
			s.Response()
			dead := harness.Next(t, out)
			dropInput(t, s.Conn)
			for _, f := range []detached{live, dead} {
				io.WriteString(f, test.event)
				f.FlushAsync()
			}
			harness.Next(t, dead.ctx.Done())
			if cause := flush.Cause(dead.ctx); !errors.Is(cause, flush.ErrClientGone) {
				t.Errorf("Cause is %v", cause)
			}
			if live.ctx.Err() != nil {
				t.Errorf("the other was ended, too: %v", flush.Cause(live.ctx))
			}
		})
	}
}

// dropInput has the kernel drop what arrives on a connection, before TCP sees it.
func dropInput(t *testing.T, c net.Conn) {
	t.Helper()
	if s, ok := c.(*tls.Conn); ok {
		c = s.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	harness.Must(t, err)
	program := [1]syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}} // keep 0 bytes
	filter := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	harness.Must(t, raw.Control(func(fd uintptr) {
		value := unsafe.String((*byte)(unsafe.Pointer(&filter)), unsafe.Sizeof(filter))
		err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_ATTACH_FILTER, value)
		runtime.KeepAlive(&program)
	}))
	harness.Must(t, err)
}

// FlushAcked and Backlog know the connection of a detached response as before.
func TestDetachedFlushAcked(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			h, out := detacher(t, nil, nil)
			srv := harness.Serve(t, p, h, harness.Configure(func(s *http.Server) { s.ConnContext = flush.ConnContext }))
			s := harness.Open(t, srv, "GET", "/", nil)
			f := harness.Next(t, out)
			s.Response()
			f.WriteString("event")
			if err := f.FlushAcked(t.Context()); err != nil {
				t.Error(err)
			}
			if _, unacked, err := f.Backlog(); unacked != 0 || err != nil {
				t.Errorf("%d bytes unacknowledged, %v", unacked, err)
			}
			f.Close()
			s.ExpectEnd("event")
		})
	}
}
