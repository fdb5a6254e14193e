package flush_test

import (
	"bytes"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// What Broadcast does where there is no room: in the Budget, or in the stack.

// An event of which the kernels take only a part is queued as far as the Budget
// has room. Those for whom it has none have missed it, and one that keeps up has
// small events all the same.
func TestBroadcastBeyondTheBudget(t *testing.T) {
	for _, p := range []proto{http1, https1} {
		t.Run(p.String(), func(t *testing.T) {
			const clients, size = 8, 1 << 20
			var g flush.Group
			b := flush.NewBudget(0, 64<<10)
			h, out := detacher(t, &flush.Options{Group: &g, Budget: b, SendTimeout: time.Hour}, nil)
			srv := serve(t, p, h, smallBuffers)
			streams := make(map[*flush.Flusher]*stream)
			for range clients {
				s := open(t, srv, "GET", "/", nil)
				f := next(t, out)
				s.response()
				streams[f.Flusher] = s
			}
			missed := g.Broadcast(bytes.Repeat([]byte("x"), size))
			if held := b.Stats().Held; held > 2*size {
				t.Errorf("%d bytes are held, of a budget of %d", held, 64<<10)
			}
			if len(missed) != clients-1 {
				t.Fatalf("%d of %d have missed it", len(missed), clients)
			}
			if runtime.GOOS == "linux" { // elsewhere the kernel is not asked
				if small := g.Broadcast([]byte("small")); len(small) != 1 {
					t.Errorf("%d have missed the small event", len(small))
				}
				streams[missed[0]].expect("small")
			}
			for f := range streams {
				f.Abort(nil)
			}
		})
	}
}

// Nothing always enters: whoever sends it has missed nothing, and no hub takes it
// for a client that is behind.
func TestBroadcastOfNothing(t *testing.T) {
	bubble(t, func(t *testing.T, p proto) {
		var g flush.Group
		park := newPark(t)
		srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			expectError(t, "FlushWait", f.FlushWait(noContext), nil)
			f.StartBuffer(nil)
			io.WriteString(w, strings.Repeat("x", 300<<10))
			must(t, g.Add(f))
			park.here()
			expectError(t, "Buffer.Flush", f.Top().Flush(), nil)
		}), nil), 4096)
		s := open(t, srv, "GET", "/", nil)
		s.response()
		park.next()
		synctest.Wait() // the buffer is on its way down, and the client does not read
		f := members(&g)[0]
		expectError(t, "TryWrite of something", f.TryWrite([]byte("x")), flush.ErrNoRoom)
		expectError(t, "TryWrite of nothing", f.TryWrite(nil), nil)
		if missed := g.Broadcast(nil); len(missed) > 0 {
			t.Error("it has missed nothing, it says")
		}
		s.expectEnd(strings.Repeat("x", 300<<10))
	})
}
