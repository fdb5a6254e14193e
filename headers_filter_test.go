package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// An idle stream is hardly more than its Flusher, its context and a copy of the
// request.
func TestFlusherIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(flush.Flusher{}); size > 480 {
		t.Errorf("%d bytes, want at most 480", size)
	}
	if flush.ContextSize > 48 {
		t.Errorf("its context has %d bytes, want at most 48", flush.ContextSize)
	}
}

// flushers are ways in which others flush while a filter runs. Each is begun on
// another goroutine than the filter's.
var flushers = map[string]struct {
	opts *flush.Options
	do   func(f *flush.Flusher) error
}{
	"FlushAsync": {nil, (*flush.Flusher).FlushAsync},
	"FlushWait":  {nil, func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) }},
	"ended context": {nil, func(f *flush.Flusher) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.FlushWait(ctx)
		return nil
	}},
	"Options.Flush": {&flush.Options{Flush: flush.Async}, (*flush.Flusher).FlushError},
	"SendHeaders":   {nil, (*flush.Flusher).SendHeaders},
	"early hints":   {nil, func(f *flush.Flusher) error { f.WriteHeader(103); return f.FlushAsync() }},
	"FlushInterval": {&flush.Options{FlushInterval: time.Second}, nil},
	"implicit":      {&flush.Options{Implicit: flush.Async}, nil},
}

// What a filter sets while the headers are unsent is sent, whoever flushes
// meanwhile; and what they have asked for is done once the filter has returned,
// with no further call of the handler's.
func TestFilterHeadersAreSent(t *testing.T) {
	for name, by := range flushers {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				srv := harness.ServeMemory(t, p, harness.Wrapped(by.opts, func(w http.ResponseWriter, r *http.Request) {
					f := harness.Flusher(w)
					w.Header().Set("X-Page", "1")
					if by.do == nil {
						io.WriteString(w, "begun ") // it is on floor 2, and will move
					}
					asked := make(chan error, 1)
					b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
						if phase&flush.PhaseFlush == 0 {
							return p, nil
						}
						unsent := !f.HeadersSent()
						if by.do != nil {
							go func() { asked <- by.do(f) }()
						} else {
							asked <- nil
						}
						time.Sleep(5 * time.Second) // fake: all that can happen does
						if f.HeadersSent() == unsent {
							t.Error("the headers left while the filter ran")
						}
						if unsent {
							f.Header().Set("X-Filter", "1")
						}
						return p, nil
					}})
					io.WriteString(w, "page")
					expectError(t, "Flush", b.Flush(), nil)
					expectError(t, name, <-asked, nil)
					park.Here()
				}), 1<<20)
				s := harness.Open(t, srv, "GET", "/", nil)
				h := s.Header() // while the handler is blocked
				if name != "implicit" && h.Get("X-Filter") != "1" || h.Get("X-Page") != "1" {
					t.Errorf("header %v", h)
				}
				park.Next()
				want := "page"
				if by.do == nil {
					want = "begun page"
				}
				s.ExpectEnd(want)
			})
		})
	}
}

// Without a filter, or with one that has returned, the same flushes leave the
// headers alone no longer: what is set after them is late.
func TestFlushWithoutAFilterSendsHeaders(t *testing.T) {
	for name, by := range flushers {
		if by.do == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			fetch(t, "GET", by.opts, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				b := f.StartBuffer(&flush.BufferOptions{Filter: bracket})
				expectError(t, "Flush", b.Flush(), nil)
				by.do(f)
				synctest.Wait()
				if !f.HeadersSent() {
					t.Error("the headers are unsent")
				}
				w.Header().Set("X-Late", "1")
			}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, _ harness.Ending) {
				if s.Header().Get("X-Late") != "" || body != "[][]" {
					t.Errorf("got %v %q", s.Header(), body)
				}
			})
		})
	}
}

