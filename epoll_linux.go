package flush

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// An epoll watches the connections of detached responses: for what their clients
// send, and for their leaving. It is one set of the kernel's for all of them, and
// itself a descriptor that Go's own poller watches, so that one parked goroutine
// waits for all.
//
//	idle     there is no set, and no goroutine
//	running  a goroutine waits for events
//
// Descriptors are reused: the one that an event is about may have been closed, and
// be another connection's by now. So an event does not name a descriptor but a
// slot and which use of it, and an entry is removed before its connection is
// closed. Every change of the set is made inside RawConn.Control, which keeps the
// descriptor from being closed meanwhile.
//
// Invariants, whenever mu is free:
//
//  1. slots[i].w is w if and only if w.slot is i+1; then the kernel has an entry
//     for it.
//  2. While any slot is used it is running.
//
// A response is locked before the epoll, never after; and no response with a
// descriptor held in Control.
type epoll struct {
	mu      sync.Mutex
	file    *os.File // the set; nil: idle
	fd      int
	slots   []epollSlot
	free    []uint32 // slots that are not used
	used    int
	noEpoll bool // a test's wish
}

type epollSlot struct {
	w   *wire
	use uint32 // counts the uses of the slot
}

var theEpoll epoll

const (
	watchInput   = syscall.EPOLLIN | watchLeaving
	watchLeaving = syscall.EPOLLRDHUP | syscall.EPOLLONESHOT // errors and hang-ups are always told
	goneEvents   = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR

	// epollLingers is how long the goroutine stays when there is nothing to watch.
	epollLingers = 100 * time.Millisecond
)

// add has w watched, and reports whether that is so.
func (e *epoll) add(w *wire) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.noEpoll || e.file == nil && !e.start() {
		return false
	}
	if len(e.free) == 0 {
		e.slots = append(e.slots, epollSlot{})
		e.free = append(e.free, uint32(len(e.slots)-1))
	}
	i := e.free[len(e.free)-1]
	s := &e.slots[i]
	s.use++
	w.slot, w.slotUsed = i+1, s.use
	if e.control(w, syscall.EPOLL_CTL_ADD, watchInput) != nil {
		w.slot = 0
		e.rest()
		return false
	}
	e.free = e.free[:len(e.free)-1]
	s.w = w
	e.used++
	return true
}

// remove ends that.
func (e *epoll) remove(w *wire) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.slot == 0 {
		return
	}
	e.control(w, syscall.EPOLL_CTL_DEL, 0)
	i := w.slot - 1
	w.slot = 0
	e.slots[i].w = nil
	e.free = append(e.free, i)
	e.used--
	e.rest()
}

// again has the next event of w told, which its last one ended.
func (e *epoll) again(w *wire, events uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.slot != 0 {
		e.control(w, syscall.EPOLL_CTL_MOD, events)
	}
}

// control makes one change of the set, with mu held.
func (e *epoll) control(w *wire, op int, events uint32) (err error) {
	event := syscall.EpollEvent{Events: events, Fd: int32(w.slot - 1), Pad: int32(w.slotUsed)}
	cerr := w.raw.Control(func(fd uintptr) { err = syscall.EpollCtl(e.fd, op, int(fd), &event) })
	return errors.Join(cerr, err)
}

// start makes the set and starts the goroutine, with mu held.
func (e *epoll) start() bool {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	if syscall.SetNonblock(fd, true) != nil {
		syscall.Close(fd)
		return false
	}
	file := os.NewFile(uintptr(fd), "epoll")
	if file.SetReadDeadline(time.Time{}) != nil { // Go's poller does not take it
		file.Close()
		return false
	}
	e.file, e.fd = file, fd
	go e.run(file)
	return true
}

// rest has the goroutine end soon if nothing is watched, with mu held.
func (e *epoll) rest() {
	if e.used == 0 {
		e.file.SetReadDeadline(time.Now().Add(epollLingers))
	}
}

// run waits for events until nothing has been watched for a while.
func (e *epoll) run(file *os.File) {
	raw, err := file.SyscallConn()
	events := make([]syscall.EpollEvent, 128)
	input := make([]byte, 4<<10)
	for err == nil || e.goesOn(file) {
		n := 0
		err = raw.Read(func(fd uintptr) bool {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		})
		for _, ev := range events[:max(n, 0)] {
			if w := e.find(ev); w != nil {
				e.handle(w, ev.Events, input)
			}
		}
	}
}

// goesOn is what is asked when the deadline that rest has set is over.
func (e *epoll) goesOn(file *os.File) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.used > 0 {
		file.SetReadDeadline(time.Time{})
		return true
	}
	e.file, e.slots, e.free = nil, nil, nil
	file.Close()
	return false
}

// find returns whose event ev is, if it is still watched.
func (e *epoll) find(ev syscall.EpollEvent) *wire {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := int(ev.Fd)
	if i < 0 || i >= len(e.slots) || e.slots[i].use != uint32(ev.Pad) {
		return nil
	}
	return e.slots[i].w
}

// handle does what events of w ask for, without waiting.
func (e *epoll) handle(w *wire, events uint32, input []byte) {
	switch {
	case events&goneEvents != 0:
		w.f.clientLeft(w.writable())
	case w.tls:
		tlsReaders.do(func() { w.readTLS(e) })
	case w.dropInput(input):
		w.f.clientLeft(w.writable())
	case w.read.Load() < mostInput:
		e.again(w, watchInput)
	default:
		e.pause(w)
	}
}

// pause has w looked at again in a while, but for its leaving.
func (e *epoll) pause(w *wire) {
	e.again(w, watchLeaving)
	time.AfterFunc(inputPause, func() {
		w.read.Store(0)
		e.again(w, watchInput)
	})
}

// tlsReaders read what clients send over TLS. That may be a message for TLS
// itself, its goodbye among them, and may have come in part only.
var tlsReaders = workers{most: 16}

// tlsPatience is how long one of them waits for the rest of such a message. A
// Read that ends so does no harm to the connection.
const tlsPatience = 20 * time.Millisecond

func (w *wire) readTLS(e *epoll) {
	p := make([]byte, 1<<10)
	for w.read.Load() < mostInput {
		w.conn.SetReadDeadline(time.Now().Add(tlsPatience))
		n, err := w.conn.Read(p)
		w.read.Add(int32(n))
		var timeout net.Error
		switch {
		case err == nil:
		case errors.As(err, &timeout) && timeout.Timeout():
			e.again(w, watchInput)
			return
		default:
			w.f.clientLeft(w.writable())
			return
		}
	}
	e.pause(w)
}

// writable reports whether a small write would not wait.
func (w *wire) writable() bool {
	if w.raw == nil {
		return false
	}
	type pollFd struct {
		fd              int32
		events, revents int16
	}
	const pollOut = 4
	ready := false
	w.raw.Control(func(fd uintptr) {
		p := pollFd{fd: int32(fd), events: pollOut}
		var at syscall.Timespec
		n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&at)), 0, 0, 0)
		ready = errno == 0 && n == 1 && p.revents&pollOut != 0
	})
	return ready
}
