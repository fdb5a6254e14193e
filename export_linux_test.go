//go:build linux && !386 && !s390x

package flush

import (
	"context"
	"syscall"
)

// TCPOptions returns the values of ConnOptions on the connection of ctx.
func TCPOptions(ctx context.Context) (got [2]int, err error) {
	k := ctx.Value(connKey{}).(*knownConn).connection.(*kernelConn)
	cerr := k.raw.Control(func(fd uintptr) {
		for i, opt := range []int{tcpNotsentLowat, tcpUserTimeout} {
			if got[i], err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, opt); err != nil {
				return
			}
		}
	})
	if cerr != nil {
		err = cerr
	}
	return got, err
}
