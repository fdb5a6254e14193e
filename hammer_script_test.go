package flush_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fa492104/flush"
)

// A feature is something that a seed may have. What a seed is left without does
// not change the rest of it.
type feature uint64

const (
	hasTryWrite feature = 1 << iota
	hasReadFrom
	hasFlushAll
	hasSendHeaders
	hasClean
	hasImplicit
	hasDeadline
	hasDuplex
	hasHijack
	hasBuffers
	hasFilters
	hasFilterFaults
	hasFilterCalls
	hasFilterAborts
	hasFollow
	hasAbort
	hasClose
	hasPanic
	hasEarly
	hasSlow
	hasStall
	hasFail
	hasRefuse
	hasShort
	hasServerPanic
	hasNoDeadline
	hasSendfile
	hasNoFlush
	hasInterval
	hasBudget
	hasBody
	hasHTTP10
	hasHead
	hasLength
	hasStatus
	hasLeave
	hasWriteTimeout
	hasSAPI
	hasPush
	hasConn
	hasBroadcast
)

// features says how many of 100 seeds have each.
var features = []struct {
	feature
	name  string
	of100 int
	what  string
}{
	{hasTryWrite, "trywrite", 50, "TryWrite"},
	{hasReadFrom, "readfrom", 30, "ReadFrom a file and a reader"},
	{hasFlushAll, "flushall", 40, "FlushAll"},
	{hasSendHeaders, "sendheaders", 30, "SendHeaders"},
	{hasClean, "clean", 20, "Flusher.Clean"},
	{hasImplicit, "implicit", 30, "SetImplicit and Options.Implicit"},
	{hasDeadline, "deadline", 20, "SetWriteDeadline"},
	{hasDuplex, "duplex", 20, "EnableFullDuplex"},
	{hasHijack, "hijack", 15, "Hijack"},
	{hasBuffers, "buffers", 45, "StartBuffer and what a Buffer can do"},
	{hasFilters, "filters", 80, "buffers have filters"},
	{hasFilterFaults, "filterfaults", 30, "filters that fail and panic"},
	{hasFilterCalls, "filtercalls", 50, "filters that write and flush"},
	{hasFilterAborts, "filteraborts", 15, "filters that abort"},
	{hasFollow, "follow", 50, "FollowFlush"},
	{hasAbort, "abort", 25, "Abort"},
	{hasClose, "close", 30, "Close before the end"},
	{hasPanic, "panic", 20, "handlers that panic or exit"},
	{hasEarly, "early", 25, "the handler returns while others write"},
	{hasSlow, "slow", 70, "calls of the server take a moment"},
	{hasStall, "stall", 30, "calls of the server stall for good"},
	{hasFail, "fail", 20, "calls of the server fail"},
	{hasRefuse, "refuse", 20, "http.ErrContentLength from the server"},
	{hasShort, "short", 10, "the server takes less and says nil"},
	{hasServerPanic, "serverpanic", 10, "the server's writer panics"},
	{hasNoDeadline, "nodeadline", 30, "a server without deadlines"},
	{hasSendfile, "sendfile", 60, "a server with ReadFrom"},
	{hasNoFlush, "noflush", 8, "a server that cannot flush"},
	{hasInterval, "interval", 25, "FlushInterval"},
	{hasBudget, "budget", 30, "a Budget, and up to three responses"},
	{hasBody, "body", 15, "a request body that has not been read"},
	{hasHTTP10, "http10", 15, "HTTP/1.0, held back or not"},
	{hasHead, "head", 4, "HEAD"},
	{hasLength, "length", 10, "a declared Content-Length"},
	{hasStatus, "status", 15, "WriteHeader, 1xx and 204"},
	{hasLeave, "leave", 15, "the server's context ends"},
	{hasWriteTimeout, "writetimeout", 12, "http.Server.WriteTimeout"},
	{hasSAPI, "sapi", 15, "another profile"},
	{hasPush, "push", 10, "Push"},
	{hasConn, "conn", 20, "a known connection, whose kernel may see that a client moves that stalls"},
	{hasBroadcast, "broadcast", 20, "Broadcast of a Group"},
}

