package flush_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// An upload that is read while the response streams: the handler gets what it
// gets bare, with net/http's own errors and its own silent hole, from a server
// that flushes after the first read, or one that flushes at the end.
func TestUploadWhileStreaming(t *testing.T) {
	flushes := []struct {
		name string
		opts flush.Options
		do   func(f *flush.Flusher)
	}{
		{"none", flush.Options{}, func(*flush.Flusher) {}},
		{"wait", flush.Options{}, func(f *flush.Flusher) { flush.Flush(f, true) }},
		{"ask", flush.Options{}, func(f *flush.Flusher) { flush.Flush(f, false) }},
		{"implicit", flush.Options{Implicit: flush.Wait}, func(*flush.Flusher) {}},
		{"implicit ask", flush.Options{Implicit: flush.Async}, func(*flush.Flusher) {}},
		{"interval", flush.Options{FlushInterval: time.Nanosecond}, func(*flush.Flusher) { synctest.Wait() }},
		{"headers", flush.Options{}, func(f *flush.Flusher) { f.SendHeaders() }},
		{"every write moves", flush.Options{BufferSize: -1}, func(*flush.Flusher) {}},
		{"background", flush.Options{Flush: flush.Async, BufferSize: -1}, func(*flush.Flusher) {}},
	}
	upload := strings.Repeat("0123456789abcdef", 400_000/16) // more than the 256 KB that the server drains
	type got struct {
		n   int
		sum [sha256.Size]byte
		err error
	}
	// run answers one upload with h, whose step follows each read, and returns
	// what h read of it.
	run := func(t *testing.T, p harness.Proto, chunked bool, wrap func(http.Handler) http.Handler, step func(w http.ResponseWriter, first bool)) got {
		read := make(chan got, 1)
		srv := harness.ServeMemory(t, p, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sum := sha256.New()
			var g got
			buf := make([]byte, 30_000)
			for first := true; g.err == nil; first = false {
				var n int
				n, g.err = io.ReadFull(r.Body, buf)
				sum.Write(buf[:n])
				g.n += n
				step(w, first)
			}
			sum.Sum(g.sum[:0])
			read <- g
		})), 4<<20)
		var body io.Reader = strings.NewReader(upload)
		if chunked {
			body = struct{ io.Reader }{body}
		}
		s := harness.Open(t, srv, "POST", "/", body)
		if got, _, end := s.Rest(); strings.Trim(got, ".") != "" || got == "" || end == harness.Cut {
			t.Errorf("client got %q, %s", harness.Clip([]byte(got)), end)
		}
		s.Leave()
		<-time.After(time.Second) // a server that gives up a connection lingers
		return <-read
	}
	for _, way := range flushes {
		for _, duplex := range []bool{false, true} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%t/%t", way.name, duplex, chunked), func(t *testing.T) {
					harness.Bubble(t, func(t *testing.T, p harness.Proto) {
						if chunked && p == harness.HTTP10 {
							return // HTTP/1.0 has none
						}
						control := func(w http.ResponseWriter, first bool, flushes bool) {
							rc := http.NewResponseController(w)
							if duplex && first {
								rc.EnableFullDuplex()
							}
							io.WriteString(w, ".")
							if flushes {
								rc.Flush()
							}
						}
						flushed := run(t, p, chunked, harness.Bare, func(w http.ResponseWriter, first bool) { control(w, first, true) })
						whole := run(t, p, chunked, harness.Bare, func(w http.ResponseWriter, first bool) { control(w, first, false) })
						ours := run(t, p, chunked, harness.WrappedBy(&way.opts), func(w http.ResponseWriter, first bool) {
							control(w, first, false)
							way.do(harness.Flusher(w))
						})
						if ours != flushed && ours != whole {
							t.Errorf("%d bytes, %v; bare %d, %v", ours.n, ours.err, flushed.n, flushed.err)
						}
					})
				})
			}
		}
	}
}