// A filter that begins behind a flush waits until the headers are out, and not
// for the client.
func TestFilterDoesNotWaitForTheClient(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := gateResponse{newGate(), http.Header{}}
			f := flush.New(w, httptest.NewRequest("GET", "/", nil), &flush.Options{SendTimeout: -1})
			io.WriteString(f, "begun ")
			b := f.StartBuffer(&flush.BufferOptions{Filter: bracket})
			flushed := make(chan error, 1)
			f.FlushAsync()
			go func() { flushed <- b.Flush() }()
			synctest.Wait()
			select {
			case err := <-flushed:
				expectError(t, "Flush", err, nil)
			default:
				t.Error("the filter waits for the client")
			}
			w.open()
			expectError(t, "Close", f.Close(), nil)
			if w.String() != "begun [][]" {
				t.Errorf("got %q", w)
			}
		})
	}
}

// While a filter is at the header map nobody else is, whatever fixes the headers
// meanwhile.
func TestFilterHasTheHeaderMap(t *testing.T) {
	for name, fix := range map[string]func(f *flush.Flusher){
		"FlushAsync":  func(f *flush.Flusher) { f.FlushAsync() },
		"WriteHeader": func(f *flush.Flusher) { f.WriteHeader(http.StatusOK) },
	} {
		fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				var wg sync.WaitGroup
				h := f.Header()
				wg.Go(func() { fix(f) })
				for i := range 100 {
					h.Set(fmt.Sprint("X-", i), "1")
				}
				wg.Wait()
				return p, nil
			}})
			b.Flush()
		}, func(t *testing.T, _ harness.Proto, s *harness.Stream, _ string, _ harness.Ending) {
			if s.Header().Get("X-99") != "1" {
				t.Errorf("%s: header %v", name, s.Header())
			}
		})
	}
}

// A filter may do what else needs the server's writer to itself.
func TestFilterCallsTheServer(t *testing.T) {
	for name, do := range map[string]func(f *flush.Flusher) error{
		"EnableFullDuplex": (*flush.Flusher).EnableFullDuplex,
		"SetWriteDeadline": func(f *flush.Flusher) error { return f.SetWriteDeadline(time.Time{}) },
		"WriteHeader(103)": func(f *flush.Flusher) error { f.WriteHeader(103); return nil },
		"Hijack": func(f *flush.Flusher) error {
			c, _, err := f.Hijack()
			if err == nil {
				c.Close()
			}
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					if phase&flush.PhaseFlush != 0 {
						expectError(t, name, do(f), nil)
						f.Header().Set("X-Filter", "1")
					}
					return p, nil
				}})
				b.Flush()
			}), 0)
			s := harness.Open(t, srv, "GET", "/", nil)
			if h, err := s.Head(); name != "Hijack" && (err != nil || h.Header.Get("X-Filter") != "1") {
				t.Errorf("%s: %v, %v", name, h, err)
			}
		})
	}
}

// Where that hands no headers over nobody else does behind it: what the filter sets
// then is sent.
func TestFilterKeepsTheHeadersBehindACall(t *testing.T) {
	for name, do := range map[string]func(f *flush.Flusher){
		"Hijack that fails":           func(f *flush.Flusher) { f.Hijack() },
		"EnableFullDuplex that fails": func(f *flush.Flusher) { f.EnableFullDuplex() },
		"WriteHeader(103)":            func(f *flush.Flusher) { f.WriteHeader(http.StatusEarlyHints) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				gate := make(chan struct{})
				close(gate)
				f := flush.New(refusesHijack{harness.DeadlineSink{Sink: s}, gate, new([]time.Time)}, requestOf(t.Context(), 0), nil)
				var flushed <-chan error
				b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					if phase&flush.PhaseFlush != 0 {
						do(f)
						flushed = harness.Go(func() error { return f.FlushWait(harness.NoContext) })
						synctest.Wait()
						if f.HeadersSent() {
							t.Error("the headers have left while the filter runs")
						}
						f.Header().Set("X-Filter", "1")
					}
					return p, nil
				}})
				harness.Must(t, b.Flush())
				harness.Must(t, <-flushed)
				harness.Must(t, f.Close())
				if s.Sent.Get("X-Filter") != "1" {
					t.Errorf("sent %v", s.Sent)
				}
			})
		})
	}
}

