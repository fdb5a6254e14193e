//go:build !unix

package flush

// stdinListens is false: no FastCGI server here hands a socket to a process as
// its standard input.
func stdinListens() bool { return false }

func catchBrokenPipe() (stop func()) { return func() {} }
