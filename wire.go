package flush

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/bits"
	"mime/multipart"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// A wire is floor 1 of a response whose connection has been taken over. It takes
// the place of the server's writer, and does to the body what that did: the
// headers went out through the server, so that they are the same.
//
// What goes out is, with the holder of the baton as the only writer,
//
//	whole  what was written ends with a chunk's end
//	torn   a write that does not block has brought a part of a chunk on its way:
//	       what is missing goes first
//	ended  the last chunk and the trailers are out; TLS has said goodbye
//	closed
//
// Invariants, whenever the baton is free:
//
//  1. Body bytes that were counted as sent are on the connection, or in torn.
//  2. torn is nil, or body bytes of the open chunk lie at the front of floor 2,
//     or, if open is 0, a flush is due.
//  3. The connection is closed once, after the response has ended, by who ended
//     it; whoever watches it has let it go before.
//
// Reading what the client sends needs no baton: see dropInput.
type wire struct {
	conn net.Conn
	raw  syscall.RawConn // the socket; nil: it is not one of package net
	read atomic.Int32    // bytes of the client's, dropped of late; here, so that prefetch can touch the line
	body bodyFraming
	tls  bool
	f    *Flusher
	torn *tornChunk
	with *wireExtra // nil: nothing of it
	slot tcp.Slot
}

// A wireExtra is what few detached responses have.
type wireExtra struct {
	trailers []string        // declared
	form     *multipart.Form // whose files go with the response; nil: none
}

// extra is what w has of that, for reading.
func (w *wire) extra() wireExtra {
	if w.with == nil {
		return wireExtra{}
	}
	return *w.with
}

// A bodyFraming is how a client finds the end of a body.
type bodyFraming uint8

const (
	chunked    bodyFraming = iota
	declared               // by its Content-Length, which no more than that enters
	untilClose             // by the end of the connection
)

// framing is what the headers of a response, as they went out, say of the wire.
type framing struct {
	identity bool
	odd      bool // a Transfer-Encoding that we leave to the server
	trailers []string
}

// newWire returns the wire that goes on with the response of f on conn.
func (f *Flusher) newWire(conn net.Conn) *wire {
	w := &wire{conn: conn, f: f}
	socket := conn
	if t, ok := conn.(*tls.Conn); ok {
		w.tls, socket = true, t.NetConn()
	}
	switch c := socket.(type) {
	case *net.TCPConn:
		w.raw, _ = c.SyscallConn()
	case *net.UnixConn:
		w.raw, _ = c.SyscallConn()
	}
	fr := f.rarely().framing
	switch {
	case f.length >= 0:
		w.body = declared
	case f.http10 || fr != nil && fr.identity:
		w.body = untilClose
	}
	if fr != nil && len(fr.trailers) > 0 {
		w.with = &wireExtra{trailers: fr.trailers}
	}
	return w
}

// Header and WriteHeader make it an http.ResponseWriter. The headers are out.
func (w *wire) Header() http.Header { return make(http.Header) }
func (w *wire) WriteHeader(int)     {}

// SetWriteDeadline is for the owner of the deadline.
func (w *wire) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// Write hands p to the kernel.
func (w *wire) Write(p []byte) (n int, err error) {
	switch {
	case len(p) == 0: // an empty chunk is the last one
	case w.body == chunked && w.torn == nil:
		return w.writeChunk(p)
	case w.body == chunked:
		if n, err = w.mend(p); err == nil && n < len(p) {
			var m int
			m, err = w.writeChunk(p[n:])
			n += m
		}
	default:
		n, err = w.conn.Write(p)
	}
	return n, err
}

// FlushError has nothing to do: what was written is in the kernel, but for the
// end of a chunk.
func (w *wire) FlushError() error {
	if w.torn == nil || w.torn.open > 0 {
		return nil
	}
	_, err := w.mend(nil)
	return err
}

// ReadFrom has the kernel copy src (sendfile). Where chunks or TLS are in the way it
// takes nothing: the file goes the ordinary way then.
func (w *wire) ReadFrom(src io.Reader) (int64, error) {
	rf, ok := w.conn.(io.ReaderFrom)
	if !ok || w.body == chunked {
		return 0, nil
	}
	return rf.ReadFrom(src)
}

// chunkCopied is up to which size the bytes of a chunk are copied, to go out in
// one write with what is around them.
const chunkCopied = blockMemory

// chunkHead is more than what goes before the bytes of a chunk can take.
const chunkHead = 20

// A chunkBuffer has room for such a chunk.
type chunkBuffer [chunkHead + chunkCopied + len(crlf)]byte

var chunkBuffers = sync.Pool{New: func() any { return new(chunkBuffer) }}

const crlf = "\r\n"

// A chunk of up to so many bytes is made on the stack, if the socket's Write does not
// keep what it is given: on Windows the compiler takes it that it does, and memory of
// the heap would be made for each.
const (
	chunkOnStack      = 224
	writeKeepsNothing = runtime.GOOS != "windows"
)

// writeChunk writes p, which is not empty, as one chunk.
func (w *wire) writeChunk(p []byte) (int, error) {
	if len(p) <= chunkCopied {
		return w.writeSmallChunk(p)
	}
	var space [chunkHead]byte
	head := appendChunkHead(space[:0], len(p))
	parts := net.Buffers{head, p, []byte(crlf)}
	n, err := parts.WriteTo(w.conn)
	return bodyBytes(int(n), len(head), len(p)), err
}

