//go:build !unix

package tcp

import (
	"sync/atomic"
	"syscall"
)

// Drop does nothing here: a goroutine in Read does it.
func Drop(syscall.RawConn, []byte, *atomic.Int32, int32) (gone bool) { return false }

// A NowWriter writes nothing.
type NowWriter struct{}

// NewNowWriter returns one.
func NewNowWriter() *NowWriter { return nil }

// Done does nothing.
func (*NowWriter) Done() {}

// Write reports that nothing could be written without waiting.
func (*NowWriter) Write(syscall.RawConn, []byte) (n int, err error) { return 0, nil }
