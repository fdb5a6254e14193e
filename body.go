package flush

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// A watchedBody is the request body as the handler sees it. It tells the
// Flusher when the body has been read to its end or closed.
//
// Until then, on HTTP/1 without full duplex, the server drains the body when
// headers go out. Done in the background that steals the handler's upload: it
// reads part of it and then a clean EOF.
type watchedBody struct {
	io.ReadCloser
	f       *Flusher
	length  int64 // declared; -1: chunked
	expects bool  // the client waits for a 100 Continue, which the first Read sends
	read    atomic.Int64
	asked   atomic.Bool // Read has been called
	drained atomic.Bool // the server has drained it: what still comes has a gap before it
	done    atomic.Bool
}

// watchBody returns the body to give to the handler.
func (f *Flusher) watchBody(r *http.Request) io.ReadCloser {
	if !f.srv.netHTTP || r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return r.Body
	}
	f.body = &watchedBody{ReadCloser: r.Body, f: f, length: r.ContentLength}
	f.body.expects = strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	return f.body
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.asked.Store(true)
	n, err := b.ReadCloser.Read(p)
	read := b.read.Add(int64(n))
	if err != nil && !b.done.Load() {
		b.end()
	}
	if err == io.EOF && b.drained.Load() && (b.length < 0 || read < b.length) {
		// The server drains no more than 256 KB and then lets the handler read
		// on, to what looks like the end.
		err = http.ErrBodyReadAfterClose
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// end lets the carrier and the timers hand over headers from now on.
func (b *watchedBody) end() {
	if b.done.Swap(true) {
		return
	}
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	b.f.kickLocked()
}

// callerOnlyLocked reports whether handing over the headers would drain a
// request body that the handler may still want to read: only a caller of the
// Flusher may do it then, as in net/http, and no carrier or timer.
func (f *Flusher) callerOnlyLocked() bool {
	return f.body != nil && !f.headersSent && !f.fullDuplex && !f.body.done.Load()
}

// noteDrainLocked runs after a call of the server and notes if it has drained
// the request body: when it wrote the headers, for a flush or for more than it
// holds itself.
func (f *Flusher) noteDrainLocked(flushed bool, n int) {
	b := f.body
	if b == nil || f.fullDuplex || !flushed && f.flow.bytes+int64(n) <= serverMeasures || b.done.Load() || b.expects && !b.asked.Load() {
		return
	}
	b.drained.Store(true)
}
