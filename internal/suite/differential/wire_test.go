package differential_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/harness"
)

// The table of the wire: what one HTTP/1 connection carries, byte by byte, while
// its client and its server do what the clients of differential_test.go do not: they
// pipeline, say Connection: close, hold a body back, shut down in the middle.

// A wireClient is what a client sends on one connection. Each piece goes once
// what the pieces before have started has come to rest.
type wireClient struct {
	name  string
	sends []string
}

func (c wireClient) title() string { return c.name }

// A wireServer is how the server is set up.
type wireServer struct {
	name  string
	setup func(*http.Server)
}

// A wireHandler is what answers every request of the connection.
type wireHandler struct {
	name  string
	serve http.HandlerFunc
}

// A wireSeen is all that there is to see of one connection.
type wireSeen struct {
	Bytes  string // what the client received, Date apart
	Closed bool   // by the server
	Served []string
	Notes  []string
	Log    []string
}

var wireServers = []wireServer{
	{"", func(*http.Server) {}},
	{"keep-alives off", func(s *http.Server) { s.SetKeepAlivesEnabled(false) }},
}

func wireClients() []wireClient {
	req := func(method, path string, lines ...string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path, strings.Join(append(lines, ""), "\r\n"))
	}
	old := func(path string, lines ...string) string {
		return fmt.Sprintf("GET %s HTTP/1.0\r\n%s\r\n", path, strings.Join(append(lines, ""), "\r\n"))
	}
	get := func(path string, lines ...string) string { return req("GET", path, lines...) }
	const (
		disguised = "GET /in-the-body HTTP/1.1\r\nHost: x\r\n\r\n"
		trailers  = "3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 42\r\nX-Unannounced: 1\r\n\r\n"
		whole     = "Content-Length: 38" // of disguised
		chunked   = "Transfer-Encoding: chunked"
		expect    = "Expect: 100-continue"
	)
	return []wireClient{
		{"one after the other", []string{get("/1"), get("/2")}},
		{"pipelined", []string{get("/1") + get("/2") + get("/3")}},
		{"pipelined behind Connection: close", []string{get("/1", "Connection: close") + get("/2")}},
		{"Connection: close", []string{get("/1", "Connection: close")}},
		{"Connection: close among others", []string{get("/1", "Connection: x-option, Close"), get("/2")}},
		{"HTTP/1.0", []string{old("/1"), old("/2")}},
		{"HTTP/1.0 keep-alive, pipelined", []string{old("/1", "Connection: keep-alive") + old("/2", "Connection: keep-alive")}},
		{"HEAD, then GET", []string{req("HEAD", "/1"), get("/1")}},
		{"HEAD and GET, pipelined", []string{req("HEAD", "/1") + get("/2")}},
		{"a condition, then GET", []string{get("/1", `If-None-Match: "tag"`), get("/2")}},
		{"an upload, then GET", []string{req("POST", "/1", whole) + disguised, get("/2")}},
		{"an upload and GET, pipelined", []string{req("POST", "/1", whole) + disguised + get("/2")}},
		{"an upload that comes late", []string{req("POST", "/1", whole), disguised, get("/2")}},
		{"a chunked upload with trailers, then GET", []string{req("POST", "/1", chunked, "Trailer: X-Sum") + trailers, get("/2")}},
		{"a chunked upload with trailers and GET, pipelined", []string{req("POST", "/1", chunked, "Trailer: X-Sum") + trailers + get("/2")}},
		{"a chunked upload that breaks", []string{req("POST", "/1", chunked) + "3\r\nabc\r\nnonsense\r\n" + get("/2")}},
		{"expecting, the upload late", []string{req("POST", "/1", whole, expect), disguised, get("/2")}},
		{"expecting, the upload at once", []string{req("POST", "/1", whole, expect) + disguised + get("/2")}},
		{"expecting, chunked with trailers", []string{req("POST", "/1", chunked, expect, "Trailer: X-Sum"), trailers, get("/2")}},
		{"expecting something else", []string{req("POST", "/1", whole, "Expect: x") + disguised, get("/2")}},
		{"an upload of 300 KB and GET, pipelined", []string{req("POST", "/1", "Content-Length: 300000") + harness.Text(300000) + get("/2")}},
	}
}

