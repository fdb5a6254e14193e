package flush_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Wherever the kernel stops in the middle of a chunk, what follows mends it.
func TestDetachedTornChunk(t *testing.T) {
	event := []byte("an event of more than sixteen bytes")
	whole := len(event) + len("23\r\n") + len("\r\n")
	for n := 1; n < whole; n++ {
		for _, behind := range []string{"", "and what is written behind it"} {
			for _, size := range []int{1, 7, len(event), len(event) + len(behind)} {
				got, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(flush.TornChunk(event, n, []byte(behind), size))))
				if err != nil || string(got) != string(event)+behind {
					t.Errorf("torn after %d bytes, then pieces of %d: got %q, %v", n, size, got, err)
				}
			}
		}
	}
}

// A hammered is one of many detached responses, and what its client got.
type hammered struct {
	f        *flush.Flusher
	accepted atomic.Int64 // events
	closes   atomic.Int32 // calls of OnClose
	lost     atomic.Int64 // bytes, as Stats told it
	aborted  atomic.Bool

	left bool // the client left by itself
	got  int64
	end  error // what ended the body
	torn string
}

// Writers, broadcasters, flushes, aborts and clients that leave, at random, over
// many detached responses at once: no event is torn or out of order, none is lost
// without a word, and every response ends once.
func TestDetachedHammer(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			hammerDetached(t, clientsAtOnce(1000))
		})
	}
}

func hammerDetached(t *testing.T, n int) {
	all := make([]*hammered, n)
	for i := range all {
		all[i] = new(hammered)
	}
	var ready sync.WaitGroup
	ready.Add(n)
	at := func(r *http.Request) *hammered {
		var i int
		fmt.Sscanf(r.URL.Path, "/%d", &i)
		return all[i]
	}
	srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer ready.Done()
		h := at(r)
		h.f, _ = flush.From(w)
		if err := h.f.Detach(); err != nil {
			t.Error(err)
		}
	}), &flush.Options{Budget: flush.NewBudget(4<<20, 8<<20), OnClose: func(r *http.Request, s flush.Stats, _ error) {
		at(r).lost.Store(s.Lost)
		at(r).closes.Add(1)
	}}))

	var clients sync.WaitGroup
	for i, h := range all {
		c, err := srv.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
		clients.Go(func() { h.read(c) })
	}
	ready.Wait()

	var writers sync.WaitGroup
	event := func(who int, seq int) []byte {
		return fmt.Appendf(nil, "%d %d %s.\n", who, seq, strings.Repeat("x", rand.IntN(200)))
	}
	for who := range 4 {
		writers.Go(func() { // one that broadcasts
			for seq := range 30 {
				p := event(who, seq)
				s := flush.NewSharedWrite(p)
				for _, h := range all {
					taken, err := flush.WriteShared(h.f, s)
					if !taken {
						if err = h.f.TryWrite(p); err == nil {
							h.f.FlushAsync()
						}
					}
					if err == nil {
						h.accepted.Add(1)
					}
				}
			}
		})
	}
	for who := 4; who < 8; who++ {
		writers.Go(func() { // one that does this and that
			for seq := range 20 * n {
				h := all[rand.IntN(n)]
				switch rand.IntN(300) {
				case 0:
					h.aborted.Store(true)
					h.f.Abort(errors.New("enough"))
				case 1:
					h.f.Close()
				case 2, 3, 4:
					h.f.FlushWait(harness.NoContext)
				case 5, 6, 7:
					h.f.FlushAsync()
				case 8:
					h.f.Stats()
				default:
					if h.f.TryWrite(event(who, seq)) == nil {
						h.accepted.Add(1)
					}
				}
			}
		})
	}
	writers.Wait()
	var ends sync.WaitGroup
	for _, h := range all {
		ends.Go(func() { h.f.Close() })
	}
	ends.Wait()
	clients.Wait()

	whole := 0
	for i, h := range all {
		harness.WaitFor(t, func() bool { return h.closes.Load() > 0 })
		switch {
		case h.torn != "":
			t.Errorf("response %d: %s", i, h.torn)
		case h.closes.Load() != 1:
			t.Errorf("response %d was ended %d times", i, h.closes.Load())
		case h.left || h.aborted.Load() || h.f.Err() != nil:
		case h.end != io.EOF:
			t.Errorf("response %d ended with %v, and no failure: %v", i, h.end, h.f.Err())
		case h.got != h.accepted.Load():
			t.Errorf("response %d: %d events were accepted and %d came; %d bytes lost", i, h.accepted.Load(), h.got, h.lost.Load())
		default:
			whole++
		}
	}
	if whole == 0 {
		t.Error("no response came whole: the test shows nothing")
	}
	t.Logf("%d of %d came whole", whole, n)
}

// read is the client: some leave, and some are slow.
func (h *hammered) read(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	r, err := http.ReadResponse(br, nil)
	if err != nil {
		h.end = err
		return
	}
	leaves := int64(-1)
	if rand.IntN(5) == 0 {
		leaves = rand.Int64N(100)
	}
	slow := rand.IntN(10) == 0
	last := make(map[int]int)
	for lines := bufio.NewReader(r.Body); ; h.got++ {
		line, err := lines.ReadString('\n')
		if err != nil {
			if h.end = err; line != "" && err == io.EOF {
				h.torn = fmt.Sprintf("the end of %q is missing", line)
			}
			return
		}
		var who, seq int
		if _, err := fmt.Sscanf(line, "%d %d ", &who, &seq); err != nil || !strings.HasSuffix(strings.TrimLeft(line, "0123456789 x"), ".\n") {
			h.torn = fmt.Sprintf("%q is not an event", line)
			return
		}
		if before, ok := last[who]; ok && seq <= before {
			h.torn = fmt.Sprintf("%d of %d came after %d", seq, who, before)
			return
		}
		last[who] = seq
		if h.got == leaves {
			h.left = true
			return
		}
		if slow {
			time.Sleep(time.Millisecond)
		}
	}
}
