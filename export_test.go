package flush

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
	"unsafe"

	"github.com/fa492104/flush/internal/tcp"
)

// HandlerWriter returns f as its handler would see it.
func HandlerWriter(f *Flusher) http.ResponseWriter { return f.handlerWriter() }

// ContextSize is what a handler's context takes that nobody waits for.
const ContextSize = unsafe.Sizeof(requestContext{})

// NoEpoll has what watches detached responses be a goroutine for each, as on
// other systems, until the function it returns is called.
func NoEpoll() (undo func()) {
	watched.Off(true)
	return func() { watched.Off(false) }
}

// KeepsTimer reports whether f has a timer for its send timeout.
func KeepsTimer(f *Flusher) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.timeout.timer != nil
}

// NewBlock returns a piece of floor 2, which a budget counts as BlockMemory.
func NewBlock() any { return new(block) }

const BlockMemory = blockMemory

// A SharedWrite is what one broadcast has for detached responses.
type SharedWrite = sharedWrite

func NewSharedWrite(p []byte) *SharedWrite { return newSharedWrite(p) }

// WriteShared is what a broadcast does first with each of its members.
func WriteShared(f *Flusher, s *SharedWrite) (taken bool, err error) {
	now := tcp.NewNowWriter()
	defer now.Done()
	return f.writeShared(s, now)
}

// TornChunk returns what a client gets of a broadcast's event of which only n bytes
// could be written at first, when the rest is queued, with what is written behind it,
// in pieces of size, and the response then ends.
func TornChunk(event []byte, n int, behind []byte, size int) []byte {
	var out connRecorder
	w := &wire{conn: &out}
	s := newSharedWrite(event)
	out.Write(s.chunk[:n])
	gone := bodyBytes(n, s.head, len(event))
	w.tear(s.chunk, n, s.head, len(event))
	for rest := slices.Concat(event[gone:], behind); len(rest) > 0; {
		k, _ := w.Write(rest[:min(size, len(rest))])
		rest = rest[k:]
	}
	w.FlushError()
	w.end(nil)
	return out.Bytes()
}

type connRecorder struct {
	net.Conn
	bytes.Buffer
}

func (c *connRecorder) Write(p []byte) (int, error) { return c.Buffer.Write(p) }
func (c *connRecorder) Read(p []byte) (int, error)  { return 0, io.EOF }

// What serves FastCGI and CGI, for tests that have no web server.
var (
	ServeFastCGI = serveFastCGI
	EndQuietly   = endQuietly
	RunUntil     = runUntil
)

// A FastCGIRecord is what is noted of a record that passes.
type FastCGIRecord struct {
	Kind byte
	ID   uint16
	Size int
}

// FastCGIRecords returns what is noted of a stream that comes in pieces.
func FastCGIRecords(pieces ...[]byte) (found []FastCGIRecord) {
	var s recordScanner
	for _, p := range pieces {
		s.scan(p, func(kind byte, id uint16, size int) { found = append(found, FastCGIRecord{kind, id, size}) })
	}
	return found
}

// WatchFastCGI returns l as FastCGI is served on it, and what drains its connections.
func WatchFastCGI(l net.Listener) (watched net.Listener, drain func() <-chan struct{}) {
	var all gatewayConns
	return gatewayListener{l, &all}, all.drain
}

// AskAsync has n flushes be asked of f the short way, but for their looking whether
// it is open.
func AskAsync(f *Flusher, n uint32) { f.asks.Add(n) }

// Blocks returns how many blocks floor 2 of f owns.
func Blocks(f *Flusher) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.q.blocks)
}

// AheadRoom returns how many bytes a Write may give to the server ahead of their flush.
func AheadRoom(f *Flusher) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.ahead.room)
}

// KeepAhead has the server below f count as one that keeps small Writes until it is
// flushed, and f as a response whose flushes come close together, though its send
// timeout may be too short for that. If nothing is on its way the next small Write goes
// ahead.
func KeepAhead(f *Flusher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.srv.keeps = true
	t := &f.timeout
	if t.d <= 0 || t.calling || t.closing || f.cfg.Budget != nil || f.closing || f.gone {
		return
	}
	if f.plainBelowLocked() && !f.held && f.q.len == 0 && f.asked.seq == f.done && f.sent == f.asked.pos {
		if f.grantLocked(); f.q.credit > 0 {
			f.ahead.flushed(serverMeasures)
		}
	}
	t.brisk, t.calls, t.running = true, briskCalls, true
	if t.timer == nil {
		t.timer = time.AfterFunc(briskTick(t.d), f.sendTimeoutFired)
	} else {
		t.timer.Reset(briskTick(t.d))
	}
}

// GrantBlock hands a block to the Write of f that waits for one, as the server of the
// budget's lines does when there is room.
func GrantBlock(f *Flusher) bool {
	f.mu.Lock()
	m := f.member
	f.mu.Unlock()
	f.cfg.Budget.held.Add(blockMemory)
	return m.grant()
}

// A Baton is that of a response, in the hands of a test.
type Baton struct{ f *Flusher }

// TakeBaton takes f's baton, as for a carrier that has not begun. Nobody must have it.
func TakeBaton(f *Flusher) Baton {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.seizeLocked() {
		panic("somebody has it")
	}
	return Baton{f}
}

// Call is a call of the server that hands over no headers.
func (b Baton) Call(call func()) {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	b.f.callLocked(call)
}

// Release lets the baton go.
func (b Baton) Release() {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	b.f.releaseLocked()
}
