package flush

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fa492104/flush/internal/peek"
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
	//	awaited   the same, and a Shutdown waits for it to leave
	//
	// Invariants:
	//
	//  1. A membership is in members at its index, and in the groups of its
	//     response. Both change together, with the response's mu held.
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

// A membership is one response in one Group.
type membership struct {
	f       *Flusher
	g       *Group
	next    *membership // of f's; guarded by f.mu
	index   int32       // in g.members. It and what follows is guarded by g.mu
	added   bool
	awaited bool
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

// An about is what is told of a response's request while it lives: method, path
// and client, in one string of their own, as theirs may be parts of long ones.
type about struct {
	text       string
	path, addr uint8 // where they begin
}

// The most that an about keeps of each, in bytes.
const (
	mostMethod = 16
	mostPath   = 96
	mostClient = 48
)

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

// Broadcast writes p to every member and asks for a flush, as
// [Flusher.TryWrite] and [Flusher.FlushAsync]: it waits for no client. On a
// detached response with nothing queued p goes to the kernel as it is. Broadcast
// returns the members that had no room for p. They have got nothing of it; the
// usual answer is to abort them:
//
//	for _, f := range g.Broadcast(event) {
//		f.Abort(errSlow) // the client comes back with Last-Event-ID
//	}
//
// All members get the events of one Group in the same order, whoever calls. One
// that has ended has not missed anything. Buffers and filters are honoured;
// their time is the caller's, and others who broadcast wait for it. So a filter
// must not call Broadcast of a Group that its own response is in: it would wait
// for itself. A filter's panic goes on here once all others have got p.
//
// It keeps no reference to p.
func (g *Group) Broadcast(p []byte) (missed []*Flusher) {
	g.order.Lock()
	defer g.order.Unlock()
	g.fan = g.appendMembers(g.fan[:0])
	defer func() {
		clear(g.fan) // it must not keep those that end
		if cap(g.fan) > 4*max(len(g.fan), leastMembers) {
			g.fan = nil
		}
	}()
	out := fanOut{to: g.fan, p: p}
	if len(p) > 0 {
		out.shared = newSharedWrite(p)
	}
	workers := min(runtime.GOMAXPROCS(0), len(g.fan)/perWorker)
	if workers <= 1 {
		missed = out.work()
	} else {
		parts := make([][]*Flusher, workers)
		var wg sync.WaitGroup
		for i := 1; i < workers; i++ {
			wg.Go(func() { parts[i] = out.work() })
		}
		parts[0] = out.work()
		wg.Wait()
		missed = slices.Concat(parts...)
	}
	if out.panicked != nil {
		panic(out.panicked)
	}
	return missed
}

// Shutdown ends the Group: Add returns [ErrShutdown] from now on. The contexts
// of streams end at once, with that as their [Cause]: handlers say goodbye and
// return, and what has been detached is closed with what is queued. A stream is a
// response that was added by Add, a detached one, or one of [Options.Group] whose
// fixed headers say text/event-stream: its client comes back by itself, which that
// of a download cannot. All others finish undisturbed. A response that becomes a
// stream later ends at once, too.
//
// It waits until the responses that were members when it began have left. When
// ctx ends it aborts those that are left, with the error that it then returns
// (it matches [ErrShutdown] and what ctx says), and waits for no call that is
// stuck. Their clients see the cut where the protocol can show it: on HTTP/1, if
// the handler does not return, only with [ConnContext]. It returns nil if none
// had to be aborted.
//
// It may be called again, and by several at a time. [Flusher]s of [New] have no
// context of their own: what ends their handlers is up to the caller.
//
// http.Server.Shutdown does not wait for functions that were registered with
// RegisterOnShutdown: to wait for goodbyes call this one before.
func (g *Group) Shutdown(ctx context.Context) error {
	if ctx == nil {
		ctx = context.Background()
	}
	type told struct {
		f     *Flusher
		added bool
	}
	g.mu.Lock()
	g.shutDown = true
	all := make([]told, len(g.members))
	for i, m := range g.members {
		all[i] = told{m.f, m.added}
		if !m.awaited {
			m.awaited = true
			g.awaited++
		}
	}
	drained := g.drainedLocked()
	g.mu.Unlock()
	for _, t := range all {
		t.f.tellShutdown(t.added)
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-drained:
		return nil
	default:
	}
	err := shutdownError(ctx)
	cutAll(g.appendMembers(nil), err)
	return err
}

func shutdownError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return fmt.Errorf("%w: %w", ErrShutdown, err)
	}
	return fmt.Errorf("%w: %w: %w", ErrShutdown, err, cause)
}

// drainedLocked returns a channel that is closed once nobody is awaited.
func (g *Group) drainedLocked() <-chan struct{} {
	switch {
	case g.awaited == 0:
		return alreadyDone
	case g.drained == nil:
		g.drained = make(chan struct{})
	}
	return g.drained
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

func (g *Group) isShutDown() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shutDown
}

// leastMembers is the capacity that is not worth giving back.
const leastMembers = 64

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

// leave takes m out: the last member takes its place.
func (m *membership) leave() {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	last := len(g.members) - 1
	g.members[m.index] = g.members[last]
	g.members[m.index].index = m.index
	g.members[last] = nil
	g.members = g.members[:last]
	if c := cap(g.members); c > leastMembers && last < c/4 {
		g.members = append(make([]*membership, 0, c/2), g.members...)
	}
	if !m.awaited {
		return
	}
	if g.awaited--; g.awaited == 0 && g.drained != nil {
		close(g.drained)
		g.drained = nil
	}
}

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