// New changes nothing of the request: the server finds its own body there, and
// an upload is read as bare, after a flush too.
func TestUploadUnderNew(t *testing.T) {
	const size = 400_000
	for _, flushes := range []bool{false, true} {
		for _, line := range []string{"X-Plain: 1", "Expect: 100-continue", "Connection: close"} {
			if flushes && line == "Expect: 100-continue" {
				continue // bare, too, nobody asks the client for its body then
			}
			t.Run(fmt.Sprint(flushes, line), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					srv := harness.ServeMemory(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						before := *r
						f := flush.New(w, r, nil)
						defer f.Close()
						if !reflect.DeepEqual(*r, before) {
							t.Error("the request has changed")
						}
						if flushes {
							flush.Flush(f, true)
						}
						if got, err := io.ReadAll(r.Body); err != nil || len(got) != size {
							t.Errorf("%d bytes, %v", len(got), err)
						}
						io.WriteString(f, "x")
					}), 4<<20)
					if p == harness.HTTP10 && line == "Connection: close" {
						line = "X-Plain: 2"
					}
					s := harness.Open(t, srv, "POST", "/", strings.NewReader(strings.Repeat("u", size)), line)
					s.ExpectEnd("x")
					s.Leave()
					<-time.After(time.Second)
				})
			})
		}
	}
}

// What the server learns from the end of a body, the handler's request shows:
// trailers that were announced and those that were not, after the last Read and
// after a Close, in a body of nothing too.
func TestRequestTrailer(t *testing.T) {
	for _, announced := range []bool{true, false} {
		for _, body := range []string{"upload", ""} {
			for _, way := range []string{"read", "closed"} {
				t.Run(fmt.Sprintf("%t/%q/%s", announced, body, way), func(t *testing.T) {
					var got [2][2]string
					for i, wrap := range []func(http.Handler) http.Handler{harness.Bare, harness.WrappedBy(nil)} {
						synctest.Test(t, func(t *testing.T) {
							done := make(chan struct{})
							srv := harness.ServeMemory(t, harness.HTTP1, wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
								defer close(done)
								got[i][0] = fmt.Sprint(r.Trailer)
								if way == "closed" {
									r.Body.Close()
								} else {
									io.Copy(io.Discard, r.Body)
								}
								got[i][1] = fmt.Sprint(r.Trailer)
							})), 0)
							lines := []string{"Transfer-Encoding: chunked"}
							if announced {
								lines = append(lines, "Trailer: X-Sum")
							}
							s := harness.Open(t, srv, "POST", "/", nil, lines...)
							if body != "" {
								fmt.Fprintf(s.Conn, "%x\r\n%s\r\n", len(body), body)
							}
							io.WriteString(s.Conn, "0\r\nX-Sum: 42\r\n\r\n")
							<-done
							s.ExpectEnd("")
						})
					}
					if got[0] != got[1] || !strings.Contains(got[0][1], "42") {
						t.Errorf("wrapped %v, bare %v", got[1], got[0])
					}
				})
			}
		}
	}
}

// Over HTTP/2 as well.
func TestRequestTrailerHTTP2(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP2, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, r.Trailer.Get("X-Sum"))
	}), harness.Cleartext)
	req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL("/"), struct{ io.Reader }{strings.NewReader("upload")})
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Sum": {"42"}}
	resp, err := srv.Client().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "42" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A server of another kind may set its request's trailer to a map of its own.
func TestRequestTrailerOfAnotherServer(t *testing.T) {
	r := httptest.NewRequest("POST", "/", nil)
	r.ProtoMajor, r.ContentLength = 3, -1
	r.Trailer = http.Header{"X-Sum": nil}
	r.Body = &bodyWithTrailer{Reader: strings.NewReader("upload"), r: r}
	harness.Wrapped(nil, func(_ http.ResponseWriter, own *http.Request) {
		io.Copy(io.Discard, own.Body)
		if got := own.Trailer.Get("X-Sum"); got != "42" {
			t.Errorf("after the last read: %q", got)
		}
		own.Body.Close()
		if got := own.Trailer.Get("X-Late"); got != "43" {
			t.Errorf("after Close: %q", got)
		}
	}).ServeHTTP(httptest.NewRecorder(), r)
}

