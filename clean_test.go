package flush_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
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
				bubble(t, func(t *testing.T, p proto) {
					var sent time.Duration
					srv := serveMemory(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
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
					s := open(t, srv, "GET", "/", nil)
					if r := s.response(); r.StatusCode != http.StatusInternalServerError {
						t.Error(r.Status)
					}
					s.expectEnd("")
					if sent < every || sent > every+2*time.Millisecond {
						t.Errorf("headers went out after %v, want %v", sent, every)
					}
				})
			})
		}
	}
}
