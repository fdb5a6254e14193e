package flush_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/fa492104/flush"
)

// Nobody has the Flusher yet whose OnStart panics: it ends by itself, or its Group
// would wait for it for ever.
func TestOnStartPanicsUnderNew(t *testing.T) {
	for way, begin := range map[string]func(o *flush.Options){
		"New":       func(o *flush.Options) { flush.New(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), o) },
		"NewOutput": func(o *flush.Options) { flush.NewOutput(io.Discard, o) },
	} {
		t.Run(way, func(t *testing.T) {
			g := new(flush.Group)
			ended := 0
			o := &flush.Options{
				Group:   g,
				OnStart: func(*flush.Flusher, *http.Request) { panic("boom") },
				OnClose: func(_ *http.Request, _ flush.Stats, err error) {
					if ended++; err == nil {
						t.Error("OnClose was told that the response is whole")
					}
				},
			}
			defer func() {
				if v := recover(); v != "boom" {
					t.Errorf("panic %v", v)
				}
				if ended != 1 {
					t.Errorf("OnClose ran %d times", ended)
				}
				if n := g.Len(); n != 0 {
					t.Errorf("%d members left", n)
				}
				if err := g.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}()
			begin(o)
		})
	}
}
