package flush

import "time"

// epoch is what the clock's readings count from. They are durations, half the size
// of a time.Time and cheaper to take.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }
