package flush

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
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

// verdictLocked takes the verdict of a call of the server: it returns err as
// this package reports it, after making it stick if it does.
func (f *Flusher) verdictLocked(err error) error {
	if err == nil {
		if f.serverEnded {
			f.settleLocked()
		}
		return nil
	}
	if passes(err) {
		return err
	}
	if f.head && f.headersSent && !f.http1 {
		return nil // the stream ended with the headers (golang/go#66812)
	}
	f.failLocked(f.classifyLocked(err))
	return f.fail
}

// classifyLocked says what an error of the server means. HTTP/2 reports an
// expired deadline as a closed stream.
func (f *Flusher) classifyLocked(err error) error {
	sentinel := ErrClientGone
	switch {
	case f.timeout.expired, errors.Is(err, os.ErrDeadlineExceeded), f.deadlinePassedLocked():
		sentinel = ErrTimeout
	case errors.Is(err, ErrClientGone):
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// deadlinePassedLocked reports whether the handler's deadline, or else the
// server's WriteTimeout, is over.
func (f *Flusher) deadlinePassedLocked() bool {
	deadline := f.rarely().handlerDeadline
	if deadline.IsZero() {
		deadline = f.rarely().serverDeadline
	}
	return !deadline.IsZero() && !time.Now().Before(deadline)
}

// failLocked makes err the failure that sticks, unless there is one.
func (f *Flusher) failLocked(err error) {
	if f.fail != nil || f.ended {
		return
	}
	f.fail = err
	f.slowLocked()
	if !f.closing {
		f.refuse = err
	}
	if f.held {
		f.stats.Lost += int64(f.dropBehindLocked())
	} else {
		f.stats.Lost += int64(f.dropLocked())
	}
	f.endContext(err)
	f.wakeLocked()
}
