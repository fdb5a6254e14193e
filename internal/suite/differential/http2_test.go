package differential_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/harness"
)

// The table of the wire for HTTP/2: what a client sees of the frames on one
// connection, while the handlers of differential_wire_test.go answer.

// An http2Request is one stream.
type http2Request struct {
	method, path string
	lines        []string
	body         string
	unsized      bool // the body has no Content-Length, and its end comes after a pause
	late         bool // all of it comes after a pause
	breaks       bool // the client resets the stream in place of the end
	trailer      http.Header
}

// An http2Client is what a client asks on one connection: one request after the
// other, or each while those before are under way.
type http2Client struct {
	name     string
	asks     []http2Request
	together bool
}

func (c http2Client) title() string { return c.name }

// An http2Seen is all that there is to see of one connection.
type http2Seen struct {
	Answers []string // in the order of the requests
	Served  []string
	Notes   []string
	Log     []string
}

var http2Clients = func() []http2Client {
	const body = "GET /in-the-body HTTP/1.1\r\nHost: x\r\n\r\n"
	get := func(path string, lines ...string) http2Request {
		return http2Request{method: "GET", path: path, lines: lines}
	}
	upload := http2Request{method: "POST", path: "/1", body: body}
	late := http2Request{method: "POST", path: "/1", body: body, late: true}
	return []http2Client{
		{"one after the other", []http2Request{get("/1"), get("/2")}, false},
		{"together", []http2Request{late, get("/2"), get("/3")}, true},
		{"HEAD, then GET", []http2Request{{method: "HEAD", path: "/1"}, get("/1")}, false},
		{"a condition, then GET", []http2Request{get("/1", `If-None-Match: "tag"`), get("/2")}, false},
		{"an upload, then GET", []http2Request{upload, get("/2")}, false},
		{"an upload that comes late", []http2Request{late, get("/2")}, false},
		{"an upload without a length, with trailers", []http2Request{
			{method: "POST", path: "/1", body: body, unsized: true, trailer: http.Header{"X-Sum": {"42"}}}, get("/2"),
		}, false},
		{"an upload that breaks", []http2Request{{method: "POST", path: "/1", body: body, unsized: true, breaks: true}, get("/2")}, false},
		{"expecting", []http2Request{{method: "POST", path: "/1", body: body, lines: []string{"Expect: 100-continue"}}, get("/2")}, false},
		{"an upload of 300 KB, then GET", []http2Request{{method: "POST", path: "/1", body: harness.Text(300000)}, get("/2")}, false},
	}
}()

// notOnHTTP2 are handlers that take for granted what HTTP/2 has not.
var notOnHTTP2 = []string{"hijacked by assertion", "asked what it can"}

// An uploadBody is such a request's body.
type uploadBody struct {
	io.Reader
	q http2Request
}

func (b *uploadBody) Read(p []byte) (int, error) {
	if b.q.late {
		b.q.late = false
		time.Sleep(pause)
	}
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.q.unsized {
		time.Sleep(pause)
		if b.q.breaks {
			err = errors.New("the client breaks off")
		}
	}
	return n, err
}

// ask sends one request and renders the answer.
func (q http2Request) ask(srv *harness.Server) string {
	var seen []string
	var mu sync.Mutex
	add := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf(format, args...))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { add("connection reused %t", i.Reused) },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			add("%d %q", code, headerLines(http.Header(h)))
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, q.method, srv.URL(q.path), nil)
	if err != nil {
		return err.Error()
	}
	for _, l := range q.lines {
		k, v, _ := strings.Cut(l, ": ")
		req.Header.Set(k, v)
	}
	if q.body != "" {
		req.Body = io.NopCloser(&uploadBody{strings.NewReader(q.body), q})
		req.ContentLength = int64(len(q.body))
		if q.unsized {
			req.ContentLength = -1
		}
		req.Trailer = q.trailer
	}
	resp, err := srv.Client().RoundTrip(req)
	if err != nil {
		add("no response: %v", err)
		return strings.Join(seen, "; ")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Header.Del("Date")
	add("%d %q, length %d, %q (%d bytes), trailers %q, end %v",
		resp.StatusCode, headerLines(resp.Header), resp.ContentLength, harness.Clip(body), len(body), headerLines(resp.Trailer), cmp.Or(err, io.EOF))
	return strings.Join(seen, "; ")
}

