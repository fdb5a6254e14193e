package flushtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fa492104/flush/internal/visible"
)

// A Verdict is what a stream went through on its way.
type Verdict string

const (
	Streamed        Verdict = "streamed"   // it came as it was sent, but for a line or two
	Held            Verdict = "held"       // nothing, or little, came before the end, or at all
	Stepped         Verdict = "steps"      // it came whenever a buffer was full
	CompressorHolds Verdict = "compressor" // it was compressed, and could not be decoded as it was sent
	Delayed         Verdict = "delayed"    // it came, but most of it late
	Unclear         Verdict = "unclear"    // it cannot be told
)

// A Finding is what [Probe] found out about a stream. Times count from the
// moment the request was sent. In JSON they are nanoseconds.
type Finding struct {
	URL     string      `json:"url"`             // as asked for
	Proxy   string      `json:"proxy,omitempty"` // the client's proxy that the request went through
	Proto   string      `json:"proto"`           // of the response: HTTP/1.1
	Status  int         `json:"status"`          // 0: no response came
	Header  http.Header `json:"header"`          // of the response
	Verdict Verdict     `json:"verdict"`         // what the stream went through

	Why   string        `json:"why,omitempty"`      // with Unclear: why it cannot be told
	Step  int           `json:"step,omitempty"`     // with Stepped: about how many bytes at a time
	Delay time.Duration `json:"delay_ns,omitempty"` // with Delayed: by how much, in the median of the parts

	// Of the lines of an Endpoint, which say when they were written:
	Lines  int           `json:"lines,omitempty"`      // how many came
	Late   int           `json:"late,omitempty"`       // how many of them came late: by 150 ms or more
	LateBy time.Duration `json:"late_by_ns,omitempty"` // by how much the latest did

	Layer  string `json:"layer,omitempty"`  // what is likely to hold the stream, from the headers
	Remedy string `json:"remedy,omitempty"` // what that layer's documentation offers

	Head     time.Duration `json:"head_ns"`         // when the headers came
	End      time.Duration `json:"end_ns"`          // when the response ended, or the probe of it
	Arrivals []Arrival     `json:"arrivals"`        // the body, part by part
	Err      string        `json:"error,omitempty"` // what ended the body, if not its end

	corked    bool   // with Delayed: a kernel may be why, whose cork the end of a response pulls
	otherType string // a content type that is not held
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

// String says the verdict in one paragraph: what came when, the likely layer
// and the remedy. What the server sent cannot act on a terminal there: control
// characters and the like are escaped.
func (f *Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.URL, f.verdict())
	f.arrived(&b)
	switch why, ok := strings.CutPrefix(f.Err, stopped); {
	case ok:
		fmt.Fprintf(&b, " It went on when the probe stopped (%s).", why)
	case f.Err != "":
		fmt.Fprintf(&b, " It ended with an error: %s.", f.Err)
	}
	if f.Proxy != "" {
		fmt.Fprintf(&b, " It went through the proxy %s.", f.Proxy)
	}
	if f.Layer != "" {
		fmt.Fprintf(&b, " Likely layer: %s.", f.Layer)
	}
	if f.Remedy != "" {
		fmt.Fprintf(&b, " Remedy: %s", f.Remedy)
	}
	return strings.ReplaceAll(visible.String(b.String()), "\n", " ")
}

func (f *Finding) verdict() string {
	switch {
	case f.Verdict == Streamed && f.Late == 1:
		return fmt.Sprintf("streamed, one line came late, by %v.", inMilliseconds(f.LateBy))
	case f.Verdict == Streamed && f.Late > 1:
		return fmt.Sprintf("streamed, %d of %d lines came late, by up to %v.", f.Late, f.Lines, inMilliseconds(f.LateBy))
	case f.Verdict == Streamed:
		return "streamed."
	case f.Verdict == Held:
		return "held to the end."
	case f.Verdict == Stepped:
		return fmt.Sprintf("in steps of about %d bytes.", f.Step)
	case f.Verdict == CompressorHolds:
		return "held by a compressor."
	case f.Verdict == Delayed:
		return fmt.Sprintf("delayed by about %v.", f.Delay)
	}
	return "unclear, it cannot be told: " + f.Why + "."
}

// arrived says what came when.
func (f *Finding) arrived(b *strings.Builder) {
	switch {
	case f.Status == 0:
		fmt.Fprintf(b, " No response came within %v.", inMilliseconds(f.End))
		return
	case len(f.Arrivals) == 0:
		fmt.Fprintf(b, " The headers came after %v and no body within %v.", inMilliseconds(f.Head), inMilliseconds(f.End))
		return
	}
	size := 0
	for _, a := range f.Arrivals {
		size += a.Size
	}
	fmt.Fprintf(b, " %d bytes came in %d parts, the headers after %v, the first part after %v, the end after %v", size, len(f.Arrivals),
		inMilliseconds(f.Head), inMilliseconds(f.Arrivals[0].At), inMilliseconds(f.End))
	fmt.Fprintf(b, " (%s, status %d", f.Proto, f.Status)
	for _, k := range []string{"Server", "Via", "X-Powered-By", "Content-Encoding", "Content-Length"} {
		if v := f.Header.Get(k); v != "" {
			fmt.Fprintf(b, ", %s: %s", k, short(v))
		}
	}
	b.WriteString(").")
}

func inMilliseconds(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// short returns as much of what a server sent as a sentence can take.
func short(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
