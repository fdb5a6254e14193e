package edges_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// An upload says that it has 100 bytes, or no length, and stalls after three.
type upload struct {
	name       string
	line       string // of the head
	begin, end string // what is sent at first, and what is missing
}

var uploads = []upload{
	{"declared", "Content-Length: 100", "abc", harness.Numbered(97)},
	{"chunked", "Transfer-Encoding: chunked", "3\r\nabc\r\n", "61\r\n" + harness.Numbered(97) + "\r\n0\r\n\r\n"},
	{"chunked, within a chunk", "Transfer-Encoding: chunked", "64\r\nabc", harness.Numbered(97) + "\r\n0\r\n\r\n"},
}

// post opens a stalled upload.
func (u upload) post(t *testing.T, srv *harness.Server) *harness.Stream {
	t.Helper()
	s := harness.Open(t, srv, "POST", "/", nil, u.line)
	if _, err := io.WriteString(s.Conn, u.begin); err != nil {
		t.Fatal(err)
	}
	return s
}

// goOn sends what is missing.
func (u upload) goOn(s *harness.Stream) { io.WriteString(s.Conn, u.end) }

// What a handler does with its upload before it waits.
var readers = []struct {
	name string
	do   func(r *http.Request)
}{
	{"unread", func(*http.Request) {}},
	{"begun", func(r *http.Request) { io.ReadFull(r.Body, make([]byte, 3)) }},
}

// A hub that writes to a response and asks for a flush is never held by
// its request body. The hand-over that drains the body is ended after
// SendTimeout, and the client gets its answer; the response goes on.
func TestAskingNeverWaitsForTheUpload(t *testing.T) {
	const limit, goesOn, later = 200 * time.Millisecond, 2 * time.Second, 10 * time.Second
	ways := []struct {
		name string
		opts flush.Options
		do   func(f *flush.Flusher, event string) error
		late time.Duration // how much later it is flushed
	}{
		{"TryWrite", flush.Options{}, func(f *flush.Flusher, event string) error {
			return errors.Join(tryWrite(f, []byte(event)), f.FlushAsync())
		}, 0},
		{"implicit", flush.Options{Implicit: flush.Async}, func(f *flush.Flusher, event string) error {
			_, err := io.WriteString(f, event)
			return err
		}, 0},
		{"interval", flush.Options{FlushInterval: 50 * time.Millisecond}, func(f *flush.Flusher, event string) error {
			_, err := io.WriteString(f, event)
			return err
		}, 50 * time.Millisecond},
		{"every write moves", flush.Options{Flush: flush.Async, BufferSize: -1}, func(f *flush.Flusher, event string) error {
			_, err := io.WriteString(f, event)
			return errors.Join(err, f.FlushAsync())
		}, 0},
		{"a buffer that follows", flush.Options{Flush: flush.Async}, func(f *flush.Flusher, event string) error {
			if f.Top() == nil {
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
			}
			_, err := io.WriteString(f, event)
			return errors.Join(err, f.FlushAsync())
		}, 0},
	}
	for _, ask := range asks {
		way := ways[0]
		way.name, way.opts, way.do = ask.name, ask.opts, func(f *flush.Flusher, event string) error {
			_, err := io.WriteString(f, event)
			return errors.Join(err, ask.do(f))
		}
		ways = append(ways, way)
	}
	for _, way := range ways {
		for _, u := range uploads {
			for _, reader := range readers {
				t.Run(way.name+"/"+u.name+"/"+reader.name, func(t *testing.T) {
					edge(t, func(t *testing.T) {
						clock := harness.NewClock()
						opts, told := harness.TellClosing(way.opts)
						opts.SendTimeout = limit
						started := make(chan *flush.Flusher, 1)
						srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
							reader.do(r)
							started <- harness.Flusher(w)
							clock.Until(2 * later)
							// The server ends the context when a read fails.
							if err := flush.Cause(r.Context()); errors.Is(err, flush.ErrClientGone) {
								t.Error("the client is there:", err)
							}
							if rest, err := io.ReadAll(r.Body); err == nil && len(rest) < 97 {
								t.Errorf("a clean end after %d bytes of the upload", len(rest))
							}
						}), 0)
						s := u.post(t, srv)
						time.AfterFunc(goesOn, func() { u.goOn(s) })
						f := <-started
						if err := way.do(f, "event"); err != nil || clock.Now() != 0 {
							t.Errorf("the hub is held until %v: %v", clock.Now(), err)
						}
						s.Expect("event")
						if at := clock.Now(); at > way.late+grain(limit) {
							t.Errorf("the client has its answer after %v", at)
						}
						clock.Until(later)
						if err := way.do(f, "more"); err != nil || clock.Now() != later {
							t.Errorf("the hub is held until %v: %v", clock.Now(), err)
						}
						s.Expect("more")
						if at := clock.Now() - later; at > way.late {
							t.Errorf("the next event has come after %v", at)
						}
						s.ExpectEnd("")
						if c := <-told; c.Err != nil || c.Bytes != int64(len("eventmore")) {
							t.Errorf("OnClose: %v, %+v", c.Err, c.Stats)
						}
						s.Leave()
						<-time.After(time.Second) // a server that gives up a connection lingers
					})
				})
			}
		}
	}
}

