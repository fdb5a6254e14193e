package flush

import (
	"syscall"
	"time"
)

// A sentFile is a regular file that the server's own ReadFrom is sending. The
// kernel moves its position with each part that the connection takes, so that the
// send timeout sees progress while a call is under way. Guarded by Flusher.mu.
type sentFile struct {
	raw syscall.RawConn // for the position: a Seek of the file's own may be anybody's
	at  int64           // as last looked at; -1: it was not
}

// fileTick is how often the position of a file is looked at: often enough for a
// stretch without progress to end within a sixteenth after d.
func fileTick(d time.Duration) time.Duration {
	return min(max(d/32, time.Millisecond), time.Second)
}

// watchFileLocked has the send timeout look at the position of reg, until
// unwatchFileLocked. Where that says nothing, or acknowledged bytes do, it does
// nothing.
func (f *Flusher) watchFileLocked(reg file) {
	t := &f.timeout
	if !filesMove || t.d <= 0 || t.progress != nil || t.closing {
		return
	}
	raw, err := reg.SyscallConn()
	if err != nil {
		return
	}
	f.rareLocked().file = &sentFile{raw: raw, at: -1}
	if t.running {
		t.timer.Reset(fileTick(t.d))
	}
}

func (f *Flusher) unwatchFileLocked() {
	if f.rarely().file != nil {
		f.rare.file = nil
	}
}

// watchesFileLocked reports whether the timer looks at the position of a file.
func (f *Flusher) watchesFileLocked() bool {
	return f.rarely().file != nil && f.timeout.d > 0 && !f.timeout.closing
}

// lookAtFileLocked notes progress if the file that is being sent has moved. It
// drops mu: whoever reads the file may have its position locked.
func (f *Flusher) lookAtFileLocked() {
	s := f.rarely().file
	if s == nil {
		return
	}
	at := s.at
	f.callAsideLocked(func() {
		if n, err := filePosition(s.raw); err == nil {
			at = n
		}
	})
	if at != s.at && f.rarely().file == s {
		s.at = at
		f.progressedLocked()
	}
}

// fileSliceLocked is how much of a file the server is given at once, after so many
// slices. Where progress within a slice is seen, or nobody looks, that need not be
// little at first, and doubles while the client is quick: a call more costs little,
// but what ends with it goes out by itself.
func (f *Flusher) fileSliceLocked(slices int) int {
	t := &f.timeout
	if t.closing || t.d > 0 && t.progress == nil && f.rarely().file == nil {
		return max(f.pace.slice(), 2*firstSlice)
	}
	if f.pace == paceSlow {
		return lastSlice
	}
	return lastSlice << min(slices, 3)
}
