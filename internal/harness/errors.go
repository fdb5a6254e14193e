package harness

import "errors"

// Errors of a test's own: what a filter or a server's writer fails with.
var (
	ErrBoom   = errors.New("boom")
	ErrFilter = errors.New("the filter has failed")
)

// ErrAny stands for an error that is not nil.
var ErrAny = errors.New("any error")
