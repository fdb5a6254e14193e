package flush_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// newMember returns a response of its own that is not a server's.
func newMember(opts *flush.Options) *flush.Flusher {
	return flush.New(httptest.NewRecorder(), nil, opts)
}

func members(g *flush.Group) []*flush.Flusher { return slices.Collect(g.All()) }

func TestGroupMembers(t *testing.T) {
	var g flush.Group
	a, b, c := newMember(nil), newMember(nil), newMember(nil)
	for range 2 {
		for _, f := range []*flush.Flusher{a, b, c} {
			harness.Must(t, g.Add(f))
		}
	}
	if g.Len() != 3 || !slices.Equal(members(&g), []*flush.Flusher{a, b, c}) {
		t.Fatalf("%d members, want 3", g.Len())
	}
	g.Remove(a)
	g.Remove(a)
	if got := members(&g); g.Len() != 2 || slices.Contains(got, a) {
		t.Fatalf("%d members after one was removed", g.Len())
	}
	harness.Must(t, b.Close())
	if got := members(&g); !slices.Equal(got, []*flush.Flusher{c}) {
		t.Fatalf("%d members after one has ended", g.Len())
	}
	if err := g.Add(b); !errors.Is(err, flush.ErrClosed) {
		t.Error("added one that has ended:", err)
	}
	cause := errors.New("cause")
	c.Abort(cause)
	if err := g.Add(c); !errors.Is(err, flush.ErrClosed) || !errors.Is(err, cause) || g.Len() != 0 {
		t.Error("added one that was aborted:", err)
	}
	harness.Must(t, g.Add(a))
	if g.Len() != 1 {
		t.Error("one that was removed does not come back")
	}
	for range g.All() {
		break
	}
}

// A response may be in any number of Groups, and leaves them all.
func TestGroupMany(t *testing.T) {
	groups := make([]flush.Group, 40)
	a, b := newMember(nil), newMember(nil)
	count := func() (n int) {
		for i := range groups {
			n += groups[i].Len()
		}
		return n
	}
	for i := range groups {
		harness.Must(t, groups[i].Add(a))
		harness.Must(t, groups[i].Add(a))
		harness.Must(t, groups[i].Add(b))
		if i%3 == 0 {
			groups[i].Remove(b)
		}
	}
	if n := count(); n != 40+26 {
		t.Errorf("%d memberships, want 66", n)
	}
	for i := range groups {
		groups[i].Remove(a)
		if i == 20 {
			harness.Must(t, a.Close())
			if n := count(); n != 26 {
				t.Errorf("%d memberships after the end of one, want 26", n)
			}
		}
	}
	harness.Must(t, b.Close())
	if n := count(); n != 0 {
		t.Errorf("%d memberships left", n)
	}
}

// A response leaves at its end, whichever it is, and when it is hijacked.
func TestGroupIsLeftAtTheEnd(t *testing.T) {
	for name, end := range map[string]func(f *flush.Flusher){
		"return": func(f *flush.Flusher) {},
		"Close":  func(f *flush.Flusher) { f.Close() },
		"Abort":  func(f *flush.Flusher) { f.Abort(nil) },
		"panic":  func(f *flush.Flusher) { panic(http.ErrAbortHandler) },
		"Goexit": func(f *flush.Flusher) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				var all, room flush.Group
				srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{Group: &all}, func(w http.ResponseWriter, _ *http.Request) {
					if err := room.Add(harness.Flusher(w)); err != nil || all.Len() != 1 || room.Len() != 1 {
						t.Errorf("%v, %d and %d members", err, all.Len(), room.Len())
					}
					io.WriteString(w, "x")
					end(harness.Flusher(w))
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Rest()
				synctest.Wait()
				if all.Len() != 0 || room.Len() != 0 {
					t.Errorf("%d and %d members left", all.Len(), room.Len())
				}
				s.Leave()
			})
		})
	}
	t.Run("Hijack", func(t *testing.T) {
		var all flush.Group
		srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(&flush.Options{Group: &all}, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := harness.Flusher(w).Hijack()
			if err != nil || all.Len() != 0 {
				t.Errorf("%v, %d members", err, all.Len())
			}
			if err := all.Add(harness.Flusher(w)); !errors.Is(err, http.ErrHijacked) {
				t.Error("added a hijacked one:", err)
			}
			conn.Close()
		}))
		harness.Open(t, srv, "GET", "/", nil).Rest()
	})
}

// A handler inside another's joins its own Group with the response of both.
func TestGroupOfAnInnerHandler(t *testing.T) {
	var outer, inner flush.Group
	h := harness.Wrapped(&flush.Options{Group: &inner}, func(w http.ResponseWriter, _ *http.Request) {
		if a, b := members(&outer), members(&inner); len(a) != 1 || !slices.Equal(a, b) {
			t.Errorf("%v and %v", a, b)
		}
	})
	flush.NewHandler(h, &flush.Options{Group: &outer, OnStart: func(f *flush.Flusher, _ *http.Request) {
		if outer.Len() != 1 {
			t.Error("OnStart comes before the Group")
		}
	}}).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if outer.Len()+inner.Len() != 0 {
		t.Error("one is left")
	}
}

