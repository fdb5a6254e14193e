package flush

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Report says which writers stand between a handler and its client, and what
// becomes of a flush there. See [Inspect].
type Report struct {
	// Fate is what becomes of a flush on its way through all layers: the
	// worst that one of them does.
	Fate Fate

	// Layers are the writers from the inspected one down. The buffers of a
	// Flusher follow it, the top one first. The last layer is the server's own
	// writer, or one that hides what is below it.
	Layers []Layer
}

// A Layer is one of the writers, or buffers, that a [Report] lists.
type Layer struct {
	Type    string   // its Go type; of a buffer: buffer and its name
	Methods []string // which of Flush, FlushError, Unwrap, SetReadDeadline, SetWriteDeadline and Hijack it has
	Fate    Fate     // what becomes of a flush there
	Note    string   // why, and what to do about it; may be empty
}

// A Fate is what becomes of a flush in a [Layer].
type Fate uint8

const (
	FateUnknown   Fate = iota // it takes the flush; what it does with it cannot be told from outside
	FatePassed                // it goes on to the next layer, or on the wire
	FateErrorLost             // its Flush returns no error: a failed flush looks like a good one
	FateSwallowed             // what was written stays here for now, or nobody takes the flush
)

// String returns "unknown", "passed on", "error lost" or "swallowed".
func (f Fate) String() string {
	switch f {
	case FateUnknown:
		return "unknown"
	case FatePassed:
		return "passed on"
	case FateErrorLost:
		return "error lost"
	case FateSwallowed:
		return "swallowed"
	}
	return fmt.Sprintf("Fate(%d)", uint8(f))
}

// weight orders fates from harmless to bad.
func (f Fate) weight() int {
	return [...]int{FateUnknown: 2, FatePassed: 0, FateErrorLost: 1, FateSwallowed: 3}[f]
}

// Inspect describes every layer from w down, to find out why a flush does
// nothing. It flushes nothing, and changes nothing, to learn the answer. The
// answer is that of the moment: buffers come and go.
//
// Of a writer whose type it does not know it goes by the methods, in the order
// of [http.ResponseController]. It must not be called after the handler has
// returned, save on a Flusher.
func Inspect(w http.ResponseWriter) Report {
	var r Report
	seen := make(map[any]bool)
	for range maxLayers {
		if w == nil {
			break
		}
		if f, ok := flusherOf(w); ok {
			w = f // not a layer of its own: its face
		}
		v := reflect.ValueOf(w)
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				r.Layers = append(r.Layers, Layer{Type: v.Type().String(), Fate: FateSwallowed, Note: "It is a nil pointer."})
				w = nil
				break
			}
			// A pointer to an empty struct need not be one of a kind.
			if v.Type().Elem().Size() > 0 {
				if seen[w] {
					r.Layers = append(r.Layers, Layer{Type: v.Type().String(), Fate: FateSwallowed, Note: "Unwrap goes round in a circle."})
					w = nil
					break
				}
				seen[w] = true
			}
		}
		l := Layer{Type: v.Type().String(), Methods: methods(w)}
		own := len(r.Layers) // the buffers of a Flusher follow it
		f, _ := w.(*Flusher)
		if f != nil {
			r.Layers = append(r.Layers, f.inspect(l)...)
		} else {
			r.Layers = append(r.Layers, inspectLayer(l, w))
		}
		var problem string
		if w, problem = unwrap(w); problem != "" {
			last := &r.Layers[len(r.Layers)-1]
			last.Fate, last.Note = FateSwallowed, problem
		} else if w == nil && slices.Contains(l.Methods, "Unwrap") {
			r.Layers[own].endsHere()
		}
	}
	if w != nil {
		r.endless()
	}
	if len(r.Layers) > 0 {
		r.Fate = FatePassed
	}
	for _, l := range r.Layers {
		if l.Fate.weight() > r.Fate.weight() {
			r.Fate = l.Fate
		}
	}
	return r
}

// endless says of the last layer that the walk ended with it, and the chain did
// not.
func (r *Report) endless() {
	last := &r.Layers[len(r.Layers)-1]
	last.Fate = FateSwallowed
	last.Note = fmt.Sprintf("It is layer %d and not the last: no chain that ends is as deep.", len(r.Layers))
}

// endsHere says of a layer that nothing is below it. If it lets flushes pass,
// none has taken them: that is what is not supported, and not what was passed on.
func (l *Layer) endsHere() {
	if l.Fate == FatePassed {
		l.Fate = FateSwallowed
		l.Note = strings.TrimSpace(l.Note + " Its Unwrap returns nil: no writer is below that takes the flush, which is not supported.")
	}
}

