package tcp

import (
	"net"
	"syscall"
	"testing"
)

// A socket is a Watched that notes what it is told.
type socket struct {
	raw  syscall.RawConn
	slot Slot
	told chan bool
}

func (s *socket) Raw() syscall.RawConn       { return s.raw }
func (s *socket) Slot() *Slot                { return &s.slot }
func (s *socket) Handle(left bool, _ []byte) { s.told <- left }

// connect returns the server's end of a new connection, and the client's.
func connect(t *testing.T) (*socket, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	raw, err := server.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &socket{raw: raw, told: make(chan bool, 1)}, client
}

// eventOf is an event of a socket's, as the kernel tells it.
func (e *Epoll) eventOf(s *socket) syscall.EpollEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	return syscall.EpollEvent{Fd: int32(s.slot.number - 1), Pad: int32(s.slot.use)}
}

// An event of a connection that is gone is nobody else's, although another has
// its place.
func TestEpollLateEvent(t *testing.T) {
	var e Epoll
	first, _ := connect(t)
	if !e.Add(first) {
		t.Fatal("it is not watched")
	}
	late := e.eventOf(first)
	if e.find(late) != first {
		t.Error("its event is not found")
	}
	e.Remove(first)
	if e.find(late) != nil {
		t.Error("the late event is somebody's")
	}
	second, _ := connect(t)
	e.Add(second)
	defer e.Remove(second)
	if ev := e.eventOf(second); ev.Fd != late.Fd {
		t.Errorf("its place is %d, not %d: the test shows nothing", ev.Fd, late.Fd)
	}
	if e.find(late) != nil {
		t.Error("the late event is taken for the second connection's")
	}
}

// What a client sends is told once, and again when it was asked for; its leaving
// is told in a pause, too, and what it sends is not.
func TestEpollTells(t *testing.T) {
	var e Epoll
	s, client := connect(t)
	if !e.Add(s) {
		t.Fatal("it is not watched")
	}
	defer e.Remove(s)
	client.Write([]byte("x"))
	if <-s.told {
		t.Error("told of a leaving")
	}
	e.Again(s)
	if <-s.told { // it has not been read
		t.Error("told of a leaving")
	}
	e.Pause(s)
	client.Write([]byte("y"))
	client.Close()
	if !<-s.told {
		t.Error("told of input in a pause")
	}
}

// An Epoll that is off watches nothing.
func TestEpollOff(t *testing.T) {
	var e Epoll
	s, _ := connect(t)
	e.Off(true)
	if e.Add(s) {
		t.Error("watched")
	}
	e.Off(false)
	if !e.Add(s) {
		t.Error("not watched")
	}
	e.Remove(s)
}
