package flush

// stack is the stack of user-level buffers.
type stack struct{ depth int }

func writeStackLocked[T []byte | string](f *Flusher, p T) (int, error) { return writeLocked(f, p) }

func (f *Flusher) followFlush() error { return nil }

func (f *Flusher) unwindStack() error { return nil }

func (f *Flusher) cleanStack() error { return nil }

func (f *Flusher) dropStackLocked() {}
