//go:build !linux

package flush

// An epoll watches nothing here: a goroutine in Read does.
type epoll struct{}

var theEpoll epoll

func (*epoll) add(*wire) bool { return false }

func (*epoll) remove(*wire) {}

// writable reports whether it is known that a small write would not wait.
func (w *wire) writable() bool { return false }
