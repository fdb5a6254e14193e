package compat_test

import (
	"net/http"
	"testing"

	"github.com/starfederation/datastar-go/datastar"

	"github.com/fa492104/flush"
)

func datastarRows() []subject {
	return []subject{{name: "datastar-go `Send`", place: handler, want: cells{yes, yes, yes, yes, goneCtx, yes, yes, yes, tooLate}, serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
		return flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := datastar.NewSSE(w, r)
			run(&session{r.Context(), w, func(text string) error {
				return s.Send(datastar.EventTypePatchElements, []string{text})
			}})
		}), opts)
	}}}
}
