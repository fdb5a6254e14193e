package flush_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

// The table of waits: every call that waits, and every reason for which its
// wait ends, at which moment and with which error. TestEveryWaitHasARow keeps
// the list of places complete.

// waitFuncs are the package's own functions that do nothing but wait; who calls
// one of them waits.
var waitFuncs = []string{"waitLocked", "awaitLocked"}

// The functions in which calls wait. Rows name them by these constants, and
// several may be the same function.
const (
	inPen      = "takePenLocked"
	inRoom     = "awaitLowLocked"
	inBudget   = "waitBudgetLocked"
	inSolo     = "carryLocked"
	inBaton    = "takeBatonLocked"
	inBehind   = "takeBatonBehindLocked"
	inFlush    = "awaitFlushLocked"
	inFollow   = "followWaitLocked"
	inPaid     = "awaitPaidLocked"
	inFilter   = "withholdLocked"
	inBulk     = "passBulkLocked" // it waits in takeBatonLocked
	inTurn     = "takeTurnLocked"
	inComplete = "awaitWritesLocked"
	inRest     = "grabBatonLocked"
	inJoin     = "joinLocked"
	inFinish   = "beginEnd"
	inAcked    = "FlushAcked"
	inDrain    = "drainLocked"

	inServerCall = "(*Sink).Write" // inside a call of the server
	inPlain      = "pushPlain"     // inside the one that the plain flush makes itself
)

// waitPlaces are all functions in which a goroutine may stop: for a channel, a
// condition, the clock, or in one of waitFuncs. Each either has a row of the
// table or, here, a reason for having none.
var waitPlaces = []struct{ name, noRow string }{
	{inPen, ""}, {inRoom, ""}, {inBudget, ""}, {inSolo, ""}, {inBaton, ""}, {inBehind, ""}, {inFlush, ""}, {inFollow, ""}, {inPaid, ""}, {inFilter, ""}, {inTurn, ""},
	{inComplete, ""}, {inRest, ""}, {inJoin, ""}, {inFinish, ""}, {inAcked, ""}, {inDrain, ""},

	{"waitLocked", "one of waitFuncs"},
	{"awaitLocked", "one of waitFuncs"},
	{"filterOwedLocked", "for a carrier that has not begun: see TestAskingNeverWaitsForACallBeforeTheHeaders"},
	{"serve", "the budget's own goroutine"},
	{"enter", "see TestWaitsForTheRequestBody"},
	{"awaitReadLocked", "see TestWaitsForAReadOfTheRequestBody"},
	{"run", "the watcher's own goroutine; it sleeps between two looks"},
	{"Detach", "for another Detach"},
	{"detachLocked", "for timers, which look whether the response is theirs"},
	{"outlives", "for the end of the response, which is what it is for"},
	{"Broadcast", "for its own workers, which wait for nobody"},
	{"Shutdown", "its ends are its own: see TestShutdown"},
	{"cutAll", "for a second at most"},
	{"runUntil", "for its own response, and 10 s after its context: see TestServeOneResponseEndsWhole"},
	{"serveFastCGI", "the same for the connections: see TestServeFastCGIEndsWhole"},
	{"readClient", "the wire's own goroutine"},
	{"runUntil", "for the end of its server's context"},
	{"serveFastCGI", "for its responses, 10 s at most"},
	{"passTurnLocked", "its channel has room"},
	{"filterLocked", "its channels have room"},
	{"CloseNotify", "its channel has room"},
	{"leavingLocked", "behind the end of the server's context, for its channel or the end of the handler"},
}

// A wait cannot be added without a row of the table, or a reason.
func TestEveryWaitHasARow(t *testing.T) {
	found := make(map[string]bool)
	files := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	harness.Must(t, err)
	known, err := filepath.Glob("internal/tcp/*.go")
	harness.Must(t, err)
	names = append(names, known...)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		harness.Must(t, err)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && stops(f.Body) {
				found[f.Name.Name] = true
				if !slices.ContainsFunc(waitPlaces, func(p struct{ name, noRow string }) bool { return p.name == f.Name.Name }) {
					t.Errorf("%v: %s waits, and has no row in the table of waits", files.Position(f.Pos()), f.Name.Name)
				}
			}
		}
	}
	rows := make(map[string]bool)
	for _, row := range waitRows() {
		rows[row.in[0]], rows[row.in[1]] = true, true
	}
	for _, p := range waitPlaces {
		switch {
		case !found[p.name]:
			t.Errorf("%s does not wait any more: take it out of the list", p.name)
		case p.noRow == "" && !rows[p.name]:
			t.Errorf("no row of the table waits in %s", p.name)
		}
	}
}

// stops reports whether a function's body, what it defines included, may stop
// its goroutine.
func stops(body ast.Node) (yes bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectStmt:
			for _, c := range n.Body.List {
				if c.(*ast.CommClause).Comm == nil { // default
					for _, s := range n.Body.List {
						for _, s := range s.(*ast.CommClause).Body {
							yes = yes || stops(s)
						}
					}
					return false
				}
			}
			yes = true
		case *ast.UnaryExpr:
			yes = yes || n.Op == token.ARROW
		case *ast.SendStmt:
			yes = true
		case *ast.CallExpr:
			name := ""
			switch f := n.Fun.(type) {
			case *ast.SelectorExpr:
				name = f.Sel.Name
			case *ast.Ident:
				name = f.Name
			}
			yes = yes || name == "Wait" || name == "Sleep" || slices.Contains(waitFuncs, name)
		}
		return true
	})
	return yes
}

// The mechanism itself: what it takes for a wait, and what not.
func TestStops(t *testing.T) {
	for body, want := range map[string]bool{
		"x()":                               false,
		"<-c":                               true,
		"x := <-c; _ = x":                   true,
		"c <- 1":                            true,
		"for { f.cond.Wait() }":             true,
		"time.Sleep(1)":                     true,
		"g(func() { f.waitLocked() })":      true,
		"f.awaitLocked(true, nil, g)":       true,
		"select { case <-c: }":              true,
		"select { case <-c: default: }":     false,
		"select { case <-c: <-d; default:}": true,
		"select { case c <- 1: default: }":  false,
	} {
		e, err := parser.ParseExpr("func() {" + body + "}")
		harness.Must(t, err)
		if got := stops(e); got != want {
			t.Errorf("%s: %t", body, got)
		}
	}
}

