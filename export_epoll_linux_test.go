package flush

import "syscall"

// NoEpoll has what watches detached responses be a goroutine for each, as on
// other systems, until the function it returns is called.
func NoEpoll() (undo func()) {
	set := func(no bool) {
		theEpoll.mu.Lock()
		defer theEpoll.mu.Unlock()
		theEpoll.noEpoll = no
	}
	set(true)
	return func() { set(false) }
}

// An EpollEvent is what the kernel tells of a detached response.
type EpollEvent = syscall.EpollEvent

// EventOf returns an event of f's.
func EventOf(f *Flusher) EpollEvent {
	w := f.serverWriter().(*wire)
	theEpoll.mu.Lock()
	defer theEpoll.mu.Unlock()
	return EpollEvent{Fd: int32(w.slot - 1), Pad: int32(w.slotUsed)}
}

// FindEvent reports whether ev is about a response that is watched.
func FindEvent(ev EpollEvent) bool { return theEpoll.find(ev) != nil }
