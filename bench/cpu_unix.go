//go:build unix

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the processor time that this process has used.
func cpuTime() time.Duration {
	var use unix.Rusage
	check(unix.Getrusage(unix.RUSAGE_SELF, &use))
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// enoughFiles says if a process may not have the connections of a crowd.
func enoughFiles() error {
	var l unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_NOFILE, &l))
	if want := max(idleCrowd+warmStreams, broadcastCrowd) + 50; uint64(l.Max) < uint64(want) {
		return fmt.Errorf("a process may have %d files, not %d: ulimit -n", l.Max, want)
	}
	return nil
}
