package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A crowd is many responses of one server, and their clients, some of which do
// not read. All are members of group.
type crowd struct {
	t       *testing.T
	group   flush.Group
	deaf    map[*flush.Flusher]bool
	reading map[*flush.Flusher]*harness.Stream
	stuck   []*attacker // connections of deaf ones on which nothing is read
}

// gather opens n streams, of which the first deaf ones do not read. Over HTTP/2
// every other one of these has a connection of its own on which nothing is read,
// and the rest share their connections with those that read.
func gather(t *testing.T, p harness.Proto, detach bool, maxPending, n, deaf int) *crowd {
	c := &crowd{t: t, deaf: make(map[*flush.Flusher]bool), reading: make(map[*flush.Flusher]*harness.Stream)}
	type member struct {
		id int
		f  *flush.Flusher
	}
	joined := make(chan member, n)
	opts := &flush.Options{MaxPending: maxPending, SendTimeout: -1}
	srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
		var id int
		fmt.Sscanf(r.URL.RawQuery, "%d", &id)
		f := harness.Flusher(w)
		if detach {
			if err := f.Detach(); err != nil {
				t.Error(err)
			}
		} else if err := f.FlushWait(harness.NoContext); err != nil {
			t.Error(err)
		}
		if err := c.group.Add(f); err != nil {
			t.Error(err)
		}
		joined <- member{id, f}
		if !detach {
			<-r.Context().Done()
		}
	}), harness.SmallBuffers, harness.Cleartext)
	streams := make([]*harness.Stream, n)
	for i := range streams {
		if p == harness.HTTP2 && i < deaf && i%2 == 0 {
			a, err := newAttacker(t.Context(), srv)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { a.Close() })
			c.stuck = append(c.stuck, a)
			if err := a.get(fmt.Sprintf("/?%d", i)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		streams[i] = harness.Open(t, srv, "GET", fmt.Sprintf("/?%d", i), nil)
		streams[i].Response()
	}
	for range n {
		m := harness.Next(t, joined)
		if m.id < deaf {
			c.deaf[m.f] = true
		} else {
			c.reading[m.f] = streams[m.id]
		}
	}
	return c
}

// broadcast sends event to all, and fails unless exactly want miss it.
func (c *crowd) broadcast(event []byte, want map[*flush.Flusher]bool) {
	c.t.Helper()
	missed := make(map[*flush.Flusher]bool)
	for _, f := range c.group.Broadcast(event) {
		if missed[f] {
			c.t.Fatal("one is returned twice")
		}
		missed[f] = true
	}
	if !maps.Equal(missed, want) {
		reading := 0
		for f := range missed {
			if c.reading[f] != nil {
				reading++
			}
		}
		c.t.Fatalf("an event of %d bytes: %d have missed it, of which %d read; want %d", len(event), len(missed), reading, len(want))
	}
}

// expect has all that read read what was broadcast, and waits until nothing is
// held for them: an event larger than MaxPending is for those with nothing held.
func (c *crowd) expect(want []byte) {
	c.t.Helper()
	for _, s := range c.reading {
		s.Expect(string(want))
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), harness.Patience())
	defer cancel()
	for f := range c.reading {
		if err := f.FlushWait(ctx); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Broadcast to many responses of which some do not read: exactly those are
// returned as having missed an event, of whatever size up to ten times MaxPending,
// and all others have every event in order. Those that are aborted then do not
// miss anything any more.
func TestBroadcastOverTheNetwork(t *testing.T) {
	const maxPending = 4096
	sizes := []int{1, 100, 4063, 4064, 4065, 8000, 2 * maxPending, 30000, 10 * maxPending, 1, 500}
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10, harness.HTTPS1, harness.HTTP2} {
		for _, detach := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/detach=%v", p, detach), func(t *testing.T) {
				c := gather(t, p, detach, maxPending, harness.Count(1000, 60), harness.Count(50, 6))
				for f := range c.deaf { // who reads nothing has no room from now on
					harness.Must(t, f.TryWrite(make([]byte, 4*harness.Much)))
					harness.Must(t, f.FlushAsync())
				}
				round := func(want map[*flush.Flusher]bool) time.Duration {
					began := time.Now()
					for i, size := range sizes {
						event := bytes.Repeat([]byte{byte('a' + i)}, size)
						c.broadcast(event, want)
						c.expect(event)
					}
					return time.Since(began)
				}
				hindered := round(c.deaf)
				c.oneOrder()
				for _, a := range c.stuck {
					a.Close() // net/http's call on such a connection cannot be ended from above
				}
				for f := range c.deaf {
					f.Abort(errors.New("too slow"))
				}
				unhindered := round(nil)
				t.Logf("%d events for %d clients: %v beside %d that do not read, %v without", len(sizes), len(c.reading), hindered, len(c.deaf), unhindered)

				c.broadcast([]byte("goodbye"), nil)
				ctx, cancel := context.WithTimeout(t.Context(), harness.Patience())
				defer cancel()
				harness.Must(t, c.group.Shutdown(ctx))
				for _, s := range c.reading {
					s.ExpectEnd("goodbye")
				}
			})
		}
	}
}

// oneOrder has several broadcast at once: all that read have the same in the same
// order, in which the events of each caller come one after the other.
func (c *crowd) oneOrder() {
	c.t.Helper()
	const callers, events, size = 4, 8, 100
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range events {
				event := fmt.Sprintf("<%d:%d:", caller, i)
				event += strings.Repeat("x", size-len(event)-1) + ">"
				if missed := c.group.Broadcast([]byte(event)); len(missed) != len(c.deaf) {
					c.t.Errorf("%d have missed an event, want %d", len(missed), len(c.deaf))
				}
			}
		})
	}
	wg.Wait()
	got := make(map[string]int)
	var first []byte
	for _, s := range c.reading {
		first = s.Take(callers * events * size)
		got[string(first)]++
	}
	if len(got) != 1 {
		c.t.Fatalf("clients got the events in %d orders", len(got))
	}
	c.expect(nil)
	for caller := range callers {
		last := -1
		for i := range events {
			at := bytes.Index(first, fmt.Appendf(nil, "<%d:%d:", caller, i))
			if at <= last {
				c.t.Fatalf("event %d of caller %d comes too early, or not at all", i, caller)
			}
			last = at
		}
	}
}
