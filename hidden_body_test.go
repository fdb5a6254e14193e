package flush_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// hiders are middleware that shows the handler no body where the request has one.
var hiders = map[string]func(h http.Handler) http.Handler{
	"in the server's request": func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.NoBody
			h.ServeHTTP(w, r)
		})
	},
	"in a copy": func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.WithContext(r.Context())
			r.Body = nil
			h.ServeHTTP(w, r)
		})
	},
	"in a copy, with its length": func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.WithContext(r.Context())
			r.Body, r.ContentLength = http.NoBody, 0
			h.ServeHTTP(w, r)
		})
	},
}

// The server drains an upload whatever middleware shows the handler in its place.
// So who hands the headers over waits for it for SendTimeout at most, nobody else
// waits, and the connection stays the server's.
func TestHiddenUpload(t *testing.T) {
	const limit, goesOn = 200 * time.Millisecond, 2 * time.Second
	for name, hide := range hiders {
		for way, do := range map[string]func(f *flush.Flusher){
			"FlushWait":  func(f *flush.Flusher) { f.FlushWait(harness.NoContext) },
			"Write":      func(f *flush.Flusher) { f.Write(make([]byte, 20_000)) },
			"FlushAsync": func(f *flush.Flusher) { f.FlushAsync() },
			"Close":      func(f *flush.Flusher) { f.Write(make([]byte, 4000)); f.Close() },
			"return":     func(*flush.Flusher) {},
			"Detach": func(f *flush.Flusher) {
				f.Detach()
				if f.Stats().Detached {
					t.Errorf("%s: the connection is taken over with a body unread", name)
				}
				go f.Close()
			},
		} {
			for _, made := range []string{"NewHandler", "New"} {
				if made == "New" && way == "Detach" {
					continue
				}
				for _, u := range uploads {
					t.Run(name+"/"+way+"/"+made+"/"+u.name, func(t *testing.T) {
						edge(t, func(t *testing.T) {
							clock := harness.NewClock()
							opts := &flush.Options{SendTimeout: limit}
							handle := func(f *flush.Flusher, r *http.Request) {
								if r.Body != nil && r.Body != http.NoBody {
									t.Error("the handler has another body than it was given")
								}
								io.WriteString(f, "event")
								before := clock.Now()
								do(f)
								most := grain(limit)
								if way == "FlushAsync" || way == "return" {
									most = 0
								}
								if took := clock.Now() - before; took > most {
									t.Errorf("%s took %v", way, took)
								}
							}
							var h http.Handler
							if made == "New" {
								h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
									f := flush.New(w, r, opts)
									handle(f, r)
									f.Close()
								})
							} else {
								h = harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) { handle(harness.Flusher(w), r) })
							}
							srv := harness.ServeMemory(t, harness.HTTP1, hide(h), 0)
							s := u.post(t, srv)
							time.AfterFunc(goesOn, func() { u.goOn(s) })
							s.Expect("event")
							if at := clock.Now(); at > grain(limit)+time.Second/2 { // after the handler's return there is a grace
								t.Errorf("the client has its answer after %v", at)
							}
							s.Rest()
							s.Leave()
							<-time.After(3 * time.Second) // a server that gives up a connection lingers
						})
					})
				}
			}
		}
	}
}

