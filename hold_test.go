package flush_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// A held HTTP/1.0 response outgrows its limit by whatever does not fit, not by a
// Write alone: else all that is refused would be refused for ever.
func TestHeldResponseIsOutgrownWithoutWaiting(t *testing.T) {
	const hold = 10_000
	event := strings.Repeat("x", 3000)
	for name, test := range map[string]struct {
		opts  flush.Options
		write func(t *testing.T, f *flush.Flusher, g *flush.Group) (sent string)
	}{
		"TryWrite": {flush.Options{}, func(t *testing.T, f *flush.Flusher, _ *flush.Group) (sent string) {
			for refused := 0; len(sent) < 5*hold; {
				switch err := f.TryWrite([]byte(event)); err {
				case nil:
					sent += event
				case flush.ErrNoRoom:
					if refused++; refused > 50 {
						t.Error("no room for ever")
						return sent
					}
					time.Sleep(time.Millisecond)
				default:
					t.Error(err)
					return sent
				}
			}
			return sent
		}},
		"Broadcast": {flush.Options{}, func(t *testing.T, f *flush.Flusher, g *flush.Group) (sent string) {
			g.Add(f)
			for refused := 0; len(sent) < 5*hold; {
				if len(g.Broadcast([]byte(event))) == 0 {
					sent += event
				} else if refused++; refused > 50 {
					t.Error("no room for ever")
					return sent
				}
				time.Sleep(time.Millisecond)
			}
			return sent
		}},
		"FollowFlush at the mark": {flush.Options{}, func(t *testing.T, f *flush.Flusher, _ *flush.Group) (sent string) {
			f.WriteString(strings.Repeat("y", hold))
			f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			f.WriteString("one")
			if err := f.FlushAsync(); err != nil && !errors.Is(err, flush.ErrBuffering) {
				t.Error(err)
			}
			f.WriteString("two")
			return strings.Repeat("y", hold) + "onetwo"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.opts.SAPI = flush.OpenResty()
				test.opts.HTTP10Buffer, test.opts.MaxPending = hold, 1
				var sent string
				srv := serveMemory(t, http10, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					f, _ := flush.From(w)
					sent = test.write(t, f, new(flush.Group))
				}), &test.opts), 0)
				s := open(t, srv, "GET", "/", nil)
				body, _, end := s.rest()
				if body != sent || end == cut {
					t.Errorf("%d of %d bytes, %s", len(body), len(sent), end)
				}
			})
		})
	}
}
