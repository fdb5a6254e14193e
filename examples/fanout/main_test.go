package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/nats-io/nats.go/jetstream"
)

// A machine is one instance on a real socket.
type machine struct {
	*instance
	url  string
	ln   *listener
	stop func() // as Ctrl-C does, and waits for the end
}

func startMachine(t *testing.T, natsURL string) *machine { return startMachineThat(t, natsURL, true) }

func startMachineThat(t *testing.T, natsURL string, detaches bool) *machine {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in, err := newInstance(t.Context(), natsURL, 1, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	in.detach = detaches
	in.turns = make(chan struct{}, 1) // the fewest, so that clients have to wait for each other
	m := &machine{instance: in, url: "http://" + tcp.Addr().String() + "/", ln: &listener{Listener: tcp}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in.serve(ctx, m.ln)
	}()
	m.stop = func() {
		http.DefaultClient.CloseIdleConnections() // Shutdown waits 5 s for one that was never used
		cancel()
		<-ended
	}
	t.Cleanup(m.stop)
	return m
}

// kill ends the machine as a power cut would: nobody is told anything.
func (m *machine) kill() {
	m.nc.Close()
	m.ln.Close()
	m.ln.mu.Lock()
	defer m.ln.mu.Unlock()
	for _, c := range m.ln.conns {
		c.Close()
	}
}

// A listener knows its connections. Their send buffers are small, so that a
// client that does not read shows soon.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, c)
	}
	return c, err
}

func natsServer(t *testing.T) string {
	t.Helper()
	ns, err := startNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	return ns.ClientURL()
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// roundRobin is the proxy before the machines. It knows nothing of their
// health.
func roundRobin(t *testing.T, machines []*machine) string {
	t.Helper()
	var targets []*url.URL
	for _, m := range machines {
		u, err := url.Parse(m.url)
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, u)
	}
	var n atomic.Uint32
	tr := &http.Transport{}
	srv := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(targets[int(n.Add(1))%len(targets)]) },
		Transport: tr,
		ErrorLog:  log.New(io.Discard, "", 0),
	})
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		tr.CloseIdleConnections()
	})
	return srv.URL + "/"
}

// publish publishes data, again and again until somebody has heard it.
func publish(ctx context.Context, url, data string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, "POST", url+"events", strings.NewReader(data))
		if err != nil {
			return err
		}
		req.Header.Set("Idempotency-Key", data)
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// A source is a browser's EventSource: it comes back when it is cut off.
type source struct {
	url    string
	client *http.Client
	body   io.ReadCloser
	lines  *bufio.Reader
	lastID string
	dials  int
}

// next returns the data of the next event. An event that is cut off does not
// count.
func (s *source) next(ctx context.Context) (string, error) {
	for {
		if s.body == nil {
			s.connect(ctx)
		}
		if data, ok := s.read(); ok {
			return data, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
}

// connect connects, if it can, and reads up to the first id if it has none.
func (s *source) connect(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, "GET", s.url+"events", nil)
	if err != nil {
		return
	}
	if s.lastID != "" {
		req.Header.Set("Last-Event-ID", s.lastID)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return
	}
	s.dials++
	s.body, s.lines = resp.Body, bufio.NewReader(resp.Body)
	for s.lastID == "" && s.body != nil {
		s.block()
	}
}

// read returns the data of the next block that has some.
func (s *source) read() (string, bool) {
	for s.body != nil {
		if data := s.block(); data != "" {
			return data, true
		}
	}
	return "", false
}

// block reads up to an empty line and returns the data; "" if there is none.
func (s *source) block() string {
	id, data := s.lastID, ""
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			s.close()
			return ""
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "":
			s.lastID = id
			return data
		case "id":
			id = value
		case "data":
			data = value
		}
	}
}

func (s *source) close() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}

