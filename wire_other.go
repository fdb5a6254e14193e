//go:build !unix

package flush

// dropInput does nothing here: a goroutine in Read does it.
func (w *wire) dropInput([]byte) (gone bool) { return false }

// writeNow reports that nothing could be written without waiting.
func (w *wire) writeNow([]byte) (n int, err error) { return 0, nil }