// leaveGroupsLocked has f leave every Group.
func (f *Flusher) leaveGroupsLocked() {
	for m := range f.groups.all() {
		m.leave()
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

func newAbout(method, path, client string) about {
	method, path, client = clip(method, mostMethod), clip(path, mostPath), clip(client, mostClient)
	return about{method + path + client, uint8(len(method)), uint8(len(method) + len(path))}
}

// strings returns what newAbout was given.
func (a *about) strings() (method, path, client string) {
	return a.text[:a.path], a.text[a.path:a.addr], a.text[a.addr:]
}

func init() {
	peek.Look = func(flusher any) peek.Response {
		f := flusher.(*Flusher)
		f.mu.Lock()
		defer f.mu.Unlock()
		var r peek.Response
		if f.groups != nil {
			r.Method, r.Path, r.Client = f.groups.about.strings()
		}
		if f.cfg.Budget != nil {
			r.Budget = f.cfg.Budget
		}
		if f.conn != nil {
			r.Conn = f.conn
		}
		return r
	}
}

// clip returns s, or its beginning if it is longer than most.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most-len("…")] + "…"
}

// noteStreamLocked notes whether the headers, which have just been fixed, are
// those of an event stream. One whose Group has been shut down ends at once.
func (f *Flusher) noteStreamLocked() {
	f.eventStream = isEventStream(f.belowLocked())
	if !f.eventStream {
		return
	}
	f.endLateStreamLocked()
}

// endLateStreamLocked ends a response that has become a stream after one of its
// Groups has been shut down.
func (f *Flusher) endLateStreamLocked() {
	for m := range f.groups.all() {
		if m.g.isShutDown() {
			f.endStreamLocked()
			return
		}
	}
}

// tellShutdown ends a stream.
func (f *Flusher) tellShutdown(added bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if added || f.eventStream || f.detached >= kept {
		f.endStreamLocked()
	}
}

// endStreamLocked has a stream end because its Group has been shut down: its
// handler is told by the context, and one that has none left is closed.
func (f *Flusher) endStreamLocked() {
	f.endContextLocked(ErrShutdown)
	if f.detached >= kept && !f.closing {
		f.endSoonLocked(true)
	}
}

// cutGrace bounds what Shutdown waits for its cuts, which may call a writer that
// takes its time.
const cutGrace = time.Second

// cutAll aborts responses, with err as the cause, and has their clients see it.
func cutAll(all []*Flusher, err error) {
	var wg sync.WaitGroup
	for _, f := range all {
		if f.failForShutdown(err) {
			wg.Go(f.showCut)
		}
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(cutGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// failForShutdown makes err the failure, and waits for nothing. It reports
// whether showCut is to follow: until then the response does not end.
func (f *Flusher) failForShutdown(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || f.hijacked {
		return false
	}
	f.aborted, f.rareLocked().abort = true, true
	f.failLocked(err)
	f.aside++
	return true
}

// showCut ends the call of the server that is under way, and has the client see
// that the response is cut though its handler may never return: HTTP/2 resets
// the stream, and the socket of a known HTTP/1 connection says that it ends.
func (f *Flusher) showCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() {
		f.aside--
		f.wakeLocked()
	}()
	if f.timeout.calling {
		f.cutDrainLocked()
	}
	if f.timeout.calling || !f.http1 {
		f.unblockLocked()
	}
	switch {
	case f.detached >= taken: // its end closes the connection
	case f.http1 && f.conn != nil && !(f.http10 && f.length < 0):
		f.conn.HangUp()
	}
	if f.detached >= kept && !f.closing {
		f.endSoonLocked(false)
	}
}

// perWorker is how many members a goroutine is worth.
const perWorker = 64

// A fanOut is one event on its way to many.
type fanOut struct {
	to     []*Flusher
	p      []byte
	shared *sharedWrite // p for detached ones; nil: p is empty
	next   atomic.Int64

	mu       sync.Mutex
	panicked any // the first panic of a filter
}

// work writes to those whom nobody else has taken, until there are none left,
// and returns those that had no room.
func (o *fanOut) work() (missed []*Flusher) {
	for !o.workOn(&missed) {
	}
	return missed
}

// workOn is work until a filter panics. It reports whether it came to the end.
func (o *fanOut) workOn(missed *[]*Flusher) (done bool) {
	defer func() {
		if done {
			return
		}
		v := recover()
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.panicked == nil {
			o.panicked = v
		}
	}()
	for {
		i := o.next.Add(1) - 1
		if i >= int64(len(o.to)) {
			return true
		}
		f := o.to[i]
		if o.shared != nil {
			if taken, _ := f.writeShared(o.shared); taken {
				continue
			}
		}
		if f.offer(o.p) == ErrNoRoom {
			*missed = append(*missed, f)
		}
	}
}

// offer is TryWrite with the flush that follows. It waits for nobody: where only
// a caller may flush (see callerOnlyLocked) the next one does it.
func (f *Flusher) offer(p []byte) error {
	start := false
	f.mu.Lock()
	defer func() {
		f.mu.Unlock()
		if start {
			go f.carry()
		}
	}()
	err := f.tryWriteLocked(p)
	if err == ErrNoRoom || f.refuse != nil {
		return err
	}
	ferr := f.followAsyncLocked()
	ask, aerr := f.askFlushLocked()
	if aerr == nil && ask.seq > 0 && !f.callerOnlyLocked() {
		f.carryAsyncLocked(&start)
	}
	return joinErrors(err, joinErrors(ferr, aerr))
}