// unwrap returns the writer below w, or nil. A writer that is half built may
// panic.
func unwrap(w http.ResponseWriter) (below http.ResponseWriter, problem string) {
	u, ok := w.(interface{ Unwrap() http.ResponseWriter })
	if !ok {
		return nil, ""
	}
	defer func() {
		if p := recover(); p != nil {
			below, problem = nil, fmt.Sprintf("Its Unwrap panics: %v.", p)
		}
	}()
	return u.Unwrap(), ""
}

func methods(w http.ResponseWriter) []string {
	var names []string
	add := func(name string, has bool) {
		if has {
			names = append(names, name)
		}
	}
	_, has := w.(http.Flusher)
	add("Flush", has)
	_, has = w.(flushErrorer)
	add("FlushError", has)
	_, has = w.(interface{ Unwrap() http.ResponseWriter })
	add("Unwrap", has)
	_, has = w.(interface{ SetReadDeadline(time.Time) error })
	add("SetReadDeadline", has)
	_, has = w.(writeDeadliner)
	add("SetWriteDeadline", has)
	_, has = w.(http.Hijacker)
	add("Hijack", has)
	return names
}

// inspectLayer says what a writer that is not a Flusher does.
func inspectLayer(l Layer, w http.ResponseWriter) Layer {
	t := reflect.TypeOf(w)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	_, flushes := w.(http.Flusher)
	_, reports := w.(flushErrorer)
	_, unwraps := w.(interface{ Unwrap() http.ResponseWriter })
	switch t.PkgPath() + "." + t.Name() {
	case "net/http.response", "net/http.http2responseWriter", "golang.org/x/net/http2.responseWriter":
		l.Fate, l.Note = FatePassed, requestNote(w)
		return l
	case "net/http.timeoutWriter":
		l.Fate = FateSwallowed
		l.Note = "http.TimeoutHandler holds the whole response until the handler returns. Keep it off handlers that stream."
		return l
	case "net/http/httptest.ResponseRecorder", "github.com/fa492104/flush/flushtest.Recorder":
		l.Fate = FateSwallowed
		l.Note = "It is a recorder: it notes the flush, and there is no client. Ask a real server."
		return l
	case "net/http/cgi.response", "net/http/fcgi.response":
		l.Fate = FateErrorLost
		l.Note = "A flush with neither headers nor body written sends nothing here, and there are no deadlines. A Flusher sends the headers."
		return l
	case "github.com/fa492104/flush.output", "github.com/fa492104/flush.deadlineOutput":
		l.Fate = FatePassed
		l.Note = "It is a plain output with no server: headers are not sent."
		return l
	}
	switch {
	case reports:
		l.Fate = FateUnknown
		l.Note = "It takes the flush and can report an error; whether it flushes what is below is its own affair."
	case flushes:
		l.Fate = FateErrorLost
		l.Note = "It takes the flush without being able to report an error. Give it a FlushError method that calls the writer below."
	case unwraps:
		l.Fate = FatePassed
		l.Note = "A flush through http.ResponseController or flush.Flush goes past it. " +
			"What it holds itself stays, and code that asserts http.Flusher finds nothing: give it a FlushError and a Flush method."
	default:
		l.Fate = FateSwallowed
		l.Note = "It has neither Flush nor Unwrap: no flush gets through, and what is below cannot be seen. Give it an Unwrap method. " +
			"A Flusher below is found with flush.FromContext."
	}
	return l
}

// requestNote says what is special about the request that a server's own
// writer answers. It reads the writer's unexported fields, and says nothing
// where they are not as expected.
func requestNote(w http.ResponseWriter) string {
	v := reflect.ValueOf(w)
	for _, name := range []string{"rws", "req"} {
		e := v
		if e.Kind() == reflect.Pointer {
			e = e.Elem()
		}
		if e.Kind() != reflect.Struct {
			return ""
		}
		if e = e.FieldByName(name); e.IsValid() {
			v = e
		}
	}
	if v.Type() != reflect.TypeFor[*http.Request]() || v.IsNil() {
		return ""
	}
	r := v.Elem()
	return protocolNote(r.FieldByName("Method").String() == http.MethodHead,
		int(r.FieldByName("ProtoMajor").Int()), int(r.FieldByName("ProtoMinor").Int()))
}