// The moments of the table, counted from when the call began and the server
// stopped.
const (
	waitLimit   = time.Minute      // SendTimeout
	waitHappens = 10 * time.Second // the reason
	waitGoesOn  = 20 * time.Second // the server goes on, where the reason says so
	waitLate    = 5 * time.Minute  // a server without deadlines goes on
)

// The reasons for which a wait ends.
const (
	whyLives      = "the server goes on just in time"
	whyMoves      = "the server takes a part just in time and stops again"
	whyRunsOut    = "SendTimeout runs out"
	whyFails      = "the server fails"
	whyLeaves     = "the client leaves"
	whyHalfOpen   = "the request's context ends, and the server goes on just in time"
	whyAborts     = "Abort"
	whyCloses     = "Close"
	whyClosesWell = "Close, and the server goes on"
	whyHijacks    = "Hijack, and the server goes on"
	whyCancels    = "the call's own context ends"
)

var waitReasons = []string{whyLives, whyMoves, whyRunsOut, whyFails, whyLeaves, whyHalfOpen, whyAborts, whyCloses, whyClosesWell, whyHijacks, whyCancels}

var (
	errWaitBroken = errors.New("broken")
	errWaitCause  = errors.New("cause")
)

// An outcome is what a wait ends with, and when. A cell of the table has one,
// or several where two who wait for the same thing may come first.
type waitOutcome struct {
	err error // errAny: any, or none
	at  time.Duration
}

func (o waitOutcome) String() string { return fmt.Sprintf("%v after %v", o.err, o.at) }

// is reports whether a call that returned err at that moment is this outcome. A
// stretch without progress may last a sixteenth longer than SendTimeout.
func (o waitOutcome) is(err error, at, slack time.Duration) bool {
	if errors.Is(o.err, flush.ErrTimeout) {
		slack = max(slack, waitLimit/16)
	}
	return at >= o.at && at <= o.at+slack && (o.err == harness.ErrAny || o.err == nil && err == nil || o.err != nil && errors.Is(err, o.err))
}

// A waitKind says what a call waits for, and so how its waits end.
type waitKind int

const (
	forBytes  waitKind = iota // its own bytes on their way, which Close lets finish
	forBaton                  // the one who calls the server
	forPen                    // the Writes before it, which Close lets finish
	forTurn                   // the one who works on the stack of buffers
	forBudget                 // memory
	forEnd                    // the end of the response
	forAcks                   // the client's kernel
)

// outcomes are those of a cell.
func (k waitKind) outcomes(reason string, deadlines bool) []waitOutcome {
	if k == forTurn {
		// Whoever has the turn ends as one who waits for his bytes does. Then
		// buffers go on, even those of a response that has failed.
		var all []waitOutcome
		for _, o := range forBytes.outcomes(reason, deadlines) {
			all = append(all, o, waitOutcome{nil, o.at}, waitOutcome{flush.ErrBufferClosed, o.at})
		}
		if reason == whyCloses || reason == whyClosesWell {
			all = append(all, waitOutcome{flush.ErrClosed, waitHappens}, waitOutcome{flush.ErrClosed, all[0].at})
		}
		if reason == whyCloses {
			all = append(all, waitOutcome{harness.ErrAny, waitLimit}) // the response was cut
		}
		if !deadlines && (reason == whyRunsOut || reason == whyCloses) {
			all = append(all, waitOutcome{flush.ErrTimeout, 2 * waitLimit}) // it had its turn, and a wait of its own
		}
		return all
	}
	switch reason {
	case whyLives, whyHalfOpen:
		if k == forBudget && reason == whyHalfOpen {
			// Nothing is on its way: it is the client's leaving.
			return []waitOutcome{{flush.ErrClientGone, waitHappens}}
		}
		return []waitOutcome{{nil, waitLimit - 1}}
	case whyMoves:
		if k == forEnd && !deadlines {
			return []waitOutcome{{nil, waitLate}}
		}
		if k == forPen && !deadlines {
			return []waitOutcome{{flush.ErrTimeout, 2*waitLimit - 1}, {flush.ErrTimeout, 3*waitLimit - 1}} // it may get the pen, and a wait of its own
		}
		return []waitOutcome{{flush.ErrTimeout, 2*waitLimit - 1}}
	case whyRunsOut:
		if k == forEnd && !deadlines {
			return []waitOutcome{{nil, waitLate}}
		}
		if k == forPen && !deadlines {
			return []waitOutcome{{flush.ErrTimeout, waitLimit}, {flush.ErrTimeout, 2 * waitLimit}}
		}
		return []waitOutcome{{flush.ErrTimeout, waitLimit}}
	case whyFails, whyLeaves:
		if k == forBudget && reason == whyFails {
			return nil
		}
		return []waitOutcome{{flush.ErrClientGone, waitHappens}}
	case whyAborts:
		if k == forEnd && !deadlines {
			return []waitOutcome{{errWaitCause, waitLate}}
		}
		return []waitOutcome{{errWaitCause, waitHappens}}
	case whyCloses:
		switch k {
		case forBaton:
			return []waitOutcome{{flush.ErrTimeout, waitLimit}, {flush.ErrClosed, waitHappens}}
		case forPen, forBudget, forAcks:
			return []waitOutcome{{flush.ErrClosed, waitHappens}}
		case forEnd:
			if !deadlines {
				return []waitOutcome{{nil, waitLate}}
			}
		}
		return []waitOutcome{{flush.ErrTimeout, waitLimit}}
	case whyClosesWell:
		switch k {
		case forBaton:
			return []waitOutcome{{nil, waitGoesOn}, {flush.ErrClosed, waitGoesOn}, {flush.ErrClosed, waitHappens}}
		case forPen, forBudget, forAcks:
			return []waitOutcome{{flush.ErrClosed, waitHappens}}
		}
		return []waitOutcome{{nil, waitGoesOn}}
	case whyHijacks:
		switch k {
		case forBudget, forAcks:
			return []waitOutcome{{http.ErrHijacked, waitHappens}}
		case forEnd:
			return []waitOutcome{{nil, waitGoesOn}}
		}
		return []waitOutcome{{nil, waitGoesOn}, {http.ErrHijacked, waitGoesOn}}
	case whyCancels:
		return []waitOutcome{{context.Canceled, waitHappens}}
	}
	panic("unreachable")
}

