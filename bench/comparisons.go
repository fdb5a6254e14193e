package main

import (
	"net/http"

	"github.com/fa492104/flush"
)

// The promises are in limit. What a run misses its table says, with what is known;
// ci then keeps it from becoming worse.
var comparisons = []comparison{
	{name: "sync flush", what: "write + flush of one event that the client waits for", unit: "ns", pairs: 200, short: 30, n: [2]int{50, 50}, open: waitedFor(0), limit: 1.05, ci: 1.3, why: syncWhy},
	{name: "sync flush, 1 wrapper", what: "the same below one wrapper", unit: "ns", pairs: 100, short: 30, n: [2]int{50, 50}, open: waitedFor(1), limit: 1.05, ci: 1.3, why: syncWhy},
	{name: "sync flush, 2 wrappers", what: "the same below two wrappers", unit: "ns", pairs: 100, short: 30, n: [2]int{50, 50}, open: waitedFor(2), limit: 1.05, ci: 1.3, why: syncWhy},
	{name: "sync flush, busy client", what: "the same in a loop; the client has the same core and is not woken each time", unit: "ns", pairs: 100, short: 30, n: [2]int{50, 50}, size: 20, open: together(syncFlush(0, false)), allocs: true},
	{name: "detached flush", what: "write + flush of one event that the client waits for, on a detached response whose handler has returned", unit: "ns", pairs: 200, short: 30, n: [2]int{50, 50}, open: waitedForDetached, limit: 1, ci: 1.4, why: wireWhy},
	{name: "burst", what: "write + FlushAsync against write + flush, in a loop", unit: "events/s", pairs: 200, short: 30, n: [2]int{1, 1}, size: 100000, open: apart(fastest(false)), rate: true, limit: 50, ci: 15, allocs: true},
	{name: "burst, one core", what: "the same; the client has the same core and is not woken each time", unit: "events/s", pairs: 100, n: [2]int{1, 1}, open: together(fastest(false)), rate: true},
	{name: "burst, CPU", what: "the same as a whole response, to a client in another process: processor time of the server for an event", unit: "ns", pairs: 40, n: [2]int{1, 1}, open: apart(versus(processorOf(burstEvents, burst)))},
	{name: "paced, p50", what: "an event a millisecond, ConnContext set: from the write to the client", unit: "ns", pairs: 60, short: 10, n: [2]int{50, 50}, open: apart(pair(netHTTP, known(oursAsync), pacedP50)), limit: 1.05, ci: 1.4, why: paceWhy},
	{name: "paced, p50, unknown", what: "the same without ConnContext: a carrier for each event", unit: "ns", pairs: 60, n: [2]int{50, 50}, open: apart(versus(pacedP50))},
	{name: "paced, CPU", what: "the same, ConnContext set: processor time of the server for an event", unit: "ns", pairs: 30, n: [2]int{100, 100}, open: apart(pair(netHTTP, known(oursAsync), processorOf(1, pacedP50)))},
	{name: "paced, CPU, unknown", what: "the same without ConnContext", unit: "ns", pairs: 30, n: [2]int{100, 100}, open: apart(versus(processorOf(1, pacedP50)))},
	{name: "proxied tokens, CPU", what: "ReverseProxy of 50 streams of a token each 10 ms, ConnContext set, against the proxy alone: processor time for a token", unit: "ns", pairs: 20, short: 3, n: [2]int{1, 1}, open: apart(pair(proxies[0], known(proxies[1]), processorOf(tokenStreams*tokensEach, tokens))), limit: 1.05, ci: 1.6, why: paceWhy},
	{name: "proxied tokens, CPU, unknown", what: "the same without ConnContext", unit: "ns", pairs: 20, n: [2]int{1, 1}, open: apart(pair(proxies[0], proxies[1], processorOf(tokenStreams*tokensEach, tokens)))},
	{name: "bulk", what: "64 MiB in writes of 1 MiB, no flush", unit: "ns", pairs: 40, short: 6, n: [2]int{1, 1}, opens: 10, open: apart(pair(netHTTP, oursSync, bulk)), limit: 1.05, ci: 1.4, why: bulkWhy},
	{name: "bulk, CPU", what: "the same: processor time of the server for a write", unit: "ns", pairs: 40, short: 6, n: [2]int{1, 1}, opens: 10, open: apart(pair(netHTTP, oursSync, processorOf(bulkWrites, bulk))), limit: 1.05, ci: 1.4, why: bulkWhy},
	{name: "bulk, async", what: "the same in the background", unit: "ns", pairs: 40, short: 6, n: [2]int{1, 1}, opens: 10, open: apart(pair(netHTTP, background, bulk)), limit: 1.05, ci: 1.5, why: asyncWhy},
	{name: "bulk, async, CPU", what: "the same: processor time of the server for a write", unit: "ns", pairs: 40, short: 6, n: [2]int{1, 1}, opens: 10, open: apart(pair(netHTTP, background, processorOf(bulkWrites, bulk))), limit: 1.05, ci: 1.5, why: asyncWhy},
	{name: "paced, p50, any core", what: "the same; the system chooses the client's core", unit: "ns", pairs: 60, n: [2]int{50, 50}, open: versus(pacedP50)},
	{name: "paced, p99", what: "the same at the 99th percentile", unit: "ns", pairs: 20, n: [2]int{200, 200}, open: versus(pacedP99)},
	{name: "short response", what: "256 bytes and their request, on a kept connection", unit: "ns", pairs: 200, short: 30, n: [2]int{50, 50}, open: exchanges(http.HandlerFunc(shortResponse), nil), limit: 1.05, ci: 1.5, why: shortWhy},
	{name: "sendfile", what: "http.ServeFile of 8 MiB", unit: "ns", pairs: 200, short: 30, n: [2]int{3, 3}, opens: 10, open: sendFile, limit: 1.05, ci: 1.4, why: fileWhy},
	{name: "large writes", what: "8 MiB in writes of 32 KiB", unit: "ns", pairs: 100, n: [2]int{3, 3}, opens: 10, open: exchanges(http.HandlerFunc(largeWrites), nil)},
	{name: "large writes, async", what: "the same in the background", unit: "ns", pairs: 100, n: [2]int{3, 3}, opens: 10, open: exchanges(http.HandlerFunc(largeWrites), &flush.Options{Flush: flush.Async})},
	{name: "HTTP/2 sync flush", what: "write + flush, in a loop", unit: "ns", pairs: 100, n: [2]int{50, 50}, size: 20, open: apart(syncFlush(0, true))},
	{name: "HTTP/2 burst", what: "write + FlushAsync against write + flush, in a loop", unit: "events/s", pairs: 100, n: [2]int{1, 1}, size: 100000, open: apart(fastest(true)), rate: true},
	{name: "ReverseProxy", what: "single events through httputil.ReverseProxy, against the same in NewHandler with Flush: Async", unit: "events/s", pairs: 60, short: 10, n: [2]int{1, 1}, open: apart(pair(proxies[0], proxies[1], burst)), rate: true, limit: 1, ci: 1},
	{name: "ReverseProxy, real upstream", what: "the same, from a net/http server that flushes each event, in a process of its own", unit: "events/s", pairs: 60, n: [2]int{1, 1}, open: proxiedTokens, rate: true},
	{name: "slow client", what: "how long 256 KiB for a slow client hold the handler (MaxPending 1 MiB)", unit: "ns", pairs: 20, n: [2]int{1, 1}, open: versus(slow)},
	{name: "slow client, default", what: "the same with the default MaxPending of 64 KiB", unit: "ns", pairs: 20, n: [2]int{1, 1}, open: versus(slowDefault)},
	{name: "link, 22 KB", what: "22 KB in writes of 2 KB, no flush, over a link with a round trip of 100 ms, ConnContext and NotSentLowat set: from the request to the end", unit: "ns", pairs: 10, short: 1, n: [2]int{1, 1}, open: overLink(ofSize(22 << 10)), limit: 1.02, ci: 1.15, why: linkWhy, able: linkPossible},
	{name: "link, 64 KB", what: "the same, 64 KB", unit: "ns", pairs: 10, short: 1, n: [2]int{1, 1}, open: overLink(ofSize(64 << 10)), limit: 1.02, ci: 1.15, why: linkWhy, able: linkPossible},
	{name: "link, 320 KB", what: "the same, 320 KB", unit: "ns", pairs: 10, short: 1, n: [2]int{1, 1}, open: overLink(ofSize(320 << 10)), limit: 1.02, ci: 1.15, why: linkWhy, able: linkPossible},
	{name: "link, gzip", what: "the same, a handler that writes through compress/gzip", unit: "ns", pairs: 10, short: 1, n: [2]int{1, 1}, open: overLink(inGzip), limit: 1.02, ci: 1.15, why: linkWhy, able: linkPossible},
	{name: "idle heap", what: "heap of an idle stream whose handler waits for its context", unit: "B", pairs: 10, short: 2, n: [2]int{10000, 10000}, few: 2000, open: versus(idleHeap), delta: true, limit: 1024, ci: 2048, why: idleWhy},
	{name: "idle heap, no context", what: "the same, with a handler that waits for the application alone", unit: "B", pairs: 10, short: 2, n: [2]int{10000, 10000}, few: 2000, open: versus(idleDeafHeap), delta: true, limit: 1024, ci: 2048, why: idleWhy},
	{name: "idle goroutines", what: "goroutines of an idle stream", unit: "", pairs: 10, short: 2, n: [2]int{1000, 1000}, open: versus(idleGoroutines), delta: true, limit: 0.001, ci: 0.002},
	{name: "idle detached, resident", what: "memory of the server's process for an idle detached stream, one of 9 000 from another process", unit: "B", pairs: 3, short: 1, n: [2]int{1, 1}, open: crowds(channels, detachedGroup, idleResident), alone: true, limit: 2560, ci: 5120, able: enoughFiles},
	{name: "broadcast, CPU", what: "an event to 10 000 detached streams by Group.Broadcast, against a loop of bare writes: processor time of the server for one of them", unit: "ns", pairs: 20, short: 10, n: [2]int{1, 1}, open: crowds(bareWrites, detachedGroup, broadcastCPU), limit: 1.05, ci: 1.4, why: broadcastWhy, able: enoughFiles},
	{name: "broadcast", what: "the same until the last client has it, against a hub with a goroutine and a channel for each client", unit: "ns", pairs: 20, n: [2]int{1, 1}, open: crowds(channels, detachedGroup, broadcastTime), able: enoughFiles},
	{name: "broadcast, hub's CPU", what: "the same: processor time of the server for one of them", unit: "ns", pairs: 20, n: [2]int{1, 1}, open: crowds(channels, detachedGroup, broadcastCPU), able: enoughFiles},
	{name: "broadcast, memory", what: "the same: what the server's process grows by meanwhile, at most", unit: "B", pairs: 10, short: 2, n: [2]int{1, 1}, open: crowds(channels, detachedGroup, broadcastMemory), alone: true, limit: 1 << 20, ci: 2 << 20, able: enoughFiles},
	{name: "broadcast, goroutines", what: "the same: goroutines more meanwhile, for each of GOMAXPROCS", unit: "", pairs: 10, short: 2, n: [2]int{1, 1}, open: crowds(channels, detachedGroup, broadcastGoroutines), alone: true, limit: 1, ci: 2, able: enoughFiles},
}

