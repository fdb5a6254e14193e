package flush

import (
	"iter"
)

// A membership is one response in one Group.
type membership struct {
	f       *Flusher
	g       *Group
	next    *membership // of f's; guarded by f.mu
	index   int32       // in g.members. It and what follows is guarded by g.mu
	added   bool
	awaited bool
	left    bool
}

// enter puts m among the members, unless that is refused.
func (m *membership) enter() error {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.added && g.shutDown {
		return ErrShutdown
	}
	m.index = int32(len(g.members))
	g.members = append(g.members, m)
	return nil
}

// promote makes the response one that was added.
func (m *membership) promote() error {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	if m.g.shutDown {
		return ErrShutdown
	}
	m.added = true
	return nil
}

// leastMembers is the capacity that is not worth giving back.
const leastMembers = 64

// leave takes m out: the last member takes its place.
func (m *membership) leave() {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.left {
		return
	}
	m.left = true
	last := len(g.members) - 1
	g.members[m.index] = g.members[last]
	g.members[m.index].index = m.index
	g.members[last] = nil
	g.members = g.members[:last]
	if c := cap(g.members); c > leastMembers && last < c/4 {
		g.members = append(make([]*membership, 0, c/2), g.members...)
	}
}

// done says that nobody need wait for m any more, which has left.
func (m *membership) done() {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !m.awaited {
		return
	}
	m.awaited = false
	if g.awaited--; g.awaited == 0 && g.drained != nil {
		close(g.drained)
		g.drained = nil
	}
}

// groups are the Groups that a response is in, and what people want to know of
// its request there. Guarded by Flusher.mu.
type groups struct {
	first *membership            // nil: see many
	many  map[*Group]*membership // once there are more than fewGroups; nil: not yet
	about about
}

// fewGroups are as many as a walk costs less than a map.
const fewGroups = 8

// put notes a membership.
func (s *groups) put(m *membership) {
	if s.many != nil {
		s.many[m.g] = m
		return
	}
	m.next, s.first = s.first, m
	n := 0
	for m := s.first; m != nil; m = m.next {
		n++
	}
	if n <= fewGroups {
		return
	}
	s.many = make(map[*Group]*membership)
	for m := s.first; m != nil; m = m.next {
		s.many[m.g] = m
	}
	s.first = nil
}

// get returns the membership in g, or nil.
func (s *groups) get(g *Group) *membership {
	if s == nil {
		return nil
	}
	if s.many != nil {
		return s.many[g]
	}
	for m := s.first; m != nil; m = m.next {
		if m.g == g {
			return m
		}
	}
	return nil
}

// take is get that forgets it.
func (s *groups) take(g *Group) *membership {
	m := s.get(g)
	if m == nil {
		return nil
	}
	if s.many != nil {
		delete(s.many, g)
		return m
	}
	at := &s.first
	for *at != m {
		at = &(*at).next
	}
	*at = m.next
	return m
}

// all walks the memberships.
func (s *groups) all() iter.Seq[*membership] {
	return func(yield func(*membership) bool) {
		if s == nil {
			return
		}
		for m := s.first; m != nil; m = m.next {
			if !yield(m) {
				return
			}
		}
		for _, m := range s.many {
			if !yield(m) {
				return
			}
		}
	}
}

// enterLocked has f join g; added says that it is by Add.
func (f *Flusher) enterLocked(g *Group, added bool) error {
	if m := f.groups.get(g); m != nil {
		if added {
			return m.promote()
		}
		return nil
	}
	m := &membership{f: f, g: g, added: added}
	if err := m.enter(); err != nil {
		return err
	}
	f.knowRequestLocked()
	f.groups.put(m)
	return nil
}

// enterOwn has f join the Group of its options.
func (f *Flusher) enterOwn(g *Group) {
	if g == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse == nil {
		f.enterLocked(g, false)
	}
}

// leaveGroupsLocked has f leave every Group. partFromGroupsLocked follows: until
// then who shuts one down waits for f.
func (f *Flusher) leaveGroupsLocked() {
	for m := range f.groups.all() {
		m.leave()
	}
}

func (f *Flusher) partFromGroupsLocked() {
	for m := range f.groups.all() {
		m.done()
	}
	f.groups = nil
}

// knowRequestLocked notes what is told of f's request, which is the handler's:
// another goroutine must not look at it later.
func (f *Flusher) knowRequestLocked() {
	if f.groups != nil {
		return
	}
	f.groups = new(groups)
	if r := f.req; r != nil && r.URL != nil {
		f.groups.about = newAbout(r.Method, r.URL.Path, r.RemoteAddr)
	}
}
