package flush

import (
	"errors"
	"fmt"
	"net/http"
	"os"
)

// timeoutError is the type of ErrTimeout. Timeout makes it a net.Error's twin
// for callers who ask that way.
type timeoutError struct{}

func (timeoutError) Error() string        { return "flush: send timeout" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Temporary() bool      { return false }
func (timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

func isTimeout(err error) bool { return errors.Is(err, ErrTimeout) }

// passes reports whether an error of the server's writer leaves the connection
// usable: such an error is returned and does not stick.
func passes(err error) bool {
	return errors.Is(err, http.ErrBodyNotAllowed) || errors.Is(err, http.ErrContentLength) ||
		errors.Is(err, http.ErrNotSupported) || errors.Is(err, ErrBuffering)
}

// closedError returns what calls after the end get: ErrClosed, which matches
// the failure too if there was one.
func closedError(fail error) error {
	if fail == nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, fail)
}
