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
)

// A link that goes dead, so that nobody says anything any more, ends the response
// by TCP's keepalive, or, while bytes are on the way, by the kernel's timeout; one
// on which the client's kernel answers is left alone. The dead one is a client
// whose socket drops whatever arrives, so that its kernel does not answer.
func TestDetachedLinkGoesDead(t *testing.T) {
	for _, test := range []struct {
		name  string
		proto proto
		keep  net.KeepAliveConfig
		opts  flush.ConnOptions
		event string
	}{
		{"idle", http1, net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}, flush.ConnOptions{}, ""},
		{"idle, TLS", https1, net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}, flush.ConnOptions{}, ""},
		{"bytes on the way", http1, net.KeepAliveConfig{}, flush.ConnOptions{UserTimeout: time.Second}, "event"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, out := detacher(t, nil, nil)
			srv := serve(t, test.proto, h, wrapConn(func(c net.Conn) net.Conn {
				if err := c.(*net.TCPConn).SetKeepAliveConfig(test.keep); err != nil {
					t.Error(err)
				}
				return c
			}), configure(func(s *http.Server) { s.ConnContext = test.opts.ConnContext }))
			open(t, srv, "GET", "/", nil).response()
			live := next(t, out)
			s := open(t, srv, "GET", "/", nil)
			s.response()
			dead := next(t, out)
			dropInput(t, s.conn)
			for _, f := range []detached{live, dead} {
				io.WriteString(f, test.event)
				f.FlushAsync()
			}
			next(t, dead.ctx.Done())
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
	must(t, err)
	program := [1]syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}} // keep 0 bytes
	filter := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	must(t, raw.Control(func(fd uintptr) {
		value := unsafe.String((*byte)(unsafe.Pointer(&filter)), unsafe.Sizeof(filter))
		err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_ATTACH_FILTER, value)
		runtime.KeepAlive(&program)
	}))
	must(t, err)
}

// FlushAcked and Backlog know the connection of a detached response as before.
func TestDetachedFlushAcked(t *testing.T) {
	for _, p := range []proto{http1, https1} {
		t.Run(p.String(), func(t *testing.T) {
			h, out := detacher(t, nil, nil)
			srv := serve(t, p, h, configure(func(s *http.Server) { s.ConnContext = flush.ConnContext }))
			s := open(t, srv, "GET", "/", nil)
			f := next(t, out)
			s.response()
			f.WriteString("event")
			if err := f.FlushAcked(t.Context()); err != nil {
				t.Error(err)
			}
			if _, unacked, err := f.Backlog(); unacked != 0 || err != nil {
				t.Errorf("%d bytes unacknowledged, %v", unacked, err)
			}
			f.Close()
			s.expectEnd("event")
		})
	}
}

// An event of a response that has ended is nobody else's, although another has its
// place.
func TestDetachedLateEvent(t *testing.T) {
	h, out := detacher(t, nil, nil)
	srv := serve(t, http1, h)
	first := open(t, srv, "GET", "/", nil)
	f := next(t, out)
	late := flush.EventOf(f.Flusher)
	if !flush.FindEvent(late) {
		t.Error("it is not watched")
	}
	f.Close()
	first.expectEnd("")
	second := open(t, srv, "GET", "/", nil)
	f = next(t, out)
	if ev := flush.EventOf(f.Flusher); ev.Fd != late.Fd {
		t.Errorf("its place is %d, not %d: the test shows nothing", ev.Fd, late.Fd)
	}
	if flush.FindEvent(late) {
		t.Error("the late event is taken for the second response's")
	}
	f.Close()
	second.expectEnd("")
}
