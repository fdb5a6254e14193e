package flush_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// A run before a release uses 1000000 and takes minutes:
//
//	go test -run TestStressShortResponses -responses 1000000 -timeout 1h
var responses = flag.Int("responses", 4000, "short responses per protocol in TestStressShortResponses")

// Writers, waiters with and without a context, asynchronous flushes, aborts,
// timeouts and Close at random, with timers that fire while others run, not only
// when all wait, as in TestHammer: every call returns.
func TestStressEveryCallReturnsInTime(t *testing.T) {
	harness.CheckGoroutines(t)
	for i := range 150 {
		seed := rand.Uint64()
		done := make(chan struct{})
		go func() {
			defer close(done)
			hammer(t, seed, 100*time.Microsecond)
		}()
		timer := time.NewTimer(2 * harness.Patience())
		select {
		case <-done:
			timer.Stop()
		case <-timer.C:
			p := make([]byte, 1<<20)
			t.Fatalf("round %d, seed %d: calls do not return:\n%s", i, seed, p[:runtime.Stack(p, true)])
		}
		if t.Failed() {
			t.Fatalf("round %d, seed %d", i, seed)
		}
	}
}

// hammer runs one response; unit is the grain of its timers.
func hammer(t *testing.T, seed uint64, unit time.Duration) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(of ...int) int { return of[rnd.IntN(len(of))] }
	opts := &flush.Options{
		Flush:       flush.Mode(rnd.IntN(4)),
		Implicit:    flush.Mode(pick(0, 0, 0, int(flush.Async), int(flush.Wait))),
		BufferSize:  pick(-1, 1, 50, 0, 5000),
		MaxPending:  pick(1, 100, 5000, 0),
		SendTimeout: time.Duration(pick(-1, 0, 20)) * unit,
	}
	if pick(0, 0, 1) == 1 {
		opts.FlushInterval = 3 * unit
	}
	closed := 0
	opts.OnClose = func(*http.Request, flush.Stats, error) { closed++ }
	s := harness.NewSink(t)
	var w http.ResponseWriter = s
	if pick(0, 1, 1) == 1 {
		w = harness.DeadlineSink{Sink: s}
	}
	if pick(0, 0, 0, 1) == 1 {
		at := rnd.IntN(3000)
		s.Fault = func(p []byte, got int) (int, error) {
			if got+len(p) <= at {
				return -1, nil
			}
			return max(at-got, 0), errors.New("broken")
		}
	}
	cleans := pick(0, 0, 0, 1) == 1
	f := flush.New(w, nil, opts)

	var accepted atomic.Int64
	var parted atomic.Bool // a Write ended in the middle
	var working, network sync.WaitGroup
	for id := range 4 {
		rnd := rand.New(rand.NewPCG(seed, uint64(id+1)))
		working.Go(func() {
			seq := 0
			for range 40 {
				switch op := rnd.IntN(20); op {
				case 0, 1, 2, 3, 4, 5, 6, 7:
					size := rnd.IntN(30)
					if rnd.IntN(10) == 0 && opts.MaxPending != 1 {
						size = rnd.IntN(12000)
					}
					p := fmt.Appendf(nil, "<%d %d %d|%s>", id, seq, size, strings.Repeat("x", size))
					seq++
					var n int
					var err error
					if op == 0 {
						n, err = f.WriteString(string(p))
					} else {
						n, err = f.Write(p)
					}
					accepted.Add(int64(n))
					if n < len(p) {
						if err == nil {
							t.Errorf("short write of %d of %d without an error", n, len(p))
						}
						if n > 0 {
							parted.Store(true)
						}
						return // its next record would not follow
					}
				case 8, 9, 10, 11:
					f.FlushAsync()
				case 12:
					flush.Flush(f, rnd.IntN(2) == 0)
				case 13:
					f.FlushWait(harness.NoContext)
				case 14:
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(5))*unit)
					f.FlushWait(ctx)
					cancel()
				case 15:
					ctx, cancel := context.WithCancel(context.Background())
					go cancel()
					f.FlushWait(ctx)
				case 16:
					f.SetImplicit(flush.Mode(rnd.IntN(4)))
				case 17:
					if n, m := f.Buffered(), f.Available(); n < 0 || m < 0 {
						t.Error(n, m)
					}
					f.Stats()
				case 18:
					f.SendHeaders()
				case 19:
					if cleans {
						f.Clean()
					}
					runtime.Gosched()
				}
			}
		})
	}
	over := make(chan struct{})
	network.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 100))
		for !deadline.Closed(over) {
			s.Hold(rnd.IntN(20000))
			select {
			case <-over:
			case <-time.After(time.Duration(rnd.IntN(40)) * unit):
			}
			s.Release()
			select {
			case <-over:
			case <-time.After(time.Duration(rnd.IntN(3)) * unit):
			}
		}
	})
	enders := []func(){func() { f.Close() }}
	if pick(0, 1) == 1 {
		enders = append(enders, func() { f.Abort(errors.New("aborted")) }, func() { f.Close() })
	}
	for i, end := range enders {
		after := time.Duration(rnd.IntN(60)) * unit
		if i == 0 && len(enders) == 1 {
			after *= 10
		}
		working.Go(func() {
			<-time.After(after)
			end()
		})
	}
	working.Wait()
	close(over)
	network.Wait()

	if closed != 1 {
		t.Errorf("OnClose ran %d times", closed)
	}
	st, got := f.Stats(), s.Got
	if st.Bytes != int64(len(got)) {
		t.Errorf("%d bytes counted, %d sent", st.Bytes, len(got))
	}
	if !cleans && st.Bytes+st.Lost != accepted.Load() {
		t.Errorf("%d accepted, %d sent, %d lost", accepted.Load(), st.Bytes, st.Lost)
	}
	limit := map[bool]int{true: 64 << 10, false: opts.MaxPending}[opts.MaxPending == 0]
	if opts.BufferSize == 0 {
		limit = max(limit, 4096)
	}
	if limit = max(limit, opts.BufferSize); st.MaxPending > limit {
		t.Errorf("%d bytes were held, over %d", st.MaxPending, limit)
	}
	if st.Pushes > st.Flushes+1 {
		t.Errorf("%d pushes for %d flushes", st.Pushes, st.Flushes)
	}
	for _, err := range []error{f.FlushAsync(), f.FlushWait(harness.NoContext)} {
		if !errors.Is(err, flush.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	}
	if !cleans && !parted.Load() {
		checkRecords(t, got, f.Err() == nil)
	}
}

