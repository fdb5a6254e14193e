package main

import (
	"bytes"
	"os"
	"strconv"
)

// resident is the physical memory that this process has, in bytes.
func resident() int64 { return ofStatus("VmRSS:") }

// peakResident is the most that it has had since forgetPeak.
func peakResident() int64 { return ofStatus("VmHWM:") }

// forgetPeak begins anew, if the kernel can.
func forgetPeak() { os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

func ofStatus(field string) int64 {
	text, err := os.ReadFile("/proc/self/status")
	check(err)
	_, rest, _ := bytes.Cut(text, []byte(field))
	kib, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	check(err)
	return kib << 10
}
