//go:build unix && !race

package flush_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"syscall"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// An idle detached stream holds little memory and no goroutine. The clients are
// bare descriptors, so that what is counted is the server's.
func TestDetachedMemory(t *testing.T) {
	for _, c := range []struct {
		name string
		opts *flush.Options
		most int // bytes of heap and stacks a stream
	}{
		{"without OnClose", nil, 1800},
		{"with OnClose", &flush.Options{OnClose: func(*http.Request, flush.Stats, error) {}}, 3600},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := clientsAtOnce(3000)
			h, out := detacher(t, c.opts, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Cache-Control", "no-store")
			})
			srv := harness.Serve(t, harness.HTTP1, h)
			streams, fds := make([]*flush.Flusher, 0, n), make([]int, 0, n)
			defer func() {
				for _, fd := range fds {
					syscall.Close(fd)
				}
			}()
			one := func() {
				fd := dialBare(t, srv.Addr)
				fds = append(fds, fd)
				syscall.Write(fd, []byte("GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"))
				f := harness.Next(t, out)
				streams = append(streams, f.Flusher)
			}
			for range 100 {
				one()
			}
			before, goroutines := inUse(), runtime.NumGoroutine()
			for range n - 100 {
				one()
			}
			each := (inUse() - before) / (n - 100)
			t.Logf("%d bytes a stream", each)
			if p := os.Getenv("DETACH_PROFILE"); p != "" {
				fl, _ := os.Create(p + fmt.Sprint(len(c.name)))
				pprof.Lookup("heap").WriteTo(fl, 0)
				fl.Close()
			}
			if each > c.most {
				t.Errorf("a stream holds %d bytes, want at most %d", each, c.most)
			}
			if more := runtime.NumGoroutine() - goroutines; more > 20 {
				t.Errorf("%d goroutines more", more)
			}
			runtime.KeepAlive(streams)
		})
	}
}

// inUse is the memory of heap and stacks that is in use.
func inUse() int {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

func dialBare(t *testing.T, addr string) int {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// A flush and a broadcast's write of a detached response allocate nothing.
func TestDetachedAllocates(t *testing.T) {
	h, out := detacher(t, nil, nil)
	srv := harness.Serve(t, harness.HTTP1, h)
	fd := dialBare(t, srv.Addr)
	defer syscall.Close(fd)
	syscall.Write(fd, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f := harness.Next(t, out)
	p, event := make([]byte, 32<<10), []byte("data: event\n\n")
	shared := flush.NewSharedWrite(event)
	for name, do := range map[string]func(){
		"Write and FlushWait": func() {
			f.Write(event)
			f.FlushWait(harness.NoContext)
		},
		"a broadcast's write": func() {
			if taken, err := flush.WriteShared(f.Flusher, shared); !taken || err != nil {
				t.Errorf("%v, %v", taken, err)
			}
		},
	} {
		if n := testing.AllocsPerRun(1000, func() {
			do()
			syscall.Read(fd, p)
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	f.Close()
}
