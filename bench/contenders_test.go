package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the lanes run this program as their reader.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"-ask", "-stream", "-upstream", "-gather", "-hold", "-proxy"}, os.Args[1]) {
		main()
		return
	}
	// The readers have nothing to wait for at their end.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// tested says whether tests are to run something of that name. nbio hands its
// connections from one goroutine to another by the kernel's epoll, which the race
// detector does not take for an order.
func tested(name string) bool { return !raceDetector || !strings.HasPrefix(name, "nbio") }

// patience is how long a client waits for what has to come.
const patience = 30 * time.Second

// request asks s for a response and returns its body, decoded.
func request(t *testing.T, s server, zipped bool) io.Reader {
	t.Helper()
	addr, stop := listen(s, nil)
	t.Cleanup(stop)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	text := requestText
	if zipped {
		text = gzipRequestText
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("Content-Type %q", got)
	}
	if !zipped {
		return res.Body
	}
	if got := res.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q", got)
	}
	body, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// everyContender runs a test of each contender, plain and with its gzip.
func everyContender(t *testing.T, test func(t *testing.T, c contender, zipped bool)) {
	for _, c := range contenders {
		if !tested(c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) { test(t, c, false) })
		if c.gzip != "" {
			t.Run(c.name+"/gzip", func(t *testing.T) { test(t, c, true) })
		}
	}
}

// Each event is with the client before the handler has the next.
func TestContendersStream(t *testing.T) {
	everyContender(t, func(t *testing.T, c contender, zipped bool) {
		arrived := make(chan struct{}, 1)
		s := c.open(job{gzip: zipped, source: func(<-chan struct{}) func() (message, bool) {
			i := 0
			return func() (message, bool) {
				if i > 0 {
					select {
					case <-arrived:
					case <-t.Context().Done():
						return message{}, false
					}
				}
				i++
				return newMessage(fmt.Sprint("event ", i)), i <= 10
			}
		}})
		body := request(t, s, zipped)
		for i := range 10 {
			want := string(newMessage(fmt.Sprint("event ", i+1)).text)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(body, got); err != nil || string(got) != want {
				t.Fatalf("event %d: %q, %v", i+1, got, err)
			}
			arrived <- struct{}{}
		}
		if rest, err := io.ReadAll(body); err != nil || len(rest) > 0 {
			t.Errorf("after the last event: %q, %v", rest, err)
		}
	})
}

// A burst arrives whole and in order.
func TestContendersBurst(t *testing.T) {
	everyContender(t, func(t *testing.T, c contender, zipped bool) {
		const n = 2000
		var want strings.Builder
		for i := range n {
			want.Write(newMessage(fmt.Sprint(i)).text)
		}
		s := c.open(job{gzip: zipped, source: func(<-chan struct{}) func() (message, bool) {
			i := -1
			return func() (message, bool) {
				i++
				return newMessage(fmt.Sprint(i)), i < n
			}
		}})
		got, err := io.ReadAll(request(t, s, zipped))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want.String() {
			t.Errorf("%d bytes arrived, not the %d that were sent", len(got), want.Len())
		}
	})
}
