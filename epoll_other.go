//go:build !linux

package flush

// An epoll watches nothing here: a goroutine in Read does.
type epoll struct{}

var theEpoll epoll

func (*epoll) add(*wire) bool { return false }

func (*epoll) remove(*wire) {}
