package flushtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Verdict is what a stream went through on its way.
type Verdict string

const (
	Streamed        Verdict = "streamed"   // it came as it was sent
	Held            Verdict = "held"       // nothing came before the end, or at all
	Stepped         Verdict = "steps"      // it came whenever a buffer was full
	CompressorHolds Verdict = "compressor" // it was compressed, and could not be decoded as it was sent
	Delayed         Verdict = "delayed"    // it came, but late
	Unclear         Verdict = "unclear"    // too short, or too little, to tell
)

// A Finding is what [Probe] found out about a stream. Times count from the
// moment the request was sent. In JSON they are nanoseconds.
type Finding struct {
	URL     string      `json:"url"`     // as asked for
	Proto   string      `json:"proto"`   // of the response: HTTP/1.1
	Status  int         `json:"status"`  // 0: no response came
	Header  http.Header `json:"header"`  // of the response
	Verdict Verdict     `json:"verdict"` // what the stream went through

	Step  int           `json:"step,omitempty"`     // with Stepped: about how many bytes at a time
	Delay time.Duration `json:"delay_ns,omitempty"` // with Delayed: by how much at most

	Layer  string `json:"layer,omitempty"`  // what is likely to hold the stream, from the headers
	Remedy string `json:"remedy,omitempty"` // what that layer's documentation offers

	Head     time.Duration `json:"head_ns"`         // when the headers came
	End      time.Duration `json:"end_ns"`          // when the response ended, or the context
	Arrivals []Arrival     `json:"arrivals"`        // the body, part by part
	Err      string        `json:"error,omitempty"` // what ended the body, if not its end

	corked bool // with Delayed: a kernel may be why, whose cork the end of a response pulls
}

// An Arrival is a part of the body that came in one go.
type Arrival struct {
	At    time.Duration `json:"at_ns"`    // when its first bytes came
	Until time.Duration `json:"until_ns"` // when its last bytes came
	Size  int           `json:"size"`     // bytes as they came
	Plain int           `json:"plain"`    // bytes that they can be decoded to; Size if they are not compressed
	Lines int           `json:"lines"`    // lines that end in it
	Cut   bool          `json:"cut"`      // it ends within a line
}

// Held reports whether the stream was held on its way, for whatever time: the
// Verdict is neither Streamed nor Unclear.
func (f *Finding) Held() bool { return f.Verdict != Streamed && f.Verdict != Unclear }

// stopped begins Finding.Err where the probe ended before the stream.
const stopped = "the probe stopped: "

// A Prober has the settings of a probe. The zero Prober is that of [Probe].
type Prober struct {
	Client    *http.Client  // nil: one of its own
	Header    http.Header   // more headers for the request
	OnArrival func(Arrival) // called for each part as it comes, before it is known what belongs to it
}

// Probe fetches a stream and says what it went through on its way to here. It
// goes by when the parts arrived, their sizes, and the headers; what it says of
// layers is likely, not certain. A stream that is worth a probe lasts a second
// and sends something several times. The lines of an [Endpoint] make the
// answer more exact.
//
// The request accepts gzip, as that of a browser does. If a compressor seems to
// hold the stream, it is fetched once more without. The end of ctx ends an
// endless stream, which is then judged by what had come. The error is that of
// the request, if there was no answer to judge.
func Probe(ctx context.Context, url string) (*Finding, error) {
	return new(Prober).Probe(ctx, url)
}

// Probe is the function [Probe] with the settings of p.
func (p *Prober) Probe(ctx context.Context, url string) (*Finding, error) {
	client := p.Client
	if client == nil {
		tr := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		client = &http.Client{Transport: tr}
	}
	f, err := p.fetch(ctx, client, url, "gzip")
	if err != nil {
		return nil, err
	}
	var compressor time.Duration // of Delay
	if encoded(f.Header) && (f.Held() || f.coarse()) && ctx.Err() == nil {
		quiet := *p
		quiet.OnArrival = nil
		plain, err := quiet.fetch(ctx, client, url, "identity")
		switch {
		case err != nil || ctx.Err() != nil:
		case f.begun():
			f.Verdict, f.Step, f.Delay = CompressorHolds, 0, 0
		case f.Verdict == Held && plain.Verdict == Held, f.Verdict == Stepped && plain.Verdict == Stepped:
		case f.Verdict == Delayed && plain.Held():
			if d := f.Delay - plain.Delay; plain.Verdict == Delayed && d >= tooLate {
				compressor = d
			}
		case !f.Held() && len(plain.Arrivals) < 3*len(f.Arrivals):
		default:
			f.Verdict, f.Step, f.Delay = CompressorHolds, 0, 0
		}
	}
	f.blame(compressor)
	return f, nil
}

