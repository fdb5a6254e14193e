package flushtest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
)

func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := flushtest.Pipe(10)
		start := time.Now()
		a.SetWriteDeadline(start.Add(time.Second))
		n, err := a.Write(make([]byte, 25))
		if n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Fatalf("%d, %v after %v", n, err, time.Since(start))
		}
		a.SetWriteDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { io.CopyN(io.Discard, b, 25) })
		if n, err := a.Write(make([]byte, 15)); n != 15 || err != nil || time.Since(start) != time.Minute+time.Second {
			t.Fatalf("%d, %v after %v", n, err, time.Since(start))
		}
		synctest.Wait()
		time.AfterFunc(time.Second, func() { b.SetReadDeadline(time.Now()) })
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		b.SetReadDeadline(time.Time{})
		a.Write([]byte("last"))
		a.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(b); string(got) != "last" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		b.Write([]byte("still"))
		b.Close()
		if got, err := io.ReadAll(a); string(got) != "still" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		a.Close()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		c, d := flushtest.Pipe(0)
		if n, err := c.Write(make([]byte, 64<<10)); n != 64<<10 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		d.Close()
		if _, err := c.Write([]byte("x")); err != io.ErrClosedPipe {
			t.Fatal(err)
		}
		if c.RemoteAddr().Network() != "memory" || c.LocalAddr().String() == "" {
			t.Error("addresses")
		}
	})
}

// Who has closed gets nothing of what the peer writes once it sees the end.
func TestPipeCloseEndsReadsFirst(t *testing.T) {
	for range 2000 {
		a, b := flushtest.Pipe(0)
		read := make(chan int, 1)
		go func() {
			n, _ := a.Read(make([]byte, 10))
			read <- n
		}()
		go a.Close()
		b.Read(make([]byte, 1)) // to the end
		if _, err := b.Write([]byte("late")); err != io.ErrClosedPipe {
			t.Fatalf("a write after the peer's end: %v", err)
		}
		if n := <-read; n > 0 {
			t.Fatalf("%d bytes read after Close", n)
		}
	}
}

func TestConnScripts(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		for _, test := range []struct {
			name   string
			script flushtest.Script
			n      int
			err    error
			took   time.Duration
			stalls int
		}{
			{"nothing", flushtest.Script{}, 10, nil, 0, 0},
			{"pieces", flushtest.Script{MaxWrite: 3}, 10, nil, 0, 0},
			{"failure", flushtest.Script{FailAt: 4, Err: broken}, 4, broken, 0, 0},
			{"failure at the start", flushtest.Script{Err: broken}, 0, broken, 0, 0},
			{"stall", flushtest.Script{StallAt: 4, Release: release}, 4, os.ErrDeadlineExceeded, time.Hour, 1},
			{"stall at the start", flushtest.Script{Release: release}, 0, os.ErrDeadlineExceeded, time.Hour, 1},
			{"stall after text", flushtest.Script{StallAfter: "34", Release: release}, 5, os.ErrDeadlineExceeded, time.Hour, 1},
			{"stall after text in pieces", flushtest.Script{StallAfter: "34", MaxWrite: 1, Release: release}, 5, os.ErrDeadlineExceeded, time.Hour, 1},
			{"stall after other text", flushtest.Script{StallAfter: "43", Release: release}, 10, nil, 0, 0},
			{"failure before a stall", flushtest.Script{StallAt: 4, Release: release, FailAt: 4, Err: broken}, 4, broken, 0, 0},
			{"bandwidth", flushtest.Script{Bandwidth: 2}, 10, nil, 5 * time.Second, 0},
			{"bandwidth and deadline", flushtest.Script{Bandwidth: 1, MaxWrite: 1}, 10, nil, 10 * time.Second, 0},
			{"too slow", flushtest.Script{Bandwidth: 1, FailAt: 9, Err: broken}, 9, broken, 9 * time.Second, 0},
			{"latency", flushtest.Script{Latency: time.Minute}, 10, nil, 0, 0},
		} {
			a, b := flushtest.Pipe(10)
			stalls := 0
			test.script.Stalled = func() { stalls++ }
			c := flushtest.NewConn(a, test.script)
			start := time.Now()
			c.SetDeadline(start.Add(time.Hour))
			n, err := c.Write([]byte("0123456789"))
			if n != test.n || err != test.err || time.Since(start) != test.took || stalls != test.stalls {
				t.Errorf("%s: %d, %v after %v, %d stalls", test.name, n, err, time.Since(start), stalls)
			}
			c.Close()
			if got, _ := io.ReadAll(b); string(got) != "0123456789"[:n] {
				t.Errorf("%s: %q arrived", test.name, got)
			}
			if _, err := c.Write([]byte("x")); err == nil {
				t.Errorf("%s: a Write after Close succeeds", test.name)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: a Read after Close says %v", test.name, err)
			}
		}
	})
}

// A value lets one stall go, closing all of them. The text may be cut by the
// calls of Write.
func TestConnRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := flushtest.Pipe(0)
		release := make(chan struct{})
		stalls := 0
		c := flushtest.NewConn(a, flushtest.Script{StallAfter: "\n\n", Release: release, Stalled: func() { stalls++ }})
		done := make(chan error, 1)
		go func() {
			var err error
			for _, s := range []string{"one\n", "\ntwo\n\nth", "ree\n\n", "four\n\n"} {
				_, e := io.WriteString(c, s)
				err = errors.Join(err, e)
			}
			c.Close()
			done <- err
		}()
		arrived := func(want string) {
			t.Helper()
			synctest.Wait()
			p := make([]byte, 100)
			if n, _ := b.Read(p); string(p[:n]) != want {
				t.Errorf("%q arrived, want %q", p[:n], want)
			}
		}
		arrived("one\n\n")
		release <- struct{}{}
		arrived("two\n\n")
		close(release)
		arrived("three\n\nfour\n\n")
		if err := <-done; err != nil || stalls != 2 {
			t.Errorf("%v, %d stalls", err, stalls)
		}
	})
}