// Responses come and go from everywhere while events go out: every call returns,
// and the Group is empty in the end.
func TestGroupChurn(t *testing.T) {
	var g, other flush.Group
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				for _, f := range g.Broadcast([]byte("event")) {
					f.Abort(nil)
				}
			}
		})
		wg.Go(func() {
			for !stop.Load() {
				n := 0
				for f := range g.All() {
					if f.Stats(); n%7 == 0 {
						other.Add(f)
					}
					n++
				}
				g.Len()
			}
		})
	}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 300 {
				fs := make([]*flush.Flusher, 5)
				for j := range fs {
					fs[j] = newMember(nil)
					if err := g.Add(fs[j]); err != nil {
						t.Error(err)
					}
				}
				if i%2 == w%2 {
					g.Remove(fs[2])
				}
				for j, f := range fs {
					if (i+j)%5 == 0 {
						f.Abort(nil)
					} else {
						f.Close()
					}
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	wg.Wait()
	if g.Len() != 0 || other.Len() != 0 {
		t.Errorf("%d and %d are left", g.Len(), other.Len())
	}
}

// Whoever calls Broadcast, all members get the events in one order, whole.
func TestBroadcastHasOneOrder(t *testing.T) {
	var g flush.Group
	const callers, events = 4, 100
	sinks := make([]*harness.Sink, 300) // more than one worker's share
	flushers := make([]*flush.Flusher, len(sinks))
	for i := range sinks {
		sinks[i] = harness.NewSink(t)
		flushers[i] = flush.New(harness.DeadlineSink{Sink: sinks[i]}, nil, &flush.Options{MaxPending: 1 << 20})
		harness.Must(t, g.Add(flushers[i]))
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range events {
				if missed := g.Broadcast(fmt.Appendf(nil, "<%d:%d>", c, i)); len(missed) > 0 {
					t.Errorf("%d missed an event", len(missed))
				}
			}
		})
	}
	wg.Wait()
	for i, f := range flushers {
		harness.Must(t, f.Close())
		if sinks[i].Body() != sinks[0].Body() {
			t.Fatalf("member %d got %q, member 0 %q", i, harness.Clip([]byte(sinks[i].Body())), harness.Clip([]byte(sinks[0].Body())))
		}
	}
	for c := range callers {
		last := -1
		for i := range events {
			at := strings.Index(sinks[0].Body(), fmt.Sprintf("<%d:%d>", c, i))
			if at <= last {
				t.Fatalf("event %d of caller %d comes too early, or not at all", i, c)
			}
			last = at
		}
	}
}

// Broadcast to 1,000 responses of which 50 do not read: exactly those miss what
// they have no room for, and the others have all of it, in order. Events are of
// all sizes up to ten times MaxPending.
func TestBroadcastToThousand(t *testing.T) {
	const clients, deaf, maxPending = 1000, 50, 4096
	sizes := []int{1, 100, 4063, 4064, 4065, 8000, 2 * maxPending, 30000, 10 * maxPending, 1, 500}
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := harness.NewClock()
				var g flush.Group
				ids := make(map[*flush.Flusher]int)
				var mu sync.Mutex
				srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{MaxPending: maxPending, SendTimeout: -1}, func(w http.ResponseWriter, r *http.Request) {
					flush.Flush(w, true)
					var id int
					fmt.Sscanf(r.URL.Path, "/%d", &id)
					mu.Lock()
					ids[harness.Flusher(w)] = id
					mu.Unlock()
					g.Add(harness.Flusher(w))
					<-r.Context().Done()
				}), 2048)
				streams := make([]*harness.Stream, clients)
				for i := range streams {
					if p == harness.HTTP2 && i < deaf {
						continue // a connection's streams share one window: see TestBroadcastOverTheNetwork
					}
					streams[i] = harness.Open(t, srv, "GET", fmt.Sprintf("/%d", i), nil)
					streams[i].Response()
				}
				synctest.Wait()
				var room = make(map[int]int) // of those that do not read: how much they still take
				for n, size := range sizes {
					event := bytes.Repeat([]byte{byte('a' + n)}, size)
					missed := g.Broadcast(event)
					for _, f := range missed {
						room[ids[f]]++
						if ids[f] >= deaf {
							t.Fatalf("event %d of %d bytes: member %d reads, and has missed it", n, size, ids[f])
						}
					}
					if size > maxPending && n > 4 && p != harness.HTTP2 && len(missed) != deaf {
						t.Fatalf("event %d of %d bytes: %d have missed it, want %d", n, size, len(missed), deaf)
					}
					for i := deaf; i < clients; i++ {
						if got := streams[i].Take(size); !bytes.Equal(got, event) {
							t.Fatalf("event %d of %d bytes: client %d got %q", n, size, i, harness.Clip(got))
						}
					}
					synctest.Wait() // what has arrived is not held any more
				}
				if clock.Now() != 0 {
					t.Errorf("those that do not read have cost the others %v", clock.Now())
				}
				for _, s := range streams {
					if s != nil {
						s.Leave()
					}
				}
			})
		})
	}
}