// Three machines behind a proxy; one dies while events flow. Every client has
// every event, once and in order.
func TestMachineDies(t *testing.T) {
	const clients, events = 12, 300
	ctx := soon(t)
	natsURL := natsServer(t)
	machines := []*machine{startMachine(t, natsURL), startMachine(t, natsURL), startMachine(t, natsURL)}
	proxy := roundRobin(t, machines)

	var connected, done sync.WaitGroup
	var dials atomic.Int64
	for c := range clients {
		connected.Add(1)
		done.Go(func() {
			s := &source{url: proxy, client: &http.Client{Transport: &http.Transport{}}}
			defer s.client.CloseIdleConnections()
			defer s.close()
			s.connect(ctx)
			connected.Done()
			for i := range events {
				data, err := s.next(ctx)
				if want := fmt.Sprint("event ", i); data != want || err != nil {
					t.Errorf("client %d: got %q, %v, want %q", c, data, err, want)
					return
				}
			}
			dials.Add(int64(s.dials))
		})
	}
	connected.Wait()
	for _, m := range machines {
		if n := m.hub.count().Streams; n != clients/3 {
			t.Errorf("a machine has %d streams, want %d", n, clients/3)
		}
	}
	for i := range events {
		if i == events/3 {
			machines[1].kill()
		}
		if err := publish(ctx, proxy, fmt.Sprint("event ", i)); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	done.Wait()
	if n := dials.Load(); n < clients+clients/3 {
		t.Errorf("%d connections for %d clients: those of the dead machine did not come back", n, clients)
	}
}

// A client that does not read is dropped and counted, holds up nobody, and
// gets what it missed when it comes back.
func TestSlowClient(t *testing.T) {
	t.Run("detached", func(t *testing.T) { testSlowClient(t, true) })
	t.Run("with its handler", func(t *testing.T) { testSlowClient(t, false) })
}

func testSlowClient(t *testing.T, detach bool) {
	ctx := soon(t)
	m := startMachineThat(t, natsServer(t), detach)
	dialer := &net.Dialer{}
	slowTransport := &http.Transport{
		ReadBufferSize: 1 << 10,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err == nil {
				c.(*net.TCPConn).SetReadBuffer(4 << 10)
			}
			return c, err
		},
	}
	slow := &source{url: m.url, client: &http.Client{Transport: slowTransport}}
	quick := &source{url: m.url, client: &http.Client{Transport: &http.Transport{}}}
	for _, s := range []*source{slow, quick} {
		s.connect(ctx)
		defer s.client.CloseIdleConnections()
		defer s.close()
	}
	event := func(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat("x", 8000)) }
	n := 0
	for ; m.hub.count().Dropped == 0; n++ {
		if n == 5000 {
			t.Fatal("the slow client is not dropped")
		}
		if err := publish(ctx, m.url, event(n)); err != nil {
			t.Fatal(err)
		}
		if got, err := quick.next(ctx); got != event(n) || err != nil {
			t.Fatalf("event %d: got %.20q, %v", n, got, err)
		}
	}
	for i := range n {
		if got, err := slow.next(ctx); got != event(i) || err != nil {
			t.Fatalf("event %d: got %.20q, %v", i, got, err)
		}
	}
	if slow.dials != 2 || quick.dials != 1 {
		t.Errorf("the slow client connected %d times, the quick one %d", slow.dials, quick.dials)
	}
	if got := m.hub.count(); got.Dropped != 1 || got.Last != uint64(n) {
		t.Errorf("counts %+v after %d events", got, n)
	}
}

