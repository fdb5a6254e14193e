package harness

import "errors"

// ErrAny stands for an error that is not nil.
var ErrAny = errors.New("any error")

var (
	ErrBoom   = errors.New("boom")
	ErrFilter = errors.New("the filter has failed")
)