// So too before the request body has been read, when no carrier may hand the
// headers over.
func TestFilterHeadersBeforeTheRequestBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			f := harness.Flusher(w)
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseFlush != 0 {
					done := make(chan error)
					go func() { done <- f.FlushAsync() }()
					expectError(t, "FlushAsync", <-done, nil)
					f.Header().Set("X-Filter", "1")
				}
				return p, nil
			}})
			expectError(t, "Flush", b.Flush(), nil)
			park.Here()
		}), 0)
		s := harness.Open(t, srv, "POST", "/", strings.NewReader("unread"))
		if s.Header().Get("X-Filter") != "1" {
			t.Errorf("header %v", s.Header())
		}
		park.Next()
		s.ExpectEnd("")
	})
}

// A filter's own flush works, whichever it is and whatever the server: what the
// filter has set until then is sent. An asynchronous one is done after it.
func TestFilterFlushes(t *testing.T) {
	for name, own := range map[string]struct {
		do    func(t *testing.T, f *flush.Flusher) error
		later bool
	}{
		"FlushWait": {func(t *testing.T, f *flush.Flusher) error { return f.FlushWait(harness.NoContext) }, false},
		"with context": {func(_ *testing.T, f *flush.Flusher) error {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			return f.FlushWait(ctx)
		}, false},
		"flush.Flush": {func(t *testing.T, f *flush.Flusher) error { return flush.Flush(f, true) }, false},
		"SendHeaders": {func(t *testing.T, f *flush.Flusher) error { return f.SendHeaders() }, false},
		"deep": {func(t *testing.T, f *flush.Flusher) error {
			var deep func(int) error
			deep = func(n int) error {
				if n == 0 {
					return f.FlushWait(harness.NoContext)
				}
				err := deep(n - 1)
				return err
			}
			return deep(500)
		}, false},
		"FlushAsync": {func(t *testing.T, f *flush.Flusher) error { return f.FlushAsync() }, true},
	} {
		for _, fixed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, fixed %v", name, fixed), func(t *testing.T) {
				fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					w.Header().Set("X-Changed", "handler")
					if fixed {
						w.WriteHeader(http.StatusAccepted)
						w.Header().Set("X-Late", "handler")
					}
					b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
						if phase&flush.PhaseFlush == 0 {
							return p, nil
						}
						f.Header().Set("X-Changed", "filter")
						f.Header().Set("X-Before", "filter")
						expectError(t, name, own.do(t, f), nil)
						if f.HeadersSent() == own.later {
							t.Error("HeadersSent:", f.HeadersSent())
						}
						f.Header().Set("X-After", "filter")
						return p, nil
					}})
					io.WriteString(w, "page")
					expectError(t, "Flush", b.Flush(), nil)
					if late := w.Header().Get("X-Late"); fixed && late != "handler" {
						t.Errorf("the handler's own header is %q", late)
					}
				}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, end harness.Ending) {
					h := s.Header()
					if body != "page" || end == harness.Cut {
						t.Errorf("got %q, %s", body, end)
					}
					if h.Get("X-Changed") != "filter" || h.Get("X-Before") != "filter" || h.Get("X-Late") != "" {
						t.Errorf("header %v", h)
					}
					if (h.Get("X-After") != "") != own.later {
						t.Errorf("header %v", h)
					}
				})
			})
		}
	}
	// A server without deadlines, whose calls only a carrier makes.
	rec := httptest.NewRecorder()
	f := flush.New(rec, httptest.NewRequest("GET", "/", nil), &flush.Options{SendTimeout: time.Minute})
	b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		f.Header().Set("X-Filter", "1")
		expectError(t, "FlushWait", f.FlushWait(harness.NoContext), nil)
		return p, nil
	}})
	expectError(t, "Flush", b.Flush(), nil)
	expectError(t, "Close", f.Close(), nil)
	if got := rec.Result().Header.Get("X-Filter"); got != "1" {
		t.Errorf("X-Filter %q", got)
	}
}

