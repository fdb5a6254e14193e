package tcp

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// An Epoll watches connections: for what their clients send, and for their
// leaving. It is one set of the kernel's for all of them, and
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
//  1. slots[i].w is w if and only if the number of its Slot is i+1; then the kernel
//     has an entry for it.
//  2. While any slot is used it is running.
//
// Who is watched is locked before the epoll, never after; and not with a descriptor
// held in Control.
type Epoll struct {
	mu    sync.Mutex
	file  *os.File // the set; nil: idle
	fd    int
	slots []epollSlot
	free  []uint32 // slots that are not used
	used  int
	off   bool // a test's wish
}

type epollSlot struct {
	w   Watched
	use uint32 // counts the uses of the slot
}

const (
	watchInput   = syscall.EPOLLIN | watchLeaving
	watchLeaving = syscall.EPOLLRDHUP | syscall.EPOLLONESHOT // errors and hang-ups are always told
	goneEvents   = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR

	// epollLingers is how long the goroutine stays when there is nothing to watch.
	epollLingers = 100 * time.Millisecond
)

// Off has Add refuse what it is given, as on other systems.
func (e *Epoll) Off(off bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.off = off
}

// Add has w watched, and reports whether that is so.
func (e *Epoll) Add(w Watched) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.off || e.file == nil && !e.start() {
		return false
	}
	if len(e.free) == 0 {
		e.slots = append(e.slots, epollSlot{})
		e.free = append(e.free, uint32(len(e.slots)-1))
	}
	i := e.free[len(e.free)-1]
	s := &e.slots[i]
	s.use++
	at := w.Slot()
	at.number, at.use = i+1, s.use
	if e.control(w, syscall.EPOLL_CTL_ADD, watchInput) != nil {
		at.number = 0
		e.rest()
		return false
	}
	e.free = e.free[:len(e.free)-1]
	s.w = w
	e.used++
	return true
}

// Remove ends that.
func (e *Epoll) Remove(w Watched) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := w.Slot()
	if at.number == 0 {
		return
	}
	e.control(w, syscall.EPOLL_CTL_DEL, 0)
	i := at.number - 1
	at.number = 0
	e.slots[i].w = nil
	e.free = append(e.free, i)
	e.used--
	e.rest()
}

// Again has the next event of w told, which its last one ended.
func (e *Epoll) Again(w Watched) { e.change(w, watchInput) }

// Pause has the leaving of w told, and nothing that comes before it.
func (e *Epoll) Pause(w Watched) { e.change(w, watchLeaving) }

func (e *Epoll) change(w Watched, events uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.Slot().number != 0 {
		e.control(w, syscall.EPOLL_CTL_MOD, events)
	}
}

// control makes one change of the set, with mu held.
func (e *Epoll) control(w Watched, op int, events uint32) (err error) {
	at := w.Slot()
	event := syscall.EpollEvent{Events: events, Fd: int32(at.number - 1), Pad: int32(at.use)}
	cerr := w.Raw().Control(func(fd uintptr) { err = syscall.EpollCtl(e.fd, op, int(fd), &event) })
	return errors.Join(cerr, err)
}

// start makes the set and starts the goroutine, with mu held.
func (e *Epoll) start() bool {
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
func (e *Epoll) rest() {
	if e.used == 0 {
		e.file.SetReadDeadline(time.Now().Add(epollLingers))
	}
}

// run waits for events until nothing has been watched for a while.
func (e *Epoll) run(file *os.File) {
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
				w.Handle(ev.Events&goneEvents != 0, input)
			}
		}
	}
}

// goesOn is what is asked when the deadline that rest has set is over.
func (e *Epoll) goesOn(file *os.File) bool {
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
func (e *Epoll) find(ev syscall.EpollEvent) Watched {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := int(ev.Fd)
	if i < 0 || i >= len(e.slots) || e.slots[i].use != uint32(ev.Pad) {
		return nil
	}
	return e.slots[i].w
}

// Writable reports whether a small write would not wait.
func Writable(raw syscall.RawConn) bool {
	type pollFd struct {
		fd              int32
		events, revents int16
	}
	const pollOut = 4
	ready := false
	raw.Control(func(fd uintptr) {
		p := pollFd{fd: int32(fd), events: pollOut}
		var at syscall.Timespec
		n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&at)), 0, 0, 0)
		ready = errno == 0 && n == 1 && p.revents&pollOut != 0
	})
	return ready
}
