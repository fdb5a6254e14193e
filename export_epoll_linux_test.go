package flush

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
