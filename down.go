package flush

import "time"

// down is floor 1 as a pipe sees it. All of it is called with mu held; what
// calls the server drops it meanwhile, and makes a failure stick with failLocked.
type down interface {
	// callerOnlyLocked reports whether a carrier must leave floor 1 alone.
	callerOnlyLocked() bool
	// carrierOnly reports whether a caller must, as its wait could not be
	// ended. The answer never changes.
	carrierOnly() bool

	// readyLocked is called by who starts a carrier.
	readyLocked()
	// leadLocked hands over what goes before bytes, or before a flush.
	leadLocked(bytes, push bool)
	// skipsLocked reports whether bytes do not go on this wire, or not yet.
	skipsLocked() bool
	// writeLocked hands p over and, with push, flushes. n of it were taken. An
	// err that is not the pipe's failure by then means that the rest of p was
	// refused for good.
	writeLocked(p []byte, push bool) (n int, pushed bool, err error)
	// pushLocked flushes, and reports whether the server got it. What that said
	// which does not stick is lastPushLocked.
	pushLocked() bool
	lastPushLocked() error

	// These report whether a Write or a FlushAsync has nothing else to look at
	// than the pipe.
	shortWriteLocked() bool
	shortAskLocked() bool

	// tookLongLocked reports whether a call of length d was slow, as the send
	// timeout goes.
	tookLongLocked(d time.Duration) bool

	// If marks.counted, chargeLocked is told that the number of blocks may have
	// changed, budgetRoomLocked is how many bytes enter without waiting,
	// fitsLocked counts the blocks of n more if there is room, and
	// waitBudgetLocked waits until one more is counted, for a Write of n bytes.
	chargeLocked()
	budgetRoomLocked() int
	fitsLocked(n int) bool
	waitBudgetLocked(n int) error

	// payableLocked reports whether what floor 3 owes can come down now without
	// waiting; payLocked has it come down.
	payableLocked() bool
	payLocked()

	failedLocked()      // a failure sticks
	panickedLocked(any) // a carrier met a panic
}