// A handler that is inside a Read of the stalled upload holds the hub as
// little, and gets what the client sends or an error. In real time, as who
// waits for net/http's body waits for a mutex.
func TestAskingNeverWaitsForARead(t *testing.T) {
	for i, u := range uploads {
		for j, ask := range asks {
			if i > 0 && j > 0 {
				break
			}
			t.Run(u.name+"/"+ask.name, func(t *testing.T) {
				opts, told := harness.TellClosing(ask.opts)
				opts.SendTimeout = harness.Patience()
				started := make(chan *flush.Flusher, 1)
				srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					started <- harness.Flusher(w)
					if got, err := io.ReadAll(r.Body); err == nil && len(got) != 100 {
						t.Errorf("a clean end after %d bytes of the upload", len(got))
					}
				}))
				s := u.post(t, srv)
				f := <-started
				s.Settle() // the handler is in its Read by now, if the machine is not very busy
				asked := harness.Go(func() error {
					_, err := io.WriteString(f, "event")
					return errors.Join(err, ask.do(f))
				})
				timer := time.NewTimer(harness.Patience() / 5)
				defer timer.Stop()
				select {
				case err := <-asked:
					if err != nil {
						t.Error(err)
					}
					u.goOn(s)
				case <-timer.C:
					t.Error("the hub is held by the upload")
					u.goOn(s)
					<-asked
				}
				s.ExpectEnd("event")
				if c := <-told; c.Err != nil {
					t.Error("OnClose:", c.Err)
				}
			})
		}
	}
}

