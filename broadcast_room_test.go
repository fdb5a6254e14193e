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
	"github.com/fa492104/flush/internal/harness"
)

// What Broadcast does where there is no room: in the Budget, or in the stack.

// An event of which the kernels take only a part is queued as far as the Budget
// has room. Those for whom it has none have missed it, and one that keeps up has
// small events all the same.
func TestBroadcastBeyondTheBudget(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			const clients, size = 8, 1 << 20
			var g flush.Group
			b := flush.NewBudget(0, 64<<10)
			h, out := detacher(t, &flush.Options{Group: &g, Budget: b, SendTimeout: time.Hour}, nil)
			srv := harness.Serve(t, p, h, harness.SmallBuffers)
			streams := make(map[*flush.Flusher]*harness.Stream)
			for range clients {
				s := harness.Open(t, srv, "GET", "/", nil)
				f := harness.Next(t, out)
				s.Response()
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
				streams[missed[0]].Expect("small")
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
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		var g flush.Group
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			expectError(t, "FlushWait", f.FlushWait(harness.NoContext), nil)
			f.StartBuffer(nil)
			io.WriteString(w, strings.Repeat("x", 300<<10))
			harness.Must(t, g.Add(f))
			park.Here()
			expectError(t, "Buffer.Flush", f.Top().Flush(), nil)
		}), nil), 4096)
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Response()
		park.Next()
		synctest.Wait() // the buffer is on its way down, and the client does not read
		f := members(&g)[0]
		expectError(t, "TryWrite of something", f.TryWrite([]byte("x")), flush.ErrNoRoom)
		expectError(t, "TryWrite of nothing", f.TryWrite(nil), nil)
		if missed := g.Broadcast(nil); len(missed) > 0 {
			t.Error("it has missed nothing, it says")
		}
		s.ExpectEnd(strings.Repeat("x", 300<<10))
	})
}
