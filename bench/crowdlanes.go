package main

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// How many streams crowds have. To check what was promised fewer will do.
var (
	idleCrowd      = 9000
	broadcastCrowd = 10000
)

// fewer makes crowds small.
func fewer() { idleCrowd, broadcastCrowd = 2000, 1000 }

// idleResident is what an idle stream adds to the memory of its server's process.
func idleResident(g gathering) (lane, func()) {
	return func(int) float64 { return idleEach(g, idleCrowd).Resident }, func() {}
}

// broadcasts is a lane of broadcasts to a crowd that stays.
func broadcasts(cost func(c *crowd) float64) func(gathering) (lane, func()) {
	return func(g gathering) (lane, func()) {
		c := gather(g)
		c.grow(broadcastCrowd)
		return func(n int) float64 {
			costs := make([]float64, n)
			for i := range costs {
				costs[i] = cost(c)
			}
			return quantile(costs, 0.5)
		}, c.stop
	}
}

// What a broadcast costs: until the last client has it, processor time of the
// server for one client, and what the server holds meanwhile.
var (
	broadcastTime = broadcasts(func(c *crowd) float64 {
		began := time.Now()
		c.broadcast()
		return float64(time.Since(began))
	})
	broadcastCPU = broadcasts(func(c *crowd) float64 {
		before := c.server.cpu()
		c.broadcast()
		return max(c.server.cpu()-before, 1) / float64(c.streams)
	})
	broadcastMemory     = broadcasts(func(c *crowd) float64 { return c.watched().Memory })
	broadcastGoroutines = broadcasts(func(c *crowd) float64 {
		p := c.watched()
		return p.Goroutines / p.Procs
	})
)

// crowds has two gatherings do the same, as pair does.
func crowds(a, b gathering, open func(gathering) (lane, func())) func() (lane, lane, func()) {
	return apart(func() (lane, lane, func()) {
		first, stopFirst := open(a)
		second, stopSecond := open(b)
		return first, second, both(stopFirst, stopSecond)
	})
}

// A crowdResult is a row of the third table: medians.
type crowdResult struct {
	gathering
	idle      state // of one stream
	time, cpu float64
	peak      peak
}

func (r *crowdResult) line() string {
	return fmt.Sprintf("%-28s %6.0f B resident, %6.0f heap, %6.0f stacks, %4.2f goroutines; broadcast %.3g ms, %.0f ns CPU each, %.0f B and %.0f goroutines more",
		r.name, r.idle.Resident, r.idle.Heap, r.idle.Stacks, r.idle.Goroutines, r.time/1e6, r.cpu, r.peak.Memory, r.peak.Goroutines)
}

const (
	crowdRounds     = 3
	crowdBroadcasts = 10
)

// measureCrowds measures the third table: every gathering in turn, round by round.
func measureCrowds(match *regexp.Regexp, repeat float64) []crowdResult {
	var chosen []gathering
	for _, g := range gatherings {
		if match.MatchString("crowd: " + g.name) {
			chosen = append(chosen, g)
		}
	}
	if err := enoughFiles(); err != nil && len(chosen) > 0 {
		fmt.Printf("%-28s not measured here: %v\n", "crowds", err)
		return nil
	}
	defer confined(ownAndReaders)()
	rounds := make([][]crowdResult, len(chosen))
	for range max(int(crowdRounds*repeat), 1) {
		for i, g := range chosen {
			rounds[i] = append(rounds[i], crowdRound(g))
		}
	}
	var results []crowdResult
	for i, g := range chosen {
		of := func(value func(crowdResult) float64) float64 {
			var all []float64
			for _, r := range rounds[i] {
				all = append(all, value(r))
			}
			return quantile(all, 0.5)
		}
		r := crowdResult{
			gathering: g,
			idle: state{
				of(func(r crowdResult) float64 { return r.idle.Resident }),
				of(func(r crowdResult) float64 { return r.idle.Heap }),
				of(func(r crowdResult) float64 { return r.idle.Stacks }),
				of(func(r crowdResult) float64 { return r.idle.Goroutines }),
			},
			time: of(func(r crowdResult) float64 { return r.time }),
			cpu:  of(func(r crowdResult) float64 { return r.cpu }),
			peak: peak{
				Memory:     of(func(r crowdResult) float64 { return r.peak.Memory }),
				Goroutines: of(func(r crowdResult) float64 { return r.peak.Goroutines }),
			},
		}
		fmt.Println(r.line())
		results = append(results, r)
	}
	return results
}

func crowdRound(g gathering) crowdResult {
	c := gather(g)
	defer c.stop()
	c.grow(warmStreams)
	before := c.look()
	c.grow(idleCrowd)
	r := crowdResult{gathering: g, idle: c.look().minus(before).over(float64(idleCrowd))}
	var times, cpus []float64
	for range crowdBroadcasts {
		cpu, began := c.server.cpu(), time.Now()
		c.broadcast()
		times = append(times, float64(time.Since(began)))
		cpus = append(cpus, (c.server.cpu()-cpu)/float64(c.streams))
	}
	r.time, r.cpu = quantile(times, 0.5), quantile(cpus, 0.5)
	var peaks []peak
	for range 3 {
		peaks = append(peaks, c.watched())
	}
	slices.SortFunc(peaks, func(a, b peak) int { return int(a.Memory - b.Memory) })
	r.peak = peaks[1]
	return r
}