// A flush of a filter's that has nothing to flush, under a profile that then
// leaves the headers open, leaves them to the filter, too.
func TestFilterFlushesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SAPI: flush.OpenResty()}, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseFinal != 0 {
					return p, nil // the headers may have left since the flush
				}
				expectError(t, "FlushWait", f.FlushWait(harness.NoContext), nil)
				go f.SendHeaders()
				synctest.Wait()
				if f.HeadersSent() {
					t.Error("the headers left")
				}
				f.Header().Set("X-Filter", "1")
				return p, nil
			}})
			b.Flush()
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		if s.Header().Get("X-Filter") != "1" {
			t.Errorf("header %v", s.Header())
		}
		s.ExpectEnd("")
	})
}

// Nothing waits for ever: a filter that waits for who flushes gets him back
// after SendTimeout, and what it sets is sent all the same.
func TestFilterWaitsForAFlush(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		for name, ask := range map[string]func(*flush.Flusher) error{
			"FlushWait":   func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
			"SendHeaders": (*flush.Flusher).SendHeaders,
		} {
			srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{SendTimeout: 10 * time.Second}, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
					asked := make(chan error, 1)
					began := time.Now()
					go func() { asked <- ask(f) }()
					expectError(t, name, <-asked, flush.ErrTimeout)
					if took := time.Since(began); took != 10*time.Second {
						t.Errorf("%s waited %v", name, took)
					}
					f.Header().Set("X-Filter", "1")
					return p, nil
				}})
				io.WriteString(w, "page")
			}), 0)
			s := harness.Open(t, srv, "GET", "/", nil)
			if s.Header().Get("X-Filter") != "1" {
				t.Errorf("%s: header %v", name, s.Header())
			}
			s.ExpectEnd("page")
		}
	})
	// A filter that is only slow costs nobody his flush; without a send timeout, however
	// slow it is.
	for limit, slow := range map[time.Duration]time.Duration{10 * time.Second: 10*time.Second - 1, -1: time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: limit}, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				asked := make(chan error, 1)
				b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
					go func() { asked <- f.FlushWait(harness.NoContext) }()
					time.Sleep(slow)
					return p, nil
				}})
				io.WriteString(w, "page")
				expectError(t, "Flush", b.Flush(), nil)
				expectError(t, "FlushWait", <-asked, nil)
			}), 0)
			harness.Open(t, srv, "GET", "/", nil).ExpectEnd("page")
		})
	}
}

// Headers that are on their way when a filter begins are out for it: it never
// finds them unsent and has them leave without what it sets.
func TestFilterBehindAFlush(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			f := harness.Flusher(w)
			flush.Flush(w, false)
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
				if f.HeadersSent() {
					return p, nil
				}
				f.Header().Set("X-Filter", "1")
				return bytes.ToUpper(p), nil
			}})
			io.WriteString(w, "page")
		}))
		for range 50 {
			s := harness.Open(t, srv, "GET", "/", nil)
			want := "page"
			if s.Header().Get("X-Filter") != "" {
				want = "PAGE"
			}
			s.ExpectEnd(want)
			s.Leave()
		}
	})
}

// What counts is what the filter sets, even if the handler has set the same,
// too late; and the filter finds the headers as they will be sent.
func TestFilterSetsWhatTheHandlerSetTooLate(t *testing.T) {
	fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
		f := harness.Flusher(w)
		h := w.Header()
		h.Set("X-Kept", "early")
		h.Set("X-Gone", "early")
		w.WriteHeader(http.StatusOK)
		h.Set("X-Kept", "late")
		h.Set("X-Same", "same")
		h.Set("X-Late", "late")
		h.Set("X-Taken", "late")
		h.Del("X-Gone")
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			h := f.Header()
			if phase&flush.PhaseStart != 0 && (h.Get("X-Kept") != "early" || h.Get("X-Gone") != "early" || h.Get("X-Same") != "" || h.Get("X-Late") != "") {
				t.Errorf("the filter finds %v", h)
			}
			h.Set("X-Same", "same")
			h.Set("X-Taken", "filter")
			return p, nil
		}})
		io.WriteString(w, "page")
		f.Top().Flush()
		if h.Get("X-Kept") != "late" || h.Get("X-Same") != "same" || h.Get("X-Taken") != "filter" || h.Get("X-Late") != "late" || len(h["X-Gone"]) > 0 {
			t.Errorf("the handler finds %v", h)
		}
	}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, _ harness.Ending) {
		h := s.Header()
		if h.Get("X-Kept") != "early" || h.Get("X-Gone") != "early" || h.Get("X-Same") != "same" || h.Get("X-Late") != "" || body != "page" {
			t.Errorf("got %v %q", h, body)
		}
	})
}