type bodyWithTrailer struct {
	io.Reader
	r *http.Request
}

func (b *bodyWithTrailer) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil {
		b.r.Trailer = http.Header{"X-Sum": {"42"}}
	}
	return n, err
}

func (b *bodyWithTrailer) Close() error {
	b.r.Trailer = http.Header{"X-Late": {"43"}}
	return nil
}

// Once the final status has been fixed no 100 Continue is sent, though the
// status goes out later; before, the first read asks for the body.
func TestNoContinueAfterTheStatus(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(w http.ResponseWriter)
		want int // 1xx
	}{
		{"nothing", func(http.ResponseWriter) {}, 1},
		{"header", func(w http.ResponseWriter) { w.Header().Set("X-A", "1") }, 1},
		{"WriteHeader", func(w http.ResponseWriter) { w.WriteHeader(202) }, 0},
		{"Write", func(w http.ResponseWriter) { io.WriteString(w, "x") }, 0},
		{"empty Write", func(w http.ResponseWriter) { w.Write(nil) }, 0},
		{"flush", func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }, 0},
	} {
		for name, wrap := range map[string]func(http.Handler) http.Handler{
			"bare": harness.Bare, "wrapped": harness.WrappedBy(nil), "async": harness.WrappedBy(&flush.Options{Flush: flush.Async}), "New": harness.EndedNew,
		} {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := harness.ServeMemory(t, harness.HTTP1, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						test.do(w)
						if got, err := io.ReadAll(r.Body); string(got) != "upload" || err != nil {
							t.Errorf("%q, %v", got, err)
						}
					})), 0)
					s := harness.Open(t, srv, "POST", "/", nil, "Expect: 100-continue", "Content-Length: 6")
					synctest.Wait()
					io.WriteString(s.Conn, "upload") // asked for or not
					if _, _, end := s.Rest(); end != harness.Complete || len(s.Interim) != test.want {
						t.Errorf("%s after %v, want %d", end, s.Interim, test.want)
					}
				})
			})
		}
	}
}

// A client that waits for a 100 Continue gets the answer that was flushed
// instead, and need not send its body.
func TestFlushInsteadOfContinue(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "no need")
		if err := flush.Flush(w, true); err != nil {
			t.Error(err)
		}
	}
	for name, h := range map[string]http.Handler{
		"NewHandler": harness.Wrapped(nil, handler),
		"New": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f := flush.New(w, r, nil)
			defer f.Close()
			handler(f, r)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				if p == harness.HTTP10 {
					return // has no 100 Continue
				}
				clock := harness.NewClock()
				s := harness.Open(t, harness.ServeMemory(t, p, h, 0), "POST", "/", strings.NewReader("upload"), "Expect: 100-continue")
				s.ExpectEnd("no need")
				if clock.Now() != 0 || len(s.Interim) > 0 {
					t.Errorf("after %v, %v", clock.Now(), s.Interim)
				}
				s.Leave()
				<-time.After(time.Second)
			})
		})
	}
}

// A timer leaves the headers to a carrier, which does not wait for the handler
// to read its body: that then reads as after a flush of net/http.
func TestTimerHandsOverAnUnreadBody(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		if p == harness.HTTP2 {
			return // reads and writes at the same time
		}
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{FlushInterval: time.Second}, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "asked for")
			park.Here()
			b, err := io.ReadAll(r.Body)
			if p == harness.HTTP10 && (string(b) != "upload" || err != nil) || p == harness.HTTP1 && (len(b) != 0 || err != http.ErrBodyReadAfterClose) {
				t.Errorf("read %q, %v", b, err)
			}
			park.Here()
		}), 0)
		clock := harness.NewClock()
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
		park.Wait()
		s.Expect("asked for")
		if clock.Now() != time.Second {
			t.Error("flushed after", clock.Now())
		}
		park.Resume()
		park.Wait()
		park.Resume()
		s.ExpectEnd("")
	})
}

