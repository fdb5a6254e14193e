package flushtest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
)

// bomb is a gzip body of 20 MiB of newlines.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	for range 20 {
		z.Write(bytes.Repeat([]byte("\n"), 1<<20))
	}
	z.Close()
	return b.Bytes()
})

// rawly answers each connection with what answer writes, which ends when the
// write fails, and then closes it.
func rawly(t *testing.T, answer func(c net.Conn) error) *http.Client {
	l := flushtest.Listen(0)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				if n, err := c.Read(make([]byte, 4096)); n > 0 && err == nil {
					answer(c)
				}
			})
		}
	})
	tr := &http.Transport{DialContext: l.Dial, MaxResponseHeaderBytes: 256 << 10}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		l.Close()
		served.Wait()
	})
	return &http.Client{Transport: tr}
}

// forever writes s and again after each pause.
func forever(c net.Conn, s string, pause time.Duration) error {
	for {
		if _, err := io.WriteString(c, s); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

const (
	plainHead = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
	gzipHead  = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\n"
)

// Whatever a server does, the probe ends when its time is over, without a wrong
// verdict, and shows nothing of it that acts on a terminal.
func TestProbeHostile(t *testing.T) {
	const bound = 2 * time.Second
	escapes := "\x1b[2J\x1b]0;gone\a\u009b31m\u202e"
	for _, test := range []struct {
		name    string
		answer  func(c net.Conn) error
		verdict flushtest.Verdict // empty: an error
		says    string
	}{
		{"a bomb", func(c net.Conn) error {
			io.WriteString(c, gzipHead)
			return forever(c, string(bomb()), 50*time.Millisecond)
		}, "", ""},
		{"a bomb in the second half of the time", func(c net.Conn) error {
			io.WriteString(c, gzipHead)
			time.Sleep(1100 * time.Millisecond)
			_, err := c.Write(bomb())
			return err
		}, flushtest.Unclear, "nothing came in the first half"},
		{"a bomb at the end", func(c net.Conn) error {
			io.WriteString(c, gzipHead)
			time.Sleep(900 * time.Millisecond)
			_, err := c.Write(bomb())
			return err
		}, flushtest.Unclear, "could not be decoded to the end"},
		{"a drip", func(c net.Conn) error {
			io.WriteString(c, plainHead)
			return forever(c, ".", 100*time.Millisecond)
		}, flushtest.Streamed, "went on"},
		{"a drip of headers", func(c net.Conn) error {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Long: ")
			return forever(c, ".", 100*time.Millisecond)
		}, flushtest.Held, "No response came"},
		{"headers without end", func(c net.Conn) error {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			return forever(c, "X-Name: value\r\n", 0)
		}, "", "headers"},
		{"a status line without end", func(c net.Conn) error { return forever(c, "HTTP/1.1 200 OK ", 0) }, "", ""},
		{"news before the answer, for ever", func(c net.Conn) error {
			return forever(c, "HTTP/1.1 103 Early Hints\r\n\r\n", 10*time.Millisecond)
		}, flushtest.Held, "No response came"},
		{"one line", func(c net.Conn) error {
			io.WriteString(c, plainHead)
			for range 32 {
				if _, err := io.WriteString(c, strings.Repeat("x", 1<<20)); err != nil {
					return err
				}
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		}, "", ""},
		{"chunks of a byte", func(c net.Conn) error {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			return forever(c, "1\r\nx\r\n", time.Millisecond)
		}, flushtest.Streamed, ""},
		{"a broken chunk", func(c net.Conn) error {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n")
			return err
		}, flushtest.Unclear, ""},
		{"a reset at once", func(c net.Conn) error { return c.Close() }, "", ""},
		{"a reset in the head", func(c net.Conn) error {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Na")
			return err
		}, "", ""},
		{"a reset before the body", func(c net.Conn) error {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			time.Sleep(time.Second)
			return err
		}, flushtest.Unclear, "ended with an error"},
		{"a reset in the body", func(c net.Conn) error {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none\n")
			time.Sleep(time.Second)
			return err
		}, flushtest.Unclear, "ended with an error"},
		{"marks that say anything", func(c net.Conn) error {
			io.WriteString(c, plainHead)
			for i, s := range []string{"NaN", "Inf", "-1", "1e300", "99999", "0", "3", "1", "x"} {
				fmt.Fprintf(c, "flushprobe %d %s .\n", i, s)
				time.Sleep(150 * time.Millisecond)
			}
			return nil
		}, "", ""},
		{"escapes in headers", func(c net.Conn) error {
			// Control characters of one byte are refused; those of two are not.
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nServer: odd\u009b31m\u202e\r\nVia: 1.1 \u009b2J\r\nX-Powered-By: %s\r\n\r\n", strings.Repeat("\u009b", 1000))
			time.Sleep(time.Second)
			_, err := io.WriteString(c, escapes+"\n")
			return err
		}, flushtest.Held, `odd\u009b31m\u202e`},
		{"escapes where a header should be", func(c net.Conn) error {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n"+escapes+"\r\n\r\n")
			return err
		}, "", ""},
		{"escapes in the type", func(c net.Conn) error {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/\u009bplain; \u202e\r\n\r\n")
			time.Sleep(900 * time.Millisecond)
			_, err := io.WriteString(c, "flushprobe 0 0 .\nflushprobe 1 0.4 .\nflushprobe 2 0.9 .\n"+escapes)
			return err
		}, flushtest.Held, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			bomb()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				var parts atomic.Int64
				p := flushtest.Prober{Client: rawly(t, test.answer), OnArrival: func(flushtest.Arrival) { parts.Add(1) }}
				start := time.Now()
				f, err := p.Probe(ctx, "http://memory/")
				if d := time.Since(start); d > bound+100*time.Millisecond {
					t.Errorf("it took %v", d)
				}
				if err != nil {
					if test.verdict != "" || !strings.Contains(err.Error(), test.says) {
						t.Errorf("error %v, want %s", err, test.verdict)
					}
					return
				}
				text := f.String()
				if test.verdict != "" && f.Verdict != test.verdict || !strings.Contains(text, test.says) {
					t.Errorf("%v, want %s, %q", text, test.verdict, test.says)
				}
				if test.verdict == "" && f.Held() {
					t.Errorf("%v", text)
				}
				for _, s := range []string{text, f.Layer, f.Remedy} {
					if strings.ContainsAny(s, "\x1b\a\u009b\u202e\n") || len(s) > 4000 {
						t.Errorf("%d bytes: %.200q", len(s), s)
					}
				}
			})
		})
	}
}