// A status that a filter sets does not fix what it sets after that.
func TestFilterSetsTheStatus(t *testing.T) {
	fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
		f := harness.Flusher(w)
		w.Header().Set("Content-Length", "100")
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			f.WriteHeader(http.StatusTeapot)
			f.Header().Set("X-Filter", "1")
			f.Header().Set("Content-Length", "4")
			return p, nil
		}})
		io.WriteString(w, "page")
	}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, _ harness.Ending) {
		if s.Response().StatusCode != http.StatusTeapot || s.Header().Get("X-Filter") != "1" || s.Response().ContentLength != 4 || body != "page" {
			t.Errorf("got %d %v %q", s.Response().StatusCode, s.Header(), body)
		}
	})
}

// Clean looks first and acts then: one that is refused has changed nothing on
// any floor.
func TestCleanThatIsRefused(t *testing.T) {
	for _, opts := range []*flush.Options{nil, gzipEverything()} {
		fetch(t, "GET", opts, func(w http.ResponseWriter, _ *http.Request) {
			f := harness.Flusher(w)
			io.WriteString(w, "one ")
			b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseClean != 0 {
					t.Error("the filter was told of a Clean that was refused")
				}
				return p, nil
			}})
			io.WriteString(w, "two")
			flush.Flush(w, false)
			before := b.Len()
			if err := f.Clean(); !errors.Is(err, flush.ErrHeadersSent) {
				t.Error("Clean:", err)
			}
			if b.Len() != before {
				t.Errorf("%d bytes are left of %d", b.Len(), before)
			}
		}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, end harness.Ending) {
			if body != "one two" || end == harness.Cut {
				t.Errorf("got %q, %s", body, end)
			}
		})
	}
}

// While Clean is at work the headers stay, whoever flushes. Only a filter that
// is told of it can send them.
func TestFlushDuringClean(t *testing.T) {
	for name, own := range map[string]bool{"by another": false, "by the filter": true} {
		t.Run(name, func(t *testing.T) {
			fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				w.Header().Set("Etag", `"1"`)
				w.WriteHeader(http.StatusAccepted)
				asked := make(chan error, 1)
				f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					switch {
					case phase&flush.PhaseClean == 0:
					case own:
						asked <- f.FlushWait(harness.NoContext)
					default:
						go func() { asked <- f.FlushWait(harness.NoContext) }()
						synctest.Wait()
					}
					return p, nil
				}})
				io.WriteString(w, "half")
				want := map[bool]error{true: flush.ErrHeadersSent}[own]
				if err := f.Clean(); !errors.Is(err, want) {
					t.Error("Clean:", err)
				}
				io.WriteString(w, "sorry")
				expectError(t, "FlushWait", <-asked, nil)
			}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, _ harness.Ending) {
				status, tag := http.StatusOK, ""
				if own {
					status, tag = http.StatusAccepted, `"1"`
				}
				if s.Response().StatusCode != status || s.Header().Get("Etag") != tag || body != "sorry" {
					t.Errorf("got %d %v %q", s.Response().StatusCode, s.Header(), body)
				}
			})
		})
	}
}

