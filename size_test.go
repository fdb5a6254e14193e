package flush

import (
	"testing"
	"unsafe"
)

// An idle stream costs little more than its Flusher: it stays within 512 bytes,
// one of the allocator's classes.
func TestFlusherSize(t *testing.T) {
	if size := unsafe.Sizeof(Flusher{}); size > 512 {
		t.Errorf("a Flusher takes %d bytes, want at most 512", size)
	}
}