// A server that sends more than the probe looks at waits: what has come is not
// kept without bound.
func TestProbeQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		client := rawly(t, func(c net.Conn) error {
			io.WriteString(c, plainHead)
			for range 64 {
				n, err := c.Write(make([]byte, 1<<20))
				sent.Add(int64(n))
				if err != nil {
					return err
				}
			}
			return nil
		})
		release := make(chan struct{})
		var once sync.Once
		p := flushtest.Prober{Client: client, OnArrival: func(flushtest.Arrival) { once.Do(func() { <-release }) }}
		result := make(chan *flushtest.Finding, 1)
		go func() {
			f, err := p.Probe(t.Context(), "http://memory/")
			if err != nil {
				t.Error(err)
			}
			result <- f
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := sent.Load(); n > 4<<20 {
			t.Errorf("%d bytes taken by a probe that does not look at them", n)
		}
		close(release)
		if f := <-result; f.Verdict != flushtest.Unclear || !strings.Contains(f.Why, "keep up") {
			t.Errorf("%v", f)
		}
	})
}

// Who looks at the parts late is told when they came, and not when he looked.
func TestProbeSlowOnArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := flushtest.Serve(t, flushtest.Endpoint(), nil)
		p := flushtest.Prober{Client: s.Client(), OnArrival: func(flushtest.Arrival) { time.Sleep(time.Second) }}
		f, err := p.Probe(t.Context(), s.URL)
		if err != nil || f.Verdict != flushtest.Streamed || f.Late > 0 || len(f.Arrivals) != 10 || f.End != 2700*time.Millisecond {
			t.Errorf("%v, %v", f, err)
		}
	})
}

// A stream that does not end is enough when it has been seen for minutes.
func TestProbeEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := flushtest.Serve(t, ticker(1<<30, 30*time.Millisecond, "still there\n"), nil)
		p := flushtest.Prober{Client: s.Client()}
		f, err := p.Probe(t.Context(), s.URL)
		if err != nil || f.Verdict != flushtest.Streamed || len(f.Arrivals) > 20_000 || !strings.Contains(f.Err, "enough") {
			t.Errorf("%d parts, %v, %v", len(f.Arrivals), f.Err, err)
		}
	})
}

// The end of the context ends a probe as its deadline does.
func TestProbeCancelled(t *testing.T) {
	nothing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, test := range []struct {
		h       http.Handler
		after   time.Duration
		verdict flushtest.Verdict // empty: an error
	}{
		{ticker(100, time.Second, "line\n"), 5 * time.Second, flushtest.Streamed},
		{compressing(ticker(100, time.Second, "line\n"), true), 5 * time.Second, flushtest.Streamed},
		{nothing, 5 * time.Second, flushtest.Held},
		{nothing, 500 * time.Millisecond, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := flushtest.Serve(t, test.h, nil)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(test.after, cancel)
			start := time.Now()
			p := flushtest.Prober{Client: s.Client()}
			f, err := p.Probe(ctx, s.URL)
			if d := time.Since(start); d > test.after+10*time.Millisecond {
				t.Errorf("it took %v", d)
			}
			if test.verdict == "" && !errors.Is(err, context.Canceled) || test.verdict != "" && (err != nil || f.Verdict != test.verdict) {
				t.Errorf("%v, %v; want %s", f, err, test.verdict)
			}
		})
	}
}