// A Clean that comes too late as a filter that is told of it sends the headers takes
// nothing back but what filters have been told of.
func TestFlushDuringCleanKeepsTheRest(t *testing.T) {
	fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
		f := harness.Flusher(w)
		tells := func(name string, flushes bool) flush.Filter {
			return func(p []byte, phase flush.Phase) ([]byte, error) {
				if phase&flush.PhaseClean != 0 && flushes {
					expectError(t, "FlushWait", f.FlushWait(harness.NoContext), nil)
				} else if phase&flush.PhaseClean != 0 {
					t.Errorf("the filter %s was told of the Clean", name)
				}
				return p, nil
			}
		}
		f.StartBuffer(&flush.BufferOptions{Filter: tells("below", false)})
		io.WriteString(w, "below ")
		f.StartBuffer(nil)
		io.WriteString(w, "between ")
		f.StartBuffer(&flush.BufferOptions{Filter: tells("that flushes", true)})
		io.WriteString(w, "told ")
		f.StartBuffer(nil)
		io.WriteString(w, "above")
		if err := f.Clean(); !errors.Is(err, flush.ErrHeadersSent) {
			t.Error("Clean:", err)
		}
	}, func(t *testing.T, _ harness.Proto, _ *harness.Stream, body string, end harness.Ending) {
		if want := "below between above"; body != want || end == harness.Cut {
			t.Errorf("got %q, %s, want %q", body, end, want)
		}
	})
}

// A filter that takes the connection while it is told of a Clean leaves nothing to take
// back, and what ends the response waits for nobody.
func TestHijackDuringClean(t *testing.T) {
	ended := make(chan error, 1)
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		f := harness.Flusher(w)
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			t.Errorf("the filter below was told of phase %d", phase)
			return p, nil
		}})
		f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			conn, _, err := f.Hijack()
			expectError(t, "Hijack", err, nil)
			if err == nil {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown")
				conn.Close()
			}
			return p, nil
		}})
		expectError(t, "Clean", f.Clean(), http.ErrHijacked)
		ended <- f.Close()
	}))
	s := harness.Open(t, srv, "GET", "/", nil)
	if body, _, end := s.Rest(); body != "own" || end != harness.Complete {
		t.Errorf("got %q, %s", body, end)
	}
	expectError(t, "Close", harness.Next(t, ended), nil)
}

// What a filter writes while it is told of a Clean comes behind it.
func TestFilterWritesDuringClean(t *testing.T) {
	rec := httptest.NewRecorder()
	f := flush.New(rec, httptest.NewRequest("GET", "/", nil), &flush.Options{BufferSize: -1})
	f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		io.WriteString(f, "late")
		return nil, harness.ErrFilter // everything passes it by from now on
	}})
	expectError(t, "Clean", f.Clean(), harness.ErrFilter)
	expectError(t, "Close", f.Close(), nil)
	if rec.Body.String() != "late" {
		t.Errorf("got %q", rec.Body)
	}
}

// Bytes from the stack enter as far as a declared length lets them.
func TestBufferAndContentLength(t *testing.T) {
	same := func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }
	for name, o := range map[string]*flush.BufferOptions{
		"plain": {}, "filter": {Filter: same}, "chunks": {Filter: same, ChunkSize: 1}, "FollowFlush": {FollowFlush: true},
	} {
		for _, fix := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, fixed %v", name, fix), func(t *testing.T) {
				told := make(chan error, 3)
				opts := &flush.Options{OnClose: func(_ *http.Request, s flush.Stats, err error) {
					if s.Lost != 1 {
						t.Errorf("Lost is %d", s.Lost)
					}
					told <- err
				}}
				fetch(t, "GET", opts, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Length", "5")
					if fix {
						w.WriteHeader(http.StatusOK)
					}
					b := harness.Flusher(w).StartBuffer(o)
					io.WriteString(w, "hello")
					if _, err := io.WriteString(w, "\n"); err != nil && o.ChunkSize == 0 || err == nil && o.ChunkSize > 0 {
						t.Error("Write:", err)
					}
					if err := b.Flush(); o.ChunkSize == 0 && !errors.Is(err, http.ErrContentLength) {
						t.Error("Flush:", err)
					}
					if _, err := harness.Flusher(w).Write(nil); err != nil {
						t.Error(err)
					}
				}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, end harness.Ending) {
					if body != "hello" || end != harness.Complete || s.Response().ContentLength != 5 {
						t.Errorf("got %q, %s, %v", body, end, s.Header())
					}
					<-told
				})
			})
		}
	}
}

