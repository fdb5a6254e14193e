//go:build !linux

package flush

import (
	"errors"
	"syscall"
)

// filePosition is for Linux: elsewhere a file stays where it is until all of it has
// been sent.
func filePosition(syscall.RawConn) (int64, error) { return 0, errors.ErrUnsupported }
