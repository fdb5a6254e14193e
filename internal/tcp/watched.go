package tcp

import "syscall"

// A Watched is a connection that an [Epoll] watches.
type Watched interface {
	Raw() syscall.RawConn
	Slot() *Slot

	// Handle is told that the client has left, or has sent something, which may
	// be read into input. It is called on the epoll's goroutine and does not wait.
	// No more is told before Again or Pause.
	Handle(left bool, input []byte)
}

// A Slot is the place of a Watched, for the Epoll alone.
type Slot struct {
	number uint32 // counted from 1; 0: not watched
	use    uint32
}
