//go:build linux && !386 && !s390x

package tcp

import (
	"encoding/binary"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
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
	soMeminfo       = 55     // of asm-generic/socket.h

	// Words of what soMeminfo tells, of linux/sock_diag.h.
	memSendBuffer = 3
	memQueued     = 5
	memWords      = 9

	infoState        = 0   // offset in struct tcp_info, 1 byte
	infoBytesAcked   = 120 // 8 bytes
	stateEstablished = 1
	stateClose       = 7
)

func (k *kernel) set(o Options) {
	systemLowat() // it reads a file: not while a response waits
	k.raw.Control(func(fd uintptr) {
		if o.NotSentLowat > 0 {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, o.NotSentLowat)
		}
		if o.UserTimeout > 0 {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(max(o.UserTimeout/time.Millisecond, 1)))
		}
	})
}

// A tcpInfo is the beginning of struct tcp_info, and how much of it the kernel
// filled.
type tcpInfo struct {
	bytes [infoBytesAcked + 8]byte
	size  uint32
}

func (k *kernel) info() (info tcpInfo, err error) {
	info.size = uint32(len(info.bytes))
	cerr := k.raw.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info.bytes)), uintptr(unsafe.Pointer(&info.size)), 0)
		if errno != 0 {
			err = os.NewSyscallError("getsockopt", errno)
		}
	})
	if cerr != nil {
		err = cerr
	}
	return info, err
}

func (k *kernel) Acked() (n int64, err error) {
	info, err := k.info()
	switch {
	case err != nil:
		return 0, err
	case info.bytes[infoState] == stateClose:
		return 0, syscall.ECONNRESET
	case info.size < uint32(len(info.bytes)):
		return 0, errNoCount // Linux before 4.1
	}
	return int64(binary.NativeEndian.Uint64(info.bytes[infoBytesAcked:])), nil
}

func (k *kernel) Established() bool {
	info, err := k.info()
	return err == nil && info.bytes[infoState] == stateEstablished
}

func (k *kernel) Queued() (unsent, unacked int64, err error) {
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

func (k *kernel) Room() (n int64, err error) {
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

func (k *kernel) HangUp() (err error) {
	cerr := k.raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("shutdown", syscall.Shutdown(int(fd), syscall.SHUT_WR))
	})
	if cerr != nil {
		err = cerr
	}
	return err
}

// Takes is what the kernel's sk_stream_memory_free asks, before it takes a
// segment.
func (k *kernel) Takes() (r Space, err error) {
	var mem [memWords]uint32
	var unsent int32
	lowat := 0
	cerr := k.raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(mem))
		if _, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, soMeminfo,
			uintptr(unsafe.Pointer(&mem)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			err = os.NewSyscallError("getsockopt", errno)
			return
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, siocOutqNSD, uintptr(unsafe.Pointer(&unsent))); errno != 0 {
			err = os.NewSyscallError("ioctl", errno)
			return
		}
		lowat, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat)
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return Space{}, err
	}
	most := int64(uint32(lowat))
	if most == 0 {
		most = systemLowat()
	}
	return Space{int64(mem[memSendBuffer]) - int64(mem[memQueued]), most - int64(unsent)}, nil
}

// systemLowat is TCP_NOTSENT_LOWAT where it has not been set; 0: not known.
var systemLowat = sync.OnceValue(func() int64 {
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_notsent_lowat")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n & math.MaxUint32
})
