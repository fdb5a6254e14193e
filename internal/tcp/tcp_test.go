package tcp_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/tcp"
)

// A response takes its bytes, what the server adds, and the kernel's own for each
// segment; one that may find no room is refused.
func TestSpaceLess(t *testing.T) {
	const memory = 100 << 10
	left, ok := tcp.Space{Memory: memory, Unsent: 10_000}.Less(1000)
	if !ok || left.Unsent > 9000 || left.Memory > memory-1000 {
		t.Errorf("%+v, %t", left, ok)
	}
	if _, ok := (tcp.Space{Memory: memory, Unsent: 1000}).Less(1000); ok {
		t.Error("there is no room for what the server adds")
	}
	if _, ok := (tcp.Space{Memory: 2000, Unsent: 10_000}).Less(1000); ok {
		t.Error("there is no memory for the segments")
	}
}

// A looker is looked at so many times.
type looker struct {
	w     *tcp.Watcher
	looks []time.Time
	most  int
}

func (l *looker) Look() {
	if l.looks = append(l.looks, time.Now()); len(l.looks) == l.most {
		l.w.Remove(l)
	}
}

// A Watcher looks as often as the most impatient of those it watches wants, and
// its goroutine ends with the last of them.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w tcp.Watcher
		patient, hasty := &looker{w: &w, most: 4}, &looker{w: &w, most: 3}
		w.Add(patient, time.Second)
		w.Add(hasty, 10*time.Millisecond)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, l := range []*looker{patient, hasty} {
			if len(l.looks) != l.most {
				t.Fatalf("looked at %d times, want %d", len(l.looks), l.most)
			}
		}
		if d := hasty.looks[2].Sub(hasty.looks[0]); d > 2*time.Second {
			t.Errorf("three looks took %v", d)
		}
	})
}

// A context leads to the connection that was made known in it, and knows the end
// of the one that it came from.
func TestFrom(t *testing.T) {
	if tcp.From(t.Context()) != nil {
		t.Error("a connection that nobody has made known")
	}
	base, end := context.WithCancel(t.Context())
	k := new(tcp.Known)
	ctx, cancel := context.WithCancel(tcp.With(base, k))
	if cancel(); tcp.From(ctx) != k || k.ServerEnded() {
		t.Error("the request's end is taken for the server's")
	}
	if end(); !k.ServerEnded() {
		t.Error("the server's end is not seen")
	}
}
