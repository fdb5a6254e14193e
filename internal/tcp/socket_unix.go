//go:build unix

package tcp

import (
	"io"
	"sync"
	"sync/atomic"
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

// A NowWriter writes to plain sockets what their kernel takes now. It is for one
// goroutine, and given back with Done.
type NowWriter sockCall

// NewNowWriter returns one.
func NewNowWriter() *NowWriter { return (*NowWriter)(writeCalls.Get().(*sockCall)) }

// Done gives w back.
func (w *NowWriter) Done() { writeCalls.Put((*sockCall)(w)) }

// Write writes what the kernel takes of p now. It is not an error if that is nothing.
func (w *NowWriter) Write(raw syscall.RawConn, p []byte) (n int, err error) {
	w.p = p
	if err = raw.Write(w.call); err == nil {
		if n, err = max(w.n, 0), w.err; err == syscall.EAGAIN {
			err = nil
		}
	}
	w.p = nil
	return n, err
}

// Drop reads and drops what the client has sent, into p or memory of its own,
// until there is no more or read, which counts it, has come to most. It does not
// wait. It reports whether the client has left. Of TLS it takes the records as
// they are, so there it is for the end alone.
func Drop(raw syscall.RawConn, p []byte, read *atomic.Int32, most int32) (gone bool) {
	if p == nil {
		p = make([]byte, 4<<10)
	}
	raw.Control(func(fd uintptr) {
		for read.Load() < most {
			n, err := syscall.Read(int(fd), p)
			switch {
			case n > 0:
				read.Add(int32(n))
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