// checkRecords fails if a record is torn or out of its writer's order. Only the
// last may be short, if the response failed.
func checkRecords(t *testing.T, got []byte, whole bool) {
	t.Helper()
	next := map[string]int{}
	for len(got) > 0 {
		head, rest, ok := bytes.Cut(got, []byte("|"))
		fields := strings.Fields(strings.TrimPrefix(string(head), "<"))
		if !ok || len(fields) != 3 {
			if whole || len(got) > 30 {
				t.Errorf("no record: %q", harness.Clip(got))
			}
			return
		}
		seq, _ := strconv.Atoi(fields[1])
		size, _ := strconv.Atoi(fields[2])
		if seq != next[fields[0]] {
			t.Errorf("writer %s: record %d, want %d", fields[0], seq, next[fields[0]])
		}
		next[fields[0]]++
		if len(rest) < size+1 {
			if whole || strings.Trim(string(rest), "x") != "" {
				t.Errorf("torn: %q", harness.Clip(got))
			}
			return
		}
		if strings.Trim(string(rest[:size]), "x") != "" || rest[size] != '>' {
			t.Errorf("torn: %q", harness.Clip(got))
			return
		}
		got = rest[size+1:]
	}
}

// Every FlushAsync is done without a further call, however it meets the end of
// a carrier.
func TestStressNoFlushIsForgotten(t *testing.T) {
	harness.CheckGoroutines(t)
	for _, writers := range []int{1, 4} {
		s := harness.NewSink(t)
		news := make(chan struct{}, 1)
		var upTo atomic.Int64
		s.OnFlush = func() error {
			upTo.Store(int64(len(s.Got)))
			select {
			case news <- struct{}{}:
			default:
			}
			return nil
		}
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		for i := range 4000 {
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					f.Write([]byte("x"))
					for range rand.IntN(30) {
						runtime.Gosched()
					}
					if err := f.FlushAsync(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			timer := time.NewTimer(harness.Patience())
			for want := int64((i + 1) * writers); upTo.Load() < want; {
				select {
				case <-news:
				case <-timer.C:
					t.Fatalf("%d writers: %d bytes flushed, %d asked for, %d held", writers, upTo.Load(), want, f.Buffered())
				}
			}
			timer.Stop()
		}
		harness.Must(t, f.Close())
	}
}

// Short responses whose producer is another goroutine. What the client gets is
// what was accepted and ends properly, or it is visibly cut: never short and
// clean.
func TestStressShortResponses(t *testing.T) {
	type result struct {
		accepted string
		cut      bool
	}
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			results := make(chan result, 1)
			boom := errors.New("boom")
			srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				way, _ := strconv.Atoi(r.URL.Path[1:])
				produced := make(chan string, 1)
				go func() {
					var accepted strings.Builder
					for i := range 1 + way%5 {
						e := fmt.Sprintf("event %d of response %d\n", i, way)
						n, err := f.WriteString(e)
						accepted.WriteString(e[:n])
						if err == nil && way%2 == 0 {
							err = f.FlushAsync()
						}
						if err != nil {
							break
						}
					}
					produced <- accepted.String()
				}()
				switch way % 8 {
				case 0, 1, 2, 3:
					results <- result{<-produced, false}
				case 4, 5: // returns while the producer runs
					go func() { results <- result{<-produced, false} }()
				case 6:
					f.Abort(boom)
					results <- result{<-produced, true}
				case 7:
					go func() { results <- result{<-produced, true} }()
					panic(http.ErrAbortHandler)
				}
			}), nil))
			s := harness.Open(t, srv, "GET", "/0", nil)
			for i := range *responses {
				got, _, end := s.Rest()
				want := <-results
				switch {
				case want.cut && (end == harness.Complete || !strings.HasPrefix(want.accepted, got)):
					t.Fatalf("response %d was aborted: got %q of %q, %s", i, got, want.accepted, end)
				case !want.cut && (end != harness.Complete || got != want.accepted):
					t.Fatalf("response %d: got %q of %q, %s", i, got, want.accepted, end)
				}
				switch path := fmt.Sprintf("/%d", i+1); {
				case i == *responses-1:
				case want.cut && p == harness.HTTP1:
					s.Leave()
					s = harness.Open(t, srv, "GET", path, nil)
				default:
					s = s.Again("GET", path, nil)
				}
			}
		})
	}
}