// What is known of work that net/http does not do, and that may be why a promise is
// missed. Where it is not said to be profiled nobody has shown that it is.
const (
	syncWhy      = "profiled: what the library adds is code and memory of its own, cold once the call has woken the client; in a loop that stays in the caches a third of it is the mutex, taken three times"
	wireWhy      = "profiled: four fifths are the system call, and of the rest the wire and the Flusher take as much as net/http"
	paceWhy      = "profiled: a twentieth of what a token costs is the library's own code, half of it at the first touch of a line of memory, since of many streams nothing of the next one is in the caches; as much again is the runtime, net/http and a reading of the clock, which find less of theirs there; the kernel takes no longer, and is asked for its room once in 17 tokens"
	bulkWhy      = "profiled: a large body costs its system calls, two for each Write of net/http's; there are as many through the library once slices are 1 MiB, and twenty more in the first 2 MiB, each of which wakes the client"
	asyncWhy     = "profiled: the same, and of each write in the first 2 MiB 64 KiB are copied and carried by another goroutine"
	fileWhy      = "profiled: 8 MiB go in four calls of the server, and three more get to know the file"
	shortWhy     = "profiled: of the processor time that the library adds half is its own steps, in sixty functions of which none stands out; the deadline that bounds the last write is a tenth; the Flusher, the copy of the request and its context, made for each response, a tenth, and their collection a fifteenth; a fifth is in net/http and the kernel, which find less of theirs in the caches"
	idleWhy      = "profiled: the Flusher 480 B, the copy of the request 320 B, the send timeout's timer 149 B, which a minute of idling gives back, the context 48 B; for one that is waited for 712 B more, of which package context takes 664 B: 256 B for a map of who ends with the server's context, 200 B to be in it until Detach takes it out, 208 B for a context and channel of its own"
	broadcastWhy = "profiled: of what comes on top of the system call most is to read each member's Flusher and wire into the caches, several members at a time"
	linkWhy      = "not profiled; near the end the kernel is asked for what the client has acknowledged"
)

