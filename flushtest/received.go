package flushtest

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// A received is what a goroutine has read of the body and nobody has taken yet.
type received struct {
	mu    sync.Mutex
	next  []chunk
	size  int           // bytes in next
	ready chan struct{} // next is not empty; closed at the end
	taken chan struct{} // next is empty

	// Once ready is closed:
	end    time.Duration
	err    error         // io.EOF at the end of the body
	waited time.Duration // the longest wait for who takes
}

// A chunk is what came in one go, to the millisecond.
type chunk struct {
	p         []byte
	at, until time.Duration
}

// mostQueued bounds what a received keeps. When there is more, the body waits.
const mostQueued = 1 << 20

// receive begins to read the body. It ends with the body, or with ctx.
func (t *trip) receive(ctx context.Context, resp *http.Response) *received {
	in := &received{ready: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
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
				if full := in.add(buf[:n], in.end); full {
					in.wait(ctx)
				}
			}
		}
	}()
	return in
}

// add reports whether there is enough now.
func (in *received) add(p []byte, at time.Duration) (full bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n := len(in.next); n == 0 || at-in.next[n-1].at > time.Millisecond {
		in.next = append(in.next, chunk{at: at})
	}
	c := &in.next[len(in.next)-1]
	c.p = append(c.p, p...)
	c.until = at
	in.size += len(p)
	select {
	case in.ready <- struct{}{}:
	default:
	}
	return in.fullLocked()
}

func (in *received) fullLocked() bool { return in.size >= mostQueued || len(in.next) >= mostArrivals }

// wait waits until there is place for more.
func (in *received) wait(ctx context.Context) {
	start := time.Now()
	for full := true; full; {
		select {
		case <-in.taken:
		case <-ctx.Done():
			return
		}
		in.mu.Lock()
		full = in.fullLocked()
		in.mu.Unlock()
	}
	in.waited = max(in.waited, time.Since(start))
}

func (in *received) take() []chunk {
	in.mu.Lock()
	defer in.mu.Unlock()
	next := in.next
	in.next, in.size = nil, 0
	select {
	case in.taken <- struct{}{}:
	default:
	}
	return next
}