// A hand-over that drains ends at once with Abort and with the return of the
// handler, and after SendTimeout whoever waits for it.
func TestHandOverThatDrainsEnds(t *testing.T) {
	const limit, aborted, goesOn = 200 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second
	cause := errors.New("cause")
	waits := []struct {
		name string
		opts flush.Options
		do   func(f *flush.Flusher) // waits for the hand-over
	}{
		{"FlushWait", flush.Options{}, func(f *flush.Flusher) { f.FlushWait(harness.NoContext) }},
		{"FlushWait with a context", flush.Options{}, func(f *flush.Flusher) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			f.FlushWait(ctx)
		}},
		{"FlushError", flush.Options{}, func(f *flush.Flusher) { f.FlushError() }},
		{"SendHeaders", flush.Options{}, func(f *flush.Flusher) { f.SendHeaders() }},
		{"Write", flush.Options{}, func(f *flush.Flusher) { f.Write(make([]byte, 20_000)) }},
		{"implicit", flush.Options{Implicit: flush.Wait}, func(f *flush.Flusher) { f.WriteString("more") }},
		{"Close", flush.Options{}, func(f *flush.Flusher) { f.Write(make([]byte, 4000)); f.Close() }},
		{"FlushAsync, then a wait", flush.Options{}, func(f *flush.Flusher) { f.FlushAsync(); f.FlushWait(harness.NoContext) }},
		{"FlushAsync", flush.Options{}, func(f *flush.Flusher) { f.FlushAsync() }},
	}
	for _, u := range uploads {
		for _, way := range waits {
			t.Run("SendTimeout/"+way.name+"/"+u.name, func(t *testing.T) {
				edge(t, func(t *testing.T) {
					clock := harness.NewClock()
					opts, told := harness.TellClosing(way.opts)
					opts.SendTimeout = limit
					srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
						f := harness.Flusher(w)
						io.WriteString(w, "event")
						if way.do(f); clock.Now() > grain(limit) {
							t.Errorf("the wait took until %v", clock.Now())
						}
						clock.Until(time.Second)
						if err := f.Err(); err != nil {
							t.Error("the response has failed:", err)
						}
					}), 0)
					s := u.post(t, srv)
					time.AfterFunc(goesOn, func() { u.goOn(s) })
					s.Expect("event")
					if at := clock.Now(); at > grain(limit) && way.name != "SendHeaders" {
						t.Errorf("the client has its answer after %v", at)
					}
					if _, _, end := s.Rest(); end == harness.Cut {
						t.Errorf("the response ended %s", end)
					}
					if c := <-told; c.Err != nil {
						t.Error("OnClose:", c.Err)
					}
					s.Leave()
					<-time.After(time.Second)
				})
			})
			t.Run("Abort/"+way.name+"/"+u.name, func(t *testing.T) {
				if way.name == "Close" {
					return // Abort comes too late to change what it returns
				}
				edge(t, func(t *testing.T) {
					clock := harness.NewClock()
					opts, told := harness.TellClosing(way.opts)
					opts.SendTimeout = time.Hour
					srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
						f := harness.Flusher(w)
						time.AfterFunc(aborted, func() {
							if f.Abort(cause); clock.Now() != aborted {
								t.Errorf("Abort returned at %v", clock.Now())
							}
						})
						io.WriteString(w, "event")
						if way.do(f); clock.Now() > aborted {
							t.Errorf("the wait took until %v", clock.Now())
						}
						clock.Until(aborted + 1)
					}), 0)
					s := u.post(t, srv)
					time.AfterFunc(goesOn, func() { u.goOn(s) })
					if c := <-told; !errors.Is(c.Err, cause) || c.At.Sub(clock.Start) > aborted+1 {
						t.Errorf("OnClose after %v: %v", c.At.Sub(clock.Start), c.Err)
					}
					if _, _, end := s.Rest(); end == harness.Complete {
						t.Error("the client takes it for complete")
					}
					s.Leave()
					<-time.After(goesOn)
				})
			})
		}
		t.Run("return/"+u.name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				clock := harness.NewClock()
				opts, told := harness.TellClosing(flush.Options{SendTimeout: time.Hour})
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					io.WriteString(w, "event")
					go f.FlushAsync()
					clock.Until(aborted)
				}), 0)
				s := u.post(t, srv)
				time.AfterFunc(goesOn, func() { u.goOn(s) })
				s.ExpectEnd("event")
				if clock.Now() > aborted+500*time.Millisecond { // a grace for who is still sending
					t.Errorf("the response ended after %v", clock.Now())
				}
				if c := <-told; c.Err != nil || c.At.Sub(clock.Start) > aborted+500*time.Millisecond {
					t.Errorf("OnClose after %v: %v", c.At.Sub(clock.Start), c.Err)
				}
				s.Leave()
				<-time.After(goesOn)
			})
		})
	}
}

// The twin: an upload that is slow, but moves, lives, and so does its
// response: the client gets the whole answer, and the handler no short upload
// with a clean end.
func TestMovingUploadLives(t *testing.T) {
	const size = 100
	for _, limit := range []time.Duration{200 * time.Millisecond, time.Hour} {
		for _, test := range []struct {
			name  string
			whole bool // the handler must get all of it
			read  func(r *http.Request, f *flush.Flusher) ([]byte, error)
		}{
			{"read, then answered", true, func(r *http.Request, f *flush.Flusher) ([]byte, error) {
				got, err := io.ReadAll(r.Body)
				io.WriteString(f, "event")
				f.FlushAsync()
				return got, err
			}},
			{"answered, then read", false, func(r *http.Request, f *flush.Flusher) ([]byte, error) {
				io.WriteString(f, "event")
				f.FlushAsync()
				<-time.After(time.Second)
				return io.ReadAll(r.Body)
			}},
			{"answered with a wait, then read", false, func(r *http.Request, f *flush.Flusher) ([]byte, error) {
				io.WriteString(f, "event")
				f.FlushWait(harness.NoContext)
				return io.ReadAll(r.Body)
			}},
		} {
			t.Run(fmt.Sprintf("%s/%v", test.name, limit), func(t *testing.T) {
				edge(t, func(t *testing.T) {
					clock := harness.NewClock()
					opts, told := harness.TellClosing(flush.Options{SendTimeout: limit})
					srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
						got, err := test.read(r, harness.Flusher(w))
						if err == nil && len(got) != size || test.whole && err != nil {
							t.Errorf("%d bytes of the upload and %v", len(got), err)
						}
						if err := flush.Cause(r.Context()); errors.Is(err, flush.ErrClientGone) {
							t.Error("the client is there:", err)
						}
						clock.Until(time.Minute)
					}), 0)
					s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
					sent := harness.Go(func() error {
						for range size {
							if _, err := io.WriteString(s.Conn, "u"); err != nil {
								return err
							}
							<-time.After(100 * time.Millisecond)
						}
						return nil
					})
					s.Expect("event")
					if at := clock.Now(); at > 11*time.Second {
						t.Errorf("the client has its answer after %v", at)
					}
					s.ExpectEnd("")
					if c := <-told; c.Err != nil {
						t.Error("OnClose:", c.Err)
					}
					<-sent
					s.Leave()
					<-time.After(time.Second)
				})
			})
		}
	}
}