// runHTTP2 runs one connection.
func runHTTP2(t *testing.T, s wireServer, h wireHandler, c http2Client, wrap func(http.Handler) http.Handler) (seen http2Seen) {
	synctest.Test(t, func(t *testing.T) {
		rec := &sighting{}
		wrapped := wrap(h.serve)
		srv := harness.ServeMemory(t, harness.HTTP2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec.mu.Lock()
			seen.Served = append(seen.Served, r.Method+" "+r.URL.Path)
			rec.mu.Unlock()
			wrapped.ServeHTTP(w, r)
		}), 4<<20, harness.Configure(func(s *http.Server) {
			s.BaseContext = func(net.Listener) context.Context {
				return context.WithValue(context.Background(), recordKey{}, rec)
			}
		}))
		s.setup(srv.Server)
		seen.Answers = make([]string, len(c.asks))
		var wg sync.WaitGroup
		for i, q := range c.asks {
			wg.Go(func() { seen.Answers[i] = q.ask(srv) })
			if c.together {
				time.Sleep(time.Millisecond)
			} else {
				wg.Wait()
				time.Sleep(pause)
			}
		}
		wg.Wait()
		time.Sleep(pause)
		srv.Client().CloseIdleConnections()
		srv.Close()
		rec.mu.Lock()
		defer rec.mu.Unlock()
		seen.Notes = rec.notes
		for l := range strings.Lines(srv.Logged()) {
			if strings.HasPrefix(l, "http") {
				seen.Log = append(seen.Log, caller.ReplaceAllString(strings.TrimSpace(l), " from CALLER"))
			}
		}
	})
	return seen
}

var http2Rules = []wireRule[http2Client, http2Seen]{
	{"HEAD takes any number of writes and flushes", "bare, they fail once headers are out (golang/go#66812)", func(_ string, _ wireHandler, c http2Client, bare *http2Seen) {
		if c.asks[0].method == http.MethodHead {
			bare.Notes = slices.DeleteFunc(bare.Notes, func(n string) bool {
				return strings.HasPrefix(n, "flush: ") || strings.HasPrefix(n, "write of ") && !strings.HasSuffix(n, http.ErrBodyNotAllowed.Error())
			})
		}
	}},
	{"a Close sends headers before the end", "the handler goes on; bare, a response without a body ends with its headers", func(way string, h wireHandler, _ http2Client, bare *http2Seen) {
		if way == "New" {
			for i, a := range bare.Answers {
				if strings.Contains(a, "; 304 ") {
					bare.Answers[i] = strings.Replace(a, "length 0,", "length -1,", 1)
				}
			}
		}
	}},
}

func (s http2Seen) same(o http2Seen) bool {
	return slices.Equal(s.Answers, o.Answers) && slices.Equal(s.Served, o.Served) && slices.Equal(s.Notes, o.Notes) && slices.Equal(s.Log, o.Log)
}

func (s http2Seen) String() string {
	return fmt.Sprintf("%s\nserved %q, notes %q, log %q", strings.Join(s.Answers, "\n"), s.Served, s.Notes, s.Log)
}

func (s http2Seen) clone() http2Seen {
	s.Answers, s.Served, s.Notes, s.Log = slices.Clone(s.Answers), slices.Clone(s.Served), slices.Clone(s.Notes), slices.Clone(s.Log)
	return s
}

// TestDifferentialHTTP2 runs every handler for every client, bare and wrapped:
// each stream has the same status, headers, body, trailers and end, and the
// connection goes on or not as bare.
func TestDifferentialHTTP2(t *testing.T) {
	handlers := slices.DeleteFunc(wireHandlers(), func(h wireHandler) bool { return slices.Contains(notOnHTTP2, h.name) })
	wireTable[http2Client, http2Seen]{handlers, http2Clients, runHTTP2, http2Rules}.compare(t)
}