// Clients that come back wait for a turn at the store. Live streams and those
// that have missed nothing do not, and a client that does not read keeps none.
func TestCatchUpsTakeTurns(t *testing.T) {
	ctx := soon(t)
	m := startMachine(t, natsServer(t))
	connect := func(lastID string) *source {
		s := &source{url: m.url, client: &http.Client{Transport: &http.Transport{}}, lastID: lastID}
		s.connect(ctx)
		t.Cleanup(s.client.CloseIdleConnections)
		t.Cleanup(s.close)
		return s
	}
	const stored, live = 100, 5 // far more than fits into the buffers on the way
	event := func(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat("x", 8000)) }
	post := func(i int) {
		if err := publish(ctx, m.url, event(i)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(s *source, i int) {
		t.Helper()
		if got, err := s.next(ctx); got != event(i) || err != nil {
			t.Errorf("got %.20q, %v, want event %d", got, err, i)
		}
	}
	for i := range stored {
		post(i)
	}
	takeTurn := func() {
		t.Helper()
		select {
		case m.turns <- struct{}{}:
		case <-ctx.Done():
			t.Fatal("the turn does not come back")
		}
	}

	stalled := connect("0")
	expect(stalled, 0) // and reads no further
	takeTurn()

	waiting, current := connect("0"), connect(fmt.Sprint(stored))
	first := make(chan string, 1)
	go func() {
		data, _ := waiting.next(ctx)
		first <- data
	}()
	for i := range live {
		post(stored + i)
		expect(current, stored+i)
	}
	select {
	case got := <-first:
		t.Fatalf("without a turn: %.20q", got)
	default:
	}
	<-m.turns
	if got := <-first; got != event(0) {
		t.Errorf("got %.20q, want event 0", got)
	}
	for i := 1; i < stored+live; i++ {
		expect(waiting, i)
		expect(stalled, i)
	}
	if stalled.dials != 1 || waiting.dials != 1 {
		t.Errorf("connected %d and %d times, want once", stalled.dials, waiting.dials)
	}
}

// What the store has forgotten is not passed over in silence; nor is an id
// that it never gave out.
func TestGap(t *testing.T) {
	ctx := soon(t)
	m := startMachine(t, natsServer(t))
	for i := range 5 {
		if err := publish(ctx, m.url, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.events.Purge(ctx, jetstream.WithPurgeSequence(4)); err != nil { // keeps 4 and 5
		t.Fatal(err)
	}
	const missing = "events are missing here"
	for _, tt := range []struct {
		lastID string
		want   []string
	}{
		{"1", []string{missing, "3", "4"}},
		{"3", []string{"3", "4"}},
		{"99", []string{missing}},
	} {
		s := &source{url: m.url, client: http.DefaultClient, lastID: tt.lastID}
		for _, want := range tt.want {
			if got, err := s.next(ctx); got != want || err != nil {
				t.Errorf("after %s: got %q, %v, want %q", tt.lastID, got, err, want)
			}
		}
		s.close()
	}

	if err := m.events.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	s := &source{url: m.url, client: http.DefaultClient, lastID: "1"}
	defer s.close()
	for _, want := range []string{missing, "5"} {
		if got, err := s.next(ctx); got != want || err != nil {
			t.Errorf("after all was purged: got %q, %v, want %q", got, err, want)
		}
		if want == missing {
			if err := publish(ctx, m.url, "5"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOtherRequests(t *testing.T) {
	ctx := soon(t)
	m := startMachine(t, natsServer(t))
	for _, tt := range []struct {
		method, path, key, body string
		status                  int
		want                    string
	}{
		{"POST", "events", "a", "one", 200, "1\n"},
		{"POST", "events", "a", "one", 200, "1\n"},
		{"POST", "events", "b", "two\nlines", 200, "2\n"},
		{"POST", "events", "", strings.Repeat("x", maxEvent+1), 413, "the event is too large\n"},
		{"HEAD", "events", "", "", 200, ""},
		{"GET", "", "", "", 404, "404 page not found\n"},
	} {
		req, err := http.NewRequestWithContext(ctx, tt.method, m.url+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.key != "" {
			req.Header.Set("Idempotency-Key", tt.key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || string(body) != tt.want || err != nil {
			t.Errorf("%s %s: %d %q, %v, want %d %q", tt.method, tt.path, resp.StatusCode, body, err, tt.status, tt.want)
		}
	}
	resp, err := http.Get(m.url + "stats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := `"dropped":0`; !strings.Contains(string(body), want) || err != nil {
		t.Errorf("no %s in %q, %v", want, body, err)
	}
}

// A page of another site cannot make its visitors publish. Its own pages can,
// and programs, which say nothing about where they come from.
func TestPublishFromPages(t *testing.T) {
	ctx := soon(t)
	m := startMachine(t, natsServer(t))
	own := strings.TrimSuffix(m.url, "/")
	for _, tt := range []struct {
		header, value string
		status        int
		want          string
	}{
		{"Sec-Fetch-Site", "cross-site", 403, ""},
		{"Sec-Fetch-Site", "same-site", 403, ""},
		{"Origin", "http://elsewhere.example", 403, ""}, // a browser that does not know Sec-Fetch-Site
		{"Sec-Fetch-Site", "same-origin", 200, "1\n"},
		{"Origin", own, 200, "2\n"},
		{"User-Agent", "curl", 200, "3\n"},
	} {
		req, err := http.NewRequestWithContext(ctx, "POST", m.url+"events", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(tt.header, tt.value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || err != nil || tt.want != "" && string(body) != tt.want {
			t.Errorf("%s: %s: %d %q, %v, want %d %q", tt.header, tt.value, resp.StatusCode, body, err, tt.status, tt.want)
		}
	}
}

// Events that a client has had from the store already are not said again when
// they come by live.
func TestHubLagsBehindStore(t *testing.T) {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	h := hub{ahead: make(map[uint64][]*flush.Flusher)}
	if joined, err := h.join(f, 5); !joined || err != nil {
		t.Fatalf("a stream that is ahead of the hub cannot join: %v", err)
	}
	for seq := range uint64(8) {
		h.broadcast(seq, []byte("x"))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := rec.Body.String(), "id: 6\ndata: x\n\nid: 7\ndata: x\n\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(h.ahead) > 0 {
		t.Errorf("%d still wait to join", len(h.ahead))
	}
}

// Live streams have no handler, unless that was asked for.
func TestHandlersReturn(t *testing.T) {
	for _, detach := range []bool{true, false} {
		ctx := soon(t)
		m := startMachineThat(t, natsServer(t), detach)
		s := &source{url: m.url, client: &http.Client{Transport: &http.Transport{}}}
		s.connect(ctx)
		defer s.client.CloseIdleConnections()
		defer s.close()
		m.hub.count() // which waits until it has joined
		n := 0
		for f := range m.hub.live.All() {
			n++
			if f.Stats().Detached != detach {
				t.Errorf("detach %v: the stream's handler %v", detach, map[bool]string{true: "waits", false: "has returned"}[detach])
			}
		}
		if n != 1 {
			t.Errorf("detach %v: %d streams", detach, n)
		}
	}
}

// When the server stops, a live stream and one that catches up end whole: their
// clients come back with the id of the last event they had.
func TestStop(t *testing.T) {
	t.Run("detached", func(t *testing.T) { testStop(t, true) })
	t.Run("with their handlers", func(t *testing.T) { testStop(t, false) })
}

func testStop(t *testing.T, detach bool) {
	ctx := soon(t)
	m := startMachineThat(t, natsServer(t), detach)
	open := func(lastID string) *bufio.Reader {
		req, err := http.NewRequestWithContext(ctx, "GET", m.url+"events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if lastID != "" {
			req.Header.Set("Last-Event-ID", lastID)
		}
		tr := &http.Transport{}
		t.Cleanup(tr.CloseIdleConnections)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return bufio.NewReader(resp.Body)
	}
	live := open("")
	if line, err := live.ReadString('\n'); line != "id: 0\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	m.turns <- struct{}{} // no store for one that catches up
	if err := publish(ctx, m.url, "hello"); err != nil {
		t.Fatal(err)
	}
	const event = "\nid: 1\ndata: hello\n\n"
	got := make([]byte, len(event))
	if _, err := io.ReadFull(live, got); string(got) != event || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	late := open("0")
	m.stop()
	for name, r := range map[string]*bufio.Reader{"live": live, "catching up": late} {
		if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
			t.Errorf("%s: %q, %v at the end", name, rest, err)
		}
	}
	if n := m.hub.live.Len(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}
