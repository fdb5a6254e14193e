package main

import "testing"

// Streams of each gathering get what all are told, and idle ones cost something.
func TestGatherings(t *testing.T) {
	for _, g := range gatherings {
		if !tested(g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			c := gather(g)
			defer c.stop()
			c.grow(50)
			before := c.look()
			c.grow(100)
			for range 3 {
				c.broadcast()
			}
			cpu := c.server.cpu()
			p := c.watched()
			if more := c.server.cpu() - cpu; more <= 0 {
				t.Errorf("a broadcast took %v ns", more)
			}
			if p.Procs < 1 {
				t.Errorf("peak %+v", p)
			}
			each := c.look().minus(before).over(100)
			t.Logf("%+v a stream", each)
			if each.Heap <= 0 {
				t.Errorf("an idle stream holds %+v", each)
			}
			returned := g.name == detachedGroup.name || g.name == bareWrites.name || g.name == hijackedNbio.name
			if returned != (each.Goroutines < 0.5) {
				t.Errorf("an idle stream has %v goroutines", each.Goroutines)
			}
		})
	}
}
