package flush_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
	"github.com/fa492104/flush/internal/peek"
)

// What is told of a response in a Group: its request, clipped, its budget and its
// connection. Of one outside there is no request to tell.
func TestAboutAResponse(t *testing.T) {
	long := "/" + strings.Repeat("p", 200)
	for _, c := range []struct {
		name         string
		path         string
		grouped      bool
		budget       *flush.Budget
		conn         bool // the server has ConnContext
		method, told string
	}{
		{"grouped", "/a/b?secret", true, nil, false, "GET", "/a/b"},
		{"a long path", long, true, nil, false, "GET", long[:93] + "…"},
		{"as long as is told", long[:96], true, nil, false, "GET", long[:96]},
		{"alone", "/a", false, nil, false, "", ""},
		{"a budget", "/a", false, flush.NewBudget(1<<20, 1<<20), false, "", ""},
		{"a connection", "/a", false, nil, true, "", ""},
		{"all", "/a", true, flush.NewBudget(1<<20, 1<<20), true, "GET", "/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := &flush.Options{Budget: c.budget}
			if c.grouped {
				opts.Group = new(flush.Group)
			}
			type told struct {
				peek.Response
				client string
			}
			all := make(chan told, 1)
			srv := harness.Serve(t, harness.HTTP1, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "x")
				all <- told{peek.Look(harness.Flusher(w)), r.RemoteAddr}
			}), opts), harness.Configure(func(s *http.Server) {
				if c.conn {
					s.ConnContext = flush.ConnContext
				}
			}))
			harness.Open(t, srv, "GET", c.path, nil).ExpectEnd("x")
			got := harness.Next(t, all)
			if !c.grouped {
				got.client = ""
			}
			if got.Method != c.method || got.Path != c.told || got.Client != got.client {
				t.Errorf("told %q, %q and %q", got.Method, got.Path, got.Client)
			}
			if b, _ := got.Budget.(*flush.Budget); b != c.budget || (got.Budget == nil) != (c.budget == nil) {
				t.Errorf("the budget is told as %v", got.Budget)
			}
			if (got.Conn != nil) != c.conn {
				t.Errorf("the connection is told as %v", got.Conn)
			}
		})
	}
}
