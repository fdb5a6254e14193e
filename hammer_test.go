package flush_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/internal/harness"
)

// The hammer: some goroutines do random things to one response, or to three
// that share a budget, over a server's writer that follows a script; see
// server_test.go. What they do is settled by the seed before any of them
// runs, and time is the bubble's, so that a seed repeats as far as the scheduler
// lets it. What must hold is in oracle_test.go.
//
//	go test -run TestHammer -hammer.seeds 100000 -timeout 1h
//	go test -run TestHammer -hammer.seed 4711            # this one, and what it did
//	go test -run TestHammer -hammer.without hijack,follow # and the rest of each seed stays as it is
//	go test -run TestHammer -hammer.ignore uncut          # look past a kind of finding
//	go test -run TestHammer -hammer.all                   # count all, by kind
var (
	hammerSeeds   = flag.Int("hammer.seeds", 500, "seeds of TestHammer, from -hammer.first on")
	hammerFirst   = flag.Uint64("hammer.first", 1, "first seed of TestHammer")
	hammerSeed    = flag.Uint64("hammer.seed", 0, "the only seed of TestHammer; it tells what it does")
	hammerTimes   = flag.Int("hammer.times", 1, "how often TestHammer runs each seed")
	hammerWithout = flag.String("hammer.without", "", "features that TestHammer leaves out, with commas between: "+strings.Join(featureNames(), " "))
	hammerIgnore  = flag.String("hammer.ignore", "", "kinds of findings that TestHammer does not count, with commas between")
	hammerAll     = flag.Bool("hammer.all", false, "TestHammer runs all seeds, whatever it finds, and tells how many found what")
)

// A finding is something that must not be.
type finding struct {
	kind string
	text string
}

func (f finding) String() string { return f.kind + ": " + f.text }

// Whatever is done to responses, from however many goroutines, over whatever
// server: no write is torn, everything accepted is on the wire or told, a flush
// that says it is done is done, and every call returns in time.
func TestHammer(t *testing.T) { hammerSeedsOf(t, false) }

// Nor if the server keeps small writes until it is flushed, so that they go ahead.
func TestHammerAhead(t *testing.T) { hammerSeedsOf(t, true) }

func hammerSeedsOf(t *testing.T, keeps bool) {
	without, err := parseFeatures(*hammerWithout)
	if err != nil {
		t.Fatal(err)
	}
	log.SetOutput(io.Discard) // WriteHeader twice, and what else net/http would complain of
	defer log.SetOutput(os.Stderr)
	ignored := strings.Split(*hammerIgnore, ",")
	first, n := *hammerFirst, uint64(*hammerSeeds)
	if testing.Short() {
		n = min(n, 100)
	}
	if *hammerSeed != 0 {
		first, n = *hammerSeed, 1
	}
	seeds := make(map[string][]uint64) // by kind
	bad := 0
	for seed := first; seed < first+n; seed++ {
		for range *hammerTimes {
			run := newHammerRun(seed, without, *hammerSeed != 0)
			run.keeps = keeps
			found := slices.DeleteFunc(run.hammer(t), func(f finding) bool { return slices.Contains(ignored, f.kind) })
			if run.verbose {
				t.Logf("%s", strings.Join(run.lines, "\n"))
			}
			if len(found) == 0 {
				continue
			}
			bad++
			kinds := make(map[string]bool)
			for _, f := range found {
				if !kinds[f.kind] {
					seeds[f.kind] = append(seeds[f.kind], seed)
				}
				kinds[f.kind] = true
			}
			if bad <= 10 || !*hammerAll {
				t.Errorf("seed %d (-hammer.seed %d): %v\n%s", seed, seed, run, joinFindings(found))
			}
			if kinds["hang"] {
				t.Fatal("what hangs takes too long to do it again")
			}
			if bad == 10 && !*hammerAll {
				t.Fatal("that is enough")
			}
			break
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d seeds", bad, n)
	}
	for _, kind := range slices.Sorted(maps.Keys(seeds)) {
		t.Errorf("%s: %d seeds: %v", kind, len(seeds[kind]), seeds[kind][:min(len(seeds[kind]), 12)])
	}
}

func joinFindings(all []finding) string {
	var b strings.Builder
	for i, f := range all {
		if i == 8 {
			fmt.Fprintf(&b, "\tand %d more\n", len(all)-i)
			break
		}
		fmt.Fprintf(&b, "\t%v\n", f)
	}
	return b.String()
}

// A hammerRun is one seed.
type hammerRun struct {
	hammerScript
	verbose bool
	keeps   bool      // the servers are as net/http's own writer
	began   time.Time // in the bubble
	over    chan struct{}

	happened atomic.Int64 // how much has been done or noted

	mu      sync.Mutex
	found   []finding
	lines   []string
	clock   int64 // counts what happens, for what came before what
	working map[*call]struct{}
	slept   time.Duration // by servers and filters on purpose, never for long
	filters time.Duration // by filters alone
	long    time.Duration // by servers that cannot be unblocked
}

func newHammerRun(seed uint64, without feature, verbose bool) *hammerRun {
	return &hammerRun{hammerScript: newHammerScript(seed, without), verbose: verbose, working: make(map[*call]struct{})}
}

// hammer runs the seed and returns what it found. If goroutines are stuck for
// good they are left behind.
func (h *hammerRun) hammer(t *testing.T) []finding {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				h.report("stuck", "%v", v)
			}
		}()
		synctest.Test(t, h.run)
	}()
	h.watch(done)
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.found)
}