// A waiting flush may wait for the upload, as net/http's does. One that does not
// wait leaves that to a carrier.
func TestFlushWaitsForTheUpload(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(fmt.Sprint(wait), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := harness.NewClock()
				r, w := io.Pipe()
				park := harness.NewPark(t)
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
					io.WriteString(w, "x")
					took := time.Duration(0)
					if wait {
						took = 30 * time.Second
					}
					if err := flush.Flush(w, wait); err != nil || clock.Now() != took {
						t.Errorf("%v after %v", err, clock.Now())
					}
					park.Here()
				}), 0)
				s := harness.Open(t, srv, "POST", "/", r)
				time.AfterFunc(30*time.Second, func() { io.WriteString(w, "upload"); w.Close() })
				s.Expect("x")
				park.Next()
				s.ExpectEnd("")
			})
		})
	}
}

// A request body that the handler leaves alone costs the connection nothing.
func TestBodyUnread(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		if p == harness.HTTP10 {
			return // net/http resets the connection, perhaps before the client has read all
		}
		for _, opts := range []*flush.Options{nil, {Flush: flush.Async}, {Implicit: flush.Async}, {FlushInterval: time.Millisecond}} {
			srv := harness.Serve(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
				for range 10 {
					io.WriteString(w, "x")
					w.(http.Flusher).Flush()
				}
			}))
			s := harness.Open(t, srv, "POST", "/", strings.NewReader(strings.Repeat("u", 10_000)))
			s.ExpectEnd("xxxxxxxxxx")
			s.Again("GET", "/", nil).ExpectEnd("xxxxxxxxxx")
		}
	})
}

// A client may send the body all the same after that answer, and the handler
// gets it whole: the server has drained nothing.
func TestBodyAfterFlushInsteadOfContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			flush.Flush(w, true)
			park.Here()
			if got, err := io.ReadAll(r.Body); string(got) != "upload" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}), 0)
		s := harness.Open(t, srv, "POST", "/", nil, "Expect: 100-continue", "Transfer-Encoding: chunked")
		s.Header()
		io.WriteString(s.Conn, "6\r\nupload\r\n0\r\n\r\n")
		park.Next()
		s.ExpectEnd("")
	})
}

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
				timer := time.NewTimer(harness.Patience() / 2)
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
	synctest.Test(t, hubBesideARead)
}

func hubBesideARead(t *testing.T) {
	streams, over := make(chan *harness.Stream, 1), make(chan struct{})
	upload := strings.Repeat("u", 100)
	srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: harness.Patience(), FlushInterval: time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
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
		synctest.Wait() // the next Read is under way: between two the hub's bytes would end the upload
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
	}), 0)
	s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
	io.WriteString(s.Conn, upload[:3])
	streams <- s
	<-over
	s.Leave()
}

// With New, before the request body has been read, only a caller may send the
// headers: a flush whose wait has ended is left to the next one, be it Close.
func TestNewEndedWaitIsLeftToACaller(t *testing.T) {
	for name, call := range map[string]func(*flush.Flusher) error{
		"Close":     (*flush.Flusher).Close,
		"FlushWait": func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f := flush.New(w, r, nil)
				defer f.Close()
				io.WriteString(f, "x")
				harness.Must(t, harness.EndedWait(f))
				if f.HeadersSent() {
					t.Error("the headers were sent all the same")
				}
				harness.Must(t, call(f))
				if st := f.Stats(); st.Pushes != 1 {
					t.Errorf("%+v", st)
				}
			}))
			s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
			if got := s.Header().Get("Content-Length"); got != "" {
				t.Errorf("Content-Length %s: it was not flushed", got)
			}
			s.ExpectEnd("x")
		})
	}
}

