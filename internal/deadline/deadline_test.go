package deadline_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/deadline"
)

// A deadline passes when it was last set to, and not before; one that has
// passed can be moved again.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var d deadline.Deadline
		none := d.Passed()
		d.Set(began.Add(time.Hour))
		d.Set(began.Add(time.Minute))
		<-none // it is the same wait, however the deadline moves
		if took := time.Since(began); took != time.Minute {
			t.Error("passed after", took)
		}
		d.Set(time.Time{})
		lifted := d.Passed()
		time.Sleep(2 * time.Hour)
		if deadline.Closed(lifted) {
			t.Error("passed though there is none")
		}
		d.Set(began)
		if !deadline.Closed(lifted) || !deadline.Closed(d.Passed()) {
			t.Error("not passed, though in the past")
		}
	})
}