// A handler that returns with its upload unread leaves the drain to the server. That
// ends after SendTimeout, or with an earlier deadline of the server's or the handler's,
// and the client has its answer. Twin: an upload that goes on in time keeps the
// connection.
func TestAnswerBehindTheServersDrain(t *testing.T) {
	const limit = 200 * time.Millisecond
	for name, test := range map[string]struct {
		readTimeout time.Duration
		do          func(f *flush.Flusher)
		at          time.Duration
	}{
		"nothing":               {do: func(*flush.Flusher) {}, at: limit},
		"a status":              {do: func(f *flush.Flusher) { f.WriteHeader(200) }, at: limit},
		"small":                 {do: func(f *flush.Flusher) { io.WriteString(f, "event") }, at: limit},
		"ReadTimeout":           {readTimeout: limit / 2, do: func(f *flush.Flusher) { io.WriteString(f, "event") }, at: limit / 2},
		"a long ReadTimeout":    {readTimeout: time.Hour, do: func(f *flush.Flusher) { io.WriteString(f, "event") }, at: limit},
		"a deadline of its own": {do: func(f *flush.Flusher) { f.SetReadDeadline(time.Now().Add(limit / 4)) }, at: limit / 4},
		"a long one":            {do: func(f *flush.Flusher) { f.SetReadDeadline(time.Now().Add(time.Hour)) }, at: limit},
	} {
		for _, u := range uploads {
			for _, goesOn := range []time.Duration{2 * time.Second, test.at / 2} {
				for _, made := range []func(h http.Handler) http.Handler{harness.WrappedBy(&flush.Options{SendTimeout: limit}), func(h http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						f := flush.New(w, r, &flush.Options{SendTimeout: limit})
						h.ServeHTTP(f, r)
						f.Close()
					})
				}} {
					t.Run(fmt.Sprintf("%s/%s/%v", name, u.name, goesOn), func(t *testing.T) {
						edge(t, func(t *testing.T) {
							clock := harness.NewClock()
							srv := harness.ServeMemory(t, harness.HTTP1, made(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
								if r.Method == "POST" {
									test.do(harness.Flusher(w))
								}
							})), 0, harness.Configure(func(s *http.Server) { s.ReadTimeout = test.readTimeout }))
							s := u.post(t, srv)
							time.AfterFunc(goesOn, func() { u.goOn(s) })
							s.Response()
							if at := clock.Now(); at > test.at {
								t.Errorf("the client has its answer after %v", at)
							}
							if _, _, end := s.Rest(); end != harness.Complete {
								t.Errorf("the response ended %s", end)
							}
							if goesOn < test.at {
								if test.readTimeout == 0 {
									<-time.After(time.Hour)
								}
								s.Again("GET", "/", nil).ExpectEnd("")
							}
							s.Leave()
							<-time.After(3 * time.Second)
						})
					})
				}
			}
		}
	}
}

// Behind a Flusher that has seen the body read nothing is drained, whatever is shown in
// its place: a client that reads nothing costs SendTimeout, once.
func TestHiddenUploadThatAFlusherHasSeen(t *testing.T) {
	const limit = time.Minute
	for name, hide := range hiders {
		t.Run(name, func(t *testing.T) {
			edge(t, func(t *testing.T) {
				took := make(chan time.Duration, 1)
				inner := harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
					clock := harness.NewClock()
					if _, err := w.Write(make([]byte, harness.Much)); !errors.Is(err, flush.ErrTimeout) {
						t.Error(err)
					}
					took <- clock.Now()
				})
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: -1}, func(w http.ResponseWriter, r *http.Request) {
					io.ReadAll(r.Body)
					hide(behind(inner)).ServeHTTP(w, r)
				}), 1000)
				harness.Open(t, srv, "POST", "/", strings.NewReader("upload"))
				if took := <-took; took != limit {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// Twins: what was read before costs nothing, nor does a request without a body.
func TestHiddenUploadThatWasRead(t *testing.T) {
	for name, hide := range hiders {
		for _, body := range []string{"", "upload"} {
			t.Run(name+"/"+body, func(t *testing.T) {
				edge(t, func(t *testing.T) {
					clock := harness.NewClock()
					h := hide(harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
						io.WriteString(w, "event")
						harness.Must(t, flush.Flush(w, true))
						io.WriteString(w, "more")
					}))
					srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if got, err := io.ReadAll(r.Body); string(got) != body || err != nil {
							t.Errorf("%q, %v", got, err)
						}
						h.ServeHTTP(w, r)
					}), 0)
					s := harness.Open(t, srv, "POST", "/", strings.NewReader(body))
					s.ExpectEnd("eventmore")
					s.Again("POST", "/", strings.NewReader(body)).ExpectEnd("eventmore")
					if took := clock.Now(); took != 0 {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}