// A filter that changes the length of the body under a length of the handler's.
func TestFilterChangesTheLength(t *testing.T) {
	double := func(p []byte, _ flush.Phase) ([]byte, error) { return append(bytes.Clone(p), p...), nil }
	halve := func(p []byte, _ flush.Phase) ([]byte, error) { return p[:len(p)/2], nil }
	hold := func() flush.Filter { // to the end
		var held []byte
		return func(p []byte, phase flush.Phase) ([]byte, error) {
			held = append(held, p...)
			if phase&flush.PhaseFinal == 0 {
				return nil, nil
			}
			return held, nil
		}
	}
	for _, test := range []struct {
		name   string
		filter func() flush.Filter
		want   string
		cut    bool // if the length was sent before
	}{
		{"longer", func() flush.Filter { return double }, "abcdabcdefghefgh", true},
		{"shorter", func() flush.Filter { return halve }, "abef", true},
		{"later", hold, "abcdefgh", false},
		{"equal", func() flush.Filter { return named("") }, "", true},
	} {
		for _, when := range []string{"open", "fixed", "sent"} {
			t.Run(test.name+", "+when, func(t *testing.T) {
				told := make(chan error, 3)
				opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { told <- err }}
				fetch(t, "GET", opts, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					w.Header().Set("Content-Length", "8")
					switch when {
					case "fixed":
						w.WriteHeader(http.StatusOK)
					case "sent":
						f.SendHeaders()
					}
					filter := test.filter()
					if test.name == "equal" {
						filter = func(p []byte, _ flush.Phase) ([]byte, error) { return bytes.ToUpper(p), nil }
					}
					b := f.StartBuffer(&flush.BufferOptions{Filter: filter})
					io.WriteString(w, "abcd")
					b.Flush()
					stays := when == "sent" || test.name == "equal" || when == "open" && test.name == "later" // nothing has come through
					if says := w.Header().Get("Content-Length"); (says == "8") != stays {
						t.Errorf("the handler's own map says %q", says)
					}
					io.WriteString(w, "efgh")
				}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, end harness.Ending) {
					err := <-told
					want, cuts := test.want, test.cut && when == "sent"
					if test.name == "equal" {
						want, cuts = "ABCDEFGH", false
					}
					switch {
					case cuts:
						if end != harness.Cut || err == nil {
							t.Errorf("got %q, %s, and OnClose %v", body, end, err)
						}
					case body != want || end == harness.Cut || err != nil:
						t.Errorf("got %q, %s, and OnClose %v, want %q", body, end, err, want)
					}
				})
			})
		}
	}
}

// The length that a filter sets is its own: what it lets through is held to it.
func TestFilterSetsTheLength(t *testing.T) {
	for _, test := range []struct {
		length string
		cut    bool
	}{{"6", false}, {"5", true}, {"7", true}} {
		t.Run(test.length, func(t *testing.T) {
			told := make(chan error, 3)
			opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { told <- err }}
			fetch(t, "GET", opts, func(w http.ResponseWriter, _ *http.Request) {
				f := harness.Flusher(w)
				w.Header().Set("Content-Length", "4")
				w.WriteHeader(http.StatusOK)
				f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					f.Header().Set("Content-Length", test.length)
					return bracket(p, phase)
				}})
				io.WriteString(w, "page")
			}, func(t *testing.T, _ harness.Proto, s *harness.Stream, body string, end harness.Ending) {
				err := <-told
				if test.cut {
					if end != harness.Cut || test.length == "5" && (err == nil || !strings.Contains(err.Error(), "filter")) {
						t.Errorf("got %q, %s, and OnClose %v", body, end, err)
					}
				} else if body != "[page]" || end != harness.Complete || err != nil || s.Response().ContentLength != 6 {
					t.Errorf("got %q, %s, and OnClose %v", body, end, err)
				}
			})
		})
	}
}

