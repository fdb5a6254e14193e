//go:build unix

package flush

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// stdinListens reports whether standard input is a listening socket: a socket
// without a peer. The descriptor is only looked at: net.FileListener would make
// it non-blocking for everyone who shares it.
func stdinListens() bool {
	c, err := os.Stdin.SyscallConn()
	if err != nil {
		return false
	}
	listens := false
	err = c.Control(func(fd uintptr) {
		_, err := syscall.Getpeername(int(fd))
		listens = errors.Is(err, syscall.ENOTCONN)
	})
	return err == nil && listens
}

// catchBrokenPipe turns the signal of a closed standard output into the error
// of the write. Notify, unlike Ignore, is not inherited by child processes.
func catchBrokenPipe() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGPIPE)
	return func() { signal.Stop(c) }
}
