//go:build unix

package harness

import "syscall"

// setReceiveBuffer shrinks a socket's receive buffer. It must happen before the
// connection is made: the first window offered is never taken back.
func setReceiveBuffer(fd uintptr, n int) {
	syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, n)
}

// OpenFiles is how many descriptors this process may have.
func OpenFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 256
	}
	return int(min(l.Cur, 1<<20))
}
