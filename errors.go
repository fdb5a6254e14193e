package flush

import (
	"errors"
	"fmt"
	"net/http"
	"os"
)

// Errors of this package. All are matched with [errors.Is] and wrap their
// cause. ErrTimeout, ErrClientGone and ErrOverBudget stick: once met, Write,
// Flush and Close return them from then on. A timeout on a server without
// deadlines (CGI, FastCGI, recorders) ends only the wait and does not stick.
//
// After [Flusher.Hijack] calls return [http.ErrHijacked]. Where nothing can
// flush, the error matches [http.ErrNotSupported].
var (
	// ErrTimeout says that there was no progress for SendTimeout, or that a
	// write deadline passed. It matches [os.ErrDeadlineExceeded] too.
	// (ngx.flush: "timeout")
	ErrTimeout error = timeoutError{}

	// ErrClientGone says that the connection or stream is broken.
	// (ngx.flush: "client aborted", "connection broken")
	ErrClientGone = errors.New("flush: client gone")

	// ErrClosed says that the response has ended. It matches the failure too,
	// if there was one. (ngx.flush: "seen eof")
	ErrClosed = errors.New("flush: response has ended")

	// ErrBuffering says that the response is held for a Content-Length, as the
	// client speaks HTTP/1.0. Go on writing. (ngx.flush: "buffering")
	ErrBuffering = errors.New("flush: response is buffered for HTTP/1.0")

	// ErrHeadersSent says that it is too late to change or take back.
	ErrHeadersSent = errors.New("flush: headers have been sent")

	// ErrNoRoom says that the client is behind, and that [Flusher.TryWrite] took
	// nothing.
	ErrNoRoom = errors.New("flush: no room")

	// ErrShutdown says that a [Group] has been shut down.
	ErrShutdown = errors.New("flush: group has been shut down")

	// ErrOverBudget says that the response was aborted as the one that held
	// most for longest when a [Budget] was used up.
	ErrOverBudget = errors.New("flush: memory budget is used up")
)

// Errors of user-level buffers.
var (
	// ErrNotTop says that a buffer is not the one on top.
	ErrNotTop = errors.New("flush: buffer is not on top")

	// ErrBufferClosed says that a buffer has ended.
	ErrBufferClosed = errors.New("flush: buffer has ended")

	// ErrForbidden says that NoClean, NoFlush or NoRemove forbids it.
	ErrForbidden = errors.New("flush: buffer does not allow this")

	// ErrReentrant says that a filter is running, and that the stack of
	// buffers cannot be worked on meanwhile.
	ErrReentrant = errors.New("flush: a filter is running")
)

// Errors that are not exported: reach them through what they wrap.
var (
	errCannotFlush = fmt.Errorf("flush: response writer cannot flush: %w", http.ErrNotSupported)
	errGoexit      = errors.New("flush: the server's writer called runtime.Goexit")
	errPanicked    = errors.New("flush: the server's writer panicked")
	errCutWrite    = errors.New("flush: response ended in the middle of a write")
	errAborted     = errors.New("flush: response aborted")
	errUnwound     = errors.New("flush: handler panicked or exited")
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

// isNoLoss reports whether err costs nothing that was accepted: a wait that has ended,
// and a server that cannot flush.
func isNoLoss(err error) bool { return isTimeout(err) || errors.Is(err, http.ErrNotSupported) }

func isBuffering(err error) bool { return errors.Is(err, ErrBuffering) }

// without is err less the parts, as joinErrors and a format with several %w make them,
// of which that holds.
func without(err error, that func(error) bool) (rest error) {
	if err == nil || !that(err) {
		return err
	}
	if both, ok := err.(interface{ Unwrap() []error }); ok { // see joinErrors
		for _, e := range both.Unwrap() {
			rest = joinErrors(rest, without(e, that))
		}
	}
	return rest
}

// closedError returns what calls after the end get: ErrClosed, which matches
// the failure too if there was one.
func closedError(fail error) error {
	if fail == nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, fail)
}

// joinErrors is errors.Join that leaves a single error as it is, and does not
// say the same twice.
func joinErrors(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return joinBoth(a, b)
}

func joinBoth(a, b error) error {
	switch {
	case errors.Is(a, b):
		return a
	case errors.Is(b, a):
		return b
	}
	return errors.Join(a, b)
}
