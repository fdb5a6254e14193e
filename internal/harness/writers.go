package harness

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A Forgetful is a server's writer that keeps nothing.
type Forgetful struct{ Headers http.Header }

func (w *Forgetful) Header() http.Header              { return w.Headers }
func (w *Forgetful) WriteHeader(int)                  {}
func (w *Forgetful) Write(p []byte) (int, error)      { return len(p), nil }
func (w *Forgetful) Flush()                           {}
func (w *Forgetful) SetWriteDeadline(time.Time) error { return nil }

// A Plain writer records what is called and can do nothing else.
type Plain struct {
	Calls   *[]string
	Headers http.Header
}

func NewPlain() *Plain { return &Plain{new([]string), make(http.Header)} }

func (p *Plain) Note(format string, a ...any) { *p.Calls = append(*p.Calls, fmt.Sprintf(format, a...)) }
func (p *Plain) String() string               { return strings.Join(*p.Calls, " ") }

func (p *Plain) Header() http.Header                { return p.Headers }
func (p *Plain) WriteHeader(code int)               { p.Note("%d", code) }
func (p *Plain) Write(b []byte) (int, error)        { p.Note("%s", b); return len(b), nil }
func (p *Plain) SetWriteDeadline(_ time.Time) error { return nil }

// A Flushable is a plain writer with a Flush that cannot fail.
type Flushable struct{ *Plain }

func (f Flushable) Flush() { f.Note("flush") }

// A Failing writer's flush fails.
type Failing struct {
	*Plain
	Err error
}

func (f Failing) Flush()            { f.Note("lost") }
func (f Failing) FlushError() error { f.Note("fail"); return f.Err }

// An Unwrapper adds nothing to the writer below.
type Unwrapper struct{ http.ResponseWriter }

func (u Unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// A Compressor stands for an outer wrapper that holds back what is written to
// it until it is flushed, as a compressing one does.
type Compressor struct {
	http.ResponseWriter
	held bytes.Buffer
	Down func(w http.ResponseWriter) // how it flushes what is below
	Err  error
}

func (c *Compressor) Unwrap() http.ResponseWriter { return c.ResponseWriter }
func (c *Compressor) Write(p []byte) (int, error) { return c.held.Write(p) }

func (c *Compressor) FlushError() error {
	if c.Err != nil {
		return c.Err
	}
	_, err := c.held.WriteTo(c.ResponseWriter)
	if c.Down != nil {
		c.Down(c.ResponseWriter)
	}
	return err
}
