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
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush"
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

func newAttacker(ctx context.Context, srv *server) (*attacker, error) {
	c, err := srv.dial(ctx)
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

// besieged returns two servers that share a budget of 4 MiB: one for those who
// attack, whose responses are large, and one for the honest. These have a longer
// SendTimeout only so that no second of a busy machine decides.
func besieged(t *testing.T) (hostile, honest *server, budget *flush.Budget, begun *atomic.Int64) {
	budget = flush.NewBudget(3<<20, 4<<20)
	begun = new(atomic.Int64)
	piece := make([]byte, 64<<10)
	large := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun.Add(1)
		for range 100 {
			if _, err := w.Write(piece); err != nil {
				return
			}
			flush.Flush(w, false)
		}
	})
	small := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "honest") })
	opts := &flush.Options{Flush: flush.Async, SendTimeout: time.Second, Budget: budget}
	hostile = serve(t, h2, flush.NewHandler(large, opts), cleartext, smallBuffers)
	patient := *opts
	patient.SendTimeout = time.Minute
	return hostile, serve(t, http1, flush.NewHandler(small, &patient)), budget, begun
}

// visit has 100 honest clients ask ten times each, and returns how long the
// 99th of a hundred answers took.
func visit(t *testing.T, srv *server) time.Duration {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: patience()}
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

// settle waits until what count returns is between least and most, as long as it
// changes, and returns it. A busy machine takes its time.
func settle(count func() int64, least, most int64) int64 {
	n := count()
	for end := time.Now().Add(patience()); n < least || n > most; time.Sleep(time.Millisecond) {
		switch now := count(); {
		case now != n:
			n, end = now, time.Now().Add(patience())
		case time.Now().After(end):
			return n
		}
	}
	return n
}

func visitOnce(client *http.Client, srv *server) error {
	resp, err := client.Get(srv.url("/"))
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
// lose nothing, then and later.
func TestBudgetUnderAttackByConnectionsThatReadNothing(t *testing.T) {
	hostile, honest, budget, begun := besieged(t)
	alone := visit(t, honest)
	for range 4 {
		a, err := newAttacker(t.Context(), hostile)
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
	if n := settle(begun.Load, 800, 800); n != 800 {
		t.Fatalf("%d of 800 streams have begun", n)
	}
	first := visit(t, honest)
	during := budget.Stats()
	if n := settle(func() int64 { return budget.Stats().Held }, 0, 800*4096); n > 800*4096 {
		t.Fatalf("more is held than one block for each stream: %+v", budget.Stats())
	}
	later := visit(t, honest)
	if most := int64(4 << 20); during.Held > most {
		t.Errorf("%+v", during)
	}
	t.Logf("p99 of the honest: %v alone, %v when the attack begins (%.1f times), %v later (%.1f times); %+v, then %+v",
		alone, first, float64(first)/float64(alone), later, float64(later)/float64(alone), during, budget.Stats())
}

// Eight clients open and reset streams as fast as they can; honest clients
// beside them lose nothing, and afterwards nothing is left of it.
func TestBudgetUnderAttackByResets(t *testing.T) {
	hostile, honest, budget, begun := besieged(t)
	goroutines := runtime.NumGoroutine()
	visit(t, honest)
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
				a, err := newAttacker(ctx, hostile)
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
		visit(t, honest)
		visits++
	}
	attackers.Wait()

	peak := runtime.NumGoroutine()
	idle := func() bool {
		s := budget.Stats()
		return s.Members == 0 && runtime.NumGoroutine() <= goroutines+20
	}
	for end := time.Now().Add(patience()); !idle() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if n := runtime.NumGoroutine(); n > goroutines+20 {
		p := make([]byte, 1<<16)
		t.Errorf("%d goroutines more than before:\n%s", n-goroutines, p[:runtime.Stack(p, true)])
	}
	if more := heap() - before; more > 64<<20 {
		t.Errorf("%d bytes more than before", more)
	}
	got := budget.Stats()
	aborted := got.Aborted
	if got.Aborted = 0; got != (flush.BudgetStats{}) {
		t.Errorf("%+v", got)
	}
	t.Logf("%d streams have begun, %d were aborted, %d times 1000 honest requests; %d goroutines at the end of the attack", begun.Load(), aborted, visits, peak)
}
