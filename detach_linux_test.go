package flush_test

import (
	"context"
	"errors"
	"fmt"
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
// by TCP's keepalive. It is a network of the test's own whose loopback goes down.
func TestDetachedLinkGoesDead(t *testing.T) {
	harness.CheckGoroutines(t)
	h, out := detacher(t, nil, nil)
	srv := &http.Server{Handler: h}
	defer srv.Close()
	type end struct {
		client net.Conn
		down   chan struct{}
		err    error
	}
	made := make(chan end, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, as its network is another
		down := make(chan struct{})
		client, err := ownNetwork(srv)
		made <- end{client, down, err}
		if err == nil {
			<-down
			loopback(false)
			down <- struct{}{}
		}
	}()
	e := harness.Next(t, made)
	if errors.Is(e.err, syscall.EPERM) {
		t.Skip("a network of its own needs privileges:", e.err)
	}
	if e.err != nil {
		t.Fatal(e.err)
	}
	defer e.client.Close()
	fmt.Fprintf(e.client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	f := harness.Next(t, out)
	e.down <- struct{}{}
	<-e.down
	harness.Next(t, f.ctx.Done())
	if cause := flush.Cause(f.ctx); !errors.Is(cause, flush.ErrClientGone) {
		t.Errorf("Cause is %v", cause)
	}
}

// ownNetwork gives the thread a network with a loopback, serves srv on it, and
// dials it.
func ownNetwork(srv *http.Server) (net.Conn, error) {
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		return nil, err
	}
	if err := loopback(true); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}}
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go srv.Serve(ln)
	return net.Dial("tcp", ln.Addr().String())
}

// loopback brings the loopback of the thread's network up or down.
func loopback(up bool) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	req := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{name: [syscall.IFNAMSIZ]byte{'l', 'o'}}
	if up {
		req.flags = syscall.IFF_UP
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
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
