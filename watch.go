package flush

import (
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/fa492104/flush/internal/tcp"
	"github.com/fa492104/flush/internal/workers"
)

// watched are the connections of detached responses, as far as the system can
// watch them without a goroutine for each.
var watched tcp.Epoll

// Of what the client of a detached response sends, at most mostInput is read, and
// dropped, in an inputPause: one that sends without end costs little, and what it
// has sent before it leaves does not hide that for ever.
const (
	mostInput  = 256 << 10
	inputPause = time.Second
)

// watch has somebody see to it that the client's leaving is noticed, and that what
// it sends is dropped.
func (w *wire) watch() {
	if w.raw == nil || !watched.Add(w) {
		go w.readClient()
	}
}

// unwatch ends that, before the connection is closed.
func (w *wire) unwatch() { watched.Remove(w) }

// readClient is watch where nothing better is at hand: a goroutine that waits in
// Read. Closing the connection ends it.
func (w *wire) readClient() {
	p := make([]byte, 512)
	for left := mostInput; ; {
		n, err := w.conn.Read(p)
		if err != nil {
			w.f.endAlone()
			return
		}
		if left -= n; left <= 0 {
			time.Sleep(inputPause)
			left = mostInput
		}
	}
}

// Raw and Slot are for the epoll.
func (w *wire) Raw() syscall.RawConn { return w.raw }
func (w *wire) Slot() *tcp.Slot      { return &w.slot }

// Handle does what an event asks for, without waiting.
func (w *wire) Handle(left bool, input []byte) {
	switch {
	case left:
		w.f.clientLeft(w.writable())
	case w.tls:
		tlsReaders.Do(w.readTLS)
	case w.dropInput(input):
		w.f.clientLeft(w.writable())
	case w.read.Load() < mostInput:
		watched.Again(w)
	default:
		w.pause()
	}
}

// pause has w looked at again in a while, but for its leaving.
func (w *wire) pause() {
	watched.Pause(w)
	time.AfterFunc(inputPause, func() {
		w.read.Store(0)
		watched.Again(w)
	})
}

// tlsReaders read what clients send over TLS. That may be a message for TLS
// itself, its goodbye among them, and may have come in part only.
var tlsReaders = workers.Pool{Most: 16}

// tlsPatience is how long one of them waits for the rest of such a message. A
// Read that ends so does no harm to the connection.
const tlsPatience = 20 * time.Millisecond

func (w *wire) readTLS() {
	p := make([]byte, 1<<10)
	for w.read.Load() < mostInput {
		w.conn.SetReadDeadline(time.Now().Add(tlsPatience))
		n, err := w.conn.Read(p)
		w.read.Add(int32(n))
		var timeout net.Error
		switch {
		case err == nil:
		case errors.As(err, &timeout) && timeout.Timeout():
			watched.Again(w)
			return
		default:
			w.f.clientLeft(w.writable())
			return
		}
	}
	w.pause()
}

// writable reports whether it is known that a small write would not wait.
func (w *wire) writable() bool { return w.raw != nil && tcp.Writable(w.raw) }

// dropInput drops what the client has sent, see [tcp.Drop].
func (w *wire) dropInput(p []byte) (gone bool) {
	return w.raw != nil && tcp.Drop(w.raw, p, &w.read, mostInput)
}
