package flushtest

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	tooShort = 200 * time.Millisecond // a shorter response may just have been quick
	longWait = time.Second            // after so long without anything, something holds it

	// A kernel keeps a packet that is not full for 200 ms when its sender says
	// that there is more to come. A busy machine adds to it.
	corkedFor     = 190 * time.Millisecond
	corkedForMost = 300 * time.Millisecond
)

// judge finds the Verdict. It is a sentence about what the way does most of the
// time, or that it cannot be told.
func (t *trip) judge() {
	t.Verdict, t.Why, t.Step, t.Delay, t.corked = Unclear, "", 0, 0, false
	t.Lines, t.Late, t.LateBy = t.lateness.count()
	first := slices.IndexFunc(t.Arrivals, func(a Arrival) bool { return a.Plain > 0 })
	cut := strings.HasPrefix(t.Err, stopped)
	switch {
	case first < 0 && cut && t.End >= longWait && len(t.Arrivals) == 0:
		t.Verdict = Held // all that time, and nothing
	case first < 0 && len(t.Arrivals) > 0:
		t.Why = "nothing that came could be decoded"
	case first < 0:
		t.Why = "nothing came"
	case t.waited > together:
		t.Why = "the probe itself did not keep up with what came"
	case t.Err != "" && len(t.Arrivals) < 2 && t.Arrivals[0].Until-t.Arrivals[0].At < longWait:
		t.Why = "it did not end, and only one part of it came. " + worthIt
	case t.End < tooShort && len(t.Arrivals) < 3:
		t.Why = "it was over at once. " + worthIt
	case t.Lines > 0:
		t.judgeLines()
	default:
		t.judgeArrivals(t.Arrivals[first].At)
	}
	if t.read != nil && t.read.err != nil && t.Held() {
		t.unclear("it could not be decoded to the end: %v", t.read.err)
	}
}

const worthIt = "A stream that can be judged lasts a second and sends something several times"

func (f *Finding) unclear(why string, args ...any) {
	f.Verdict, f.Why = Unclear, fmt.Sprintf(why, args...)
	f.Step, f.Delay, f.corked = 0, 0, false
}

// judgeLines goes by lines that say when they were written.
func (t *trip) judgeLines() {
	l := &t.lateness
	n, late := len(l.steps), l.lateSteps()
	switch {
	case t.Err == "" && l.atEnd(t.End):
		t.Verdict = Held
	case late > 0 && t.Lines < 3:
		t.unclear("only %d lines came, and not all of them in time", t.Lines)
	case 3*late <= n && 2*t.Late > t.Lines:
		t.unclear("most lines came late, but in few of the parts: the way may have been interrupted")
	case 3*late <= n:
		t.Verdict = Streamed
	case 3*late < 2*n:
		t.unclear("%d of %d lines came late, by up to %v: sometimes it is held, and sometimes not", t.Late, t.Lines, inMilliseconds(t.LateBy))
	case n == 1 && t.Err == "":
		t.unclear("all lines came at once, some time before the end")
	default:
		t.judgeLate(l)
	}
}

// judgeLate says what most parts are late by: a buffer, or a time.
func (t *trip) judgeLate(l *lateness) {
	// Where a compressor ends a part says nothing of lines.
	if !encoded(t.Header) {
		t.Step, _ = t.buffer()
	}
	if t.Step > 0 {
		t.Verdict = Stepped
		return
	}
	t.Verdict = Delayed
	t.Delay = max(time.Millisecond, inMilliseconds(l.usual()))
	t.corked = t.Delay >= tooLate && t.Delay < corkedForMost && (t.Err != "" || l.last() < t.Delay/2)
}

