package main

// processor is a lane that costs the processor time of this process, in nanoseconds,
// for one of so many units in a group. The clients of l must be in a process of
// their own.
func processor(units int, l lane, stop func()) (lane, func()) {
	return func(n int) float64 {
		before := cpuTime()
		l(n)
		return max(float64(cpuTime()-before), 1) / float64(n*units)
	}, stop
}

// processorOf is processor of what open opens with a contender.
func processorOf(units int, open func(contender) (lane, func())) func(contender) (lane, func()) {
	return func(c contender) (lane, func()) {
		l, stop := open(c)
		return processor(units, l, stop)
	}
}