func encoded(h http.Header) bool {
	e := h.Get("Content-Encoding")
	return e != "" && e != "identity"
}

// begun reports whether the body was held though its beginning, of which nothing
// can be read, was not: what sent the first bytes of a compressed body would
// have sent more if the compressor had let go of more.
func (f *Finding) begun() bool {
	return f.Verdict == Held && len(f.Arrivals) > 1 && f.Arrivals[0].Plain == 0 && f.Arrivals[0].At*2 < f.End
}

// coarse reports whether parts are so few and large that the compressor may
// hand out only what it has no room for.
func (f *Finding) coarse() bool {
	n, plain := len(f.Arrivals), 0
	for _, a := range f.Arrivals {
		plain += a.Plain
	}
	return n > 0 && plain >= n*4096 && f.End >= time.Duration(n)*100*time.Millisecond
}

// A trip is one request on its way, and what has come back.
type trip struct {
	Finding
	mu    sync.Mutex
	start time.Time
	sent  bool
	read  *text

	// Of lines that say when they were written:
	lines   int           // how many there were
	late    time.Duration // the most that one was late
	ended   time.Duration // how late the last was
	written time.Duration // when it was written
	arrived time.Duration // when it came
	bunched int           // how many came together with one that was written well before
}

// note takes a line that says when it was written.
func (t *trip) note(written, arrived time.Duration) {
	if t.lines > 0 && written-t.written >= 2*together && arrived-t.arrived < together {
		t.bunched++
	}
	t.lines++
	t.written, t.arrived = written, arrived
	t.ended = arrived - written
	t.late = max(t.late, t.ended)
}

func (t *trip) elapsed() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.start)
}

func (p *Prober) fetch(ctx context.Context, client *http.Client, url, encoding string) (*Finding, error) {
	t := &trip{Finding: Finding{URL: url}, start: time.Now()}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.start, t.sent = time.Now(), i.Err == nil
		},
	}), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "flushprobe")
	req.Header.Set("Accept", "*/*")
	maps.Copy(req.Header, p.Header)
	req.Header.Set("Accept-Encoding", encoding)
	resp, err := client.Do(req)
	if err != nil {
		t.mu.Lock()
		sent := t.sent
		t.mu.Unlock()
		if sent && errors.Is(err, context.DeadlineExceeded) {
			// A proxy that holds an endless stream shows nothing at all.
			t.End = t.elapsed()
			t.Head, t.Err = t.End, err.Error()
			t.judge()
			return &t.Finding, nil
		}
		return nil, err
	}
	defer resp.Body.Close()
	t.Head = t.elapsed()
	t.Proto, t.Status, t.Header = resp.Proto, resp.StatusCode, resp.Header
	t.read = newText(resp.Header)
	in := t.receive(resp)
	for range in.ready {
		// What comes in one go should be in hand as a whole.
		time.Sleep(time.Millisecond)
		if c := in.take(); len(c.p) > 0 {
			a := t.arrive(c)
			if p.OnArrival != nil {
				p.OnArrival(a)
			}
		}
	}
	t.End = in.end
	if in.err != io.EOF {
		t.Err = in.err.Error()
		if ctx.Err() != nil {
			t.Err = stopped + ctx.Err().Error()
		}
	}
	if plain := t.read.close(); len(t.Arrivals) > 0 && plain > 0 {
		t.Arrivals[len(t.Arrivals)-1].Plain += plain
	}
	t.judge()
	return &t.Finding, nil
}

// together is how close two parts are that came in one go.
const together = 20 * time.Millisecond

