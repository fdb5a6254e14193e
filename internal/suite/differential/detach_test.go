package differential_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A detachScript is one response, as random choices of a seed. It runs twice: in
// the handler, with Connection: close and a flush where the other detaches; and
// detached, on a goroutine that goes on after the handler has returned.
type detachScript struct {
	seed   uint64
	early  bool // bytes before that place
	detach bool
	done   chan struct{}

	notes   []string // what the calls returned
	aborted bool
}

func (s *detachScript) note(what string, n int, err error) {
	s.notes = append(s.notes, fmt.Sprintf("%s: %d, %v", what, n, err))
}

// begin runs what comes before, and detaches or flushes.
func (s *detachScript) begin(w http.ResponseWriter, rng *rand.Rand) *flush.Flusher {
	f, _ := flush.From(w)
	h := w.Header()
	if !s.detach {
		h.Set("Connection", "close")
	}
	if rng.IntN(2) == 0 {
		h.Set("Content-Type", []string{"text/event-stream", "image/png", "text/plain"}[rng.IntN(3)])
	}
	if rng.IntN(4) == 0 {
		h.Set("Content-Length", strconv.Itoa(rng.IntN(20000)))
	}
	if rng.IntN(8) == 0 {
		h.Set("Transfer-Encoding", "identity")
	}
	if rng.IntN(3) == 0 {
		h.Set("Trailer", "X-One, Content-Type")
		h.Add("Trailer", "x-two")
	}
	if rng.IntN(4) == 0 {
		h.Set("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
	}
	if rng.IntN(4) == 0 {
		w.WriteHeader([]int{200, 201, 404, 500, 299}[rng.IntN(5)])
		h.Set("X-Too-Late", "yes")
	}
	if s.early && rng.IntN(2) == 0 {
		s.write(f, rng, 1000)
	}
	var err error
	if s.detach {
		err = f.Detach()
	} else {
		err = f.FlushWait(harness.NoContext)
	}
	s.note("detach", 0, err)
	return f
}

func (s *detachScript) write(f *flush.Flusher, rng *rand.Rand, most int) {
	n := rng.IntN(most)
	if rng.IntN(4) > 0 {
		n = rng.IntN(100)
	}
	at := rng.IntN(1000)
	n, err := f.Write([]byte(harness.Text(at + n)[at:]))
	s.note("write", n, err)
}

// end runs the rest.
func (s *detachScript) end(f *flush.Flusher, rng *rand.Rand) {
	defer close(s.done)
	for range rng.IntN(20) {
		switch rng.IntN(16) {
		default:
			s.write(f, rng, 100_000)
		case 0:
			n, err := f.WriteString(harness.Text(rng.IntN(9000)))
			s.note("string", n, err)
		case 1:
			s.note("try", 0, f.TryWrite([]byte(harness.Text(rng.IntN(300)))))
		case 2:
			s.note("async", 0, f.FlushAsync())
		case 3, 4:
			s.note("wait", 0, f.FlushWait(harness.NoContext))
		case 5:
			s.note("all", 0, f.FlushAll(rng.IntN(2) == 0))
		case 6:
			n, err := f.ReadFrom(strings.NewReader(harness.Text(rng.IntN(60_000))))
			s.note("copy", int(n), err)
		case 7:
			f.StartBuffer(&flush.BufferOptions{FollowFlush: rng.IntN(2) == 0, ChunkSize: rng.IntN(500), Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				return bytes.ToUpper(p), nil
			}})
		case 8:
			if b := f.Top(); b != nil {
				s.note("buffer", 0, errors.Join(b.Flush(), b.Close()))
			}
		case 9:
			f.Header().Set([]string{"X-One", "X-Two", "X-Never", http.TrailerPrefix + "X-Free"}[rng.IntN(4)], strconv.Itoa(rng.IntN(100)))
		case 10:
			f.SetImplicit([]flush.Mode{flush.Off, flush.Async, flush.Wait}[rng.IntN(3)])
		case 11:
			s.note("headers", 0, f.SendHeaders())
		case 12:
			s.note("clean", 0, f.Clean())
		}
	}
	if rng.IntN(5) == 0 {
		f.FlushWait(harness.NoContext)
		f.Abort(errors.New("enough"))
	} else {
		s.note("close", 0, f.Close())
	}
	s.aborted = f.Err() != nil
}

