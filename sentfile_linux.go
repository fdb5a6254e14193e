package flush

import (
	"io"
	"syscall"
)

// filesMove says that a file moves while it is being sent.
const filesMove = true

// filePosition is where the next read of a file begins.
func filePosition(raw syscall.RawConn) (at int64, err error) {
	if cerr := raw.Control(func(fd uintptr) { at, err = syscall.Seek(int(fd), 0, io.SeekCurrent) }); cerr != nil {
		return 0, cerr
	}
	return at, err
}
