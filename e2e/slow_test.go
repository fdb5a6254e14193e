package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"golang.org/x/sys/unix"
)

// A slowClient reads 20 KB/s, or nothing, and leaves in the end.
type slowClient struct {
	Name    string
	Known   bool          // the server has ConnContext
	Stalled bool          // it reads nothing
	Buffer  int           // its receive buffer; 0: the system's
	Fast    int           // so many bytes it reads as fast as they come, before
	Timeout time.Duration // SendTimeout
	Stays   time.Duration
}

// served is what the handler of a slowClient saw.
type served struct {
	TimedOut, Left bool
	After          time.Duration
	Step           time.Duration // the longest time between two acknowledgements
	Stood          time.Duration // for so long the machine let this process wait, at most
	Err            string
}

// timedOut tells whether a stalled client's handler had ErrTimeout after 2 s, or
// what a busy machine makes of that.
func (s served) timedOut() bool {
	return s.TimedOut && s.After >= 1700*time.Millisecond && s.After <= 4*time.Second+s.Stood
}

const (
	slowRate  = 20_000 // bytes a second
	slowEvery = 100 * time.Millisecond
)

// slowStay is how long a client has to live.
func slowStay() time.Duration {
	if os.Getenv("CI") != "" {
		return 10 * time.Second
	}
	return time.Minute
}

// serve serves the client of c over loopback and returns what became of it.
func (c slowClient) serve() (s served, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return s, err
	}
	ended := make(chan served, 1)
	srv := &http.Server{Handler: flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		var err error
		for p := make([]byte, 4<<10); err == nil; {
			_, err = w.Write(p)
		}
		ended <- served{
			TimedOut: errors.Is(err, flush.ErrTimeout), Left: errors.Is(err, flush.ErrClientGone),
			After: time.Since(begin), Err: err.Error(),
		}
	}), &flush.Options{SendTimeout: c.Timeout})}
	conns := make(chan *net.TCPConn, 1)
	srv.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		conns <- conn.(*net.TCPConn)
		if c.Known {
			ctx = flush.ConnContext(ctx, conn)
		}
		return ctx
	}
	go srv.Serve(l)
	defer srv.Close()

	ctx, cancel := context.WithTimeout(context.Background(), c.Stays)
	defer cancel()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if c.Buffer == 0 {
			return nil
		}
		return first(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, c.Buffer)
		}), err)
	}}
	conn, err := d.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return s, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n"); err != nil {
		return s, err
	}
	if _, err := io.CopyN(io.Discard, conn, int64(c.Fast)); err != nil {
		return s, err
	}
	step, stood := make(chan time.Duration, 1), standing()
	go func() { step <- longestStep(ctx, <-conns) }()
	defer func() {
		cancel()
		s.Step, s.Stood = <-step, stood()
	}()
	tick := time.NewTicker(slowEvery)
	defer tick.Stop()
	begin, read := time.Now(), 0
	p := make([]byte, slowRate)
	for ctx.Err() == nil {
		select {
		case s := <-ended:
			return s, nil
		case <-ctx.Done():
		case <-tick.C:
			if !c.Stalled {
				// What a busy machine has let it miss, it makes up for. An error shows
				// at the server, too.
				due := int(time.Since(begin)*slowRate/time.Second) - read
				n, _ := conn.Read(p[:min(max(due, 1), len(p))])
				read += n
			}
		}
	}
	conn.Close()
	select {
	case s := <-ended:
		return s, nil
	case <-time.After(bound):
		return s, errors.New("the handler does not end")
	}
}

// longestStep is the longest time between two acknowledgements of the client's
// kernel.
func longestStep(ctx context.Context, conn *net.TCPConn) (longest time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	var acked uint64
	at := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		var info *unix.TCPInfo
		raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if info == nil || info.Bytes_acked == acked {
			continue
		}
		if acked > 0 {
			longest = max(longest, time.Since(at))
		}
		acked, at = info.Bytes_acked, time.Now()
	}
	return longest
}

// serveAll serves the clients at the same time.
func serveAll(all []slowClient) (became []served, err error) {
	became = make([]served, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { became[i], errs[i] = c.serve() })
	}
	wg.Wait()
	return became, errors.Join(errs...)
}

// onLink serves the clients on a link of their own.
func onLink(t *testing.T, clients []slowClient) []served {
	t.Helper()
	var became []served
	inLink(t, "slow", clients, &became)
	if len(became) != len(clients) {
		t.Fatalf("%d of %d clients", len(became), len(clients))
	}
	return became
}

// A client that moves outlives any SendTimeout longer than the steps in which
// its kernel acknowledges, and one that does not dies of it. The table of
// docs/timeouts.md has the steps.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	long := slowStay()
	clients := []slowClient{
		{Name: "moves", Known: true, Timeout: 2 * time.Second, Stays: long},
		{Name: "stalled", Known: true, Stalled: true, Timeout: 2 * time.Second, Stays: long},
		{Name: "moves, without ConnContext", Timeout: 2 * time.Second, Stays: long},
		{Name: "moves, and was fast before", Known: true, Fast: 50 << 20, Timeout: 30 * time.Second, Stays: long},
	}
	for i, s := range onLink(t, clients) {
		t.Logf("%s: after %v, longest step %v, stood for %v, %s", clients[i].Name, s.After, s.Step, s.Stood, s.Err)
		switch clients[i].Name {
		case "moves", "moves, and was fast before":
			if !s.Left || s.After < long-2*time.Second {
				t.Errorf("the client that moves ends after %v: %s; want it to leave by itself", s.After, s.Err)
			}
		case "stalled":
			if !s.timedOut() {
				t.Errorf("its stalled twin ends after %v: %s; want ErrTimeout between 1.7 s and 4 s", s.After, s.Err)
			}
		default:
			if !s.TimedOut {
				t.Errorf("without ConnContext it ends after %v: %s; want ErrTimeout, the grain that docs/timeouts.md tells", s.After, s.Err)
			}
		}
	}
}

// On loopback as it is a step takes as long as 64 KiB and more are read, unless
// the client has a small buffer.
func TestSlowClientOnLoopback(t *testing.T) {
	t.Parallel()
	for _, c := range []slowClient{
		{Name: "default buffer, time for two steps", Known: true, Timeout: 15 * time.Second, Stays: max(slowStay(), 20*time.Second)},
		{Name: "buffer of 16 KiB", Known: true, Buffer: 16 << 10, Timeout: 4 * time.Second, Stays: slowStay()},
		{Name: "buffer of 16 KiB, stalled", Known: true, Stalled: true, Buffer: 16 << 10, Timeout: 2 * time.Second, Stays: slowStay()},
	} {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			s, err := c.serve()
			t.Logf("after %v, longest step %v, stood for %v, %s", s.After, s.Step, s.Stood, s.Err)
			switch {
			case err != nil:
				t.Error(err)
			case c.Stalled && !s.timedOut():
				t.Errorf("ends after %v: %s; want ErrTimeout between 1.7 s and 4 s", s.After, s.Err)
			case !c.Stalled && !s.Left:
				t.Errorf("ends after %v: %s; want the client to leave by itself", s.After, s.Err)
			}
		})
	}
}