// A waitRow is a call that waits.
type waitRow struct {
	name   string
	in     [2]string // the function it waits in, on a server with and without deadlines; "": it does not wait there
	kind   waitKind
	opts   flush.Options
	setup  func(e *waiter)          // once
	stall  func(e *waiter)          // before each call: brings about what it waits for
	call   func(e *waiter) error    // e.ctx is its context, if own
	own    bool                     // the call has a context of its own
	once   bool                     // the response has but one such call
	quiet  bool                     // nothing may be flushed between two calls
	step   int                      // bytes to let through for a part, 0: there is none
	slack  time.Duration            // how much later than told it may end
	loose  bool                     // its ErrTimeout need not be a failure that sticks
	goesOn bool                     // its stall is a Write, which goes on behind what the call asked for
	cells  map[string][]waitOutcome // instead of the kind's; nil: the reason is none here; with /none: on servers without deadlines
}

func (row *waitRow) outcomes(reason string, deadlines bool) []waitOutcome {
	if o, ok := row.cells[reason+"/none"]; ok && !deadlines {
		return o
	}
	if o, ok := row.cells[reason]; ok {
		return o
	}
	if reason == whyCancels && !row.own || reason == whyMoves && row.step == 0 {
		return nil
	}
	return row.kind.outcomes(reason, deadlines)
}

// A waiter is the response that a row waits on.
type waiter struct {
	t      *testing.T
	row    *waitRow
	f      *flush.Flusher
	s      waitSink
	ctx    context.Context
	cancel context.CancelFunc // ends it
	leave  context.CancelFunc // ends the request's context
	conn   *harness.KernelConn
	budget *flush.Budget
	hog    *flush.Flusher // holds the budget
}

// A waitSink is a sink with everything that a call may wait in. Its 1xx stall
// as its Writes do.
type waitSink struct{ *harness.Sink }

func (s waitSink) WriteHeader(code int) {
	if code < 200 {
		s.Write(nil)
		return
	}
	s.Sink.WriteHeader(code)
}

func (s waitSink) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{s.Sink}, src)
}

func (s waitSink) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.Enter()
	defer s.Sink.Leave()
	a, b := flushtest.Pipe(0)
	b.Close()
	return a, bufio.NewReadWriter(bufio.NewReader(a), bufio.NewWriter(a)), nil
}

type deadlineWaitSink struct{ waitSink }

func (s deadlineWaitSink) SetWriteDeadline(t time.Time) error { s.WriteDeadline.Set(t); return nil }

// newWaiter starts the handler of a response, which returns with end.
func newWaiter(t *testing.T, row *waitRow, deadlines bool) (e *waiter, end func()) {
	e = &waiter{t: t, row: row, s: waitSink{harness.NewSink(t)}, conn: new(harness.KernelConn)}
	ctx, leave := context.WithCancel(context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{}))
	e.leave = leave
	if row.in[0] == inAcked || row.in[0] == inDrain {
		ctx = e.conn.WithConn(ctx)
	}
	opts := row.opts
	opts.SendTimeout = waitLimit
	if row.kind == forBudget {
		e.budget = flush.NewBudget(8<<10, 8<<10)
		opts.Budget = e.budget
	}
	var w http.ResponseWriter = e.s
	if deadlines {
		w = deadlineWaitSink{e.s}
	}
	begun, over, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { recover() }() // http.ErrAbortHandler
		flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			e.f, _ = flush.From(w)
			if row.setup != nil {
				row.setup(e)
			}
			close(begun)
			<-over
		}), &opts).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	}()
	<-begun
	return e, func() {
		close(over)
		<-ended
		leave()
		if e.cancel != nil {
			e.cancel()
		}
		time.Sleep(time.Second) // of synctest: watchers see that nobody blocks
	}
}

// hold stops the server, save for n more bytes.
func (e *waiter) hold(n int) { e.s.Hold(len(e.s.Body()) + n - 1) }

// open lets all go on that was stopped.
func (e *waiter) open() {
	e.s.Release()
	e.conn.Set(func(c *harness.ConnState) {
		c.Acked += c.Unsent + c.Unacked
		c.Unsent, c.Unacked = 0, 0
	})
	if e.hog != nil {
		e.hog.Close()
	}
}

// fill is a stall: the server stops, and floor 2 is full.
func (e *waiter) fill() {
	e.hold(0)
	harness.MustWrite(e.t, e.f, strings.Repeat("f", 8000-e.f.Buffered()))
	synctest.Wait()
}

// carry is a stall: the server stops inside the carrier's call.
func (e *waiter) carry() {
	e.hold(0)
	harness.MustWrite(e.t, e.f, "c")
	harness.Must(e.t, e.f.FlushAsync())
	synctest.Wait()
}

// inform is a stall: the server stops inside a 1xx, and no headers have gone.
func (e *waiter) inform() {
	e.hold(0)
	go e.f.WriteHeader(103)
	synctest.Wait()
}

// work is a stall: somebody has the turn on the stack, and waits.
func (e *waiter) work() {
	e.hold(0)
	harness.MustWrite(e.t, e.f, strings.Repeat("w", 20_000))
	go e.f.Top().Flush()
	synctest.Wait()
}

// happen brings the reason about.
func (e *waiter) happen(reason string) {
	breaks := func() {
		e.s.Mu.Lock()
		e.s.Fault = func([]byte, int) (int, error) { return 0, errWaitBroken }
		e.s.Mu.Unlock()
		e.conn.Set(func(c *harness.ConnState) { c.Err = errWaitBroken })
	}
	switch reason {
	case whyLives:
		time.AfterFunc(waitLimit-1, e.open)
	case whyMoves:
		time.AfterFunc(waitLimit-1, func() { e.hold(e.row.step) })
	case whyFails:
		time.AfterFunc(waitHappens, func() { breaks(); e.s.Release() })
	case whyLeaves:
		time.AfterFunc(waitHappens, func() { breaks(); e.leave(); e.s.Release() }) // whoever is woken finds it broken
	case whyHalfOpen:
		time.AfterFunc(waitHappens, e.leave)
		time.AfterFunc(waitLimit-1, e.open)
	case whyAborts:
		time.AfterFunc(waitHappens, func() { e.f.Abort(errWaitCause) })
	case whyCloses, whyClosesWell:
		time.AfterFunc(waitHappens, func() { e.f.Close() })
	case whyHijacks:
		time.AfterFunc(waitHappens, func() {
			if c, _, err := e.f.Hijack(); err == nil {
				c.Close()
			}
		})
	case whyCancels:
		time.AfterFunc(waitHappens, e.cancel)
	}
	if reason == whyClosesWell || reason == whyHijacks {
		time.AfterFunc(waitGoesOn, e.open)
	}
}