// Attached and detached give the client the same: status, headers, body, trailers
// and end; and the program the same results.
func TestDetachedDifferential(t *testing.T) {
	const scripts = 30 // for each set of options and protocol
	budget := flush.NewBudget(1<<20, 1<<22)
	gzipped := func(f *flush.Flusher, r *http.Request) {
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
	}
	options := []struct {
		name  string
		early bool
		opts  flush.Options
	}{
		{"plain", true, flush.Options{}},
		{"asynchronous", true, flush.Options{Flush: flush.Async}},
		{"small marks", true, flush.Options{BufferSize: 1000, MaxPending: 2 << 20}},
		{"every write moves", false, flush.Options{BufferSize: -1}},
		{"implicit", false, flush.Options{Implicit: flush.Wait}},
		{"implicit, asynchronous", false, flush.Options{Implicit: flush.Async}},
		{"no proxy buffering", true, flush.Options{NoProxyBuffering: true}},
		{"budget", true, flush.Options{Budget: budget}},
		{"gzip", true, flush.Options{OnStart: gzipped}},
		{"gzip, budget, asynchronous", true, flush.Options{OnStart: gzipped, Budget: budget, Flush: flush.Async, NoProxyBuffering: true}},
	}
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10, harness.HTTPS1} {
		for i, o := range options {
			t.Run(p.String()+"/"+o.name, func(t *testing.T) {
				o.opts.MaxPending = max(o.opts.MaxPending, 4<<20) // TryWrite has room, whatever the timing
				var mu sync.Mutex
				running := make(map[string]*detachScript)
				srv := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					s := running[r.URL.Path]
					mu.Unlock()
					rng := rand.New(rand.NewPCG(s.seed, 1))
					f := s.begin(w, rng)
					if s.detach {
						go s.end(f, rng)
					} else {
						s.end(f, rng)
					}
				}), &o.opts))
				for n := range scripts {
					seed := uint64(i*1000 + n)
					var got [2]answer
					for k, detach := range []bool{false, true} {
						s := &detachScript{seed: seed, early: o.early, detach: detach, done: make(chan struct{})}
						path := fmt.Sprintf("/%d/%v", n, detach)
						mu.Lock()
						running[path] = s
						mu.Unlock()
						c := harness.Open(t, srv, "GET", path, nil, "Accept-Encoding: gzip", "Connection: keep-alive")
						got[k] = answerOf(c)
						harness.Next(t, s.done)
						c.Leave()
						got[k].notes, got[k].aborted = s.notes, s.aborted
					}
					if what := got[0].differs(got[1]); what != "" {
						t.Fatalf("script %d: %s", seed, what)
					}
				}
			})
		}
	}
}

// An answer is all that the client sees of a response, and the program.
type answer struct {
	head    []string // but for the time
	body    string
	trailer http.Header
	end     harness.Ending
	notes   []string
	aborted bool
}

func answerOf(s *harness.Stream) answer {
	s.T.Helper()
	r := s.Response()
	a := answer{head: []string{fmt.Sprintf("%s %s, length %d, %v, close %v", r.Proto, r.Status, r.ContentLength, r.TransferEncoding, r.Close)}}
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		for _, v := range r.Header[k] {
			if k != "Date" || strings.Contains(v, "1970") {
				a.head = append(a.head, k+": "+v)
			}
		}
	}
	a.body, a.trailer, a.end = s.Rest()
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(strings.NewReader(a.body))
		if err == nil {
			var plain []byte
			plain, err = io.ReadAll(z)
			a.body = string(plain)
		}
		a.notes = append(a.notes, fmt.Sprintf("gunzip: %v", err))
	}
	return a
}

// differs says what differs from b, the same response when it is detached, or "".
func (a answer) differs(b answer) string {
	for _, d := range []struct {
		what string
		a, b any
	}{
		{"head", a.head, b.head}, {"trailer", a.trailer, b.trailer}, {"results", a.notes, b.notes}, {"aborted", a.aborted, b.aborted},
	} {
		if !reflect.DeepEqual(d.a, d.b) {
			return fmt.Sprintf("%s:\nattached %v\ndetached %v", d.what, d.a, d.b)
		}
	}
	// Detached, a cut is visible everywhere, and what was under way may be lost with it.
	if a.aborted && a.end == harness.Closed {
		if b.end != harness.Cut || !strings.HasPrefix(a.body, b.body) {
			return fmt.Sprintf("cut: %d bytes, %s; detached %d bytes, %s", len(a.body), a.end, len(b.body), b.end)
		}
		return ""
	}
	if a.end != b.end || a.body != b.body {
		return fmt.Sprintf("body: %d bytes, %s; detached %d bytes, %s", len(a.body), a.end, len(b.body), b.end)
	}
	return ""
}