func featureNames() (names []string) {
	for _, f := range features {
		names = append(names, f.name)
	}
	return names
}

func (f feature) String() string {
	var names []string
	for _, one := range features {
		if f&one.feature != 0 {
			names = append(names, one.name)
		}
	}
	return strings.Join(names, " ")
}

func parseFeatures(list string) (all feature, err error) {
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(featureNames(), name)
		switch {
		case i >= 0:
			all |= features[i].feature
		case name != "":
			return 0, fmt.Errorf("no feature is called %q", name)
		}
	}
	return all, nil
}

// A hammerScript is all that a seed settles.
type hammerScript struct {
	seed    uint64
	has     feature
	budget  *flush.Budget
	replies []replyScript
}

// A replyScript is what happens to one response.
type replyScript struct {
	seed      uint64
	handler   bool // under NewHandler; else New
	noRequest bool // New with r nil
	http2     bool
	opts      flush.Options
	write     time.Duration // http.Server.WriteTimeout
	moves     time.Duration // how long a client that stalls still moves, as the kernel of a known connection sees it
	length    int           // declared; 0: not
	flushes   int           // how the server does: 0 not, 1 without an error, 2 with one
	hijacks   bool
	faults    map[int]fault
	workers   [][]op
	early     time.Duration // -1: the handler waits for its workers
	quiet     bool          // wait at the end, and see that all has been flushed
	ending    hammerEnd
	leaves    time.Duration // -1: never
	body      []time.Duration
	bodyEnds  bool // or else it stalls
}

type hammerEnd int

const (
	endsReturn hammerEnd = iota
	endsClose
	endsAbort
	endsPanic
	endsErrAbort
	endsGoexit
)

func (e hammerEnd) String() string {
	return [...]string{"return", "Close", "Abort", "panic", "panic(ErrAbortHandler)", "Goexit"}[e]
}

// A fault is what one call of the server does wrong.
type fault int

const (
	faultNone fault = iota
	faultSlow
	faultStall
	faultFail
	faultRefuse
	faultShort
	faultPanic
)

// An op is one thing that a goroutine does.
type op struct {
	kind  opKind
	pause time.Duration // before
	size  int
	d     time.Duration
	n     int
	seed  uint64
}

type opKind int

const (
	opWrite opKind = iota
	opWriteString
	opTryWrite
	opReadFile
	opReadReader
	opFlush
	opFlushError
	opFlushAsync
	opFlushWait
	opFlushCtx
	opFlushCancel
	opFlushFront
	opFlushAll
	opSendHeaders
	opClean
	opImplicit
	opDeadline
	opDuplex
	opHijack
	opStart
	opBufFlush
	opBufClean
	opBufClose
	opBufDiscard
	opAbort
	opClose
	opStatus
	opInform
	opReadBody
	opRoll
	opPush
	opBroadcast
	opFlushAcked
	opLook
)

