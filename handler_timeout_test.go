package flush_test

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// A response that http.TimeoutHandler has given up has met a timeout. Its client is
// there and has been answered.
func TestHandlerTimeoutIsNoClientThatLeft(t *testing.T) {
	for name, opts := range map[string]flush.Options{"wait": {}, "async": {Flush: flush.Async}} {
		for size, n := range map[string]int{"small": 10, "large": 100_000} {
			t.Run(name+" "+size, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					closed := make(chan error, 1)
					opts.OnClose = func(_ *http.Request, _ flush.Stats, err error) { closed <- err }
					srv := harness.ServeMemory(t, p, http.TimeoutHandler(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						time.Sleep(2 * time.Second)
						io.WriteString(w, harness.Text(n))
						http.NewResponseController(w).Flush()
						synctest.Wait()
						if err := flush.Cause(r.Context()); !errors.Is(err, flush.ErrTimeout) || errors.Is(err, flush.ErrClientGone) {
							t.Errorf("cause %v", err)
						}
					}), &opts), time.Second, "too slow"), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					if r := s.Response(); r.StatusCode != http.StatusServiceUnavailable {
						t.Error(r.Status)
					}
					s.ExpectEnd("too slow")
					err := <-closed
					if !errors.Is(err, http.ErrHandlerTimeout) || !errors.Is(err, flush.ErrTimeout) || errors.Is(err, flush.ErrClientGone) {
						t.Errorf("OnClose was told %v", err)
					}
				})
			})
		}
	}
}

// What http.TimeoutHandler's client gets is what it gets without us, whether we are
// outside of it or inside, and whether the handler is in time or not.
//
// An implicit flush sends the headers with the first bytes, without a length.
func TestTimeoutHandlerIsItsOwn(t *testing.T) {
	const limit = time.Second
	unframed := regexp.MustCompile(`(Date|Connection|Content-Length|Transfer-Encoding): .*\n`)
	for name, h := range map[string]http.HandlerFunc{
		"nothing":     func(http.ResponseWriter, *http.Request) {},
		"WriteHeader": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Test", "1"); w.WriteHeader(202) },
		"204":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"small":       func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "small") },
		"large":       func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, harness.Text(20_000)) },
		"with a length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "small")
		},
		"flushes": func(w http.ResponseWriter, r *http.Request) {
			for range 5 {
				io.WriteString(w, "event\n")
				if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
					t.Errorf("Flush: %v", err)
				}
				time.Sleep(limit / 10)
			}
		},
		"flushes, and is late": func(w http.ResponseWriter, r *http.Request) {
			for range 20 {
				io.WriteString(w, "event\n")
				http.NewResponseController(w).Flush()
				time.Sleep(limit / 10)
			}
		},
		"late": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "too late")
			<-r.Context().Done()
			time.Sleep(limit) // the timeout has been answered
			io.WriteString(w, harness.Text(20_000))
		},
		"detaches": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "stays")
			if f, ok := flush.From(w); ok {
				if err := f.Detach(); err != nil && !errors.Is(err, flush.ErrHeadersSent) {
					t.Error(err)
				}
				time.AfterFunc(limit/2, func() { f.Close() }) // which the handler's return waits for
			}
		},
	} {
		for optName, opts := range map[string]*flush.Options{
			"nothing": nil, "async": {Flush: flush.Async}, "implicit": {Implicit: flush.Wait}, "implicit async": {Implicit: flush.Async},
			"interval": {FlushInterval: limit / 4},
			"buffer":   {OnStart: func(f *flush.Flusher, _ *http.Request) { f.StartBuffer(&flush.BufferOptions{FollowFlush: true}) }},
			"Gzip": {OnStart: func(f *flush.Flusher, r *http.Request) {
				f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), FollowFlush: true})
			}},
		} {
			for place, with := range map[string]func(h http.Handler) http.Handler{
				"inside": func(h http.Handler) http.Handler {
					return http.TimeoutHandler(flush.NewHandler(h, opts), limit, "too slow")
				},
				"outside": func(h http.Handler) http.Handler {
					return flush.NewHandler(http.TimeoutHandler(h, limit, "too slow"), opts)
				},
			} {
				for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10} {
					t.Run(name+"/"+optName+"/"+place+"/"+p.String(), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							get := func(h http.Handler) string {
								s := harness.Open(t, harness.ServeMemory(t, p, h, 0), "GET", "/", nil, "Connection: close")
								got, err := io.ReadAll(s.Reader)
								if err != nil {
									t.Error(err)
								}
								return unframed.ReplaceAllString(plainly(string(got)), "")
							}
							want := get(http.TimeoutHandler(h, limit, "too slow"))
							if got := get(with(h)); got != want {
								t.Errorf("%q came, and without us %q", got, want)
							}
							time.Sleep(5 * limit) // a late handler ends
						})
					})
				}
			}
		}
	}
}
