package flush_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// What was taken back does not count for the FlushInterval any more, nor keep what
// comes after it from being counted.
func TestCleanBeginsTheIntervalAnew(t *testing.T) {
	const every = 50 * time.Millisecond
	for name, half := range map[string]func(f *flush.Flusher){
		"headers":                 func(f *flush.Flusher) { f.WriteHeader(200) },
		"headers and bytes":       func(f *flush.Flusher) { f.WriteHeader(200); f.WriteString("half") },
		"bytes":                   func(f *flush.Flusher) { f.WriteString("half") },
		"nothing":                 func(*flush.Flusher) {},
		"headers in a buffer":     func(f *flush.Flusher) { f.StartBuffer(nil); f.WriteHeader(200); f.WriteString("half") },
		"headers, and 40 ms gone": func(f *flush.Flusher) { f.WriteHeader(200); time.Sleep(every - every/5) },
	} {
		for _, silence := range []time.Duration{0, every / 2, time.Second} {
			t.Run(name+" "+silence.String(), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					var sent time.Duration
					srv := harness.ServeMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						f, _ := flush.From(w)
						half(f)
						if err := f.Clean(); err != nil {
							t.Error(err)
						}
						time.Sleep(silence)
						w.WriteHeader(http.StatusInternalServerError)
						began := time.Now()
						for ; !f.HeadersSent() && sent < time.Second; sent = time.Since(began) {
							time.Sleep(time.Millisecond)
							synctest.Wait()
						}
					}), &flush.Options{FlushInterval: every}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					if r := s.Response(); r.StatusCode != http.StatusInternalServerError {
						t.Error(r.Status)
					}
					s.ExpectEnd("")
					if sent < every || sent > every+2*time.Millisecond {
						t.Errorf("headers went out after %v, want %v", sent, every)
					}
				})
			})
		}
	}
}

// An informer is a server's writer that takes its time for a 1xx.
type informer struct {
	harness.DeadlineSink
	takes time.Duration
}

func (w informer) WriteHeader(code int) {
	if code < 200 {
		time.Sleep(w.takes)
	}
	w.DeadlineSink.WriteHeader(code)
}

// A flush that found no room for what a buffer holds, and is owed, goes with what
// it was for: after a Clean nothing of it is left. Twin: without one it is done.
func TestCleanTakesBackAFlushThatIsOwed(t *testing.T) {
	for name, ask := range map[string]func(f *flush.Flusher) error{
		"FlushAsync": (*flush.Flusher).FlushAsync,
		"FlushAll":   func(f *flush.Flusher) error { return f.FlushAll(false) },
	} {
		for _, cleans := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, cleans %t", name, cleans), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					f := flush.New(informer{harness.DeadlineSink{Sink: s}, time.Second}, nil, &flush.Options{SAPI: flush.OpenResty()})
					var phases []flush.Phase
					f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
						phases = append(phases, phase)
						return p, nil
					}})
					harness.MustWrite(t, f, "half")
					told := harness.Go(func() error { f.WriteHeader(http.StatusEarlyHints); return nil })
					synctest.Wait()
					harness.Must(t, ask(f)) // a filter may set headers, and the server is at the 103
					want := []flush.Phase{flush.PhaseStart | flush.PhaseFlush, flush.PhaseFinal}
					body := "half"
					if cleans {
						want = []flush.Phase{flush.PhaseStart | flush.PhaseClean, flush.PhaseStart | flush.PhaseFinal}
						body = "page"
						harness.Must(t, f.Clean()) // it waits for the 103
					}
					<-told
					synctest.Wait()
					if sent := f.HeadersSent(); sent == cleans {
						t.Error("headers are out:", sent)
					}
					if cleans {
						f.WriteHeader(http.StatusInternalServerError)
						harness.MustWrite(t, f, "page")
					}
					harness.Must(t, f.Close())
					if got := s.Body(); got != body || !slices.Equal(phases, want) {
						t.Errorf("the client got %q, the filter ran for %v, want %q, %v", got, phases, body, want)
					}
				})
			})
		}
	}
}

// Nor does a cut that was to come at the end of what was taken back: a filter had
// let through more than it declared. Twin: without a Clean it comes.
func TestCleanTakesBackACut(t *testing.T) {
	for _, cleans := range []bool{true, false} {
		t.Run(fmt.Sprint(cleans), func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				opts, told := harness.TellClosing(flush.Options{})
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					first := true
					b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
						if first {
							first = false
							w.Header().Set("Content-Length", "2")
						}
						return p, nil
					}})
					harness.MustWrite(t, w, "half")
					if err := b.Flush(); !errors.Is(err, http.ErrContentLength) {
						t.Error("Flush:", err)
					}
					if cleans {
						harness.Must(t, f.Clean())
						w.WriteHeader(http.StatusInternalServerError)
						harness.MustWrite(t, w, "page")
					}
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				body, _, end := s.Rest()
				if c := harness.Next(t, told); cleans && (body != "page" || end == harness.Cut || c.Err != nil) || !cleans && (end != harness.Cut || c.Err == nil) {
					t.Errorf("the client got %q, %s; OnClose: %v", body, end, c.Err)
				}
			})
		})
	}
}

// A Write that is in its middle is not torn by a Clean: a part of it is on its way and
// the rest follows, so that the Clean comes too late. One that waits with nothing of it
// held comes after the Clean, whole.
func TestCleanBesideAWriteInItsMiddle(t *testing.T) {
	for name, opts := range map[string]flush.Options{
		"MaxPending": {MaxPending: 8000, BufferSize: 4000},
		"Budget":     {Budget: flush.NewBudget(16<<10, 16<<10)},
	} {
		for _, entered := range []bool{true, false} {
			if !entered && opts.Budget == nil {
				continue // something of it enters
			}
			for i := range 20 { // whoever of the two wakes first
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					var hog *flush.Flusher
					if opts.Budget != nil {
						opts.Budget = flush.NewBudget(16<<10, 16<<10)
						hog = harness.HoldBudget(opts.Budget, 4)
						if entered {
							hog.Close()
							hog = harness.HoldBudget(opts.Budget, 2)
						}
					}
					opts.Flush = flush.Async
					// Below New, with a body that may be unread, only callers hand headers over.
					r, _ := http.NewRequestWithContext(requestOf(t.Context(), 0).Context(), "POST", "/", strings.NewReader("body"))
					f := flush.New(informer{harness.DeadlineSink{Sink: s}, 50 * time.Millisecond}, r, &opts)
					told := harness.Go(func() error { f.WriteHeader(http.StatusEarlyHints); return nil })
					synctest.Wait()
					all := harness.Numbered(20_000)
					var cleaned, wrote <-chan error
					clean := func() { cleaned = harness.Go(f.Clean); synctest.Wait() }
					if i%2 == 0 {
						clean()
					}
					wrote = harness.Go(func() error { _, err := f.WriteString(all); return err })
					synctest.Wait()
					if (f.Buffered() > 0) != entered {
						t.Fatalf("%s: %d bytes have entered", name, f.Buffered())
					}
					if i%2 != 0 {
						clean()
					}
					<-told
					if err := <-cleaned; errors.Is(err, flush.ErrHeadersSent) != entered || !entered && err != nil {
						t.Errorf("%s, entered %t: Clean: %v", name, entered, err)
					}
					if hog != nil {
						hog.Close()
					}
					harness.Must(t, <-wrote)
					harness.Must(t, f.Close())
					if got := s.Body(); got != all {
						t.Errorf("%s, entered %t: %d bytes have come of %d: %.40q", name, entered, len(got), len(all), got)
					}
				})
			}
		}
	}
}
