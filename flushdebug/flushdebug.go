// Package flushdebug shows who is slow right now: a page of all live responses of
// a [flush.Group], the worst first.
//
//	var live flush.Group
//	flush.Install(srv, &flush.Options{Group: &live})
//	http.Handle("/debug/flush", flushdebug.Handler(&live))
//
// Mount it on an internal address only, as net/http/pprof: it shows paths and
// clients.
package flushdebug

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/peek"
)

// most is how many responses are listed. The totals are of all.
const most = 200

// Handler returns a page of the members of g: method, path and client of the
// request, age, bytes, flushes, what is held and how long the oldest byte of it
// has waited, what the kernel holds where that is known (see
// [flush.ConnContext]), and whether it is detached. The worst come first, and the
// page lists 200 at most. Totals, and the Budget if there is one, are of all.
//
// With ?format=json it answers the same for machines. It reads only, and takes no
// other method than GET and HEAD. A nil g has no members.
//
// Paths and clients are those that the response had when it joined its first
// Group, shortened; a path has no query.
func Handler(g *flush.Group) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "flushdebug only reads", http.StatusMethodNotAllowed)
			return
		}
		v := look(g, time.Now())
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.URL.Query().Get("format") == "json" { // not FormValue, which would read a body
			h.Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(v) // the client's leaving is its own affair
			return
		}
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		page.Execute(w, v)
	})
}

// A view is what is shown. Sizes are in bytes and times in seconds.
type view struct {
	At        time.Time  `json:"at"`
	Live      int        `json:"live"`
	Behind    int        `json:"behind"` // how many hold something
	Detached  int        `json:"detached"`
	Bytes     int64      `json:"bytes"`
	Held      int64      `json:"held"`
	Kernel    int64      `json:"kernel"` // of those whose connection is known, each once
	Budgets   []budget   `json:"budgets,omitempty"`
	Responses []response `json:"responses"` // the worst
}

type budget struct {
	Held    int64 `json:"held"`
	Members int   `json:"members"`
	Waiting int   `json:"waiting"`
	Aborted int   `json:"aborted"`
}

type response struct {
	Method   string  `json:"method"`
	Path     string  `json:"path"`
	Client   string  `json:"client"`
	Age      float64 `json:"age"`
	Status   int     `json:"status"`
	Bytes    int64   `json:"bytes"`
	Flushes  int64   `json:"flushes"`
	Pushes   int64   `json:"pushes"`
	Held     int64   `json:"held"`
	Behind   float64 `json:"behind"`
	Kernel   *int64  `json:"kernel,omitempty"` // nil: not known
	Waited   float64 `json:"waited"`
	Detached bool    `json:"detached"`
	Failure  string  `json:"failure,omitempty"`
}

// look looks at every member once.
func look(g *flush.Group, now time.Time) *view {
	v := &view{At: now, Responses: []response{}}
	if g == nil {
		return v
	}
	seen, conns := make(map[*flush.Budget]bool), make(map[any]bool)
	for f := range g.All() {
		s := f.Stats()
		held := int64(f.Buffered())
		about := peek.Look(f)
		r := response{
			Method: printable(about.Method), Path: printable(about.Path), Client: printable(about.Client),
			Age: max(now.Sub(s.Began), 0).Seconds(), Status: s.Status, Bytes: s.Bytes,
			Flushes: s.Flushes, Pushes: s.Pushes, Held: held, Behind: s.Behind.Seconds(),
			Waited: s.Waited.Seconds(), Detached: s.Detached,
		}
		if unsent, unacked, err := f.Backlog(); err == nil {
			n := unsent + unacked
			r.Kernel = &n
			if !conns[about.Conn] { // streams of HTTP/2 share theirs
				conns[about.Conn] = true
				v.Kernel += n
			}
		}
		if err := f.Err(); err != nil {
			r.Failure = printable(clip(err.Error(), mostFailure))
		}
		v.Live++
		v.Bytes += r.Bytes
		v.Held += held
		if r.Behind > 0 {
			v.Behind++
		}
		if r.Detached {
			v.Detached++
		}
		if b, _ := about.Budget.(*flush.Budget); b != nil && !seen[b] {
			seen[b] = true
			v.Budgets = append(v.Budgets, budget(b.Stats()))
		}
		v.Responses = append(v.Responses, r)
	}
	slices.SortFunc(v.Responses, worse)
	v.Responses = slices.Clip(v.Responses[:min(most, len(v.Responses))])
	return v
}

// mostFailure is how much of a failure is told, in bytes: it may quote anything.
const mostFailure = 200

// clip returns s, or its beginning if it is longer than most.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most-len("…")] + "…"
}

// printable returns s without what would do more than show, to a terminal too:
// control characters, and those that turn the direction of what follows.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// worse orders by how long a response has been behind, then by what waits for its
// client, here and in the kernel, and then the oldest first.
func worse(a, b response) int {
	return cmp.Or(
		cmp.Compare(b.Behind, a.Behind),
		cmp.Compare(b.waiting(), a.waiting()),
		cmp.Compare(b.Age, a.Age),
	)
}

func (r *response) waiting() int64 {
	n := r.Held
	if r.Kernel != nil {
		n += *r.Kernel
	}
	return n
}