// The same beside a hub, by call and by time, while the handler reads: it gets
// all of the upload or an error, and the client all of the answer.
func TestMovingUploadBesideAHub(t *testing.T) {
	const pieces = 200
	for _, u := range []struct{ name, line, piece, end string }{
		{"declared", fmt.Sprintf("Content-Length: %d", 10*pieces), "0123456789", ""},
		{"chunked", "Transfer-Encoding: chunked", "a\r\n0123456789\r\n", "0\r\n\r\n"},
	} {
		for _, opts := range []flush.Options{{}, {Flush: flush.Async}, {FlushInterval: time.Millisecond}, {Implicit: flush.Async}} {
			t.Run(fmt.Sprintf("%s/%v %v %v", u.name, opts.Flush, opts.FlushInterval, opts.Implicit), func(t *testing.T) {
				const events = 20
				opts, told := harness.TellClosing(opts)
				opts.SendTimeout = harness.Patience()
				srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					f := harness.Flusher(w)
					hub := harness.Go(func() error {
						var all error
						for range events {
							_, err := io.WriteString(f, "event")
							if all = errors.Join(all, err); opts.FlushInterval == 0 {
								all = errors.Join(all, f.FlushAsync())
							}
							runtime.Gosched()
						}
						return all
					})
					if got, err := io.ReadAll(r.Body); err == nil && len(got) != 10*pieces {
						t.Errorf("a clean end after %d bytes of the upload", len(got))
					}
					if err := <-hub; err != nil {
						t.Error(err)
					}
				}))
				s := harness.Open(t, srv, "POST", "/", nil, u.line)
				sent := harness.Go(func() error {
					for range pieces {
						if _, err := io.WriteString(s.Conn, u.piece); err != nil {
							return err
						}
						runtime.Gosched()
					}
					_, err := io.WriteString(s.Conn, u.end)
					return err
				})
				s.ExpectEnd(strings.Repeat("event", events))
				if c := <-told; c.Err != nil {
					t.Error("OnClose:", c.Err)
				}
				s.Leave()
				<-sent
			})
		}
	}
}

// A read deadline stands only while the drain is under way: where the upload
// comes in time, the connection is kept and lives on.
func TestDrainLeavesNoReadDeadline(t *testing.T) {
	const limit = 200 * time.Millisecond
	for _, u := range uploads {
		for _, wait := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", u.name, wait), func(t *testing.T) {
				edge(t, func(t *testing.T) {
					clock := harness.NewClock()
					srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, r *http.Request) {
						began := clock.Now()
						ctx := r.Context()
						ended := ctx.Done()
						io.WriteString(w, "event")
						flush.Flush(w, wait)
						select {
						case <-ended:
							t.Error("the client is there:", context.Cause(ctx))
						case <-time.After(time.Hour):
						}
						if clock.Now() > began+2*time.Hour {
							t.Errorf("the flush took until %v", clock.Now())
						}
					}), 0)
					s := u.post(t, srv)
					time.AfterFunc(limit/2, func() { u.goOn(s) })
					for range 2 {
						s.Expect("event")
						s.ExpectEnd("")
						<-time.After(time.Hour)
						s = s.Again("GET", "/", nil)
					}
					s.ExpectEnd("event")
					s.Leave()
				})
			})
		}
	}
}

// HTTP/2 has nothing to drain: a stalled upload holds nobody.
func TestStalledUploadOverHTTP2(t *testing.T) {
	edge(t, func(t *testing.T) {
		clock := harness.NewClock()
		started := make(chan *flush.Flusher, 1)
		srv := harness.ServeMemory(t, harness.HTTP2, harness.Wrapped(&flush.Options{SendTimeout: 200 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
			started <- harness.Flusher(w)
			if got, err := io.ReadAll(r.Body); string(got) != "abc" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}), 0)
		r, w := io.Pipe()
		s := harness.Open(t, srv, "POST", "/", r)
		io.WriteString(w, "abc")
		f := <-started
		_, err := io.WriteString(f, "event")
		if err = errors.Join(err, f.FlushAsync()); err != nil {
			t.Error(err)
		}
		if s.Expect("event"); clock.Now() != 0 {
			t.Errorf("the client has its answer after %v", clock.Now())
		}
		<-time.After(time.Hour)
		w.Close()
		s.ExpectEnd("")
	})
}