var ops = []struct {
	opKind
	name   string
	weight int
	needs  feature
}{
	{opWrite, "Write", 24, 0},
	{opWriteString, "WriteString", 6, 0},
	{opTryWrite, "TryWrite", 6, hasTryWrite},
	{opReadFile, "ReadFrom(file)", 2, hasReadFrom},
	{opReadReader, "ReadFrom(reader)", 2, hasReadFrom},
	{opFlush, "Flush", 2, 0},
	{opFlushError, "FlushError", 2, 0},
	{opFlushAsync, "FlushAsync", 10, 0},
	{opFlushWait, "FlushWait", 5, 0},
	{opFlushCtx, "FlushWait(timeout)", 2, 0},
	{opFlushCancel, "FlushWait(cancel)", 1, 0},
	{opFlushFront, "flush.Flush", 3, 0},
	{opFlushAll, "FlushAll", 4, hasFlushAll},
	{opSendHeaders, "SendHeaders", 2, hasSendHeaders},
	{opClean, "Clean", 2, hasClean},
	{opImplicit, "SetImplicit", 2, hasImplicit},
	{opDeadline, "SetWriteDeadline", 3, hasDeadline},
	{opDuplex, "EnableFullDuplex", 2, hasDuplex},
	{opHijack, "Hijack", 1, hasHijack},
	{opStart, "StartBuffer", 4, hasBuffers},
	{opBufFlush, "Buffer.Flush", 4, hasBuffers},
	{opBufClean, "Buffer.Clean", 1, hasBuffers},
	{opBufClose, "Buffer.Close", 2, hasBuffers},
	{opBufDiscard, "Buffer.Discard", 1, hasBuffers},
	{opAbort, "Abort", 1, hasAbort},
	{opClose, "Close", 1, hasClose},
	{opStatus, "WriteHeader", 1, hasStatus},
	{opInform, "WriteHeader(103)", 1, hasStatus},
	{opReadBody, "Body.Read", 4, hasBody},
	{opRoll, "SetWriteDeadline, again and again", 1, hasDeadline},
	{opPush, "Push", 2, hasPush},
	{opBroadcast, "Broadcast", 6, hasBroadcast},
	{opFlushAcked, "FlushAcked", 2, hasConn},
	{opLook, "Stats", 2, 0},
}

func (k opKind) String() string { return ops[k].name }

func (k opKind) needs() feature { return ops[k].needs }

var opWeights = func() (all []opKind) {
	for _, o := range ops {
		for range o.weight {
			all = append(all, o.opKind)
		}
	}
	return all
}()

func newHammerScript(seed uint64, without feature) hammerScript {
	rnd := rand.New(rand.NewPCG(seed, 0x68616d6d6572))
	s := hammerScript{seed: seed}
	for _, f := range features {
		if rnd.IntN(100) < f.of100 {
			s.has |= f.feature
		}
	}
	s.has &^= without
	blocks := int64(2 + rnd.IntN(12))
	soft := rnd.Int64N(blocks)
	n := 1 + rnd.IntN(3)
	if s.has&hasBudget != 0 {
		s.budget = flush.NewBudget(soft*4096, blocks*4096)
	} else {
		n = 1
	}
	for i := range n {
		s.replies = append(s.replies, newReplyScript(rand.New(rand.NewPCG(seed, uint64(i+1))), s.has, s.budget))
	}
	return s
}

