//go:build unix

package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// firstInherited is the first descriptor that LISTEN_FDS counts (sd_listen_fds).
const firstInherited = 3

// Listeners returns the sockets that this process was started to serve:
// standard input, or else those that LISTEN_FDS and LISTEN_PID hand to it.
func Listeners() ([]net.Listener, error) {
	if listens(os.Stdin) {
		l, err := net.FileListener(os.Stdin)
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > mostInherited {
		return nil, fmt.Errorf("flush: LISTEN_FDS=%q", os.Getenv("LISTEN_FDS"))
	}
	var all []net.Listener
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		l, err := inherit(fd)
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("flush: descriptor %d of LISTEN_FDS: %w", fd, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// mostInherited is more than any service has.
const mostInherited = 1 << 10

// inherit returns the listener that fd is. It closes fd, which children must not
// inherit in turn; the listener has a descriptor of its own.
func inherit(fd int) (net.Listener, error) {
	file := os.NewFile(uintptr(fd), "LISTEN_FDS")
	if file == nil {
		return nil, os.ErrInvalid
	}
	defer file.Close()
	return net.FileListener(file)
}

// listens reports whether file is a listening socket: a socket without a peer.
// The descriptor is only looked at: net.FileListener would make it non-blocking
// for everyone who shares it.
func listens(file *os.File) bool {
	c, err := file.SyscallConn()
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

// CatchBrokenPipe turns the signal of a closed standard output into the error
// of the write. Notify, unlike Ignore, is not inherited by child processes.
func CatchBrokenPipe() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGPIPE)
	return func() { signal.Stop(c) }
}
