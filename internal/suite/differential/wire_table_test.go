package differential_test

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/fa492104/flush/internal/harness"
)

// A wireTable is every handler for every client C on every server, bare and
// wrapped. S is what one of them shows.
type wireTable[C wireAsker, S wireShown[S]] struct {
	handlers []wireHandler
	clients  []C
	run      func(*testing.T, wireServer, wireHandler, C, func(http.Handler) http.Handler) S
	rules    []wireRule[C, S]
}

type wireAsker interface{ title() string }

type wireShown[S any] interface {
	same(S) bool
	clone() S
}

// A wireRule is a difference that is meant: apply edits what was seen bare into
// what the contract promises behind the named way.
type wireRule[C, S any] struct {
	name, reason string
	apply        func(way string, h wireHandler, c C, bare *S)
}

// improved returns what the rules make of bare, all of them but the one named
// except.
func (w wireTable[C, S]) improved(bare S, way string, h wireHandler, c C, except string) S {
	s := bare.clone()
	for _, r := range w.rules {
		if r.name != except {
			r.apply(way, h, c, &s)
		}
	}
	return s
}

// compare runs the table. A rule that no case needs fails it.
func (w wireTable[C, S]) compare(t *testing.T) {
	ways := map[string]func(http.Handler) http.Handler{"NewHandler": harness.WrappedBy(nil), "New": harness.EndedNew}
	needed := make(map[string]bool)
	all := true
	for _, s := range wireServers {
		for _, h := range w.handlers {
			t.Run(s.name+"/"+h.name, func(t *testing.T) {
				for _, c := range w.clients {
					ran := t.Run(c.title(), func(t *testing.T) {
						bare := w.run(t, s, h, c, harness.Bare)
						for _, way := range slices.Sorted(maps.Keys(ways)) {
							ours := w.run(t, s, h, c, ways[way])
							if want := w.improved(bare, way, h, c, ""); !want.same(ours) {
								t.Errorf("%s\ngot  %v\nwant %v", way, ours, want)
								continue
							}
							for _, r := range w.rules {
								if !w.improved(bare, way, h, c, r.name).same(ours) {
									needed[r.name] = true
								}
							}
						}
					})
					all = all && ran
				}
			})
		}
	}
	if all && !t.Failed() {
		for _, r := range w.rules {
			if !needed[r.name] {
				t.Errorf("no case needs the rule %q", r.name)
			}
		}
	}
}