// A filter, and OnClose, may use the Group. A filter that panics costs nobody
// else the event.
func TestBroadcastAndFilters(t *testing.T) {
	var g, other flush.Group
	upper := func(p []byte, _ flush.Phase) ([]byte, error) { return bytes.ToUpper(p), nil }
	ended := 0
	recs := make([]*httptest.ResponseRecorder, 200)
	fs := make([]*flush.Flusher, len(recs))
	for i := range recs {
		recs[i] = httptest.NewRecorder()
		fs[i] = flush.New(recs[i], nil, &flush.Options{OnClose: func(*http.Request, flush.Stats, error) {
			ended++
			g.Len()
			g.Remove(fs[0])
			g.Broadcast(nil)
		}})
		harness.Must(t, g.Add(fs[i]))
	}
	fs[3].StartBuffer(&flush.BufferOptions{Filter: upper, FollowFlush: true})
	fs[4].StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		if other.Len() == 0 {
			g.Remove(fs[4])
			other.Add(fs[4])
			other.Broadcast([]byte("from the filter"))
		}
		return p, nil
	}, FollowFlush: true})
	boom := sync.OnceFunc(func() { panic("boom") })
	fs[5].StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		defer func() { boom = func() {} }()
		boom()
		return p, nil
	}, FollowFlush: true})
	func() {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("recovered %v", v)
			}
		}()
		g.Broadcast([]byte("event "))
	}()
	if missed := g.Broadcast([]byte("two")); len(missed) > 0 {
		t.Errorf("%d missed", len(missed))
	}
	for i, f := range fs {
		harness.Must(t, f.Close())
		want := "event two"
		switch i {
		case 3:
			want = "EVENT TWO"
		case 4:
			want = "event from the filter"
		}
		if got := recs[i].Body.String(); got != want {
			t.Errorf("member %d got %q, want %q", i, got, want)
		}
	}
	if ended != len(fs) || g.Len() != 0 || other.Len() != 0 {
		t.Errorf("%d have ended, %d and %d are left", ended, g.Len(), other.Len())
	}
}

// One that has ended has not missed anything, nor one that takes no body.
func TestBroadcastMisses(t *testing.T) {
	var g flush.Group
	full := harness.NewSink(t)
	full.Hold(0)
	behind := flush.New(harness.DeadlineSink{Sink: full}, nil, &flush.Options{MaxPending: 5000})
	harness.Must(t, g.Add(behind))
	for _, f := range []*flush.Flusher{newMember(nil), newMember(nil), newMember(nil)} {
		harness.Must(t, g.Add(f))
	}
	all := members(&g)
	all[1].WriteHeader(204)
	all[2].Header().Set("Content-Length", "3")
	all[2].WriteString("abc")
	if missed := g.Broadcast([]byte("event")); len(missed) != 0 {
		t.Errorf("%d have missed it, want none", len(missed))
	}
	harness.Must(t, all[3].Close())
	if missed := g.Broadcast(make([]byte, 5000)); !slices.Equal(missed, []*flush.Flusher{behind}) {
		t.Errorf("%d have missed it, want the one that is behind", len(missed))
	}
	full.Release()
	harness.Must(t, behind.Close())
	if got := full.Body(); got != "event" {
		t.Errorf("it got %q", harness.Clip([]byte(got)))
	}
}

// What members cost does not depend on how many there are.
func BenchmarkGroup(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000, 100_000} {
		var g flush.Group
		fs := make([]*flush.Flusher, n)
		for i := range fs {
			fs[i] = newMember(nil)
			g.Add(fs[i])
		}
		b.Run(fmt.Sprintf("remove-add/members=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f := fs[i%n]
				g.Remove(f)
				g.Add(f)
			}
		})
		b.Run(fmt.Sprintf("add-end/members=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f := newMember(nil)
				g.Add(f)
				f.Close()
			}
		})
		for _, f := range fs {
			f.Close()
		}
		if g.Len() != 0 {
			b.Fatal("some are left")
		}
	}
}

// Shutdown does not wait for one that has been removed.
func TestShutdownDoesNotWaitForWhoWasRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flush.Group
		a, b := newMember(nil), newMember(nil)
		harness.Must(t, g.Add(a))
		harness.Must(t, g.Add(b))
		over := harness.Go(func() error { return g.Shutdown(t.Context()) })
		synctest.Wait()
		g.Remove(a)
		synctest.Wait()
		if len(over) > 0 {
			t.Error("it has not waited for the other")
		}
		g.Remove(b)
		harness.Must(t, <-over)
		harness.Must(t, a.Close())
		harness.Must(t, b.Close())
	})
}

// A walk ends where the loop does, though there are more members.
func TestGroupWalkEndsEarly(t *testing.T) {
	var g flush.Group
	for range 3 {
		harness.Must(t, g.Add(newMember(nil)))
	}
	n := 0
	for range g.All() {
		n++
		break
	}
	if n != 1 || g.Len() != 3 {
		t.Errorf("%d of %d members", n, g.Len())
	}
}