func (w *wire) writeSmallChunk(p []byte) (int, error) {
	if c, ok := w.conn.(*net.TCPConn); ok && len(p) <= chunkOnStack && writeKeepsNothing {
		var space [chunkHead + chunkOnStack + len(crlf)]byte
		b, head := appendChunk(space[:0], p)
		n, err := c.Write(b)
		return bodyBytes(n, head, len(p)), err
	}
	space := chunkBuffers.Get().(*chunkBuffer)
	b, head := appendChunk(space[:0], p)
	n, err := w.conn.Write(b)
	chunkBuffers.Put(space)
	return bodyBytes(n, head, len(p)), err
}

// appendChunk appends p as one chunk and returns how many bytes come before it.
func appendChunk(b, p []byte) (chunk []byte, head int) {
	b = appendChunkHead(b, len(p))
	head = len(b)
	b = append(b, p...)
	return append(b, crlf...), head
}

func appendChunkHead(b []byte, size int) []byte {
	for shift := (bits.Len(uint(size)) - 1) &^ 3; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[size>>shift&15])
	}
	return append(b, crlf...)
}

// bodyBytes is how many bytes of a body of size are among the first n of what
// has head bytes before it.
func bodyBytes(n, head, size int) int { return min(max(n-head, 0), size) }

// A tornChunk is what is missing of a chunk that has begun.
type tornChunk struct {
	before []byte // framing that is due at once
	open   int    // body bytes that are due then; the chunk's end follows, unless 0
}

// mend goes on with the chunk that is torn, with bytes from the front of p, and
// returns how many of them it took.
func (w *wire) mend(p []byte) (int, error) {
	t := w.torn
	k := min(t.open, len(p))
	b := append(t.before[:len(t.before):len(t.before)], p[:k]...)
	if k > 0 && k == t.open {
		b = append(b, crlf...)
	}
	n, err := w.conn.Write(b)
	if err != nil {
		return bodyBytes(n, len(t.before), k), err
	}
	t.before, t.open = nil, t.open-k
	if t.open == 0 {
		w.torn = nil
	}
	return k, nil
}

// end writes what ends the response: the last chunk and trailer, and the goodbye
// of TLS.
func (w *wire) end(trailer http.Header) error {
	if w.body == chunked {
		if w.torn != nil && w.torn.open > 0 {
			return errShort
		}
		var b bytes.Buffer
		if w.torn != nil {
			b.Write(w.torn.before)
		}
		b.WriteString("0" + crlf)
		trailer.Write(&b)
		b.WriteString(crlf)
		if _, err := w.conn.Write(b.Bytes()); err != nil {
			return err
		}
	}
	if t, ok := w.conn.(*tls.Conn); ok {
		return t.CloseWrite()
	}
	return nil
}

// close closes the connection. The client must see it if the response is cut:
// TLS does not say goodbye, and where no framing shows it the connection is
// reset. (Many take the end of a TLS connection without a goodbye for a good one.)
func (w *wire) close(cut bool) {
	w.unwatch()
	socket := w.conn
	if t, ok := socket.(*tls.Conn); ok {
		socket = t.NetConn()
	}
	if !cut {
		w.dropInput(nil) // unread, it would have the kernel reset the connection, and the end of the response lost
	} else if l, ok := socket.(interface{ SetLinger(int) error }); ok && w.body == untilClose {
		l.SetLinger(0)
	}
	socket.Close()
}

// endWireLocked ends a response whose connection is ours, if it is one.
func (f *Flusher) endWireLocked() {
	w, ok := f.srv.w.(*wire)
	if !ok {
		return
	}
	trailer := f.trailersLocked(w.extra().trailers)
	var err error
	f.callLocked(func() { err = w.end(trailer) })
	f.verdictLocked(err)
}

// closeWire closes the connection of a response that has ended, if it is ours.
func (f *Flusher) closeWire() {
	f.mu.Lock()
	w, ok := f.srv.w.(*wire)
	cut := f.aborted || f.fail != nil
	f.mu.Unlock()
	if ok {
		w.close(cut)
	}
}

// noteFramingLocked keeps what the headers that are just going out say of the
// wire. Afterwards the map may be the handler's again.
func (f *Flusher) noteFramingLocked() {
	te, trailers := f.below["Transfer-Encoding"], f.below["Trailer"]
	if len(te) == 0 && len(trailers) == 0 {
		return
	}
	fr := new(framing)
	switch {
	case len(te) == 0:
	case len(te) == 1 && te[0] == "identity":
		fr.identity = true
	case len(te) == 1 && te[0] == "chunked" && !f.http10 && f.length < 0:
	default:
		fr.odd = true
	}
	for k := range trailerNames(trailers) {
		if k != "" && !strings.HasPrefix(k, "If-") && !noTrailer[k] {
			fr.trailers = append(fr.trailers, k)
		}
	}
	f.rareLocked().framing = fr
}

// noTrailer are the fields that net/http does not take for trailers.
var noTrailer = func() map[string]bool {
	m := make(map[string]bool)
	for k := range strings.FieldsSeq(`Authorization Cache-Control Connection Content-Encoding Content-Length
		Content-Range Content-Type Expect Host Keep-Alive Max-Forwards Pragma Proxy-Authenticate
		Proxy-Authorization Proxy-Connection Range Realm Te Trailer Transfer-Encoding Www-Authenticate`) {
		m[k] = true
	}
	return m
}()
