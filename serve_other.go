//go:build !unix

package flush

import "net"

// inheritedListeners are none: no FastCGI server here hands sockets to a process.
func inheritedListeners() ([]net.Listener, error) { return nil, nil }

func catchBrokenPipe() (stop func()) { return func() {} }
