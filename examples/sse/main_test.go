package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
)

// A program is the example at work in a synctest bubble.
type program struct {
	ln    *flushtest.Listener
	stdin *io.PipeWriter
	out   *output
	stop  func() error // Ctrl-C
}

func start(t *testing.T) *program {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	stdin, in := io.Pipe()
	p := &program{ln: flushtest.Listen(4 << 10), stdin: in, out: new(output)}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, p.ln, stdin, p.out) }()
	p.stop = func() error {
		interrupt()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		in.Close()
		p.stop()
	})
	return p
}

func (p *program) publish(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait() // the last line was read, and is published now
}

// A client is one connection of an EventSource.
type client struct {
	*bufio.Reader
	resp  *http.Response
	leave func()
}

func (p *program) connect(t *testing.T, lastID string) *client {
	t.Helper()
	tr := &http.Transport{DialContext: p.ln.Dial}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://pipe/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{bufio.NewReader(resp.Body), resp, func() {
		resp.Body.Close()
		tr.CloseIdleConnections()
	}}
	t.Cleanup(c.leave)
	if got, want := c.event(t), "retry: 1000\n"; got != want {
		t.Fatalf("the stream begins with %q, want %q", got, want)
	}
	return c
}

// event returns the next event without the empty line that ends it.
func (c *client) event(t *testing.T) string {
	t.Helper()
	var e strings.Builder
	for {
		line, err := c.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, e.String())
		}
		if line == "\n" {
			return e.String()
		}
		e.WriteString(line)
	}
}

// data expects a plain event with this data and returns its id.
func (c *client) data(t *testing.T, want string) string {
	t.Helper()
	e := c.event(t)
	id, data, ok := strings.Cut(strings.TrimPrefix(e, "id: "), "\ndata: ")
	if !ok || data != want+"\n" {
		t.Fatalf("got event %q, want data %q", e, want)
	}
	return id
}

const gap = "event: gap\ndata: events are missing here\n"

func TestEventsAsTheyHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		p.publish(t, "before")
		a, b := p.connect(t, ""), p.connect(t, "")
		for name, want := range map[string]string{
			"Content-Type":      "text/event-stream",
			"Cache-Control":     "no-store, no-transform",
			"X-Accel-Buffering": "no",
		} {
			if got := a.resp.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for _, c := range []*client{a, b} {
			c.data(t, "before")
		}
		for _, line := range []string{"one", "", "data: x", "caf\u00e9"} {
			p.publish(t, line)
			a.data(t, line)
			b.data(t, line)
		}
		p.publish(t, "one\rtwo \xff")
		a.data(t, "one\ndata: two \uFFFD")
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		c := p.connect(t, "")
		p.publish(t, "1", "2", "3")
		c.data(t, "1")
		id := c.data(t, "2")
		c.leave()
		p.publish(t, "4")

		c = p.connect(t, id)
		c.data(t, "3")
		id = c.data(t, "4")
		c.leave()
		c = p.connect(t, id)
		p.publish(t, "5")
		c.data(t, "5")

		// Ids of another run say nothing about this one.
		run, _, _ := strings.Cut(id, "-")
		for _, lastID := range []string{"0-2", run + "-99", run + "--1", run + "-", "\u00e9"} {
			c := p.connect(t, lastID)
			if got := c.event(t); got != gap {
				t.Errorf("after Last-Event-ID %q: %q, want %q", lastID, got, gap)
			}
			c.data(t, "1")
		}
	})
}

// What the feed has forgotten is not passed over in silence.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		c := p.connect(t, "")
		p.publish(t, "0")
		id := c.data(t, "0")
		c.leave()
		for i := range keep + 1 {
			p.publish(t, strconv.Itoa(i+1))
		}
		c = p.connect(t, id)
		if got := c.event(t); got != gap {
			t.Errorf("got %q, want %q", got, gap)
		}
		for i := range keep {
			c.data(t, strconv.Itoa(i+2))
		}
	})
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		c := p.connect(t, "")
		for range 3 {
			begin := time.Now()
			if got := c.event(t); got != ":\n" {
				t.Fatalf("got %q", got)
			}
			if got := time.Since(begin); got != beat {
				t.Errorf("a heartbeat after %v, want %v", got, beat)
			}
		}
	})
}

// A client that does not read holds up nobody. When it reads again it has
// lost what was forgotten meanwhile, and knows it.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		slow, quick := p.connect(t, ""), p.connect(t, "")
		line := func(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)) }
		const events = keep + 200
		for i := range events {
			p.publish(t, line(i))
			quick.data(t, line(i))
		}
		if got := p.out.String(); strings.Count(got, "slow, waits with") != 1 {
			t.Errorf("want one slow client in:\n%s", got)
		}
		n := 0
		for ; ; n++ {
			e := slow.event(t)
			if e == gap {
				break
			}
			if !strings.HasSuffix(e, "\ndata: "+line(n)+"\n") {
				t.Fatalf("event %d is %.60q", n, e)
			}
		}
		if n < 50 || n > 80 {
			t.Errorf("the slow client got %d events before the gap; a Flusher holds about 64 of them", n)
		}
		for i := events - keep; i < events; i++ {
			slow.data(t, line(i))
		}
		p.publish(t, "last")
		slow.data(t, "last")
	})
}

// A client that never reads again is cut.
func TestStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		c := p.connect(t, "")
		p.publish(t, strings.Repeat("x", 4000), strings.Repeat("y", 4000), strings.Repeat("z", 4000))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := p.out.String(); !strings.Contains(got, "flush: send timeout") {
			t.Errorf("no time-out in:\n%s", got)
		}
		if _, err := io.ReadAll(c); err == nil {
			t.Error("the response looks whole")
		}
	})
}

// Ctrl-C ends the streams as they should end.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		c := p.connect(t, "")
		p.publish(t, "one")
		c.data(t, "one")
		stopped := make(chan error, 1)
		go func() { stopped <- p.stop() }()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("the stream ended with %q, %v", rest, err)
		}
		if err := <-stopped; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func TestOtherRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t)
		tr := &http.Transport{DialContext: p.ln.Dial}
		defer tr.CloseIdleConnections()
		for _, tt := range []struct {
			method, path string
			status       int
			contentType  string
			body         string
		}{
			{"GET", "/", 200, "text/html; charset=utf-8", string(page)},
			{"HEAD", "/events", 200, "text/event-stream", ""},
			{"GET", "/favicon.ico", 404, "text/plain; charset=utf-8", "404 page not found\n"},
			{"POST", "/events", 405, "text/plain; charset=utf-8", "Method Not Allowed\n"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://pipe"+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if got := resp.Header.Get("Content-Type"); resp.StatusCode != tt.status || got != tt.contentType || string(body) != tt.body || err != nil {
				t.Errorf("%s %s: %d %q %.60q, %v", tt.method, tt.path, resp.StatusCode, got, body, err)
			}
		}
	})
}

// output keeps what the program prints.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
