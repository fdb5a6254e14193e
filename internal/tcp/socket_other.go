//go:build !unix

package tcp

import (
	"sync/atomic"
	"syscall"
)

// Drop does nothing here: a goroutine in Read does it.
func Drop(syscall.RawConn, []byte, *atomic.Int32, int32) (gone bool) { return false }

// WriteNow reports that nothing could be written without waiting.
func WriteNow(syscall.RawConn, []byte) (n int, err error) { return 0, nil }