func newReplyScript(rnd *rand.Rand, has feature, budget *flush.Budget) replyScript {
	pick := func(of ...int) int { return of[rnd.IntN(len(of))] }
	// given draws whether or not the seed has the feature.
	given := func(f feature, v int) int {
		if has&f == 0 {
			return 0
		}
		return v
	}
	r := replyScript{
		seed:    rnd.Uint64(),
		handler: rnd.IntN(3) > 0,
		http2:   rnd.IntN(4) == 0,
		opts: flush.Options{
			Flush:         flush.Mode(rnd.IntN(4)),
			Implicit:      flush.Mode(given(hasImplicit, pick(0, 0, int(flush.Async), int(flush.Wait)))),
			BufferSize:    pick(-1, 1, 50, 0, 0, 5000, 20000),
			MaxPending:    pick(1, 100, 5000, 10000, 0),
			SendTimeout:   time.Duration(pick(-1, 0, 20, 20, 200)) * time.Millisecond,
			FlushInterval: time.Duration(given(hasInterval, pick(1, 5, 50))) * time.Millisecond,
			HTTP10Buffer:  given(hasHTTP10, pick(0, 100, 10000)),
			Budget:        budget,
		},
		write:   time.Duration(given(hasWriteTimeout, pick(10, 100))) * time.Millisecond,
		length:  given(hasLength, 1+rnd.IntN(20000)),
		flushes: pick(1, 2, 2, 2),
		hijacks: true,
		faults:  make(map[int]fault),
		early:   -1,
		leaves:  -1,
		quiet:   rnd.IntN(3) > 0,
	}
	r.noRequest = rnd.IntN(3) == 0
	if has&hasNoFlush != 0 {
		r.flushes = 0
	}
	if has&hasNoDeadline != 0 {
		r.write = 0
	}
	if d := time.Duration(pick(0, 1, 10, 70)) * time.Millisecond; has&hasConn != 0 {
		r.moves = d
	}
	sapis := []flush.SAPI{flush.OpenResty(), flush.CLI(), flush.FastCGI(), flush.Embed()}
	if sapi := sapis[rnd.IntN(len(sapis))]; has&hasSAPI != 0 {
		r.opts.SAPI = sapi
	}
	for _, f := range []struct {
		feature
		fault
		most, among int
	}{
		{hasStall, faultStall, 2, 30}, {hasFail, faultFail, 1, 40}, {hasRefuse, faultRefuse, 2, 30},
		{hasShort, faultShort, 1, 40}, {hasServerPanic, faultPanic, 1, 30},
	} {
		for range f.most {
			if at := rnd.IntN(f.among); has&f.feature != 0 {
				r.faults[at] = f.fault
			}
		}
	}
	if at := rnd.IntN(20); rnd.IntN(3) == 0 && has&hasServerPanic != 0 && has&hasRefuse != 0 {
		r.faults[at], r.faults[at+1] = faultRefuse, faultPanic // a write, and the flush that follows it
	}
	for range 2 + rnd.IntN(3) {
		var script []op
		for range 8 + rnd.IntN(25) {
			o := op{
				kind:  opWeights[rnd.IntN(len(opWeights))],
				pause: time.Duration(pick(0, 0, 0, 1, 3, 10, 200, 2000)*rnd.IntN(50)) * time.Nanosecond * 10,
				size:  pick(4, 5, 10, 30, 100, 100, 1000, 4096),
				d:     time.Duration(pick(0, 1, 5, 1000, 20000)) * time.Microsecond,
				n:     rnd.IntN(1 << 20),
				seed:  rnd.Uint64(),
			}
			if o.size > 30 {
				o.size = 4 + rnd.IntN(o.size)
			}
			if rnd.IntN(25) == 0 {
				o.size = 4 + rnd.IntN(12000)
			}
			if rnd.IntN(300) == 0 {
				o.size = 40000 + rnd.IntN(60000)
			}
			script = append(script, o)
		}
		r.workers = append(r.workers, script)
	}
	if d := time.Duration(rnd.IntN(300)) * time.Microsecond; has&hasEarly != 0 {
		r.early = d
	}
	end := hammerEnd(pick(0, 0, 0, 1, 1, 2))
	if bad := hammerEnd(pick(0, 3, 4, 5)); has&hasPanic != 0 && bad != endsReturn {
		end = bad
	}
	if end == endsAbort && has&hasAbort == 0 {
		end = endsReturn
	}
	r.ending = end
	if d := time.Duration(rnd.IntN(500)) * time.Microsecond; has&hasLeave != 0 {
		r.leaves = d
	}
	pieces := 1 + rnd.IntN(4)
	r.bodyEnds = rnd.IntN(3) > 0
	for range pieces {
		if d := time.Duration(rnd.IntN(400)) * time.Microsecond; has&hasBody != 0 {
			r.body = append(r.body, d)
		}
	}
	if has&(hasNoDeadline|hasNoFlush) != 0 {
		r.body = nil // net/http, which drains, has deadlines and flushes
	}
	if r.opts.SendTimeout < 0 {
		r.bodyEnds = true // nothing would end the wait
	}
	if r.body != nil {
		r.noRequest, r.http2 = false, false
	}
	if has&(hasHTTP10|hasHead|hasLeave|hasConn) != 0 {
		r.noRequest = false
	}
	if has&hasHTTP10 != 0 {
		r.http2 = false
	}
	return r
}

func (r *replyScript) method(has feature) string {
	if has&hasHead != 0 {
		return http.MethodHead
	}
	if len(r.body) > 0 {
		return http.MethodPost
	}
	return http.MethodGet
}
