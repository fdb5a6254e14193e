//go:build !linux

package flush

import (
	"errors"
	"syscall"
)

// filesMove: elsewhere a file stays where it is until all of it has been sent.
const filesMove = false

func filePosition(syscall.RawConn) (int64, error) { return 0, errors.ErrUnsupported }
