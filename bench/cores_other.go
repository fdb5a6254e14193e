//go:build !linux

package main

func onReaderCores(start func() error) error { return start() }

// confined leaves the choice of cores to the system.
func confined(func(all []int) (own, readers []int)) (free func()) { return func() {} }

func processorName() string { return "" }
