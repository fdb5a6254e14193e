package flush

import (
	"io"
	"net/http"
	"time"
)

// NewOutput returns a Flusher over out with no server below: the command line
// and embedding. The profile is [CLI] unless opts says otherwise. Headers are
// kept and never written. End it with Close.
//
// If out has a Flush method, with or without an error, a flush calls it. If it
// has working write deadlines, as a [net.Conn] does, SendTimeout uses them.
// Writing to a closed standard output ends the process with SIGPIPE, as it
// does in any Go program.
func NewOutput(out io.Writer, opts *Options) *Flusher {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.SAPI == (SAPI{}) {
		o.SAPI = CLI()
	}
	f := new(Flusher)
	f.init(newOutput(out), nil, o.compile())
	f.startOwn(nil)
	return f
}

// An output stands in for a server: an io.Writer with a header map.
type output struct {
	io.Writer
	header http.Header
}

func newOutput(out io.Writer) http.ResponseWriter {
	o := &output{out, make(http.Header)}
	// Files have the method whether they have deadlines or not: ask once.
	if d, ok := out.(writeDeadliner); ok && d.SetWriteDeadline(time.Time{}) == nil {
		return &deadlineOutput{o, d}
	}
	return o
}

func (o *output) Header() http.Header { return o.header }
func (o *output) WriteHeader(int)     {}

func (o *output) FlushError() error {
	switch t := o.Writer.(type) {
	case flushErrorer:
		return t.FlushError()
	case interface{ Flush() error }:
		return t.Flush()
	case http.Flusher:
		t.Flush()
	}
	return nil
}

type deadlineOutput struct {
	*output
	writeDeadliner
}
