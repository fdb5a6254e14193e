package flush_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/fa492104/flush"
)

// ErrTimeout is a timeout to whoever asks, in every way that one can.
func TestErrTimeoutIsOne(t *testing.T) {
	var is net.Error
	if !errors.As(flush.ErrTimeout, &is) || !is.Timeout() {
		t.Errorf("as a net.Error: %v", is)
	}
	if again, ok := flush.ErrTimeout.(interface{ Temporary() bool }); !ok || again.Temporary() {
		t.Error("it sticks, and is no reason to try again")
	}
	if !os.IsTimeout(flush.ErrTimeout) || !errors.Is(flush.ErrTimeout, os.ErrDeadlineExceeded) {
		t.Error("it is none to package os")
	}
	for _, other := range []error{flush.ErrClientGone, flush.ErrClosed, flush.ErrOverBudget, os.ErrNotExist} {
		if errors.Is(fmt.Errorf("wrapped: %w", flush.ErrTimeout), other) {
			t.Errorf("it is taken for %v", other)
		}
	}
}