// A received is what a goroutine has read of the body and nobody has taken yet.
type received struct {
	mu    sync.Mutex
	next  chunk
	ready chan struct{} // next is not empty; closed at the end

	end time.Duration // once ready is closed
	err error         // likewise; io.EOF at the end of the body
}

type chunk struct {
	p         []byte
	at, until time.Duration
}

// receive begins to read the body.
func (t *trip) receive(resp *http.Response) *received {
	in := &received{ready: make(chan struct{}, 1)}
	// The decoder of chunks fills what it is given, for as long as it is within
	// a chunk. Only the smallest of buffers shows when something came.
	size := 64 << 10
	if len(resp.TransferEncoding) > 0 {
		size = 1
	}
	go func() {
		defer close(in.ready)
		buf := make([]byte, size)
		for in.err == nil {
			var n int
			n, in.err = resp.Body.Read(buf)
			in.end = t.elapsed()
			if n > 0 {
				in.add(buf[:n], in.end)
			}
		}
	}()
	return in
}

func (in *received) add(p []byte, at time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.next.p) == 0 {
		in.next.at = at
	}
	in.next.p = append(in.next.p, p...)
	in.next.until = at
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

func (in *received) take() chunk {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.next
	in.next = chunk{}
	return c
}

// arrive notes a part of the body.
func (t *trip) arrive(c chunk) Arrival {
	at := c.at
	a := Arrival{At: c.at, Until: c.until, Size: len(c.p)}
	a.Plain, a.Lines, a.Cut = t.read.feed(c.p, func(line string) {
		if written, ok := parseMark(line); ok {
			t.note(written, at)
		}
	})
	if n := len(t.Arrivals); n > 0 && at-t.Arrivals[n-1].Until < together {
		last := &t.Arrivals[n-1]
		last.Until = c.until
		last.Size += a.Size
		last.Plain += a.Plain
		last.Lines += a.Lines
		last.Cut = a.Cut
	} else {
		t.Arrivals = append(t.Arrivals, a)
	}
	return a
}

const (
	tooShort = 200 * time.Millisecond // a shorter response may just have been quick
	tooLate  = 150 * time.Millisecond // a line that comes this late was held
)

// judge finds the Verdict.
func (t *trip) judge() {
	var first *Arrival // the first that can be read
	for i := range t.Arrivals {
		if t.Arrivals[i].Plain > 0 {
			first = &t.Arrivals[i]
			break
		}
	}
	switch {
	case first == nil && t.Err != "" && t.End >= tooShort:
		t.Verdict = Held // all that time, and nothing
	case first == nil, t.End < tooShort && len(t.Arrivals) < 3, t.Err != "" && len(t.Arrivals) < 2:
		t.Verdict = Unclear
	case t.Err == "" && (first.At*10 >= t.End*9 || t.End-first.At <= 2*together && first.At*4 >= t.End*3):
		t.Verdict = Held
	case t.lines > 0 && t.late < tooLate && 2*t.bunched < t.lines:
		t.Verdict = Streamed
	default:
		// Where a compressor ends a part says nothing of lines.
		compressed := encoded(t.Header)
		if !compressed {
			t.Step = step(t.Arrivals, true)
		}
		if t.Step == 0 {
			t.Delay = t.batches()
		}
		t.corked = t.Delay > 0
		if t.lines > 0 && t.Step == 0 {
			t.Delay = t.late.Round(time.Millisecond)
			t.corked = t.Err != "" || t.ended < t.late/2
		}
		if t.Step == 0 && t.Delay == 0 {
			t.Step = step(t.Arrivals, false)
		}
		switch {
		case t.Step > 0:
			t.Verdict = Stepped
		case t.Delay > 0:
			t.Verdict = Delayed
		default:
			t.Verdict = Streamed
		}
	}
}

