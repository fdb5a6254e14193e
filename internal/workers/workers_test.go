package workers_test

import (
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush/internal/workers"
)

// A Pool does everything, in order of asking, with no more goroutines than it may
// have; one that a job has ended is replaced.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workers.Pool{Most: 2}
		release := make(chan struct{})
		begun, done := make(chan int, 10), make(chan int, 10)
		for i := range 10 {
			p.Do(func() {
				begun <- i
				<-release
				if i == 0 {
					runtime.Goexit()
				}
				done <- i
			})
		}
		synctest.Wait()
		if len(begun) != 2 {
			t.Errorf("%d at once, want 2", len(begun))
		}
		close(release)
		synctest.Wait()
		if len(begun) != 10 || len(done) != 9 {
			t.Errorf("%d begun, %d done", len(begun), len(done))
		}
	})
}
