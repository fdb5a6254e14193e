package flush_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
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
			"bare": harness.Bare, "wrapped": harness.WrappedBy(nil), "async": harness.WrappedBy(&flush.Options{Flush: flush.Async}),
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