// What TryWrite brings is flushed by the next caller who may wait, where the
// response flushes by itself.
func TestNewTryWriteIsFlushedByACaller(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f := flush.New(w, r, &flush.Options{Implicit: mode})
			harness.Must(t, f.TryWrite([]byte("x")))
			if f.HeadersSent() {
				t.Error("TryWrite has sent the headers")
			}
			harness.Must(t, f.Close())
		}))
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
		if got := s.Header().Get("Content-Length"); got != "" {
			t.Errorf("%v: Content-Length %s: it was not flushed", mode, got)
		}
		s.ExpectEnd("x")
	}
}

// FlushAsync of a New's is done by its caller where no carrier may call the server, and
// waits for no other call.
func TestNewFlushAsyncIsDoneByItsCaller(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := flush.New(w, r, nil)
		harness.MustWrite(t, f, "x")
		if f.HeadersSent() {
			t.Error("Write has sent the headers")
		}
		harness.Must(t, f.FlushAsync())
		if stats := f.Stats(); !f.HeadersSent() || stats.Pushes != 1 {
			t.Errorf("headers sent: %t, %+v", f.HeadersSent(), stats)
		}
		harness.Must(t, f.Close())
	}))
	harness.Open(t, srv, "POST", "/", strings.NewReader("upload")).ExpectEnd("x")
}

// Once the drain of an upload has been cut the call goes on, and is watched like any
// other: a client that does not read either costs a second send timeout, and no more.
func TestCallIsWatchedBehindADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			defer func() { recover() }() // http.ErrAbortHandler
			flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				clock := harness.NewClock()
				_, err := w.Write(make([]byte, harness.Much))
				if at := clock.Now(); !errors.Is(err, flush.ErrTimeout) || at <= waitLimit || at > 3*waitLimit {
					t.Errorf("%v after %v", err, at)
				}
			}), &flush.Options{SendTimeout: waitLimit}).ServeHTTP(w, r)
		}), 1000)
		s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
		io.WriteString(s.Conn, "upl")
		select {
		case <-over:
		case <-time.After(time.Hour):
			t.Error("the Write does not end")
		}
		s.Leave()
		<-over
		<-time.After(time.Second)
	})
}

// A Group's end cuts a drain that a flush waits for.
func TestShutdownEndsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flush.Group
		over := make(chan struct{})
		clock := harness.NewClock()
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			defer func() { recover() }() // http.ErrAbortHandler
			flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "x")
				err := flush.Flush(w, true)
				if !errors.Is(err, flush.ErrShutdown) || clock.Now() != time.Second {
					t.Errorf("Flush: %v after %v", err, clock.Now())
				}
			}), &flush.Options{Group: &g, SendTimeout: time.Hour}).ServeHTTP(w, r)
		}), 1000)
		s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
		io.WriteString(s.Conn, "upl")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		select {
		case <-over:
		case <-time.After(time.Minute):
			t.Error("the flush does not end")
		}
		s.Leave()
		<-over
		<-time.After(time.Second)
	})
}

// With New, a Write for which the budget has no room waits, rather than take the
// upload from the handler by sending the headers.
func TestNewWriteWaitsForTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(8*4096, 8*4096)
		other := harness.HoldBudget(budget, 8)
		over := make(chan struct{})
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			f := flush.New(w, r, &flush.Options{Budget: budget, SendTimeout: time.Hour})
			defer f.Close()
			written := harness.WriteBehind(f, 100)
			if f.HeadersSent() || len(written) > 0 {
				t.Errorf("headers sent: %v, written: %v", f.HeadersSent(), len(written) > 0)
			}
			harness.ExpectWaiting(t, budget, 1)
			other.Abort(nil)
			if got := <-written; got.N != 100 || got.Err != nil {
				t.Errorf("%+v", got)
			}
			if body, err := io.ReadAll(r.Body); string(body) != "upload" || err != nil {
				t.Errorf("the upload: %q, %v", body, err)
			}
		}), 0)
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
		s.ExpectEnd(string(make([]byte, 100)))
		<-over
		s.Leave()
		<-time.After(time.Second)
	})
}

