package edges_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// A bodyCall is a call that hands headers over, and may block on the upload as
// under net/http.
var bodyCalls = map[string]func(f *flush.Flusher, ctx context.Context) error{
	"FlushWait":                func(f *flush.Flusher, _ context.Context) error { return f.FlushWait(harness.NoContext) },
	"FlushWait with a context": func(f *flush.Flusher, ctx context.Context) error { return f.FlushWait(ctx) },
	"Write":                    func(f *flush.Flusher, _ context.Context) error { _, err := f.Write(make([]byte, 5000)); return err },
	"SendHeaders":              func(f *flush.Flusher, _ context.Context) error { return f.SendHeaders() },
	"Close":                    func(f *flush.Flusher, _ context.Context) error { f.Write(make([]byte, 3000)); return f.Close() },
}

// The rows of the table of waits for which the request body comes first: the
// server drains an upload when headers go out. A caller may block there as
// under net/http, but not for ever.
func TestWaitsForTheRequestBody(t *testing.T) {
	any := func(at time.Duration) []waitOutcome { return []waitOutcome{{harness.ErrAny, at}} }
	reasons := []struct {
		name string
		do   func(f *flush.Flusher, s *harness.Stream, cancel context.CancelFunc)
		want []waitOutcome
	}{
		{whyLives, func(_ *flush.Flusher, s *harness.Stream, _ context.CancelFunc) {
			time.AfterFunc(waitLimit-1, func() { io.WriteString(s.Conn, strings.Repeat("u", 97)) })
		}, []waitOutcome{{nil, waitLimit - 1}}},
		// The client gets its answer all the same, or is cut.
		{whyRunsOut, func(*flush.Flusher, *harness.Stream, context.CancelFunc) {}, any(waitLimit)},
		{whyLeaves, func(_ *flush.Flusher, s *harness.Stream, _ context.CancelFunc) { time.AfterFunc(waitHappens, s.Leave) }, any(waitHappens)},
		{whyAborts, func(f *flush.Flusher, _ *harness.Stream, _ context.CancelFunc) {
			time.AfterFunc(waitHappens, func() { f.Abort(errWaitCause) })
		}, []waitOutcome{{errWaitCause, waitHappens}}},
		{whyCancels, func(_ *flush.Flusher, _ *harness.Stream, cancel context.CancelFunc) {
			time.AfterFunc(waitHappens, cancel)
		},
			[]waitOutcome{{context.Canceled, waitHappens}}},
	}
	for name, call := range bodyCalls {
		for _, reason := range reasons {
			if reason.name == whyCancels && name != "FlushWait with a context" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", name, reason.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					streams, over := make(chan *harness.Stream, 1), make(chan struct{})
					srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(over)
						defer func() { recover() }() // http.ErrAbortHandler
						flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							s := <-streams
							f, _ := flush.From(w)
							ctx, cancel := context.WithCancel(context.Background())
							defer cancel()
							io.WriteString(w, "x")
							clock := harness.NewClock()
							stop := time.AfterFunc(waitLate, s.Leave) // whatever happens, the test goes on
							defer stop.Stop()
							reason.do(f, s, cancel)
							err := call(f, ctx)
							at := clock.Now()
							if !slices.ContainsFunc(reason.want, func(o waitOutcome) bool { return o.is(err, at, 0) }) {
								t.Errorf("%v, want %v", waitOutcome{err, at}, reason.want)
							}
						}), &flush.Options{SendTimeout: waitLimit}).ServeHTTP(w, r)
					}), 0)
					s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
					io.WriteString(s.Conn, "upl")
					streams <- s
					<-over
					s.Leave()
					<-time.After(time.Second) // a server that gives up a connection lingers
				})
			})
		}
	}
}

