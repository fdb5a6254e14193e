package compat_test

import (
	"net/http"
	"testing"

	"github.com/tmaxmax/go-sse"

	"github.com/fa492104/flush"
)

func goSSERows() []subject {
	return []subject{{name: "go-sse `Session`", place: handler, want: cells{yes, yes, yes, yes, goneBoth, yes, yes, yes, yes}, serve: func(t *testing.T, opts *flush.Options, run func(*session)) http.Handler {
		return flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sse.Upgrade(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			run(&session{r.Context(), w, func(text string) error {
				m := &sse.Message{}
				m.AppendData(text)
				if err := s.Send(m); err != nil {
					return err
				}
				return s.Flush()
			}})
		}), opts)
	}}}
}
