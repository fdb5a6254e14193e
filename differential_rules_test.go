package flush_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// A rule is one difference that is meant.
type rule struct {
	name   string
	reason string
	// apply edits c.bare into what the contract promises in its place. It must
	// not look at what the wrapped handler did.
	apply func(c *comparison)
}

// A comparison is what the rules work on.
type comparison struct {
	diffCase
	variant
	way  string // "NewHandler" or "New"
	bare seen
}

func (c *comparison) isHead() bool { return c.method == "HEAD" }

// line returns the value of a line of the head.
func (s *seen) line(name string) (value string, ok bool) {
	for _, l := range s.Head {
		if v, ok := strings.CutPrefix(l, name+": "); ok {
			return v, true
		}
	}
	return "", false
}

// setLine adds, replaces or, with an empty value, deletes a line of the head.
func (s *seen) setLine(name, value string) {
	s.Head = slices.DeleteFunc(s.Head, func(l string) bool { return strings.HasPrefix(l, name+": ") })
	if value != "" {
		s.Head = append(s.Head, name+": "+value)
		slices.Sort(s.Head[1:])
	}
}

// declared returns the Content-Length in the head, or -1.
func (s *seen) declared() int {
	v, _ := s.line("Content-Length")
	n, err := strconv.Atoi(v)
	if err != nil {
		return -1
	}
	return n
}

// overrun says how much of what was written fits a declared Content-Length, in
// whole writes as HTTP/1 counts them, and whether a write did not fit.
func (s *seen) overrun() (fits int, refused bool) {
	limit := s.declared()
	if limit < 0 {
		return 0, false
	}
	for _, w := range s.writes {
		if refused = refused || fits+len(w) > limit; !refused {
			fits += len(w)
		}
	}
	return fits, refused
}