// tableCall is the call; its name marks the goroutine that waits.
func (e *waiter) tableCall() error { return e.row.call(e) }

// waitsIn reports whether the goroutine of the call waits in a function.
func waitsIn(name string) bool {
	stack := tableStack()
	return strings.Contains(stack, "."+name+"(") || strings.Contains(stack, "."+name+"[") // a generic one
}

// tableStack is where the goroutine of the call is.
func tableStack() string {
	for _, stack := range harness.Goroutines() {
		if strings.Contains(stack, ".tableCall(") {
			return stack
		}
	}
	return "nothing: it has returned"
}

// waitsWhere names the functions that the goroutine of the call is in.
func waitsWhere() string {
	var names []string
	for line := range strings.Lines(tableStack()) {
		if name, _, ok := strings.Cut(line, "("); ok && !strings.HasPrefix(line, "\t") {
			_, rest, _ := strings.Cut(strings.TrimPrefix(line, name), ").")
			names = append(names, name[strings.LastIndexByte(name, '/')+1:]+rest[:strings.IndexByte(rest+"(", '(')])
		}
	}
	return strings.Join(names, " < ")
}

// once makes the call once, under the reason.
func (e *waiter) once(reason string, deadlines bool) {
	e.t.Helper()
	e.row.stall(e)
	if e.row.own {
		e.ctx, e.cancel = context.WithCancel(context.Background())
	}
	type result struct {
		err error
		at  time.Duration
	}
	got, began := make(chan result, 1), time.Now()
	go func() {
		err := e.tableCall()
		got <- result{err, time.Since(began)}
	}()
	synctest.Wait()
	in := e.row.in[0]
	if !deadlines {
		in = e.row.in[1]
		stop := time.AfterFunc(waitLate, e.open)
		defer stop.Stop()
	}
	if reason == whyLives && !waitsIn(in) { // it is the same for all, and dear to find out
		e.t.Errorf("it does not wait in %s, but in %s", in, waitsWhere())
	}
	e.happen(reason)
	end := time.NewTimer(10 * waitLimit)
	defer end.Stop()
	want := e.row.outcomes(reason, deadlines)
	select {
	case r := <-got:
		if !slices.ContainsFunc(want, func(o waitOutcome) bool { return o.is(r.err, r.at, e.row.slack) }) {
			e.t.Errorf("%v, want %v", waitOutcome(r), want)
		}
		synctest.Wait()
	case <-end.C:
		e.t.Errorf("it has not ended, want %v", want)
		e.open()
		if r := <-got; r.err != nil {
			e.t.Logf("it ended after %v, once the server went on: %v", r.at, r.err)
		}
	}
	switch ferr := e.f.Err(); {
	case e.row.loose:
	case stays(reason, deadlines) && ferr != nil:
		e.t.Errorf("a failure sticks: %v", ferr)
	case deadlines && reason == whyRunsOut && !errors.Is(ferr, flush.ErrTimeout):
		e.t.Errorf("what sticks is %v", ferr)
	}
}

// stays reports whether the response lives on after the reason.
func stays(reason string, deadlines bool) bool {
	return reason == whyLives || reason == whyHalfOpen || reason == whyCancels || (reason == whyRunsOut || reason == whyMoves) && !deadlines
}

// settle is what is between two calls: all is down.
func (e *waiter) settle() {
	e.open()
	if !e.row.quiet {
		harness.Must(e.t, e.f.FlushWait(harness.NoContext))
	}
	synctest.Wait()
}

// Every wait ends for every reason, at the moment that the reason says and with
// its error; with deadlines of the server and without; and when the server
// stops once more after the response has lived on.
func TestWaits(t *testing.T) {
	for _, row := range waitRows() {
		for i, deadlines := range []bool{true, false} {
			if row.in[i] == "" {
				continue
			}
			for _, reason := range waitReasons {
				if row.outcomes(reason, deadlines) == nil {
					continue
				}
				for _, again := range []bool{false, true} {
					if again && row.once {
						continue
					}
					name := fmt.Sprintf("%s/%s/deadlines=%t/again=%t", row.name, reason, deadlines, again)
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							e, end := newWaiter(t, row, deadlines)
							defer end()
							defer e.open()
							if again {
								e.once(whyLives, deadlines)
								e.settle()
							}
							e.once(reason, deadlines)
							if again && stays(reason, deadlines) {
								e.settle()
								e.once(reason, deadlines)
							}
							e.settled(reason, deadlines)
						})
					})
				}
			}
		}
	}
}

// settled checks that nothing was lost of a response that lived on.
func (e *waiter) settled(reason string, deadlines bool) {
	e.t.Helper()
	if !stays(reason, deadlines) || e.row.loose || e.row.kind == forEnd {
		return
	}
	e.open()
	if err := e.f.Close(); err != nil && !errors.Is(err, flush.ErrClosed) {
		e.t.Errorf("Close: %v", err)
	} else if st := e.f.Stats(); st.Lost != 0 {
		e.t.Errorf("%d bytes were lost, and Close says %v", st.Lost, err)
	}
}

// file returns an open file of more than a block.
func (e *waiter) file() *os.File {
	f, _ := harness.TempFile(e.t, 10_000)
	return f
}

func (e *waiter) write(n int) error {
	_, err := e.f.Write(make([]byte, n))
	return err
}

func flushWait(e *waiter) error { return e.f.FlushWait(harness.NoContext) }

// held is a stall: the server stops, and a small write waits for a flush.
func (e *waiter) held() {
	e.hold(0)
	harness.MustWrite(e.t, e.f, "h")
}

// behind is a stall: a flush is under way in the carrier, and more is written.
func (e *waiter) behind() {
	e.carry()
	harness.MustWrite(e.t, e.f, "b")
}

// stream is a setup: headers are out.
func (e *waiter) stream() {
	harness.MustWrite(e.t, e.f, "first")
	harness.Must(e.t, e.f.FlushWait(harness.NoContext))
}

