package harness

import "time"

// Much is more than a connection in memory and an HTTP/2 window take: a client
// that does not read blocks whoever sends it.
const Much = 200_000

// A Clock measures fake time from where it was made.
type Clock struct{ Start time.Time }

func NewClock() Clock                 { return Clock{time.Now()} }
func (c Clock) Now() time.Duration    { return time.Since(c.Start) }
func (c Clock) Until(d time.Duration) { <-time.After(d - c.Now()) }

// By waits for c until the clock shows at, and reports whether it came.
func (c Clock) By(at time.Duration, done <-chan error) (err error, came bool) {
	timer := time.NewTimer(at - c.Now())
	defer timer.Stop()
	select {
	case err := <-done:
		return err, true
	case <-timer.C:
	}
	select {
	case err := <-done:
		return err, true
	default:
		return nil, false
	}
}