func wireHandlers() []wireHandler {
	read := func(r *http.Request) {
		b, err := io.ReadAll(r.Body)
		note(r, "%s read %d, %v, trailers %v", r.URL.Path, len(b), err, headerLines(r.Trailer))
	}
	// shutdown returns when the server has begun to shut down.
	shutdown := func(r *http.Request) {
		s := r.Context().Value(http.ServerContextKey).(*http.Server)
		go s.Shutdown(context.Background())
		time.Sleep(time.Second)
	}
	var all []wireHandler
	add := func(name string, h http.HandlerFunc) { all = append(all, wireHandler{name, h}) }

	add("nothing", func(http.ResponseWriter, *http.Request) {})
	add("short", func(w http.ResponseWriter, r *http.Request) { put(w, r, "body") })
	add("flushed", func(w http.ResponseWriter, r *http.Request) { put(w, r, "one"); flushNow(w, r); put(w, r, "two") })
	add("with a length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "6")
		put(w, r, "one")
		flushNow(w, r)
		put(w, r, "two")
	})
	add("shorter than its length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "60")
		put(w, r, "one")
		flushNow(w, r)
	})
	add("large with a length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "70000")
		put(w, r, harness.Text(70000))
	})
	for _, v := range []string{"close", "x-option, close", "keep-alive"} {
		add("Connection: "+v, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", v); put(w, r, "body") })
		add("Connection: "+v+", flushed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", v)
			flushNow(w, r)
			put(w, r, "body")
		})
	}
	add("Connection: close too late", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "body")
		flushNow(w, r)
		w.Header().Set("Connection", "close")
	})
	add("shut down before it", func(w http.ResponseWriter, r *http.Request) { shutdown(r); put(w, r, "body") })
	add("shut down after its first write", func(w http.ResponseWriter, r *http.Request) { put(w, r, "one"); shutdown(r); put(w, r, "two") })
	add("shut down after its headers", func(w http.ResponseWriter, r *http.Request) {
		put(w, r, "one")
		flushNow(w, r)
		shutdown(r)
		put(w, r, "two")
		flushNow(w, r)
	})
	add("shut down, the upload read after it", func(w http.ResponseWriter, r *http.Request) { shutdown(r); read(r); put(w, r, "body") })
	add("keep-alives switched off before it", func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(http.ServerContextKey).(*http.Server).SetKeepAlivesEnabled(false)
		put(w, r, "body")
	})
	add("read, then answered", func(w http.ResponseWriter, r *http.Request) { read(r); put(w, r, "body") })
	add("answered, then read", func(w http.ResponseWriter, r *http.Request) { put(w, r, "body"); read(r) })
	add("flushed, then read", func(w http.ResponseWriter, r *http.Request) { put(w, r, "body"); flushNow(w, r); read(r) })
	add("closed, then answered", func(w http.ResponseWriter, r *http.Request) { r.Body.Close(); put(w, r, "body") })
	add("read in part, then flushed", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.ReadFull(r.Body, make([]byte, 2))
		note(r, "read %d, %v", n, err)
		put(w, r, "one")
		flushNow(w, r)
		put(w, r, "two")
	})
	add("full duplex", func(w http.ResponseWriter, r *http.Request) {
		note(r, "duplex %v", http.NewResponseController(w).EnableFullDuplex())
		put(w, r, "one")
		flushNow(w, r)
		read(r)
		put(w, r, "two")
	})
	add("continue by hand", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(100); read(r); put(w, r, "body") })
	add("early hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(103)
		read(r)
		put(w, r, "body")
	})
	add("refused", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusRequestEntityTooLarge) })
	add("304 to a condition", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"tag"`)
		http.ServeContent(w, r, "file.txt", fixedTime, strings.NewReader(harness.Text(1000)))
	})
	add("304 and its body", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"tag"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
		}
		put(w, r, "body")
		flushNow(w, r)
	})
	add("204", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204); put(w, r, "body"); flushNow(w, r) })
	add("late headers and trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Late")
		put(w, r, "body")
		w.Header().Set("X-After-Write", "1")
		flushNow(w, r)
		w.Header().Set("X-After-Flush", "1")
		w.Header().Set("X-Late", r.URL.Path)
	})
	add("a panic", func(w http.ResponseWriter, r *http.Request) { panic("boom") })
	add("a panic after a flush", func(w http.ResponseWriter, r *http.Request) { put(w, r, "body"); flushNow(w, r); panic("boom") })
	add("hijacked by assertion", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			note(r, "hijack: %v", err)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "raw, %d read ahead", rw.Reader.Buffered())
		rw.Flush()
	})
	add("asked what it can", func(w http.ResponseWriter, r *http.Request) {
		_, flusher := w.(http.Flusher)
		_, flushError := w.(interface{ FlushError() error })
		_, hijacker := w.(http.Hijacker)
		_, readerFrom := w.(io.ReaderFrom)
		_, stringWriter := w.(io.StringWriter)
		_, closeNotifier := w.(http.CloseNotifier) //lint:ignore SA1019 asserted in the wild
		note(r, "%s flush %t %t, hijack %t, read from %t, string %t, close notify %t", r.Proto, flusher, flushError, hijacker, readerFrom, stringWriter, closeNotifier)
		_, pusher := w.(http.Pusher)
		note(r, "push %t", pusher)
		n, err := w.(io.StringWriter).WriteString("a string, ")
		note(r, "%d, %v", n, err)
		m, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("a copy"))
		note(r, "%d, %v", m, err)
	})
	return all
}

var wireDate = regexp.MustCompile(`\r\nDate: [^\r]*`)

// pause is between the pieces that a client sends: longer than anything takes
// that need not wait, the server's linger included, and less than SendTimeout.
const pause = 10 * time.Second

// runWire runs one connection.
func runWire(t *testing.T, s wireServer, h wireHandler, c wireClient, wrap func(http.Handler) http.Handler) (seen wireSeen) {
	synctest.Test(t, func(t *testing.T) {
		rec := &sighting{}
		wrapped := wrap(h.serve)
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		conn, err := srv.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got harness.SafeBuffer
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			io.Copy(&got, conn)
		}()
		for _, p := range c.sends {
			go io.WriteString(conn, p) // fails if the server has closed
			time.Sleep(pause)
		}
		select {
		case <-closed:
			seen.Closed = true
		default:
		}
		conn.Close()
		time.Sleep(pause)
		srv.Close()
		<-closed
		rec.mu.Lock()
		seen.Notes = rec.notes
		rec.mu.Unlock()
		seen.Bytes = wireDate.ReplaceAllString(got.String(), "")
		for l := range strings.Lines(srv.Logged()) {
			if strings.HasPrefix(l, "http") {
				seen.Log = append(seen.Log, caller.ReplaceAllString(strings.TrimSpace(l), " from CALLER"))
			}
		}
	})
	return seen
}

// wireRules are the differences that are meant. One that no case needs fails the
// test.
var wireRules = []wireRule[wireClient, wireSeen]{
	{"no 1xx to HTTP/1.0", "RFC 9110, section 15.2, forbids it", func(_ string, _ wireHandler, _ wireClient, bare *wireSeen) {
		bare.Bytes = oldInterim.ReplaceAllString(bare.Bytes, "")
	}},
	{"a Close says the length itself", "it completes the response before the handler has returned; the order of names means nothing", func(way string, _ wireHandler, c wireClient, bare *wireSeen) {
		if way != "New" {
			return
		}
		told := strings.HasPrefix(c.name, "expecting") // the server was told the first status before
		bare.Bytes = anyHead.ReplaceAllStringFunc(bare.Bytes, func(head string) string {
			if told {
				told = false
				return head
			}
			lines := strings.SplitAfter(head, "\r\n")
			at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Content-Length: ") })
			if at < 0 {
				return head
			}
			slices.Sort(lines[1 : at+1])
			return strings.Join(lines, "")
		})
	}},
	{"the lines of a HEAD are in another order", "what the server would add behind the handler's lines, the Flusher sets among them, as the server measures no HEAD that was flushed; the order of names means nothing", func(_ string, _ wireHandler, c wireClient, bare *wireSeen) {
		if !strings.HasPrefix(c.sends[0], "HEAD ") {
			return
		}
		m := finalHead.FindStringSubmatchIndex(bare.Bytes)
		if m == nil {
			return
		}
		lines := strings.SplitAfter(bare.Bytes[m[2]:m[3]], "\r\n")
		lines = lines[:len(lines)-1]
		own := len(lines)
		if strings.HasPrefix(lines[own-1], "Connection: ") {
			own-- // the server's own, behind the others
		}
		slices.Sort(lines[:own])
		bare.Bytes = bare.Bytes[:m[2]] + strings.Join(lines, "") + bare.Bytes[m[3]:]
	}},
}

var (
	oldInterim = regexp.MustCompile(`HTTP/1\.0 1\d\d .*\r\n(?:[^\r]+\r\n)*\r\n`)
	finalHead  = regexp.MustCompile(`HTTP/1\.1 [2-5]\d\d .*\r\n((?:[^\r]+\r\n)+)\r\n`)
	anyHead    = regexp.MustCompile(`HTTP/1\.[01] [2-5]\d\d .*\r\n((?:[^\r]+\r\n)+)\r\n`)
)

func (s wireSeen) same(o wireSeen) bool {
	return s.Bytes == o.Bytes && s.Closed == o.Closed && slices.Equal(s.Served, o.Served) && slices.Equal(s.Notes, o.Notes) && slices.Equal(s.Log, o.Log)
}

func (s wireSeen) String() string {
	return fmt.Sprintf("%q (%d bytes), closed %t, served %q, notes %q, log %q", harness.Clip([]byte(s.Bytes)), len(s.Bytes), s.Closed, s.Served, s.Notes, s.Log)
}

func (s wireSeen) clone() wireSeen {
	s.Served, s.Notes, s.Log = slices.Clone(s.Served), slices.Clone(s.Notes), slices.Clone(s.Log)
	return s
}

// TestDifferentialWire runs every handler for every client on every server,
// bare and wrapped: the connection carries the same bytes and ends the same way,
// the server sees the same requests, handler and operator the same as well.
func TestDifferentialWire(t *testing.T) {
	wireTable[wireClient, wireSeen]{wireHandlers(), wireClients(), runWire, wireRules}.compare(t)
}