// over is a stall: floor 2 holds more than MaxPending, of a buffer.
func (e *waiter) over() {
	e.hold(0)
	harness.MustWrite(e.t, e.f, strings.Repeat("o", 20_000))
	harness.Must(e.t, e.f.FlushAsync())
	synctest.Wait()
}

// begun is a stall: a Write has begun, and cannot finish.
func (e *waiter) begun() {
	e.fill()
	go e.write(20_000)
	synctest.Wait()
}

// keep is a stall: another response, one that keeps up, holds all of the
// budget.
func (e *waiter) keep() {
	e.hog = flush.New(harness.NewTap(true), nil, &flush.Options{Budget: e.budget, BufferSize: 1 << 20, MaxPending: 1 << 20})
	harness.MustWrite(e.t, e.hog, strings.Repeat("k", 8000))
}

// waitRows is the table.
func waitRows() []*waitRow {
	full := flush.Options{Flush: flush.Async, MaxPending: 8000, BufferSize: 4000}
	open := func(o *flush.BufferOptions) func(e *waiter) { return func(e *waiter) { e.f.StartBuffer(o) } }
	put := func(n int) func(e *waiter) {
		return func(e *waiter) { e.hold(0); harness.MustWrite(e.t, e.f, strings.Repeat("p", n)) }
	}
	filtered := open(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }})
	rows := []*waitRow{
		// Writes.
		{name: "Write at MaxPending", in: [2]string{inRoom, inRoom}, opts: full, stall: (*waiter).fill,
			call: func(e *waiter) error { return e.write(100) }},
		{name: "Write at MaxPending, a large one", in: [2]string{inRoom, inRoom}, opts: full, stall: (*waiter).fill, step: 4100,
			call: func(e *waiter) error { return e.write(20_000) }},
		{name: "Write in line", in: [2]string{inPen, inPen}, kind: forPen, opts: full, stall: (*waiter).begun, step: 4100,
			call: func(e *waiter) error { return e.write(100) }},
		{name: "Write for the budget", in: [2]string{inBudget, inBudget}, kind: forBudget, opts: flush.Options{Flush: flush.Async}, stall: (*waiter).keep, loose: true,
			call: func(e *waiter) error { return e.write(100) },
			cells: map[string][]waitOutcome{
				// The end of the context may be the client's: the server is asked, which
				// needs no memory, but for one that only a carrier may call.
				whyHalfOpen: {{nil, waitHappens}, {nil, 0}}, whyHalfOpen + "/none": {{nil, waitLimit - 1}}, whyLeaves + "/none": {{flush.ErrTimeout, waitLimit}},
			}},
		{name: "Write of more than MaxPending", in: [2]string{inBulk, inRoom}, opts: full, stall: (*waiter).carry, step: 33_000,
			call: func(e *waiter) error { return e.write(100_000) }},
		{name: "Write beside Hijack", in: [2]string{inPen, inPen}, once: true, loose: true,
			stall: func(e *waiter) { e.held(); go hijack(e); synctest.Wait() },
			call:  func(e *waiter) error { return e.write(100) },
			cells: map[string][]waitOutcome{
				whyLives: {{http.ErrHijacked, waitLimit - 1}}, whyHalfOpen: {{http.ErrHijacked, waitLimit - 1}}, whyRunsOut: {{flush.ErrTimeout, waitLimit}},
				whyFails: {{flush.ErrClientGone, waitHappens}}, whyLeaves: {{flush.ErrClientGone, waitHappens}}, whyAborts: {{errWaitCause, waitHappens}},
				whyCloses: {{flush.ErrClosed, waitHappens}}, whyClosesWell: {{flush.ErrClosed, waitHappens}}, whyHijacks: nil, whyMoves: nil,
			}},
		{name: "Write through", in: [2]string{inServerCall, inSolo}, stall: func(e *waiter) { e.hold(0) }, step: 33_000,
			call: func(e *waiter) error { return e.write(70_000) }},
		{name: "Write, implicit flush", in: [2]string{inServerCall, inFlush}, opts: flush.Options{Implicit: flush.Wait}, stall: func(e *waiter) { e.hold(0) },
			call: func(e *waiter) error { return e.write(10) }},
		{name: "ReadFrom a file", in: [2]string{inServerCall, inSolo}, setup: (*waiter).stream, stall: func(e *waiter) { e.hold(0) },
			call: func(e *waiter) error { _, err := e.f.ReadFrom(e.file()); return err }},
		{name: "ReadFrom a file behind the carrier", in: [2]string{inBaton, ""}, kind: forBaton, stall: (*waiter).carry,
			call: func(e *waiter) error { _, err := e.f.ReadFrom(e.file()); return err }},
		{name: "ReadFrom a file in line", in: [2]string{inPen, inPen}, kind: forPen, opts: full, stall: (*waiter).begun,
			call: func(e *waiter) error { _, err := e.f.ReadFrom(e.file()); return err }},
		{name: "ReadFrom another source", in: [2]string{inRoom, inRoom}, opts: full, stall: (*waiter).fill,
			call: func(e *waiter) error { _, err := e.f.ReadFrom(strings.NewReader("source")); return err }},

		// Flushes.
		{name: "FlushWait, the plain way", in: [2]string{inPlain, inFlush}, setup: (*waiter).stream, stall: (*waiter).held, call: flushWait},
		{name: "FlushWait of several blocks", in: [2]string{inServerCall, inFlush}, opts: flush.Options{BufferSize: 20_000}, stall: put(10_000), step: 4100, call: flushWait},
		{name: "FlushWait behind the carrier", in: [2]string{inFlush, inFlush}, stall: (*waiter).behind, step: 2, call: flushWait},
		{name: "FlushWait with a context", in: [2]string{inFlush, inFlush}, stall: (*waiter).held, own: true,
			call: func(e *waiter) error { return e.f.FlushWait(e.ctx) }},
		{name: "FlushWait with a context behind the carrier", in: [2]string{inFlush, inFlush}, stall: (*waiter).behind, step: 2, own: true,
			call: func(e *waiter) error { return e.f.FlushWait(e.ctx) }},
		{name: "FlushError", in: [2]string{inServerCall, inFlush}, stall: (*waiter).held, call: func(e *waiter) error { return e.f.FlushError() }},
		{name: "flush.Flush", in: [2]string{inFlush, inFlush}, stall: (*waiter).behind, call: func(e *waiter) error { return flush.Flush(e.f, true) }},
		{name: "Flush", in: [2]string{inFlush, inFlush}, stall: (*waiter).behind,
			call: func(e *waiter) error { e.f.Flush(); return e.f.Err() },
			cells: map[string][]waitOutcome{ // it tells nothing but what sticks
				whyRunsOut + "/none": {{nil, waitLimit}}, whyCloses + "/none": {{nil, waitLimit}},
				whyHijacks: {{nil, waitGoesOn}},
			}},
		{name: "FlushWait through a buffer", in: [2]string{inRoom, inRoom}, opts: full, setup: open(&flush.BufferOptions{FollowFlush: true}), stall: put(20_000), step: 4100, call: flushWait},
		{name: "FlushWait with a context through a buffer", in: [2]string{inFlush, inFlush}, opts: full, setup: open(&flush.BufferOptions{FollowFlush: true}), stall: put(20_000), own: true,
			call: func(e *waiter) error { return e.f.FlushWait(e.ctx) }},
		{name: "FlushWait with a context through a buffer at MaxPending", in: [2]string{inFollow, inFollow}, kind: forPen, opts: full, setup: open(&flush.BufferOptions{FollowFlush: true}), stall: (*waiter).over, own: true,
			call: func(e *waiter) error { return e.f.FlushWait(e.ctx) }},
		{name: "FlushAll", in: [2]string{inServerCall, inFlush}, setup: open(nil), stall: put(10), call: func(e *waiter) error { return e.f.FlushAll(true) }},
		{name: "FlushAll of a large buffer", in: [2]string{inRoom, inRoom}, opts: full, setup: open(nil), stall: put(20_000), step: 4100,
			call: func(e *waiter) error { return e.f.FlushAll(true) }},
		{name: inAcked, in: [2]string{inAcked, inAcked}, kind: forAcks, own: true, slack: 50 * time.Millisecond, loose: true,
			stall: func(e *waiter) {
				e.conn.Set(func(c *harness.ConnState) { c.Unacked = 5 })
				harness.MustWrite(e.t, e.f, "acked")
			},
			call: func(e *waiter) error { return e.f.FlushAcked(e.ctx) }},

		// Headers.
		{name: "SendHeaders", in: [2]string{inServerCall, inFlush}, once: true, stall: func(e *waiter) { e.hold(0) }, call: func(e *waiter) error { return e.f.SendHeaders() }},
		{name: "SendHeaders behind a 1xx", in: [2]string{inBaton, inFlush}, kind: forBaton, once: true, stall: (*waiter).inform, call: func(e *waiter) error { return e.f.SendHeaders() }},
		{name: "Clean behind a 1xx", in: [2]string{inBehind, inBehind}, kind: forBaton, quiet: true, stall: (*waiter).inform, call: func(e *waiter) error { return e.f.Clean() },
			cells: map[string][]waitOutcome{whyFails: {{nil, waitHappens}}, whyLeaves: {{nil, waitHappens}}, // a 1xx cannot fail
				whyClosesWell: {{nil, waitGoesOn}, {flush.ErrClosed, waitGoesOn}, {flush.ErrClosed, waitHappens}, {flush.ErrHeadersSent, waitGoesOn}}}},
		{name: "a 1xx behind a 1xx", in: [2]string{inBaton, inBaton}, kind: forBaton, quiet: true, loose: true, stall: (*waiter).inform,
			call: func(e *waiter) error { e.f.WriteHeader(103); return nil },
			cells: map[string][]waitOutcome{ // it tells nothing
				whyRunsOut: {{nil, waitLimit}}, whyFails: {{nil, waitHappens}}, whyLeaves: {{nil, waitHappens}}, whyAborts: {{nil, waitHappens}},
				whyCloses: {{nil, waitLimit}, {nil, waitHappens}}, whyClosesWell: {{nil, waitGoesOn}, {nil, waitHappens}}, whyHijacks: {{nil, waitGoesOn}},
			}},
		{name: "Hijack", in: [2]string{inServerCall, ""}, kind: forBaton, once: true, stall: (*waiter).held, call: hijack},
		{name: "Hijack behind the carrier", in: [2]string{inBaton, inBaton}, kind: forBaton, once: true, stall: (*waiter).carry, call: hijack},

		// Buffers.
		{name: "Buffer.Flush", in: [2]string{inRoom, inRoom}, opts: full, setup: open(nil), stall: put(20_000), step: 4100,
			call: func(e *waiter) error { return e.f.Top().Flush() }},
		{name: "Buffer.Close", in: [2]string{inRoom, inRoom}, opts: full, stall: func(e *waiter) { e.f.StartBuffer(nil); put(20_000)(e) }, step: 4100,
			call: func(e *waiter) error { return e.f.Top().Close() }},
		{name: "Write into a buffer at MaxPending", in: [2]string{inPaid, inPaid}, opts: full, setup: open(&flush.BufferOptions{FollowFlush: true}), stall: (*waiter).over,
			call:  func(e *waiter) error { return e.write(100) },
			cells: map[string][]waitOutcome{whyClosesWell: {{nil, waitGoesOn}, {flush.ErrClosed, waitGoesOn}}}}, // Close may come first
		{name: "Write into a buffer that is owed", in: [2]string{inPaid, inPaid}, kind: forPen, opts: full, setup: open(&flush.BufferOptions{FollowFlush: true}),
			stall: func(e *waiter) { e.over(); harness.Must(e.t, e.f.FlushAsync()) },
			call:  func(e *waiter) error { return e.write(100) }},
		{name: "a filter behind a 1xx", in: [2]string{inFilter, inFilter}, kind: forBaton, once: true, loose: true, setup: open(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }}),
			stall: func(e *waiter) { harness.MustWrite(e.t, e.f, "f"); e.inform() },
			call:  func(e *waiter) error { return e.f.Top().Flush() },
			cells: map[string][]waitOutcome{ // its bytes stay on floor 2
				whyFails: {{nil, waitHappens}}, whyLeaves: {{nil, waitHappens}},
				whyRunsOut + "/none": {{nil, waitLimit}}, whyCloses + "/none": {{nil, waitLimit}, {flush.ErrClosed, waitHappens}},
			}},
		{name: "FlushWait through a filter behind a 1xx", in: [2]string{inFollow, inFollow}, kind: forBaton, own: true, once: true, loose: true, setup: filtered,
			stall: func(e *waiter) { harness.MustWrite(e.t, e.f, "f"); e.inform() },
			call:  func(e *waiter) error { return e.f.FlushWait(e.ctx) },
			cells: map[string][]waitOutcome{ // the client is shown what is due, for a second
				whyAborts: {{errWaitCause, waitHappens + time.Second}}, whyAborts + "/none": {{errWaitCause, waitHappens}},
			}},
		{name: "FlushWait through a filter behind a Hijack", in: [2]string{inFollow, inFollow}, kind: forBaton, own: true, once: true, loose: true, setup: filtered,
			stall: func(e *waiter) {
				e.f.Top().Discard()
				e.held()
				filtered(e)
				harness.MustWrite(e.t, e.f, "f")
				go hijack(e)
				synctest.Wait()
			},
			call: func(e *waiter) error { return e.f.FlushWait(e.ctx) },
			cells: map[string][]waitOutcome{
				whyLives: {{http.ErrHijacked, waitLimit - 1}}, whyHalfOpen: {{http.ErrHijacked, waitLimit - 1}}, whyRunsOut: {{flush.ErrTimeout, waitLimit}},
				whyFails: {{flush.ErrClientGone, waitHappens}}, whyLeaves: {{flush.ErrClientGone, waitHappens}}, whyAborts: {{errWaitCause, waitHappens}},
				whyCloses: {{flush.ErrClosed, waitHappens}}, whyClosesWell: {{flush.ErrClosed, waitHappens}}, whyHijacks: nil, whyMoves: nil,
			}},
		{name: "Write through a buffer", in: [2]string{inRoom, inRoom}, opts: full, setup: open(&flush.BufferOptions{ChunkSize: 1}), stall: func(e *waiter) { e.hold(0) }, step: 4100,
			call: func(e *waiter) error { return e.write(20_000) }},
		{name: "Close, whose buffers are full", in: [2]string{inRoom, inRoom}, kind: forEnd, once: true, loose: true, opts: full, setup: open(nil), stall: put(20_000), step: 4100,
			call: func(e *waiter) error { return e.f.Close() },
			cells: map[string][]waitOutcome{ // what is left may stay queued, or the response is cut
				whyRunsOut + "/none": {{harness.ErrAny, waitLate}}, whyMoves + "/none": {{harness.ErrAny, waitLate}}, whyCloses + "/none": {{harness.ErrAny, waitLate}}, whyHijacks: nil,
			}},

		// The end.
		{name: "Close", in: [2]string{inServerCall, inServerCall}, kind: forEnd, once: true, opts: flush.Options{BufferSize: 20_000}, stall: put(10_000), step: 4100,
			call: func(e *waiter) error { return e.f.Close() }},
		{name: "Close behind the carrier", in: [2]string{inRest, inRest}, kind: forEnd, once: true, stall: (*waiter).behind, step: 2,
			call: func(e *waiter) error { return e.f.Close() }},
		{name: "Close for a begun Write", in: [2]string{inComplete, inComplete}, kind: forEnd, once: true, opts: full, stall: (*waiter).begun, step: 4100,
			call: func(e *waiter) error { return e.f.Close() }, loose: true,
			cells: map[string][]waitOutcome{ // the Write ends, cut
				whyRunsOut + "/none": {{harness.ErrAny, waitLate}}, whyMoves + "/none": {{harness.ErrAny, waitLate}}, whyCloses + "/none": {{harness.ErrAny, waitLate}},
			}},
		{name: "a second Close", in: [2]string{inFinish, inFinish}, kind: forEnd, once: true, stall: func(e *waiter) { e.held(); go e.f.Close(); synctest.Wait() },
			call: func(e *waiter) error { return e.f.Close() }},
		{name: "Close, while the client's kernel drains", in: [2]string{inDrain, ""}, kind: forEnd, once: true, slack: 50 * time.Millisecond,
			stall: func(e *waiter) { // the client has looked stalled
				e.conn.Set(func(c *harness.ConnState) { c.Room = 4000 })
				e.hold(0)
				harness.MustWrite(e.t, e.f, strings.Repeat("d", 3000))
				time.AfterFunc(waitLimit/2, e.s.Release)
				harness.Must(e.t, e.f.FlushWait(harness.NoContext))
				e.conn.Set(func(c *harness.ConnState) { c.Unacked = 3000 })
			},
			call: func(e *waiter) error { return e.f.Close() },
			cells: map[string][]waitOutcome{ // all has been handed over, whatever becomes of it
				whyFails: {{harness.ErrAny, waitHappens}}, whyLeaves: {{harness.ErrAny, waitHappens}},
			}},
		{name: "Abort", in: [2]string{"", inJoin}, kind: forEnd, once: true, loose: true, stall: (*waiter).behind,
			call: func(e *waiter) error { e.f.Abort(errWaitCause); return e.f.Err() },
			cells: map[string][]waitOutcome{
				whyLives: {{errWaitCause, waitLimit - 1}}, whyHalfOpen: {{errWaitCause, waitLimit - 1}}, whyRunsOut: {{errWaitCause, waitLate}}, whyCloses: {{errWaitCause, waitLate}},
				whyFails: {{errWaitCause, waitHappens}}, whyLeaves: {{errWaitCause, waitHappens}}, whyClosesWell: {{errWaitCause, waitGoesOn}}, whyHijacks: nil, whyMoves: nil,
			}},
	}
	// What waits for the turn is one row a call.
	for name, call := range map[string]func(e *waiter) error{
		"Buffer.Flush":   func(e *waiter) error { return e.f.Top().Flush() },
		"Buffer.Clean":   func(e *waiter) error { return e.f.Top().Clean() },
		"FlushAll":       func(e *waiter) error { return e.f.FlushAll(true) },
		"Buffer.Close":   func(e *waiter) error { return e.f.Top().Close() },
		"Buffer.Discard": func(e *waiter) error { return e.f.Top().Discard() },
		"Write":          func(e *waiter) error { return e.write(100) },
		"FlushWait":      flushWait,
	} {
		row := &waitRow{name: name + " for the turn", in: [2]string{inTurn, inTurn}, kind: forTurn, opts: full, stall: (*waiter).work, call: call}
		row.setup = open(&flush.BufferOptions{FollowFlush: true})
		row.once = name == "Buffer.Close" || name == "Buffer.Discard"
		if name == "Write" {
			row.setup = open(nil) // else it waits for room before
		}
		rows = append(rows, row)
	}
	rows = append(rows, &waitRow{name: "StartBuffer for the turn", in: [2]string{inTurn, inTurn}, kind: forTurn, opts: full, setup: open(nil), stall: (*waiter).work, once: true,
		call: func(e *waiter) error {
			b := e.f.StartBuffer(nil)
			if b.Status().Level < 0 {
				return b.Close()
			}
			return nil
		},
		cells: map[string][]waitOutcome{ // it may open a buffer for what comes after a failure
			whyRunsOut: {{harness.ErrAny, waitLimit}}, whyFails: {{harness.ErrAny, waitHappens}}, whyLeaves: {{harness.ErrAny, waitHappens}}, whyCloses: {{harness.ErrAny, waitLimit}, {flush.ErrClosed, waitHappens}},
		}})
	for _, row := range rows {
		if strings.Contains(row.name, "Flush") && strings.Contains(row.name, "buffer") && row.kind == forBytes {
			// Once the bytes are out of the buffer Close may come first, and hands them over.
			row.cells = map[string][]waitOutcome{whyClosesWell: {{nil, waitGoesOn}, {flush.ErrClosed, waitGoesOn}}}
		}
	}
	slices.SortStableFunc(rows, func(a, b *waitRow) int { return strings.Compare(a.name, b.name) })
	return rows
}

