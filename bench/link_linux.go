package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The link is made of two networks that know nothing but each other. Each has an
// interface whose packets this process carries to the other side, half a round
// trip later. Their addresses are those for benchmarks.
var linkEnds = [2]netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")}

// linkPossible says why there can be no link.
var linkPossible = func() func() error {
	var err error
	tried := false
	return func() error {
		if !tried {
			tried = true
			var n *network
			if n, err = openLink(0); err == nil {
				n.close()
			}
		}
		return err
	}
}()

func openLink(roundTrip time.Duration) (*network, error) {
	ends := make([]*linkEnd, 2)
	for i := range ends {
		e, err := openLinkEnd(linkEnds[i], linkEnds[1-i])
		if err != nil {
			return nil, errors.Join(err, closeEnds(ends))
		}
		ends[i] = e
	}
	for i := range ends {
		go carryPackets(ends[1-i].tun, ends[i].tun, roundTrip/2)
	}
	return &network{
		listen: func() (l net.Listener, err error) {
			ends[0].do(func() { l, err = net.Listen("tcp4", linkEnds[0].String()+":0") })
			return l, err
		},
		dial: func(addr string) (c net.Conn, err error) {
			ends[1].do(func() { c, err = net.Dial("tcp4", addr) })
			return c, err
		},
		close: func() { closeEnds(ends) },
	}, nil
}

func closeEnds(ends []*linkEnd) error {
	for _, e := range ends {
		if e != nil {
			close(e.calls)
			e.tun.Close()
		}
	}
	return nil
}

// A linkEnd is a thread that lives in a network of its own, and its interface.
// Sockets stay in the network in which they were made.
type linkEnd struct {
	tun   *os.File
	calls chan func()
}

func openLinkEnd(own, peer netip.Addr) (*linkEnd, error) {
	e := &linkEnd{calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its network
		err := e.enter(own, peer)
		made <- err
		if err == nil {
			for call := range e.calls {
				call()
			}
		}
	}()
	return e, <-made
}

// do runs call in the network.
func (e *linkEnd) do(call func()) {
	done := make(chan struct{})
	e.calls <- func() {
		call()
		close(done)
	}
	<-done
}

// enter gives the thread a network with one interface.
func (e *linkEnd) enter(own, peer netip.Addr) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	const name = "link"
	if err := createTun(fd, name); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("tun", err)
	}
	if err := setAddresses(name, own, peer); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("ioctl", err)
	}
	e.tun = os.NewFile(uintptr(fd), name)
	return nil
}

func createTun(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}

// setAddresses brings the interface up.
func setAddresses(name string, own, peer netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		what uint
		addr netip.Addr
	}{{unix.SIOCSIFADDR, own}, {unix.SIOCSIFDSTADDR, peer}} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := req.SetInet4Addr(set.addr.AsSlice()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.what, req); err != nil {
			return err
		}
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// carryPackets carries packets, each so long after it was sent, until one of the
// interfaces is closed.
func carryPackets(to, from *os.File, after time.Duration) {
	type packet struct {
		due time.Time
		p   []byte
	}
	under := make(chan packet, 4096)
	go func() {
		defer close(under)
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			under <- packet{time.Now().Add(after), append([]byte(nil), buf[:n]...)}
		}
	}()
	for p := range under {
		time.Sleep(time.Until(p.due))
		to.Write(p.p) // one that cannot be delivered is lost
	}
}