// The same behind a Read of the handler's that is under way. The server's own
// lock on its body is held meanwhile, which a bubble takes for work: so on
// sockets, and not to the nanosecond.
func TestWaitsForAReadOfTheRequestBody(t *testing.T) {
	for name, call := range bodyCalls {
		for _, reason := range []string{whyLives, whyRunsOut, whyLeaves, whyAborts, whyCancels} {
			if reason == whyCancels && name != "FlushWait with a context" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", name, reason), func(t *testing.T) {
				streams, over := make(chan *harness.Stream, 1), make(chan struct{})
				limit := harness.Patience()
				if reason == whyRunsOut {
					limit = 50 * time.Millisecond
				}
				srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(over)
					defer func() { recover() }() // http.ErrAbortHandler
					flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						s := <-streams
						f, _ := flush.From(w)
						ctx, cancel := context.WithCancel(context.Background())
						defer cancel()
						reading, read := make(chan struct{}), make(chan struct{})
						go func() {
							defer close(read)
							io.ReadFull(r.Body, make([]byte, 3))
							close(reading)
							io.ReadAll(r.Body)
						}()
						<-reading
						io.WriteString(w, "x")
						var want error
						do := func() {}
						switch reason {
						case whyLives:
							do = func() { io.WriteString(s.Conn, strings.Repeat("u", 97)) }
						case whyRunsOut, whyLeaves:
							want = harness.ErrAny
						case whyAborts:
							want, do = errWaitCause, func() { f.Abort(errWaitCause) }
						case whyCancels:
							want, do = context.Canceled, cancel
						}
						if reason == whyLeaves {
							do = s.Leave
						}
						time.AfterFunc(10*time.Millisecond, do)
						stuck := make(chan struct{})
						stop := time.AfterFunc(harness.Patience()/2, func() { close(stuck); s.Leave() })
						defer stop.Stop()
						err := call(f, ctx)
						if deadline.Closed(stuck) {
							t.Errorf("only the client's leaving ended the wait: %v", err)
						} else if want != harness.ErrAny && !errors.Is(err, want) {
							t.Errorf("%v, want %v", err, want)
						}
						if reason != whyLives {
							s.Leave()
						}
						<-read
					}), &flush.Options{SendTimeout: limit}).ServeHTTP(w, r)
				}))
				s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
				io.WriteString(s.Conn, "upl")
				streams <- s
				<-over
				s.Leave()
			})
		}
	}
}

// asHub does what a hub does for one of its streams, and what it must not wait
// for: it has others to serve.
func asHub(t *testing.T, f *flush.Flusher, w http.ResponseWriter) {
	for i := range 5 {
		// Beyond BufferSize what is written moves by itself.
		if _, err := f.WriteString(strings.Repeat("e", 2000)); err != nil {
			t.Errorf("Write %d: %v", i, err)
		}
		if err := f.FlushAsync(); err != nil {
			t.Errorf("FlushAsync %d: %v", i, err)
		}
		if err := flush.Flush(w, false); err != nil {
			t.Errorf("Flush %d: %v", i, err)
		}
		f.SetImplicit(flush.Async)
		f.Buffered()
		f.Available()
		f.Stats()
	}
}

// What must not wait for an upload that stands still: the calls of a hub, the
// timers, and Abort.
func TestHubDoesNotWaitForTheRequestBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := make(chan *harness.Stream, 1)
		ended := make(chan time.Duration, 1)
		clock := harness.NewClock()
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: waitLimit, FlushInterval: time.Second}, func(w http.ResponseWriter, r *http.Request) {
			s := <-streams
			f, _ := flush.From(w)
			stop := time.AfterFunc(waitLate, s.Leave)
			defer stop.Stop()
			asHub(t, f, w)
			synctest.Wait()
			if took := clock.Now(); took != 0 {
				t.Errorf("the hub was held for %v", took)
			}
			<-time.After(2*time.Second - clock.Now())
			f.Abort(errWaitCause)
			ended <- clock.Now()
		}), 0)
		s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
		io.WriteString(s.Conn, "upl")
		streams <- s
		if at := <-ended; at != 2*time.Second {
			t.Errorf("Abort returned after %v", at)
		}
		if _, _, end := s.Rest(); end == harness.Complete {
			t.Error("the client takes it for complete")
		}
		s.Leave()
		<-time.After(time.Second)
	})
}

// The same beside a Read of the handler's, which goes on: it gets every byte.
func TestHubDoesNotWaitForAReadOfTheRequestBody(t *testing.T) {
	streams, over := make(chan *harness.Stream, 1), make(chan struct{})
	upload := strings.Repeat("u", 100)
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: harness.Patience(), FlushInterval: time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		s := <-streams
		f, _ := flush.From(w)
		reading, read := make(chan struct{}), make(chan error, 1)
		go func() {
			got := make([]byte, 3)
			io.ReadFull(r.Body, got)
			close(reading)
			more, err := io.ReadAll(r.Body)
			if got = append(got, more...); err == nil && string(got) != upload {
				err = fmt.Errorf("got %q", got)
			}
			read <- err
		}()
		<-reading
		stuck := make(chan struct{})
		stop := time.AfterFunc(harness.Patience()/2, func() { close(stuck); s.Leave() })
		defer stop.Stop()
		asHub(t, f, w)
		if deadline.Closed(stuck) {
			t.Error("the hub was held until the client left")
			return
		}
		io.WriteString(s.Conn, upload[3:])
		if err := <-read; err != nil {
			t.Errorf("the upload: %v", err)
		}
	}))
	s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
	io.WriteString(s.Conn, upload[:3])
	streams <- s
	<-over
	s.Leave()
}
