//go:build unix && !race

package flush_test

import (
	"net/http"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// An idle detached stream holds little memory and no goroutine. The clients are
// another process's, so that what is counted is the server's. What TLS keeps for a
// connection is its own.
func TestDetachedMemory(t *testing.T) {
	for _, c := range []struct {
		name  string
		proto harness.Proto
		opts  *flush.Options
		most  int // bytes of heap and stacks a stream
	}{
		{"without OnClose", harness.HTTP1, nil, 1800},
		{"with OnClose", harness.HTTP1, &flush.Options{OnClose: func(*http.Request, flush.Stats, error) {}}, 3600},
		{"TLS", harness.HTTPS1, nil, 8000},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := min(harness.Count(9000, 1000), harness.OpenFiles()-300)
			h, out := detacher(t, c.opts, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Cache-Control", "no-store")
			})
			srv := harness.Serve(t, c.proto, h)
			streams := make([]*flush.Flusher, 0, n)
			more := func(n int) {
				startClients(t, srv, n).open()
				for range n {
					streams = append(streams, harness.Next(t, out).Flusher)
				}
			}
			goroutines := runtime.NumGoroutine()
			settled := func() int {
				t.Helper()
				harness.WaitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines+20 }) // the last handlers may still return
				return inUse()
			}
			more(100)
			before := settled()
			more(n - 100)
			each := (settled() - before) / (n - 100)
			t.Logf("%d bytes a stream", each)
			if each > c.most {
				t.Errorf("a stream holds %d bytes, want at most %d", each, c.most)
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
