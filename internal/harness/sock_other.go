//go:build !unix

package harness

// setReceiveBuffer does nothing where package syscall has no common form of it.
func setReceiveBuffer(uintptr, int) {}

// OpenFiles is how many descriptors this process may have.
func OpenFiles() int { return 512 }