// A writer in between that panics leaves the request body to the handler, which has
// recovered: the server's turn is over.
func TestUploadIsReadBehindAPanicBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			defer func() { recover() }() // http.ErrAbortHandler
			flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "event")
				func() {
					defer func() {
						if v := recover(); v != "broken" {
							t.Errorf("recovered %v", v)
						}
					}()
					flush.Flush(w, true)
				}()
				read := harness.Go(func() error {
					got, err := io.ReadAll(r.Body)
					if err == nil && string(got) != "upload" {
						err = fmt.Errorf("got %q", got)
					}
					return err
				})
				select {
				case err := <-read:
					harness.Must(t, err)
				case <-time.After(time.Hour):
					t.Error("a Read of the request body does not end")
				}
			}), nil).ServeHTTP(brokenWriter{harness.Unwrapper{ResponseWriter: w}}, r)
		}), 0)
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
		<-over
		s.Leave()
		<-time.After(time.Second)
	})
}

type brokenWriter struct{ harness.Unwrapper }

func (brokenWriter) Write([]byte) (int, error) { panic("broken") }

// A small file that the server sends by itself may have it drain the upload, at once
// as where the kernel sends it, or behind the handler: the send timeout ends that, and
// the client gets its answer. Twin: where the upload comes, nothing is ended.
func TestDrainBehindASmallFile(t *testing.T) {
	const size = 1000 // below what the server measures by itself
	for _, atOnce := range []bool{true, false} {
		for _, comes := range []bool{true, false} {
			t.Run(fmt.Sprint(atOnce, comes), func(t *testing.T) {
				file, text := harness.TempFile(t, size)
				synctest.Test(t, func(t *testing.T) {
					clock := harness.NewClock()
					own := harness.Wrapped(&flush.Options{SendTimeout: waitLimit}, func(w http.ResponseWriter, r *http.Request) {
						if n, err := harness.Flusher(w).ReadFrom(file); n != size || err != nil {
							t.Errorf("%d, %v", n, err)
						}
					})
					srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if atOnce {
							w = sendfileWriter{harness.Unwrapper{ResponseWriter: w}}
						}
						own.ServeHTTP(w, r)
					}), 0)
					s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 6")
					io.WriteString(s.Conn, "upl")
					want := waitLimit
					if comes {
						want /= 2
						time.AfterFunc(want, func() { io.WriteString(s.Conn, "oad") })
					}
					s.Expect(text)
					if at := clock.Now(); at < want || at > want+waitLimit/16 { // the file is looked at
						t.Errorf("the answer came after %v, want %v", at, want)
					}
					s.ExpectEnd("")
					s.Leave()
					<-time.After(time.Second)
				})
			})
		}
	}
}

// A sendfileWriter sends the headers before a file, as net/http where the kernel sends
// that.
type sendfileWriter struct{ harness.Unwrapper }

func (w sendfileWriter) ReadFrom(src io.Reader) (int64, error) {
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
}

// A read deadline that has ended a drain is final: the handler cannot lift it.
func TestReadDeadlineBehindACutDrainIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		own := harness.Wrapped(&flush.Options{SendTimeout: waitLimit}, func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			io.WriteString(w, "x")
			harness.Must(t, flush.Flush(w, true))
			harness.Must(t, http.NewResponseController(w).SetReadDeadline(time.Time{}))
		})
		set := 0
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			own.ServeHTTP(readDeadlines{harness.Unwrapper{ResponseWriter: w}, &set}, r)
		}), 0)
		s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 100")
		io.WriteString(s.Conn, "upl")
		s.Expect("x")
		<-over
		s.Leave()
		<-time.After(time.Second)
		if set != 1 {
			t.Errorf("the read deadline was set %d times", set)
		}
	})
}