func protocolNote(head bool, major, minor int) string {
	switch {
	case head:
		return "The request is a HEAD: a flush sends the headers, and no body follows."
	case major == 1 && minor == 0:
		return "The client speaks HTTP/1.0: the response ends with the connection. A proxy that does so can be told to speak HTTP/1.1."
	case major == 2:
		return "On HTTP/2 flushed means handed to the frame writer."
	}
	return ""
}

// inspect says what a Flusher and its buffers do.
func (f *Flusher) inspect(l Layer) []Layer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var notes []string
	swallow := func(format string, args ...any) {
		l.Fate = FateSwallowed
		notes = append(notes, fmt.Sprintf(format, args...))
	}
	l.Fate = FatePassed
	switch {
	case f.fail != nil:
		swallow("It has failed: %v.", f.fail)
	case f.hijacked:
		swallow("The connection has been hijacked.")
	case f.closing:
		swallow("The response has ended.")
	case f.holding:
		swallow("The client speaks HTTP/1.0 and the response is held for a Content-Length, for up to %d bytes: "+
			"set Options.HTTP10Buffer to -1, or a Content-Length.", f.cfg.HTTP10Buffer)
	case f.cfg.Flush == Off:
		swallow("Options.Flush is Off: Flush and FlushError do nothing. flush.Flush and FlushWait work.")
	case f.cfg.Flush == Async:
		notes = append(notes, "Options.Flush is Async: Flush and FlushError ask and return, and errors show at later calls.")
	}
	if f.head {
		notes = append(notes, protocolNote(true, 0, 0))
	}
	if f.fail == nil && !f.closing && !f.hijacked && f.bodyFirstLocked() {
		notes = append(notes, "The request body has not been read: the first flush may wait for the client's upload. Read it, or call EnableFullDuplex.")
	}
	l.Note = strings.Join(notes, " ")
	all := []Layer{l}
	for i := len(f.stack.bufs) - 1; i >= 0; i-- {
		all = append(all, f.stack.bufs[i].inspectLocked())
	}
	return all
}

func (b *Buffer) inspectLocked() Layer {
	l := Layer{Type: "buffer", Fate: FatePassed}
	if b.opts.Name != "" {
		l.Type = fmt.Sprintf("buffer %q", b.opts.Name)
	}
	switch {
	case b.disabled:
		l.Note = "Its filter has failed: writes pass it by."
	case b.opts.NoFlush:
		l.Fate = FateSwallowed
		l.Note = fmt.Sprintf("It has NoFlush and keeps what it holds, %d bytes, until it ends.", b.lenLocked())
	case !b.opts.FollowFlush:
		l.Fate = FateSwallowed
		l.Note = fmt.Sprintf("A flush of the response does not touch it, and it holds %d bytes. "+
			"Flush the buffer first, use FlushAll, or open it with FollowFlush.", b.lenLocked())
	}
	return l
}

// String describes the report in one paragraph: the fate of a flush, each
// layer with its methods, and what can be done.
func (r Report) String() string {
	if len(r.Layers) == 0 {
		return "There is no writer."
	}
	var b strings.Builder
	fmt.Fprintf(&b, "A flush of %s: %s", r.Layers[0].Type, r.Fate)
	if r.Fate != FatePassed {
		sep := " by"
		for _, l := range r.Layers {
			if l.Fate == r.Fate {
				fmt.Fprintf(&b, "%s %s", sep, l.Type)
				sep = ","
			}
		}
	}
	b.WriteString(".")
	owned := false // a Flusher is below
	for i, l := range r.Layers {
		has := "methods: none of interest"
		if len(l.Methods) > 0 {
			has = strings.Join(l.Methods, ", ")
		}
		if strings.HasPrefix(l.Type, "buffer") {
			has = "of the Flusher above"
		}
		fmt.Fprintf(&b, " Layer %d, %s (%s): %s.", i+1, l.Type, has, l.Fate)
		if l.Note != "" {
			b.WriteString(" " + l.Note)
		}
		owned = owned || i > 0 && l.Type == "*flush.Flusher"
	}
	if owned {
		b.WriteString(" flush.Flush on the first layer flushes the Flusher too and returns its error.")
	}
	if r.Fate == FatePassed {
		b.WriteString(" If the client still sees nothing before the end, something behind this server holds it, or the client does: " +
			"try Options.NoProxyBuffering, and curl -N or cmd/flushprobe.")
	}
	return b.String()
}