// Under a profile without headers HEAD is a word like any other: the body goes
// out.
func TestHeadWithoutHeaders(t *testing.T) {
	for _, size := range []int{10, 4096, 100000} {
		p := harness.NewPlain()
		f := flush.New(harness.Flushable{Plain: p}, httptest.NewRequest("HEAD", "/", nil), &flush.Options{SAPI: flush.CLI()})
		for range 2 {
			if n, err := f.Write(bytes.Repeat([]byte("x"), size)); n != size || err != nil {
				t.Errorf("Write of %d: %d, %v", size, n, err)
			}
			expectError(t, "FlushWait", f.FlushWait(harness.NoContext), nil)
		}
		expectError(t, "Close", f.Close(), nil)
		if got := strings.Count(p.String(), "x"); got != 2*size {
			t.Errorf("%d bytes came out, want %d", got, 2*size)
		}
	}
}

// Abort in a filter marks the response and returns, whatever made the filter
// run.
func TestAbortInAFilterAtAnyPhase(t *testing.T) {
	for name, run := range map[string]func(f *flush.Flusher, b *flush.Buffer){
		"Write":       func(f *flush.Flusher, b *flush.Buffer) { io.WriteString(f, strings.Repeat("x", 100)) },
		"Flush":       func(f *flush.Flusher, b *flush.Buffer) { b.Flush() },
		"Clean":       func(f *flush.Flusher, b *flush.Buffer) { b.Clean() },
		"Close":       func(f *flush.Flusher, b *flush.Buffer) { b.Close() },
		"Discard":     func(f *flush.Flusher, b *flush.Buffer) { b.Discard() },
		"FlushWait":   func(f *flush.Flusher, b *flush.Buffer) { f.FlushWait(harness.NoContext) },
		"FlushAsync":  func(f *flush.Flusher, b *flush.Buffer) { f.FlushAsync() },
		"FlushAll":    func(f *flush.Flusher, b *flush.Buffer) { f.FlushAll(true) },
		"f.Clean":     func(f *flush.Flusher, b *flush.Buffer) { f.Clean() },
		"f.Close":     func(f *flush.Flusher, b *flush.Buffer) { f.Close() },
		"the return":  func(f *flush.Flusher, b *flush.Buffer) {},
		"Flush, sent": func(f *flush.Flusher, b *flush.Buffer) { f.SendHeaders(); b.Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan error, 3)
			opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { told <- err }}
			fetchCut(t, opts, func(w http.ResponseWriter, r *http.Request) {
				f := harness.Flusher(w)
				b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 100, FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
					f.Abort(harness.ErrBoom)
					return p, nil
				}})
				io.WriteString(w, "x")
				run(f, b)
				if name == "the return" {
					return
				}
				expectError(t, "Err", f.Err(), harness.ErrBoom)
				if f.Top() != nil {
					t.Error("a buffer is left")
				}
			})
			for range 3 {
				if err := <-told; !errors.Is(err, harness.ErrBoom) {
					t.Error("OnClose:", err)
				}
			}
		})
	}
}

// fetchCut runs h over every protocol and expects the response to be cut.
func fetchCut(t *testing.T, opts *flush.Options, h http.HandlerFunc) {
	t.Helper()
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		s := harness.Open(t, harness.ServeMemory(t, p, harness.Wrapped(opts, h), 0), "GET", "/", nil)
		if body, _, end := s.Rest(); end == harness.Complete {
			t.Errorf("the response looks complete: %q", body)
		}
	})
}

// A filter that panics has changed no length: what it was given goes down as it is.
func TestFilterThatPanicsLeavesTheLength(t *testing.T) {
	srv := harness.Serve(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "7")
		b := harness.Flusher(w).StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) { panic("filter") }})
		io.WriteString(w, "content")
		defer func() {
			if recover() == nil {
				t.Error("it did not panic")
			}
			harness.Must(t, flush.Flush(w, true)) // the server finds no length by itself
		}()
		b.Flush()
	}))
	s := harness.Open(t, srv, "GET", "/", nil)
	if n := s.Response().ContentLength; n != 7 {
		t.Errorf("length %d", n)
	}
	s.ExpectEnd("content")
}
