//go:build !linux

package flush

// NoEpoll changes nothing here.
func NoEpoll() (undo func()) { return func() {} }