// versus has net/http and this library's asynchronous flush do the same.
func versus(open func(contender) (lane, func())) func() (lane, lane, func()) {
	return pair(netHTTP, oursAsync, open)
}

// pair has two contenders do the same.
func pair(a, b contender, open func(contender) (lane, func())) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		first, stopFirst := open(a)
		second, stopSecond := open(b)
		return first, second, both(stopFirst, stopSecond)
	}
}

// apart gives clients in another process a core of their own, as if they were
// elsewhere. A write then wakes them, and without this the system would choose
// now this and now that: a burst of net/http's differs by a factor of five.
func apart(open func() (lane, lane, func())) func() (lane, lane, func()) {
	return placed(open, ownAndReaders)
}

// ownAndReaders gives readers the last core.
func ownAndReaders(all []int) (own, readers []int) {
	last := len(all) - 1
	if last == 0 {
		return all, all
	}
	return all[:last], all[last:]
}

// together gives clients in another process the only core of this one.
func together(open func() (lane, lane, func())) func() (lane, lane, func()) {
	return placed(open, func(all []int) (own, readers []int) { return all[:1], all[:1] })
}

// placed opens lanes with the cores that choose gives. All are back once the lanes
// are shut.
func placed(open func() (lane, lane, func()), choose func(all []int) (own, readers []int)) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		free := confined(choose)
		bare, ours, shut := open()
		return bare, ours, both(shut, free)
	}
}
