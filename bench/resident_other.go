//go:build !linux

package main

import "runtime"

// resident stands in for the physical memory of this process where the system is
// not asked: what the runtime has from it and has not given back.
func resident() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}

func peakResident() int64 { return resident() }
func forgetPeak()         {}