// rules are the differences that are meant, in the order in which they apply.
// One that no case needs fails the test.
var rules = []rule{
	{"headers are open while a buffer holds the output", "as in PHP: nothing has reached floor 2 yet; bare, the first write fixes them", func(c *comparison) {
		if c.open == nil {
			return
		}
		for _, name := range []string{"X-Page", "X-Filter", "X-Late", "Content-Encoding"} {
			c.bare.setLine(name, c.open.Get(name))
		}
		if kind := c.open.Get("Content-Type"); kind != "" || c.open.Get("Content-Encoding") != "" {
			c.bare.setLine("Content-Type", kind) // not detected in what is encoded
		}
	}},
	{"an empty write is no error where no body is allowed", "bare, HTTP/2 refuses it; callers take that for a dead client", func(c *comparison) {
		c.bare.Notes = slices.DeleteFunc(c.bare.Notes, func(n string) bool {
			return n == fmt.Sprint("write of 0: 0, ", http.ErrBodyNotAllowed)
		})
	}},
	{"no 1xx to HTTP/1.0", "RFC 9110, section 15.2, forbids it", func(c *comparison) {
		if c.proto == http10 {
			c.bare.Interim = nil
		}
	}},
	{"what has not been sent is dropped at a panic", "up to BufferSize bytes are held; bare, they go out from 2048 bytes on, only to be cut", func(c *comparison) {
		s := &c.bare
		sent := max(s.flushed, 0)
		if n := len(s.wrote()) - sent; !s.died || n == 0 || n >= 4096 {
			return
		}
		if s.Body = s.Body[:min(len(s.Body), sent)]; s.flushed < 0 {
			s.Head, s.End = nil, cut
		}
	}},
	{"a whole response has its exact Content-Length", "it is held up to BufferSize, 4096; bare, up to 2048", func(c *comparison) {
		s := &c.bare
		n := max(len(s.wrote()), len(s.Body))
		if len(s.Head) == 0 || c.proto == h2 || s.End == cut || s.flushed >= 0 || c.unmeasured || s.declared() >= 0 || n >= 4096 {
			return
		}
		_, trailers := s.line("Trailer")
		trailers = trailers || s.early || len(s.late) > 0
		if n == 0 || trailers && c.proto == http1 || n < 2048 && !(trailers && c.proto == http10) {
			return
		}
		s.setLine("Transfer-Encoding", "")
		s.setLine("Content-Length", strconv.Itoa(n))
		s.End = complete
		if c.variant.name == "http10-keepalive" {
			s.setLine("Connection", "keep-alive")
			s.Reused = true
		}
	}},
	{"trailers with the prefix arrive", "bare, HTTP/1.1 measures a short response, and a response with a length has no trailers", func(c *comparison) {
		s := &c.bare
		if c.proto != http1 || len(s.late) == 0 || len(s.Trailer) > 0 || s.declared() < 0 {
			return
		}
		s.setLine("Content-Length", "")
		if !c.isHead() {
			s.setLine("Transfer-Encoding", "chunked")
			s.Trailer = s.late
		}
	}},
	{"HTTP/2 refuses what goes beyond the Content-Length as HTTP/1 does", "bare, it takes what its buffer takes, and says so late or never", func(c *comparison) {
		s := &c.bare
		fits, refused := s.overrun()
		if c.proto != h2 || !refused {
			return
		}
		if fits == 0 {
			s.setLine("Content-Type", "")
		}
		s.End, s.Reused = complete, true
		if !c.isHead() {
			s.Body = s.wrote()[:fits]
			if fits < s.declared() {
				s.End, s.Reused = cut, false
			}
		}
		s.Notes = slices.DeleteFunc(s.Notes, func(n string) bool { return strings.HasPrefix(n, "write of ") })
		var notes []string
		n := 0
		for _, w := range s.writes {
			if n += len(w); n > s.declared() {
				notes = append(notes, fmt.Sprintf("write of %d: 0, %v", len(w), http.ErrContentLength))
			}
		}
		s.Notes = append(notes, s.Notes...)
	}},
	{"a refused write does not cost the connection", "bare, refused bytes count, and a complete response ends its connection", func(c *comparison) {
		s := &c.bare
		if fits, refused := s.overrun(); refused && fits == s.declared() && s.End == complete && c.variant.name != "http10" {
			s.Reused = true
		}
	}},
	{"a copy that runs over the Content-Length is refused from its first piece", "over HTTP/2 only a Flusher of New is an io.ReaderFrom, whose pieces are larger than io.Copy's; cut is cut", func(c *comparison) {
		if s := &c.bare; s.longFile && c.proto == h2 && c.way == "New" {
			s.Body = ""
			s.setLine("Content-Type", "")
		}
	}},
	{"the Flusher of New is one type on every protocol", "it has Hijack and ReadFrom where the server's writer has not, and they say so when they are called; the handler's writer of NewHandler is asserted as bare", func(c *comparison) {
		if c.proto == h2 && c.way == "New" {
			for i, n := range c.bare.Notes {
				n = strings.Replace(n, "push true", "push false", 1)
				c.bare.Notes[i] = strings.Replace(n, "hijack false, read from false", "hijack true, read from true", 1)
			}
		}
	}},
	{"a file longer than the Content-Length does not run over", "bare, sendfile puts all of it on the wire, behind the end of the response", func(c *comparison) {
		s := &c.bare
		if s.longFile && c.proto != h2 {
			s.Notes[0] = "all false, failed true"
			s.Reused = c.variant.name != "http10"
		}
	}},
	{"HEAD over HTTP/2 takes any number of writes and flushes", "bare, they fail once headers are out (golang/go#66812)", func(c *comparison) {
		s := &c.bare
		if c.proto != h2 || !c.isHead() {
			return
		}
		s.Notes = slices.DeleteFunc(s.Notes, func(n string) bool {
			return strings.HasPrefix(n, "write of ") && !strings.HasSuffix(n, http.ErrContentLength.Error()) || strings.HasPrefix(n, "flush: ")
		})
		for i, n := range s.Notes {
			if n == "0, http2: request body closed due to handler exiting" {
				s.Notes[i] = fmt.Sprintf("%d, <nil>", s.declared())
			}
		}
	}},
	{"HEAD over HTTP/2 measures less than 4096 bytes", "bare, 4096 exactly still fit the server's buffer", func(c *comparison) {
		if s := &c.bare; c.proto == h2 && c.isHead() && s.flushed < 0 && len(s.wrote()) == 4096 {
			s.setLine("Content-Length", "")
		}
	}},
	{"Hijack hands down what was written", "bare, what is in the server's first buffer is lost", func(c *comparison) {
		if s := &c.bare; s.hijack && s.flushed < 0 && len(s.writes) > 0 {
			s.Body = (s.wrote() + s.Body)[:s.declared()]
			s.setLine("Content-Type", http.DetectContentType([]byte(s.wrote())))
		}
	}},
	{"MaxBytesReader does not end the connection", "it asks the server's own writer for that, by a method that cannot be passed on; give it that writer", func(c *comparison) {
		s := &c.bare
		if !s.limited || c.proto == h2 || len(c.upload) >= 256<<10 {
			return
		}
		s.setLine("Connection", "")
		s.Reused = c.variant.name != "http10"
		if c.variant.name == "http10-keepalive" {
			s.setLine("Connection", "keep-alive")
		}
	}},
}