// A writer in between that knows write deadlines and no read deadlines leaves the
// drain behind the handler to the client, and costs the response nothing.
func TestDrainBehindAWriterWithoutReadDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := harness.NewClock()
		own := harness.Wrapped(&flush.Options{SendTimeout: waitLimit}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") })
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			own.ServeHTTP(writeDeadlines{w}, r)
		}), 0)
		s := harness.Open(t, srv, "POST", "/", nil, "Content-Length: 6")
		io.WriteString(s.Conn, "upl")
		time.AfterFunc(waitLimit/2, func() { io.WriteString(s.Conn, "oad") })
		s.ExpectEnd("x")
		if at := clock.Now(); at != waitLimit/2 || srv.Logged() != "" {
			t.Errorf("the answer came after %v; logged: %s", at, srv.Logged())
		}
		s.Leave()
		<-time.After(time.Second)
	})
}

// writeDeadlines hides all but what a writer must have, and write deadlines.
type writeDeadlines struct{ http.ResponseWriter }

func (w writeDeadlines) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(t)
}

// readDeadlines counts how often one is set.
type readDeadlines struct {
	harness.Unwrapper
	set *int
}

func (w readDeadlines) SetReadDeadline(t time.Time) error {
	*w.set++
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(t)
}

// An Abort that ends the wait of a call for the handler's Read, or its Close, hands
// nothing over: what was held is lost, every byte, and a Write has handed over what it
// says. A call whose wait the end of the upload ends hands over all.
func TestAbortBehindAReadHandsNothingOver(t *testing.T) {
	read := func(body io.ReadCloser) error { _, err := io.ReadAll(body); return err }
	for _, c := range []struct {
		name  string
		turn  func(io.ReadCloser) error // the handler's, at the body
		size  int
		abort bool
	}{
		{"Read, small", read, 5, true},
		{"Read, large", read, 40_000, true},
		{"Read to its end", read, 5, false},
		{"Close, small", io.ReadCloser.Close, 5, true},
		{"Close, large", io.ReadCloser.Close, 40_000, true},
		{"Close to its end", io.ReadCloser.Close, 5, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body, upload := io.Pipe()
				h := harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
					f := harness.Flusher(w)
					turn := harness.Go(func() error { return c.turn(r.Body) })
					synctest.Wait()
					written := 0
					wrote := harness.Go(func() (err error) {
						if written, err = f.Write(make([]byte, c.size)); err == nil {
							err = f.FlushWait(harness.NoContext)
						}
						return err
					})
					synctest.Wait()
					var want error
					if c.abort {
						f.Abort(errWaitCause)
						want = errWaitCause
					} else {
						upload.Close()
					}
					if err := <-wrote; !errors.Is(err, want) {
						t.Errorf("got %v", err)
					}
					if lost := f.Stats().Lost; c.abort && lost != int64(written) || !c.abort && lost != 0 {
						t.Errorf("%d bytes were accepted and %d lost", written, lost)
					}
					upload.Close()
					harness.Must(t, <-turn)
				})
				srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					r.Body, r.ContentLength = drainedAtClose{body}, -1
					h.ServeHTTP(w, r)
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				if c.abort {
					s.Rest()
				} else {
					s.ExpectEnd(string(make([]byte, c.size)))
				}
				s.Leave()
			})
		})
	}
}

// A drainedAtClose is a body whose Close reads what is left, as net/http's does.
type drainedAtClose struct{ io.ReadCloser }

func (b drainedAtClose) Close() error {
	_, err := io.Copy(io.Discard, b.ReadCloser)
	return err
}

// What comes behind the drain of an upload is no drain any more: a client that stalls
// then has one send timeout, and an upload that was dropped is as good as read.
func TestWriteBehindADrainHasOneSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		opts := &flush.Options{SendTimeout: waitLimit}
		srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			defer func() { recover() }() // http.ErrAbortHandler
			flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "event")
				harness.Must(t, flush.Flush(w, true))
				clock := harness.NewClock()
				_, err := w.Write(make([]byte, harness.Much))
				if at := clock.Now(); !errors.Is(err, flush.ErrTimeout) || at < waitLimit || at > grain(waitLimit) {
					t.Errorf("%v after %v", err, at)
				}
			}), opts).ServeHTTP(w, r)
		}), 1000)
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
		s.Expect("event")
		<-over
		s.Leave()
		<-time.After(time.Second)
	})
}
