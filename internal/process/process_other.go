//go:build !unix

package process

import "net"

// Listeners are none: no FastCGI server here hands sockets to a process.
func Listeners() ([]net.Listener, error) { return nil, nil }

// CatchBrokenPipe does nothing here.
func CatchBrokenPipe() (stop func()) { return func() {} }