// judgeArrivals goes by when the parts came, and how large they are. The first
// that could be read came at that time.
func (t *trip) judgeArrivals(first time.Duration) {
	ok := t.Status >= 200 && t.Status < 300
	cut := strings.HasPrefix(t.Err, stopped)
	switch {
	case t.Err != "" && !cut && len(t.Arrivals) < 3:
		t.unclear("it broke off")
		return
	case t.Err == "" && (first*10 >= t.End*9 || t.End-first <= 2*together && first*4 >= t.End*3):
		if !ok {
			// Who waits in vain for what is behind it answers late, and in one piece.
			t.unclear("it is an answer with status %d, and may be no stream", t.Status)
			return
		}
		t.Verdict = Held
		return
	case encoded(t.Header):
	default:
		size, cut := t.buffer()
		if size > 0 && cut {
			t.Verdict, t.Step = Stepped, size
			return
		}
		if size > 0 {
			t.unclear("parts have the size of a buffer, %d bytes: either they are written so, or something holds them until they are full", size)
			return
		}
	}
	usual, corked := t.clock()
	switch {
	case usual == 0:
		t.Verdict = Streamed
	case corked:
		t.Verdict, t.Delay, t.corked = Delayed, usual, true
	default:
		t.unclear("every %v several lines come at once: either they are written so, or something holds them for so long", usual)
	}
}

// buffer returns the size of the buffer that let the stream through whenever it
// was full, or 0. The first and the last part are often smaller, and the
// framing of chunks may take some of the rest.
//
// Buffers do not care for lines, flushes do: cut says that most parts end
// within a line. Parts that do not may have been written in that size, if it is
// that of a buffer to the byte.
func (t *trip) buffer() (size int, cut bool) {
	if len(t.Arrivals) < 2 {
		return 0, false
	}
	full := t.Arrivals[:len(t.Arrivals)-1]
	if len(full) > 1 {
		full = full[1:]
	}
	cut = isText(t.Header) && most(full, func(a Arrival) bool { return a.Cut && a.Lines > 0 })
	if !cut && !most(full, func(a Arrival) bool { return a.Size%1024 == 0 && a.Lines != 1 }) {
		return 0, false
	}
	for n := 1 << 20; n >= 512; n /= 2 {
		if most(full, func(a Arrival) bool { return a.Size%n == 0 || a.Size <= n && a.Size >= n-n/8 }) {
			return n, cut
		}
	}
	return 0, false
}

func most(all []Arrival, is func(Arrival) bool) bool {
	n := 0
	for _, a := range all {
		if is(a) {
			n++
		}
	}
	return 4*n >= 3*len(all)
}

// isText reports whether the body has lines, as far as the headers say: what
// looks like the end of one may be any byte of a picture.
func isText(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return true
	}
	for _, binary := range []string{"audio/", "video/", "image/", "font/", "application/octet-stream", "application/grpc", "application/zip"} {
		if strings.HasPrefix(kind, binary) {
			return false
		}
	}
	return true
}

// clock returns the time between parts that come by the clock with several
// lines each, from the request on, or 0. A busy machine's clock is right half of
// the time. What holds a stream for a time begins
// with such a pause, and so do applications that wait before they write. A
// corked kernel has its own time. That counts from the first line on, so that
// each part but the first takes longer by the wait for a line, and the end of
// the response does not wait for it.
func (t *trip) clock() (usual time.Duration, corked bool) {
	n := len(t.Arrivals)
	if n < 4 {
		return 0, false
	}
	gap := func(i int) time.Duration {
		if i == 0 {
			return t.Arrivals[0].At
		}
		return t.Arrivals[i].At - t.Arrivals[i-1].At
	}
	var gaps []time.Duration
	lines := 0
	for i := 1; i < n-1; i++ {
		gaps = append(gaps, gap(i))
		lines += t.Arrivals[i].Lines
	}
	slices.Sort(gaps)
	usual = gaps[len(gaps)/2]
	regular := 0
	near := func(d time.Duration) bool { return (d - usual).Abs() <= usual/4 }
	for _, g := range gaps {
		if near(g) {
			regular++
		}
	}
	each := 2
	if strings.HasPrefix(t.Header.Get("Content-Type"), "text/event-stream") {
		each *= 4 // an event is two lines or more, and many have an id and a name too
	}
	if 2*regular < len(gaps) || !near(t.Arrivals[0].At) || lines < each*(n-2) {
		return 0, false
	}
	if 4*regular < 3*len(gaps) || gap(0) < corkedFor || usual >= corkedForMost {
		return inMilliseconds(usual), false
	}
	pulled := gap(n-1) < usual*3/4 && t.Err == ""
	return inMilliseconds(usual), pulled || gap(0) < corkedFor+2*together && usual >= gap(0)+together
}
