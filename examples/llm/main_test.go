package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
)

const pace = 20 * time.Millisecond

// A program is the proxy and its model in a synctest bubble.
type program struct {
	ln   *flushtest.Listener
	out  *output
	stop func() error // Ctrl-C
}

func start(t *testing.T, model http.Handler, out *output) *program {
	t.Helper()
	modelListener := flushtest.Listen(4 << 10)
	srv := &http.Server{Handler: model}
	go srv.Serve(modelListener)
	tr := &http.Transport{DialContext: modelListener.Dial}

	ctx, interrupt := context.WithCancel(t.Context())
	p := &program{ln: flushtest.Listen(4 << 10), out: out}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, p.ln, &url.URL{Scheme: "http", Host: "model"}, tr, out) }()
	p.stop = func() error {
		interrupt()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		p.stop()
		tr.CloseIdleConnections()
		srv.Close()
	})
	return p
}

func startFake(t *testing.T) *program {
	out := new(output)
	return start(t, &upstream{pace, log.New(out, "", 0)}, out)
}

type client struct {
	*bufio.Reader
	resp  *http.Response
	leave func()
}

func (p *program) ask(t *testing.T) *client {
	t.Helper()
	return p.request(t, "POST", "/v1/chat/completions", nil)
}

func (p *program) request(t *testing.T, method, path string, header http.Header) *client {
	t.Helper()
	tr := &http.Transport{DialContext: p.ln.Dial, DisableCompression: true}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://proxy"+path, strings.NewReader(`{"stream": true}`))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{bufio.NewReader(resp.Body), resp, func() {
		resp.Body.Close()
		tr.CloseIdleConnections()
	}}
	t.Cleanup(c.leave)
	return c
}

// token returns the next token, or false after the last.
func (c *client) token(t *testing.T) (string, bool) {
	t.Helper()
	line, err := c.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if empty, err := c.ReadString('\n'); err != nil || empty != "\n" {
		t.Fatalf("%q, %v after %q", empty, err, line)
	}
	data, ok := strings.CutPrefix(line, "data: ")
	if !ok {
		t.Fatalf("got line %q", line)
	}
	if data == "[DONE]\n" {
		return "", false
	}
	var chunk chunk
	if err := json.Unmarshal([]byte(data), &chunk); err != nil || len(chunk.Choices) != 1 {
		t.Fatalf("%v in %q", err, data)
	}
	return chunk.Choices[0].Delta.Content, true
}

// Each token comes through at the moment the model says it.
func TestTokensAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startFake(t)
		begin := time.Now()
		c := p.ask(t)
		if got := c.resp.Header.Get("X-Accel-Buffering"); got != "no" {
			t.Errorf("X-Accel-Buffering %q", got)
		}
		var got strings.Builder
		for n := 1; ; n++ {
			token, ok := c.token(t)
			if !ok {
				break
			}
			got.WriteString(token)
			if at, want := time.Since(begin), time.Duration(n)*pace; at != want {
				t.Fatalf("token %d came after %v, want %v", n, at, want)
			}
		}
		if got.String() != text {
			t.Errorf("got %q", got.String())
		}
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v behind the last token", rest, err)
		}
	})
}

// A client that pauses gets what was said meanwhile in fewer flushes than
// there were tokens.
func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startFake(t)
		c := p.ask(t)
		time.Sleep(100 * pace)
		var got strings.Builder
		for {
			token, ok := c.token(t)
			if !ok {
				break
			}
			got.WriteString(token)
		}
		io.Copy(io.Discard, c)
		synctest.Wait()
		if got.String() != text {
			t.Errorf("got %q", got.String())
		}
		m := regexp.MustCompile(`: 200, \d+ bytes, (\d+) flushes asked for, (\d+) done: <nil>`).FindStringSubmatch(p.out.String())
		if m == nil {
			t.Fatalf("no good end in:\n%s", p.out)
		}
		asked, _ := strconv.Atoi(m[1])
		done, _ := strconv.Atoi(m[2])
		if asked < len(tokens) || done > asked-50 {
			t.Errorf("%d tokens, %d flushes asked for, %d done", len(tokens), asked, done)
		}
	})
}

func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startFake(t)
		c := p.ask(t)
		for range 3 {
			c.token(t)
		}
		c.leave()
		synctest.Wait()
		if got, want := p.out.String(), "upstream: stopped after 3 of "; !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	})
}

// A client that stops reading holds the model back, and after the send timeout
// stops it. The model here never ends.
func TestClientStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		said, stopped := 0, make(chan time.Duration, 1)
		endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(w).Flush()
			synctest.Wait() // ReverseProxy has flushed the headers: its timer waits for a mutex, which stops a bubble's clock
			for sendToken(w, "again ") == nil && http.NewResponseController(w).Flush() == nil {
				said++
			}
			stopped <- time.Since(begin)
		})
		p := start(t, endless, new(output))
		c := p.ask(t)
		const limit = 30 * time.Second
		if got := <-stopped; got < limit || got > limit+limit/16 { // later where the proxy's calls have come close together
			t.Errorf("the model stopped after %v, want %v, or a sixteenth more", got, limit)
		}
		if said > 1000 { // 80 KiB of tokens; the proxy holds 16, its buffers and the model's some more
			t.Errorf("%d tokens for a client that reads none", said)
		}
		if _, err := io.Copy(io.Discard, c); err == nil {
			t.Error("the answer looks whole")
		}
	})
}

// An answer that the model breaks off must not look whole.
func TestModelBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan struct{})
		p := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			sendToken(w, "so")
			http.NewResponseController(w).Flush()
			<-heard
			panic(http.ErrAbortHandler)
		}), new(output))
		c := p.ask(t)
		if got, _ := c.token(t); got != "so" {
			t.Errorf("got %q", got)
		}
		close(heard)
		if rest, err := io.ReadAll(c); err == nil {
			t.Errorf("the answer looks whole, with %q", rest)
		}
	})
}

// Whatever the client accepts, and if it says nothing: a compressed stream comes
// in lumps, and http.Transport asks for gzip by itself where no header is set.
func TestModelIsAskedForPlainText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 1)
		p := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Header.Get("Accept-Encoding")
		}), new(output))
		for _, accept := range []string{"", "gzip, br", "identity"} {
			header := make(http.Header)
			if accept != "" {
				header.Set("Accept-Encoding", accept)
			}
			p.request(t, "POST", "/v1/chat/completions", header)
			if got := <-asked; got != "identity" {
				t.Errorf("the client accepts %q, the proxy %q", accept, got)
			}
		}
	})
}

func TestTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startFake(t)
		tr := &http.Transport{DialContext: p.ln.Dial}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://proxy/", io.LimitReader(zeros{}, maxQuestion+1))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, want := resp.StatusCode, http.StatusRequestEntityTooLarge; got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Ctrl-C lets an answer of a few seconds end.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			sendToken(w, "so")
			http.NewResponseController(w).Flush()
			time.Sleep(grace / 2)
			io.WriteString(w, "data: [DONE]\n\n")
		}), new(output))
		c := p.ask(t)
		stopped := make(chan error, 1)
		go func() { stopped <- p.stop() }()
		c.token(t)
		if _, more := c.token(t); more {
			t.Error("the answer goes on")
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("the answer was cut: %v", err)
		}
		if err := <-stopped; err != nil {
			t.Errorf("serve: %v", err)
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
