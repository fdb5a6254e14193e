//go:build unix

package flush

import (
	"io"
	"sync"
	"syscall"
)

// A sockCall is one system call on a socket that does not wait, with its result.
// They are kept, as the function that package net is given would else be
// allocated for each.
type sockCall struct {
	p    []byte
	n    int
	err  error
	call func(fd uintptr) bool
}

func newSockCall(do func(fd int, p []byte) (int, error)) any {
	c := new(sockCall)
	c.call = func(fd uintptr) bool {
		for {
			c.n, c.err = do(int(fd), c.p)
			if c.err != syscall.EINTR {
				return true
			}
		}
	}
	return c
}

var writeCalls = sync.Pool{New: func() any { return newSockCall(syscall.Write) }}

// writeNow writes what the kernel takes of p now. It is not an error if that is
// nothing. It is for plain sockets.
func (w *wire) writeNow(p []byte) (n int, err error) {
	c := writeCalls.Get().(*sockCall)
	c.p = p
	if err = w.raw.Write(c.call); err == nil {
		if n, err = max(c.n, 0), c.err; err == syscall.EAGAIN {
			err = nil
		}
	}
	c.p = nil
	writeCalls.Put(c)
	return n, err
}

// dropInput reads and drops what the client has sent, into p or memory of its
// own, until there is no more or it has been too much. It does not wait. It
// reports whether the client has left. Of TLS it takes the records as they are,
// so there it is for the end alone.
func (w *wire) dropInput(p []byte) (gone bool) {
	if w.raw == nil {
		return false
	}
	if p == nil {
		p = make([]byte, 4<<10)
	}
	w.raw.Control(func(fd uintptr) {
		for w.read.Load() < mostInput {
			n, err := syscall.Read(int(fd), p)
			switch {
			case n > 0:
				w.read.Add(int32(n))
				continue
			case err == syscall.EINTR:
				continue
			case err == nil:
				err = io.EOF
			}
			gone = err != syscall.EAGAIN
			return
		}
	})
	return gone
}