func hijack(e *waiter) error {
	c, _, err := e.f.Hijack()
	if err == nil {
		c.Close()
	}
	return err
}

// FlushAsync never waits, whatever stands in its way, and what it asked for is
// done once the server goes on. Nor do Close for a Write that waits for the
// budget, and Abort where the server has deadlines.
func TestNeverWaits(t *testing.T) {
	full := flush.Options{Flush: flush.Async, MaxPending: 8000, BufferSize: 4000}
	follow := func(e *waiter) { e.f.StartBuffer(&flush.BufferOptions{FollowFlush: true}) }
	large := func(e *waiter) { e.hold(0); harness.MustWrite(e.t, e.f, strings.Repeat("l", 200_000)) }
	for _, row := range []*waitRow{
		{name: "FlushAsync behind the carrier", opts: full, stall: (*waiter).behind, call: func(e *waiter) error { return e.f.FlushAsync() }},
		{name: "FlushAsync at MaxPending", opts: full, stall: (*waiter).fill, call: func(e *waiter) error { return e.f.FlushAsync() }},
		{name: "FlushAsync behind a Write", opts: full, goesOn: true, stall: (*waiter).begun, call: func(e *waiter) error { return e.f.FlushAsync() }},
		{name: "FlushAsync through a buffer", opts: full, setup: follow, stall: large, call: func(e *waiter) error { return e.f.FlushAsync() }},
		{name: "flush.Flush through a buffer", opts: full, setup: follow, stall: large, call: func(e *waiter) error { return flush.Flush(e.f, false) }},
		{name: "FlushError through a buffer", opts: full, setup: follow, stall: large, call: func(e *waiter) error { return e.f.FlushError() }},
		{name: "FlushAll(false) of a large buffer", opts: full, setup: follow, stall: large, call: func(e *waiter) error { return e.f.FlushAll(false) }},
		{name: "FlushAll(false) at MaxPending", opts: full, setup: follow, stall: (*waiter).over, call: func(e *waiter) error { return e.f.FlushAll(false) }},
		{name: "FlushAsync through a buffer at MaxPending", opts: full, setup: follow, stall: (*waiter).over, call: func(e *waiter) error { return e.f.FlushAsync() }},
		{name: "FlushAsync beside the one who works on the buffers", opts: full, setup: follow, stall: (*waiter).work, call: func(e *waiter) error { return e.f.FlushAsync() }},
		{name: "SetImplicit", opts: full, stall: (*waiter).begun, call: func(e *waiter) error { e.f.SetImplicit(flush.Off); return nil }},
		{name: "state", opts: full, stall: (*waiter).begun, call: func(e *waiter) error {
			e.f.Stats()
			e.f.Buffered()
			e.f.Available()
			e.f.HeadersSent()
			e.f.Header()
			e.f.Level()
			e.f.Top()
			e.f.CloseNotify()
			return e.f.Err()
		}},
	} {
		for _, deadlines := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/deadlines=%t", row.name, deadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, end := newWaiter(t, row, deadlines)
					defer end()
					defer e.open()
					for range 2 {
						row.stall(e)
						asked := e.f.Stats().Bytes + int64(e.f.Buffered())
						began := time.Now()
						done := make(chan struct{})
						go func() {
							defer close(done)
							if err := row.call(e); err != nil {
								t.Error(err)
							}
							if took := time.Since(began); took != 0 {
								t.Errorf("it took %v", took)
							}
						}()
						synctest.Wait()
						select {
						case <-done:
						case <-time.After(waitLimit - 1):
						}
						e.open()
						<-done
						synctest.Wait()
						left := e.f.Buffered()
						if row.goesOn {
							left = int(asked - e.f.Stats().Bytes)
						}
						if strings.Contains(row.name, "Flush") && left > 0 {
							t.Errorf("%d bytes are left, and nobody carries them", left)
						}
					}
				})
			})
		}
	}
}

// Where an end must not wait for a Write: that one ends, and the response is
// cut.
func TestCloseEndsTheWaitForTheBudget(t *testing.T) {
	for _, deadlines := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			row := &waitRow{kind: forBudget, opts: flush.Options{Flush: flush.Async}}
			e, end := newWaiter(t, row, deadlines)
			defer end()
			defer e.open()
			e.keep()
			wrote := make(chan error, 1)
			go func() { wrote <- e.write(100) }()
			synctest.Wait()
			began := time.Now()
			stop := time.AfterFunc(waitLate, e.open)
			defer stop.Stop()
			err := e.f.Close()
			if took := time.Since(began); err == nil || took != 0 {
				t.Errorf("deadlines %t: Close: %v after %v, and a Write that had begun did not finish", deadlines, err, took)
			}
			if err := <-wrote; !errors.Is(err, flush.ErrClosed) {
				t.Errorf("deadlines %t: Write: %v", deadlines, err)
			}
		})
	}
}
