package flush

import (
	"iter"
	"slices"
	"sync"
)

// A Group is many responses that are told the same, counted, or ended together:
// a room, a topic, all of a server. The zero Group is ready. It must not be
// copied. All methods are safe for concurrent use.
//
// A response joins by [Group.Add], or, as all of a server's do, by
// [Options.Group]. It may be in any number of Groups, and leaves them by itself
// at its end and when its connection is hijacked. Adding, removing and leaving
// cost the same however many members there are.
type Group struct {
	// A response is, as one Group sees it,
	//
	//	outside   it has not joined, has been removed, or has ended
	//	in        it has a membership
	//	added     the same, by Add: it is a stream whatever its headers say
	//	awaited   the same, and a Shutdown waits for it: until it has left, and all
	//	          that follows its end has been done
	//
	// Invariants:
	//
	//  1. A membership that has not left is in members at its index, and in the
	//     groups of its response. Both change together, with the response's mu
	//     held; after the end it stays in those of the response for a while.
	//  2. While a fan-out is under way no other begins: so all members have the
	//     events of this Group in one order. A fan-out waits for nobody.
	//  3. awaited counts the memberships that are. Once it is 0 drained is closed.
	//
	// Locks: order, then a response's mu, then the Group's. With a Group's mu held
	// nothing else is locked. No two responses are locked at a time.
	order sync.Mutex
	fan   []*Flusher // whom the fan-out goes to; guarded by order

	mu       sync.Mutex
	members  []*membership
	shutDown bool
	awaited  int
	drained  chan struct{} // nil: nobody waits
}

// Add has f join. It returns [ErrShutdown] after Shutdown, and [ErrClosed], the
// failure, or [http.ErrHijacked] for a response that takes nothing any more.
// Adding twice is adding once.
func (g *Group) Add(f *Flusher) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	return f.enterLocked(g, true)
}

// Remove has f leave. One that is not a member is left alone.
func (g *Group) Remove(f *Flusher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.groups.take(g); m != nil {
		m.leave()
		m.done()
	}
}

// Len returns the number of members.
func (g *Group) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members)
}

// All returns the members as they are when the walk begins. Others may come and
// go meanwhile, and one of those that it yields may have ended.
func (g *Group) All() iter.Seq[*Flusher] {
	return func(yield func(*Flusher) bool) {
		for _, f := range g.appendMembers(nil) {
			if !yield(f) {
				return
			}
		}
	}
}

// appendMembers appends the members to to.
func (g *Group) appendMembers(to []*Flusher) []*Flusher {
	g.mu.Lock()
	defer g.mu.Unlock()
	to = slices.Grow(to, len(g.members))
	for _, m := range g.members {
		to = append(to, m.f)
	}
	return to
}