// A thousand stalled clients cost MaxPending and 16 KiB of heap each, and a
// blocked producer emits no more than MaxPending and what the connection took.
func TestStressStalledClients(t *testing.T) {
	const (
		clients = 1000
		mark    = 32 << 10
		conn    = 512 // in a connection in memory
	)
	harness.CheckGoroutines(t)
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var ready, ended sync.WaitGroup
	ready.Add(clients)
	ended.Add(clients)
	begin := make(chan struct{})
	type producer struct {
		f       *flush.Flusher
		emitted atomic.Int64
	}
	producers := make(chan *producer, clients)
	event := make([]byte, 1000)
	srv := harness.ServeMemory(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer ended.Done()
		f, _ := flush.From(w)
		p := &producer{f: f}
		producers <- p
		ready.Done()
		<-begin
		for {
			n, err := f.Write(event)
			p.emitted.Add(int64(n))
			if err != nil {
				return
			}
			f.FlushAsync()
		}
	}), &flush.Options{MaxPending: mark}), conn)
	var streams []*harness.Stream
	for range clients {
		streams = append(streams, harness.Open(t, srv, "GET", "/", nil))
	}
	ready.Wait()
	before := heap()
	close(begin)
	for range clients {
		p := <-producers
		for end := time.Now().Add(3 * harness.Patience()); p.f.Available() > 0 || p.f.Buffered() < mark; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("a producer is not held: %d emitted, %d held", p.emitted.Load(), p.f.Buffered())
			}
		}
		// Beyond the mark: the connection, and the server's own 2 and 4 KiB.
		if n := p.emitted.Load(); n > mark+conn+2048+4096 {
			t.Errorf("%d bytes emitted to a blocked client", n)
		}
	}
	if each := (heap() - before) / clients; each > mark+16<<10 {
		t.Errorf("%d bytes of heap for each stalled client", each)
	} else {
		t.Logf("%d bytes of heap for each stalled client, %d of them on floor 2", each, mark)
	}
	for _, s := range streams {
		s.Leave()
	}
	ended.Wait()
}

// An unread is a server's writer without deadlines whose client never reads.
type unread struct {
	http.ResponseWriter
	release chan struct{}
}

func (w unread) Write(p []byte) (int, error) { <-w.release; return len(p), nil }
func (w unread) Flush()                      {}

// Where the server has no deadlines, a thousand stalled clients are bounded as
// well, the waits end, and Close joins honestly.
func TestStressStalledWithoutDeadlines(t *testing.T) {
	const (
		clients = 1000
		mark    = 32 << 10
	)
	harness.CheckGoroutines(t)
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	release := make(chan struct{})
	below := make([]unread, clients)
	for i := range below {
		below[i] = unread{&harness.Forgetful{Headers: make(http.Header)}, release}
	}
	all := make([]*flush.Flusher, clients)
	accepted := make([]int64, clients)
	event := make([]byte, 1000)
	before := heap()
	var wg sync.WaitGroup
	for i, w := range below {
		wg.Go(func() {
			f := flush.New(w, nil, &flush.Options{Flush: flush.Async, MaxPending: mark, SendTimeout: 50 * time.Millisecond})
			all[i] = f
			for {
				n, err := f.Write(event)
				accepted[i] += int64(n)
				if err != nil {
					if !errors.Is(err, flush.ErrTimeout) || f.Err() != nil {
						t.Errorf("%v, failure %v", err, f.Err())
					}
					return
				}
				f.FlushAsync()
			}
		})
	}
	wg.Wait()
	for i, f := range all {
		if accepted[i] != mark || f.Buffered() != mark {
			t.Errorf("%d accepted, %d held", accepted[i], f.Buffered())
		}
	}
	if each := (heap() - before) / clients; each > mark+16<<10 {
		t.Errorf("%d bytes of heap for each stalled client", each)
	}
	close(release)
	for i, f := range all {
		if err := f.Close(); err != nil || f.Stats().Bytes != accepted[i] {
			t.Errorf("%v, %+v", err, f.Stats())
		}
	}
}
