package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readerCores are those of readers that are started; nil: any.
var readerCores *unix.CPUSet

// place confines this process to some cores and readers to others.
func place(own, readers unix.CPUSet) {
	readerCores = &readers
	confine(own)
}

func confine(own unix.CPUSet) {
	// Threads to come have the cores of the thread that starts them.
	tasks, err := os.ReadDir("/proc/self/task")
	check(err)
	for _, task := range tasks {
		if id, err := strconv.Atoi(task.Name()); err == nil {
			unix.SchedSetaffinity(id, &own) // it may have ended
		}
	}
}

// onReaderCores runs start, which starts a process, on the reader's cores.
func onReaderCores(start func() error) error {
	if readerCores == nil {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var own unix.CPUSet
	check(unix.SchedGetaffinity(0, &own))
	check(unix.SchedSetaffinity(0, readerCores))
	defer func() { check(unix.SchedSetaffinity(0, &own)) }()
	return start()
}

// allCores are those that this process was started with.
var allCores = func() (all []int) {
	var set unix.CPUSet
	check(unix.SchedGetaffinity(0, &set))
	for i := range 8 * int(unsafe.Sizeof(set)) {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return all
}()

// confined gives this process and readers the cores that choose gives out of all,
// until free is called.
func confined(choose func(all []int) (own, readers []int)) (free func()) {
	own, readers := choose(allCores)
	place(cpuSet(own), cpuSet(readers))
	return func() {
		readerCores = nil
		confine(cpuSet(allCores))
	}
}

// processorName is what the processor says it is, for the report: ", " and its name.
func processorName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return ", " + strings.TrimSpace(value)
		}
	}
	return ""
}

func cpuSet(cores []int) (set unix.CPUSet) {
	for _, i := range cores {
		set.Set(i)
	}
	return set
}
