package flush_test

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/fa492104/flush"
)

// ErrTimeout is a timeout to whoever asks, in every way that one can.
func TestErrTimeoutIsOne(t *testing.T) {
	var is net.Error
	if !errors.As(flush.ErrTimeout, &is) || !is.Timeout() || is.Temporary() {
		t.Errorf("as a net.Error: %v", is)
	}
	if !os.IsTimeout(flush.ErrTimeout) || !errors.Is(flush.ErrTimeout, os.ErrDeadlineExceeded) {
		t.Error("it is none to package os")
	}
	for _, other := range []error{flush.ErrClientGone, flush.ErrClosed, flush.ErrOverBudget, os.ErrNotExist} {
		if errors.Is(flush.ErrTimeout, other) || errors.Is(other, os.ErrDeadlineExceeded) {
			t.Errorf("it is taken for %v, or the other way round", other)
		}
	}
}
