//go:build !linux

package tcp

import "syscall"

// An Epoll watches nothing here: a goroutine in Read does.
type Epoll struct{}

func (*Epoll) Off(bool)         {}
func (*Epoll) Add(Watched) bool { return false }
func (*Epoll) Remove(Watched)   {}
func (*Epoll) Again(Watched)    {}
func (*Epoll) Pause(Watched)    {}

// Writable reports whether it is known that a small write would not wait.
func Writable(syscall.RawConn) bool { return false }
