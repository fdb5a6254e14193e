package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one response as it comes in: a connection, a pipe or the master
// side of a terminal, read only when the test says so.
type stream struct {
	src interface {
		io.ReadCloser
		SetReadDeadline(time.Time) error
		SyscallConn() (syscall.RawConn, error)
	}
	http   bool   // there is a head
	method string // of the request
	raw    []byte
	closed bool          // the end has been read
	reset  bool          // it was the other side's reset
	pings  func()        // see settle
	wait   func() string // how the process behind a pipe or terminal ended; nil for a server
}

// view is what has arrived so far.
type view struct {
	status int // 0: no head yet
	proto  string
	header http.Header
	body   []byte
	framed bool // the response says itself where it ends
	ended  bool // that end, or for one not framed the connection's, has arrived
	closed bool
}

// String is short enough for tables: "nothing", "200" for a head, "200 one" for
// a head and a body, with " end" when it is complete and " cut" when it broke off.
func (v view) String() string {
	var s []string
	if v.status != 0 {
		s = append(s, strconv.Itoa(v.status))
	}
	if len(v.body) > 0 {
		s = append(s, strings.ReplaceAll(strings.ReplaceAll(string(v.body), "\r\n", "\n"), "\n", `\n`))
	}
	if len(s) == 0 {
		s = append(s, "nothing")
	}
	switch {
	case v.ended:
		s = append(s, "end")
	case v.closed:
		s = append(s, "cut")
	}
	return strings.Join(s, " ")
}

// unzipped replaces the body by what a client can decode of it by now.
func (v view) unzipped() view {
	if v.header.Get("Content-Encoding") != "gzip" {
		return v
	}
	z, err := gzip.NewReader(bytes.NewReader(v.body))
	v.body = nil
	if err != nil {
		return v
	}
	v.body, err = io.ReadAll(z)
	if err == nil {
		v.body = append(v.body, '!') // the end of the compressed stream
	}
	return v
}

func (s *stream) view() view {
	if !s.http {
		return view{body: s.raw, ended: s.closed, closed: s.closed}
	}
	v := view{closed: s.closed}
	head, rest, ok := bytes.Cut(s.raw, []byte("\r\n\r\n"))
	if !ok {
		return v
	}
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(s.raw[:len(head)+4])))
	line, _ := r.ReadLine()
	h, err := r.ReadMIMEHeader()
	proto, code, _ := strings.Cut(line, " ")
	code, _, _ = strings.Cut(code, " ")
	v.status, _ = strconv.Atoi(code)
	if err != nil || v.status == 0 {
		v.status, v.body = -1, s.raw
		return v
	}
	v.proto, v.header = proto, http.Header(h)
	switch {
	case s.method == http.MethodHead:
		v.framed, v.ended, v.body = true, true, rest
	case h.Get("Transfer-Encoding") == "chunked":
		v.framed = true
		v.body, v.ended = dechunk(rest)
	case h.Get("Content-Length") != "":
		n, _ := strconv.Atoi(h.Get("Content-Length"))
		v.framed, v.body, v.ended = true, rest, len(rest) >= n
	default:
		v.body, v.ended = rest, s.closed && !s.reset
	}
	return v
}

// dechunk decodes as far as it can.
func dechunk(p []byte) (body []byte, ended bool) {
	for {
		line, rest, ok := bytes.Cut(p, []byte("\r\n"))
		if !ok {
			return body, false
		}
		n, err := strconv.ParseInt(string(line), 16, 32)
		if err != nil {
			return append(body, "<bad chunk>"...), false
		}
		if n == 0 {
			return body, bytes.HasPrefix(rest, []byte("\r\n"))
		}
		body = append(body, rest[:min(int(n), len(rest))]...)
		if len(rest) < int(n)+2 {
			return body, false
		}
		p = rest[n+2:]
	}
}

// reach reads until done says so, nothing more can come, or the bound.
func (s *stream) reach(done func(view) bool) view { return s.reachWithin(bound, done) }

func (s *stream) reachWithin(d time.Duration, done func(view) bool) view {
	s.src.SetReadDeadline(time.Now().Add(d))
	defer s.src.SetReadDeadline(time.Time{})
	buf := make([]byte, 64<<10)
	for {
		v := s.view()
		if s.closed || done(v) {
			return v
		}
		n, err := s.src.Read(buf)
		s.raw = append(s.raw, buf[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return s.view()
		}
		s.closed, s.reset = err != nil, errors.Is(err, unix.ECONNRESET)
	}
}

// rest counts the bytes up to the end, or until nothing has come for so long. It
// keeps the first and the last of them.
func (s *stream) rest(silence time.Duration) (n int, tail []byte) {
	buf := make([]byte, 256<<10)
	for {
		s.src.SetReadDeadline(time.Now().Add(silence))
		m, err := s.src.Read(buf)
		n += m
		if len(s.raw) < 4096 {
			s.raw = append(s.raw, buf[:m]...)
		}
		tail = append(tail, buf[:m]...)
		tail = tail[max(0, len(tail)-16):]
		if err != nil {
			s.closed = !errors.Is(err, os.ErrDeadlineExceeded)
			return n, tail
		}
	}
}

// whole tells whether the n bytes that end in tail, as rest has counted them,
// are a whole response.
func (s *stream) whole(n int, tail []byte) bool {
	if !s.http {
		return true
	}
	if length := s.view().header.Get("Content-Length"); length != "" {
		head, _, _ := bytes.Cut(s.raw, []byte("\r\n\r\n"))
		return strconv.Itoa(n-len(head)-4) == length
	}
	return bytes.HasSuffix(tail, []byte("\r\n0\r\n\r\n"))
}

// settle takes in what has already arrived. Requests that make the same way
// while this one waits have shown before that the servers in between had
// their turn.
func (s *stream) settle(t testing.TB) view {
	t.Helper()
	if s.pings != nil {
		s.pings()
	}
	c, err := s.src.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for !s.closed {
		var n int
		var got error
		if err := c.Read(func(fd uintptr) bool {
			n, got = unix.Read(int(fd), buf)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if errors.Is(got, unix.EINTR) {
			continue
		}
		if errors.Is(got, unix.EAGAIN) {
			break
		}
		s.raw = append(s.raw, buf[:max(n, 0)]...)
		s.closed, s.reset = got != nil || n == 0, errors.Is(got, unix.ECONNRESET)
	}
	return s.view()
}

func brief(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%.200s… (%d bytes)", s, len(s))
	}
	return s
}

func (s *stream) close() { s.src.Close() }

// how says how the process behind a pipe or terminal ended.
func (s *stream) how() string {
	if s.wait == nil {
		return ""
	}
	return ", " + s.wait()
}
