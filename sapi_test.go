package flush_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

func TestProfiles(t *testing.T) {
	const php = "text/html; charset=UTF-8"
	for _, test := range []struct{ got, want flush.SAPI }{
		{flush.NetHTTP(), flush.SAPI{Name: "net/http"}},
		{flush.Apache2Handler(), flush.SAPI{Name: "apache2handler", ContentType: php}},
		{flush.CGI(), flush.SAPI{Name: "cgi-fcgi", ContentType: php}},
		{flush.FastCGI(), flush.SAPI{Name: "cgi-fcgi", ContentType: php}},
		{flush.FPM(), flush.SAPI{Name: "fpm-fcgi", ContentType: php}},
		{flush.OpenResty(), flush.SAPI{Name: "openresty", Headers: flush.HeadersWithOutput, ContentType: "text/plain", HTTP10Buffer: 1 << 20}},
		{flush.CLI(), flush.SAPI{Name: "cli", Headers: flush.OutputOnly, Implicit: flush.Wait}},
		{flush.Embed(), flush.SAPI{Name: "embed", Headers: flush.OutputOnly, Implicit: flush.Wait}},
	} {
		if test.got != test.want {
			t.Errorf("got %+v, want %+v", test.got, test.want)
		}
	}
	got := fmt.Sprint(flush.HeadersFirst, flush.HeadersWithOutput, flush.OutputOnly)
	if want := "HeadersFirst HeadersWithOutput OutputOnly"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Flushing nothing on servers where a plain Flush sends nothing (net/http/cgi,
// fcgi): an empty Write brings the headers out.
func TestHeadersFirstBelowCGI(t *testing.T) {
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, &flush.Options{SAPI: flush.CGI()})
	if err := flush.Flush(f, true); err != nil {
		t.Error(err)
	}
	if want := "200  flush"; p.String() != want {
		t.Errorf("server saw %q, want %q", p, want)
	}
	if got := p.Headers.Get("Content-Type"); got != "text/html; charset=UTF-8" {
		t.Errorf("Content-Type %q", got)
	}
	f.Close()
}

// Flushing nothing where headers leave with the output succeeds, has no effect,
// and leaves them open: for a status too.
func TestHeadersWithOutputStayOpen(t *testing.T) {
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, &flush.Options{SAPI: flush.OpenResty()})
	for _, err := range []error{flush.Flush(f, true), flush.Flush(f, false), f.FlushError()} {
		if err != nil || f.HeadersSent() {
			t.Error(err, f.HeadersSent())
		}
	}
	f.WriteHeader(404)
	if err := flush.Flush(f, true); err != nil || p.String() != "" {
		t.Errorf("%v, server saw %q", err, p)
	}
	if err := f.Clean(); err != nil {
		t.Error(err)
	}
	f.WriteHeader(500)
	f.WriteString("x")
	f.Close()
	if want := "500 x"; p.String() != want {
		t.Errorf("server saw %q, want %q", p, want)
	}
}

// Outputs with each kind of Flush, or none.
type (
	quietOutput struct{ *bytes.Buffer }
	errOutput   struct {
		quietOutput
		err error
	}
	ctlOutput struct {
		quietOutput
		err error
	}
)

func (o quietOutput) Flush()          { o.WriteString("|") }
func (o errOutput) Flush() error      { o.quietOutput.Flush(); return o.err }
func (o ctlOutput) FlushError() error { o.quietOutput.Flush(); return o.err }