// watch waits until the seed has ended, or nothing happens in it any more. A busy
// machine makes one slow in which floor 2 has room for one byte.
func (h *hammerRun) watch(done chan struct{}) {
	tick := time.NewTicker(2 * harness.Patience())
	defer tick.Stop()
	for looks, happened := 1, int64(0); ; looks++ {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		before := happened
		if happened = h.happened.Load(); happened == before || looks == 30 {
			h.report("hang", "it spins or waits for a lock, for good:\n%s", busyStacks())
			return
		}
	}
}

// busyStacks returns the stacks of goroutines in bubbles that wait for nothing
// that a bubble knows.
func busyStacks() string {
	var busy []string
	for _, stack := range harness.Goroutines() {
		first, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(first, "synctest bubble") && !strings.Contains(first, "(durable)") {
			busy = append(busy, stack)
		}
	}
	return strings.Join(busy, "\n\n")
}

// forGood is how long nothing takes unless it is stuck.
const forGood = 3 * time.Hour

func (h *hammerRun) run(*testing.T) {
	h.began = time.Now()
	h.over = make(chan struct{})
	all := make([]*reply, len(h.replies))
	var wg sync.WaitGroup
	for i := range all {
		all[i] = newReply(h, i)
		wg.Go(all[i].serve)
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(forGood):
		h.mu.Lock()
		var who []string
		for c := range h.working {
			who = append(who, fmt.Sprintf("%s since %v", c.name, c.began.Sub(h.began)))
		}
		h.mu.Unlock()
		slices.Sort(who)
		h.report("stuck", "%s", strings.Join(who, "; "))
		close(h.over) // perhaps the servers can be saved
		select {
		case <-ended:
		case <-time.After(forGood):
		}
		return
	}
	close(h.over)
	time.Sleep(forGood) // timers that touch the server after the end do so now
	for _, r := range all {
		r.check()
	}
	h.checkBudget()
}

func (h *hammerRun) report(kind, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := finding{kind, fmt.Sprintf(format, args...)}
	h.found = append(h.found, f)
	if h.verbose {
		h.lines = append(h.lines, "!!! "+f.String())
	}
}

func (h *hammerRun) note(format string, args ...any) {
	h.happened.Add(1)
	if !h.verbose {
		return
	}
	line := fmt.Sprintf("%-12v ", time.Since(h.began)) + fmt.Sprintf(format, args...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
}

// tick returns a new point of the run's own time: what ticked before happened
// before.
func (h *hammerRun) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// sleep is for those who make others wait on purpose.
func (h *hammerRun) sleep(d time.Duration) {
	if d <= 0 {
		runtime.Gosched()
		return
	}
	h.mu.Lock()
	h.slept += d
	h.mu.Unlock()
	time.Sleep(d)
}

func (h *hammerRun) waited() (slept, long time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.slept, h.long
}

func (h *hammerRun) filtersTook() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.filters
}

// A call is one that has not returned.
type call struct {
	name  string
	began time.Time
}

func (h *hammerRun) beginCall(name string) *call {
	c := &call{name, time.Now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.working[c] = struct{}{}
	return c
}

// endCall returns how long the call took.
func (h *hammerRun) endCall(c *call) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.working, c)
	return time.Since(c.began)
}

var (
	errHammerFault = errors.New("connection is broken")
	errHammerAbort = errors.New("hammer aborts")
	errHammerFalse = errors.New("filter says no")
)

// A hammerPanic is what handlers, filters and servers panic with.
type hammerPanic string
