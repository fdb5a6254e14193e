package flush_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// The whole of it:
//
//	go test -run TestBudgetUnderAttack -attack 10s
var attack = flag.Duration("attack", time.Second, "how long TestBudgetUnderAttackByResets goes on")

// An attacker speaks just enough HTTP/2, without TLS, to open streams and reset
// them. It reads nothing, and has given the server all the window there is, so
// that it is the connection that blocks.
type attacker struct {
	net.Conn
	authority string
	next      uint32 // stream
}

func newAttacker(ctx context.Context, srv *harness.Server) (*attacker, error) {
	c, err := srv.Dial(ctx)
	if err != nil {
		return nil, err
	}
	a := &attacker{c, srv.Addr, 1}
	hello := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	const initialWindow, most = 4, 1<<31 - 1
	hello = append(hello, frame(4, 0, 0, binary.BigEndian.AppendUint32([]byte{0, initialWindow}, most))...) // SETTINGS
	hello = append(hello, frame(8, 0, 0, binary.BigEndian.AppendUint32(nil, most-65535))...)                // WINDOW_UPDATE
	_, err = a.Write(hello)
	return a, err
}

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	p := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(p, stream), payload...)
}

// get asks for path on a stream of its own.
func (a *attacker) get(path string) error {
	_, p := a.ask(path)
	_, err := a.Write(p)
	return err
}

// ask returns the frame of get.
func (a *attacker) ask(path string) (stream uint32, p []byte) {
	const method, scheme, pathName, authority = 0x82, 0x86, 0x04, 0x01 // HPACK's static table
	block := append([]byte{method, scheme, pathName, byte(len(path))}, path...)
	block = append(append(block, authority, byte(len(a.authority))), a.authority...)
	stream = a.next
	a.next += 2
	return stream, frame(1, 5, stream, block) // HEADERS with END_STREAM and END_HEADERS
}

func reset(stream uint32) []byte { return frame(3, 0, stream, []byte{0, 0, 0, 8}) } // CANCEL

// A siege is two servers that share a budget of 4 MiB: one for those who attack,
// whose responses are large, and one for the honest. These have a longer
// SendTimeout only so that no second of a busy machine decides.
type siege struct {
	hostile, honest *harness.Server
	budget          *flush.Budget

	mu     sync.Mutex
	change *sync.Cond
	begun  int // hostile responses
	failed int // of these, whose handler has met a failure
	over   int // of these, whose handler has returned, and ours with it
	conns  int // of the hostile that are open
	waited int // honest responses of which a Write has waited
}

func newSiege(t *testing.T) *siege {
	s := &siege{budget: flush.NewBudget(3<<20, 4<<20)}
	s.change = sync.NewCond(&s.mu)
	piece := make([]byte, 64<<10)
	large := func(w http.ResponseWriter, r *http.Request) {
		s.count(&s.begun, 1)
		for range 100 {
			if _, err := w.Write(piece); err != nil {
				s.count(&s.failed, 1)
				return
			}
			flush.Flush(w, false)
		}
	}
	small := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "honest") })
	opts := &flush.Options{Flush: flush.Async, SendTimeout: time.Second, Budget: s.budget}
	wrapped := harness.Wrapped(opts, large)
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.count(&s.over, 1)
		wrapped.ServeHTTP(w, r)
	})
	s.hostile = harness.Serve(t, harness.HTTP2, counted, harness.Cleartext, harness.SmallBuffers, harness.Configure(func(srv *http.Server) {
		srv.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.count(&s.conns, 1)
			case http.StateClosed:
				s.count(&s.conns, -1)
			}
		}
	}))
	patient := *opts
	patient.SendTimeout = time.Minute
	patient.OnClose = func(_ *http.Request, got flush.Stats, _ error) {
		if got.Waited > 0 {
			s.count(&s.waited, 1)
		}
	}
	s.honest = harness.Serve(t, harness.HTTP1, flush.NewHandler(small, &patient))
	return s
}

func (s *siege) count(n *int, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*n += by
	s.change.Broadcast()
}