func TestNewOutput(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		out  func(b *bytes.Buffer) io.Writer
		opts *flush.Options
		want string
		err  error
	}{
		{"writer", func(b *bytes.Buffer) io.Writer { return b }, nil, "onetwo", nil},
		{"Flush", func(b *bytes.Buffer) io.Writer { return quietOutput{b} }, nil, "one|two|", nil},
		{"Flush with an error", func(b *bytes.Buffer) io.Writer { return errOutput{quietOutput{b}, nil} }, nil, "one|two|", nil},
		{"FlushError", func(b *bytes.Buffer) io.Writer { return ctlOutput{quietOutput{b}, nil} }, nil, "one|two|", nil},
		{"bufio", func(b *bytes.Buffer) io.Writer { return bufio.NewWriter(b) }, nil, "onetwo", nil},
		{"failing Flush", func(b *bytes.Buffer) io.Writer { return errOutput{quietOutput{b}, broken} }, nil, "one|", broken},
		{"failing FlushError", func(b *bytes.Buffer) io.Writer { return ctlOutput{quietOutput{b}, broken} }, nil, "one|", broken},
		{"no implicit flush", func(b *bytes.Buffer) io.Writer { return quietOutput{b} }, &flush.Options{Implicit: flush.Off}, "onetwo", nil},
		{"embed", func(b *bytes.Buffer) io.Writer { return quietOutput{b} }, &flush.Options{SAPI: flush.Embed()}, "one|two|", nil},
		{"own profile", func(b *bytes.Buffer) io.Writer { return quietOutput{b} }, &flush.Options{SAPI: flush.SAPI{Name: "own", Headers: flush.OutputOnly}}, "onetwo", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			f := flush.NewOutput(test.out(&b), test.opts)
			embed := test.name == "embed"
			f.Header().Set("X-Kept", "1")
			if err := flush.Flush(f, true); err != nil || f.HeadersSent() != embed || b.Len() != 0 {
				t.Errorf("flush of nothing: %v, sent %t, %q", err, f.HeadersSent(), &b)
			}
			if err := f.SendHeaders(); err != nil || f.HeadersSent() != embed {
				t.Errorf("SendHeaders: %v, sent %t", err, f.HeadersSent())
			}
			f.WriteHeader(404)
			f.WriteString("one")
			if implicit := test.want != "onetwo" || test.opts == nil; f.HeadersSent() != (implicit || embed) {
				t.Errorf("after the first output: sent %t", f.HeadersSent())
			}
			f.WriteString("two")
			if err := f.Close(); !errors.Is(err, test.err) {
				t.Errorf("Close: %v, want %v", err, test.err)
			}
			if b.String() != test.want || f.Header().Get("X-Kept") != "1" {
				t.Errorf("got %q, want %q, headers %v", &b, test.want, f.Header())
			}
		})
	}
}

// HEAD and friends have no meaning where there are no headers, nor have
// statuses that forbid a body a say: the output is output.
func TestOutputOnlyClean(t *testing.T) {
	var b bytes.Buffer
	f := flush.NewOutput(&b, &flush.Options{Implicit: flush.Off})
	f.WriteString("half")
	if err := f.Clean(); err != nil {
		t.Error(err)
	}
	f.WriteString("whole")
	flush.Flush(f, true)
	if err := f.Clean(); !errors.Is(err, flush.ErrHeadersSent) {
		t.Error(err)
	}
	f.Close()
	if b.String() != "whole" {
		t.Errorf("got %q", &b)
	}
	if err := flush.NewOutput(&b, &flush.Options{SAPI: flush.Embed()}).Clean(); !errors.Is(err, flush.ErrHeadersSent) {
		t.Error("embed:", err)
	}
}

// An output with deadlines of its own, such as a connection, gets the real
// send timeout; one whose deadlines do not work ends the wait only.
func TestNewOutputTimeout(t *testing.T) {
	for _, works := range []bool{true, false} {
		t.Run(fmt.Sprint(works), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := flushtest.Pipe(100)
				var out io.Writer = server
				if !works {
					out = noDeadline{server}
				}
				begin := time.Now()
				f := flush.NewOutput(out, &flush.Options{SendTimeout: time.Minute})
				_, err := f.WriteString(strings.Repeat("x", 1000))
				if took := time.Since(begin); !errors.Is(err, flush.ErrTimeout) || took != time.Minute {
					t.Errorf("%v after %v", err, took)
				}
				if sticks := f.Err() != nil; sticks != works {
					t.Error("it sticks:", f.Err())
				}
				time.AfterFunc(time.Hour, func() { io.CopyN(io.Discard, client, 1000) })
				if err := f.Close(); works != (err != nil) || works && !errors.Is(err, flush.ErrTimeout) {
					t.Error("Close:", err)
				}
				if !works && time.Since(begin) != time.Hour+time.Minute {
					t.Error("Close returned after", time.Since(begin))
				}
			})
		})
	}
}

// A noDeadline writer has the method, as a file has, and no deadlines.
type noDeadline struct{ io.Writer }

func (noDeadline) SetWriteDeadline(time.Time) error { return http.ErrNotSupported }

// A profile that is all output hands the server no status, whatever was set.
func TestOutputOnlyHandsOverNoStatus(t *testing.T) {
	for _, sapi := range []flush.SAPI{flush.CLI(), flush.Embed()} {
		p := harness.NewPlain()
		f := flush.New(harness.Flushable{Plain: p}, nil, &flush.Options{SAPI: sapi})
		f.WriteHeader(404)
		io.WriteString(f, "out")
		harness.Must(t, f.FlushWait(harness.NoContext))
		harness.Must(t, f.Close())
		if got := p.String(); !strings.HasPrefix(got, "out flush") {
			t.Errorf("%s: the server's calls: %s", sapi.Name, got)
		}
	}
}
