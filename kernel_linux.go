//go:build linux && !386 && !s390x

package flush

import (
	"encoding/binary"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Of linux/tcp.h and linux/sockios.h; package syscall has them on some
// processors only.
const (
	tcpNotsentLowat = 0x19
	tcpUserTimeout  = 0x12
	siocOutqNSD     = 0x894b // unsent bytes

	infoState      = 0   // offset in struct tcp_info, 1 byte
	infoBytesAcked = 120 // 8 bytes
	stateClose     = 7
)

func (k *kernelConn) set(o ConnOptions) {
	k.raw.Control(func(fd uintptr) {
		if o.NotSentLowat > 0 {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, o.NotSentLowat)
		}
		if o.UserTimeout > 0 {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(max(o.UserTimeout/time.Millisecond, 1)))
		}
	})
}

func (k *kernelConn) acked() (n int64, err error) {
	var info [infoBytesAcked + 8]byte
	size := uint32(len(info))
	cerr := k.raw.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			err = os.NewSyscallError("getsockopt", errno)
		}
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case err != nil:
		return 0, err
	case info[infoState] == stateClose:
		return 0, syscall.ECONNRESET
	case size < uint32(len(info)):
		return 0, errNoCount // Linux before 4.1
	}
	return int64(binary.NativeEndian.Uint64(info[infoBytesAcked:])), nil
}

func (k *kernelConn) queued() (unsent, unacked int64, err error) {
	var all, later int32
	cerr := k.raw.Control(func(fd uintptr) {
		for _, q := range []struct {
			request uintptr
			n       *int32
		}{{siocOutqNSD, &later}, {syscall.TIOCOUTQ, &all}} {
			if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, q.request, uintptr(unsafe.Pointer(q.n))); errno != 0 {
				err = os.NewSyscallError("ioctl", errno)
				return
			}
		}
	})
	if cerr != nil {
		err = cerr
	}
	return int64(later), int64(max(all-later, 0)), err
}

func (k *kernelConn) room() (n int64, err error) {
	cerr := k.raw.Control(func(fd uintptr) {
		var v int
		v, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		n = int64(v)
	})
	if cerr != nil {
		err = cerr
	}
	return n, err
}