// await waits until what is counted is as ok wants it, as long as it changes: a
// busy machine takes its time.
func (s *siege) await(t *testing.T, ok func() bool) {
	t.Helper()
	late := false
	timer := time.AfterFunc(harness.Patience(), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.change.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !ok() {
		if late {
			t.Fatalf("%d responses have begun, %d have failed, %d are over; %d connections", s.begun, s.failed, s.over, s.conns)
		}
		s.change.Wait()
		timer.Reset(harness.Patience())
	}
}

// visit has 100 honest clients ask ten times each, and returns how long the
// 99th of a hundred answers took.
func visit(t *testing.T, srv *harness.Server) time.Duration {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: harness.Patience()}
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range 10 {
				begin := time.Now()
				err := visitOnce(client, srv)
				d := time.Since(begin)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
				if err != nil {
					t.Errorf("an honest client: %v after %v", err, d)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
}

func visitOnce(client *http.Client, srv *harness.Server) error {
	resp, err := client.Get(srv.URL("/"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if string(body) != "honest" {
		return fmt.Errorf("%q came", body)
	}
	return nil
}

// Four HTTP/2 connections with 200 large responses each, which read nothing and
// whose writes cannot be ended, use up a budget; 100 honest clients beside them
// lose nothing and wait for no memory, then and later.
func TestBudgetUnderAttackByConnectionsThatReadNothing(t *testing.T) {
	s := newSiege(t)
	alone := visit(t, s.honest)
	for range 4 {
		a, err := newAttacker(t.Context(), s.hostile)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		for range 200 {
			if err := a.get("/"); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.await(t, func() bool { return s.begun == 800 })
	first := visit(t, s.honest)
	during := s.budget.Stats()
	if most := int64(4 << 20); during.Held > most {
		t.Errorf("%+v", during)
	}
	s.await(t, func() bool { return s.failed == 800 })
	if held := s.budget.Stats().Held; held > 800*4096 {
		t.Errorf("%d bytes are held, more than one block for each stream", held)
	}
	later := visit(t, s.honest)
	s.mu.Lock()
	if s.waited > 0 {
		t.Errorf("%d honest responses have waited for memory", s.waited)
	}
	s.mu.Unlock()
	t.Logf("p99 of the honest: %v alone, %v when the attack begins (%.1f times), %v later (%.1f times); %+v, then %+v",
		alone, first, float64(first)/float64(alone), later, float64(later)/float64(alone), during, s.budget.Stats())
}

// Eight clients open and reset streams as fast as they can; honest clients
// beside them lose nothing, and afterwards nothing is left of it.
func TestBudgetUnderAttackByResets(t *testing.T) {
	s := newSiege(t)
	goroutines := runtime.NumGoroutine()
	visit(t, s.honest)
	heap := func() int64 {
		for range 3 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()

	ctx, cancel := context.WithTimeout(t.Context(), *attack)
	defer cancel()
	var attackers sync.WaitGroup
	for range 8 {
		attackers.Go(func() {
			for ctx.Err() == nil {
				a, err := newAttacker(ctx, s.hostile)
				if err != nil {
					continue
				}
				a.SetDeadline(time.Now().Add(*attack / 4)) // the server has stopped to read: begin anew
				for ctx.Err() == nil && err == nil {
					stream, p := a.ask("/")
					_, err = a.Write(append(p, reset(stream)...))
				}
				a.Close()
			}
		})
	}
	visits := 0
	for ctx.Err() == nil {
		visit(t, s.honest)
		visits++
	}
	attackers.Wait()

	peak := runtime.NumGoroutine()
	s.await(t, func() bool { return s.conns == 0 && s.over == s.begun })
	harness.WaitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines+20 }) // those of connections that have just been closed
	if more := heap() - before; more > 64<<20 {
		t.Errorf("%d bytes more than before", more)
	}
	got := s.budget.Stats()
	aborted := got.Aborted
	if got.Aborted = 0; got != (flush.BudgetStats{}) {
		t.Errorf("%+v", got)
	}
	t.Logf("%d streams have begun, %d were aborted, %d times 1000 honest requests; %d goroutines at the end of the attack", s.begun, aborted, visits, peak)
}