func TestConnCloseEndsAStall(t *testing.T) {
	for name, s := range map[string]flushtest.Script{
		"stall":     {Release: make(chan struct{})},
		"bandwidth": {Bandwidth: 1},
		"latency":   {Latency: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if s.Release != nil {
					s.Release = make(chan struct{})
				}
				a, b := flushtest.Pipe(1)
				defer b.Close()
				c := flushtest.NewConn(a, s)
				time.AfterFunc(time.Minute, func() { c.Close() })
				start := time.Now()
				if _, err := c.Write(make([]byte, 1<<20)); !errors.Is(err, net.ErrClosed) || time.Since(start) != time.Minute {
					t.Errorf("%v after %v", err, time.Since(start))
				}
			})
		})
	}
}

func TestConnDeadlineMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, s := range map[string]flushtest.Script{
			"stall":     {Release: make(chan struct{})},
			"bandwidth": {Bandwidth: 1},
			"latency":   {Latency: time.Hour},
		} {
			a, b := flushtest.Pipe(1)
			c := flushtest.NewConn(a, s)
			start := time.Now()
			c.SetWriteDeadline(start.Add(time.Minute))
			time.AfterFunc(30*time.Second, func() { c.SetWriteDeadline(start.Add(2 * time.Minute)) })
			if _, err := c.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 2*time.Minute {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
			c.Close()
			b.Close()
		}
	})
}

// Bytes arrive as the line lets them: the last of n after n/Bandwidth, all of
// them Latency later than they were written, in order.
func TestConnBandwidthAndLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			bandwidth   int64
			latency     time.Duration
			first, last time.Duration
		}{
			{1000, 0, 10 * time.Millisecond, 3 * time.Second},
			{0, time.Minute, time.Minute, time.Minute},
			{1000, time.Minute, time.Minute + 10*time.Millisecond, time.Minute + 3*time.Second},
			{7, 0, time.Second / 7, 3000 * time.Second / 7},
		} {
			a, b := flushtest.Pipe(0)
			c := flushtest.NewConn(a, flushtest.Script{Bandwidth: test.bandwidth, Latency: test.latency})
			start := time.Now()
			sent := bytes.Repeat([]byte("abcdefghij"), 300)
			go func() {
				c.Write(sent[:1234])
				c.Write(sent[1234:])
				c.Close()
			}()
			p := make([]byte, 1)
			b.Read(p)
			first := time.Since(start)
			rest, err := io.ReadAll(b)
			if got := append(p, rest...); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%v: %d bytes, %v", test, len(got), err)
			}
			if last := time.Since(start); (first-test.first).Abs() > time.Microsecond || (last-test.last).Abs() > time.Microsecond {
				t.Errorf("%v: first after %v, last after %v", test, first, last)
			}
		}
	})
}

// An idle line is not saved up for later.
func TestConnBandwidthAfterIdling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := flushtest.Pipe(0)
		c := flushtest.NewConn(a, flushtest.Script{Bandwidth: 100})
		for range 2 {
			start := time.Now()
			c.Write(make([]byte, 100))
			if took := time.Since(start); took != time.Second {
				t.Errorf("took %v", took)
			}
			time.Sleep(time.Hour)
		}
		b.Close()
	})
}

// What the peer does not take is given up some time after Close.
func TestConnLatencyAndAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := flushtest.Pipe(3)
		c := flushtest.NewConn(a, flushtest.Script{Latency: time.Second})
		c.Write([]byte("abcdef"))
		c.Close()
		time.Sleep(time.Minute)
		if got, _ := io.ReadAll(b); string(got) != "abc" {
			t.Errorf("%q", got)
		}
	})
}

func TestConnLatencyReportsAFailureLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := flushtest.Pipe(0)
		c := flushtest.NewConn(a, flushtest.Script{Latency: time.Second})
		b.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := c.Write([]byte("x")); err != io.ErrClosedPipe {
			t.Error(err)
		}
		c.Close()
	})
}

func TestListener(t *testing.T) {
	l := flushtest.Listen(0)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, l := range []*flushtest.Listener{l, {Listener: tcp}} {
		for _, s := range []flushtest.Script{{}, {FailAt: 3, Err: broken}} {
			l.Script = s
			accepted := make(chan net.Conn, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					t.Error(err)
				}
				accepted <- c
			}()
			client, err := l.Dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			server := <-accepted
			n, err := io.Copy(server, strings.NewReader("hello"))
			server.Close()
			got, _ := io.ReadAll(client)
			client.Close()
			want := "hello"[:n]
			if err != s.Err || string(got) != want || s.Err != nil && n != 3 {
				t.Errorf("%v %v: %q, %v", l.Addr(), s, got, err)
			}
		}
		l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if _, err := l.Dial(t.Context(), "", ""); err == nil {
			t.Errorf("%v: dialled a closed listener", l.Addr())
		}
	}
}