// step returns the size of the buffer that let the stream through whenever it
// was full, or 0. The first and the last part are often smaller, and the
// framing of chunks may take some of the rest.
//
// Buffers do not care for lines, flushes do. Parts of one size that end with a
// line are what the application sent, unless they are several lines, or none,
// and the size is a buffer's to the byte.
func step(arrivals []Arrival, lines bool) int {
	if len(arrivals) < 2 {
		return 0
	}
	full := arrivals[:len(arrivals)-1]
	if len(full) > 1 {
		full = full[1:]
	}
	most := func(is func(Arrival) bool) bool {
		n := 0
		for _, a := range full {
			if is(a) {
				n++
			}
		}
		return 4*n >= 3*len(full)
	}
	even := most(func(a Arrival) bool { return a.Size%1024 == 0 && a.Lines != 1 })
	if !even && !(lines && most(func(a Arrival) bool { return a.Cut && a.Lines > 0 })) {
		return 0
	}
	for n := 1 << 20; n >= 512; n /= 2 {
		if most(func(a Arrival) bool { return a.Size%n == 0 || a.Size <= n && a.Size >= n-n/8 }) {
			return n
		}
	}
	return 0
}

// batches returns the time between parts that come by the clock with several
// events each, or 0. An application may write so itself. It is less likely to
// do it with server-sent events, or several times a second and to begin with a
// pause as long as the others.
func (t *trip) batches() time.Duration {
	n := len(t.Arrivals)
	if n < 4 {
		return 0
	}
	var gaps []time.Duration
	lines := 0
	for i := 1; i < n-1; i++ {
		gaps = append(gaps, t.Arrivals[i].At-t.Arrivals[i-1].At)
		lines += t.Arrivals[i].Lines
	}
	slices.Sort(gaps)
	usual := gaps[len(gaps)/2]
	near := func(d time.Duration) bool { return (d - usual).Abs() <= usual/4 }
	regular := 0
	for _, gap := range gaps {
		if near(gap) {
			regular++
		}
	}
	if 4*regular < 3*len(gaps) {
		return 0
	}
	paused := usual <= 300*time.Millisecond && near(t.Arrivals[0].At)
	enough := 2 * (n - 2)
	if strings.HasPrefix(t.Header.Get("Content-Type"), "text/event-stream") {
		// An event is two lines or more: data and an empty one. Many have an id
		// and a name too.
		enough *= 4
		paused = true
	}
	if !paused || lines < enough {
		return 0
	}
	return usual.Round(time.Millisecond)
}

// String says the verdict in one paragraph: what came when, the likely layer
// and the remedy.
func (f *Finding) String() string {
	var b strings.Builder
	size := 0
	for _, a := range f.Arrivals {
		size += a.Size
	}
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	fmt.Fprintf(&b, "%s: ", f.URL)
	switch f.Verdict {
	case Streamed:
		b.WriteString("streamed.")
	case Held:
		b.WriteString("held to the end.")
	case Stepped:
		fmt.Fprintf(&b, "in steps of about %d bytes.", f.Step)
	case CompressorHolds:
		b.WriteString("held by a compressor.")
	case Delayed:
		fmt.Fprintf(&b, "delayed by up to %v.", f.Delay)
	default:
		b.WriteString("unclear: a stream that can be judged lasts a second and sends something several times.")
	}
	switch {
	case f.Status == 0:
		fmt.Fprintf(&b, " No response came within %v.", ms(f.End))
	case len(f.Arrivals) == 0:
		fmt.Fprintf(&b, " The headers came after %v and no body within %v.", ms(f.Head), ms(f.End))
	default:
		fmt.Fprintf(&b, " %d bytes came in %d parts, the headers after %v, the first part after %v, the end after %v",
			size, len(f.Arrivals), ms(f.Head), ms(f.Arrivals[0].At), ms(f.End))
		fmt.Fprintf(&b, " (%s, status %d", f.Proto, f.Status)
		for _, k := range []string{"Server", "Via", "Content-Encoding", "Content-Length"} {
			if v := f.Header.Get(k); v != "" {
				fmt.Fprintf(&b, ", %s: %s", k, v)
			}
		}
		b.WriteString(").")
	}
	switch why, ok := strings.CutPrefix(f.Err, stopped); {
	case ok:
		fmt.Fprintf(&b, " It went on when the probe stopped (%s).", why)
	case f.Err != "":
		fmt.Fprintf(&b, " It ended with an error: %s.", f.Err)
	}
	if f.Layer != "" {
		fmt.Fprintf(&b, " Likely layer: %s.", f.Layer)
	}
	if f.Remedy != "" {
		fmt.Fprintf(&b, " Remedy: %s", f.Remedy)
	}
	return b.String()
}
