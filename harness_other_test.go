//go:build !unix

package flush_test

// setReceiveBuffer does nothing where package syscall has no common form of it.
func setReceiveBuffer(uintptr, int) {}

// openFiles is how many descriptors this process may have.
func openFiles() int { return 512 }
