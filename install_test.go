package flush_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

type installKey struct{}

// One line sets up all of it: wrapped, connections known, and a Shutdown that
// does not wait for streams.
func TestInstall(t *testing.T) {
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTPS1, harness.HTTP2} {
		t.Run(p.String(), func(t *testing.T) {
			srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Context().Value(installKey{}) != true {
					t.Error("the server's own ConnContext is lost")
				}
				if _, _, err := harness.Flusher(w).Backlog(); runtime.GOOS == "linux" && err != nil {
					t.Error("the connection is not known:", err)
				}
				harness.EventStream(w, r)
			}), harness.Configure(func(s *http.Server) {
				s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
					return context.WithValue(ctx, installKey{}, true)
				}
				flush.Install(s, nil)
			}))
			s := harness.Open(t, srv, "GET", "/", nil)
			s.Expect(harness.Hello)
			if p == harness.HTTP2 {
				defer srv.Client().CloseIdleConnections()
			}
			ctx, cancel := context.WithTimeout(t.Context(), harness.Patience())
			defer cancel()
			ended := harness.Go(func() error { return srv.Shutdown(ctx) })
			s.ExpectEnd(harness.Goodbye)
			harness.Must(t, <-ended)
		})
	}
}

func TestInstallOptions(t *testing.T) {
	budget := flush.NewBudget(0, 1<<20)
	shared := &http.HTTP2Config{MaxConcurrentStreams: 7}
	for _, test := range []struct {
		name string
		srv  *http.Server
		opts *flush.Options
		want time.Duration
	}{
		{"no budget", &http.Server{}, nil, 0},
		{"default", &http.Server{}, &flush.Options{Budget: budget}, time.Minute},
		{"SendTimeout", &http.Server{}, &flush.Options{Budget: budget, SendTimeout: time.Second}, time.Second},
		{"none", &http.Server{}, &flush.Options{Budget: budget, SendTimeout: -1}, 0},
		{"WriteTimeout", &http.Server{WriteTimeout: time.Hour}, &flush.Options{Budget: budget}, time.Hour},
		{"both", &http.Server{WriteTimeout: time.Hour}, &flush.Options{Budget: budget, SendTimeout: time.Second}, time.Second},
		{"its own", &http.Server{HTTP2: &http.HTTP2Config{WriteByteTimeout: 5}}, &flush.Options{Budget: budget}, 5},
		{"shared", &http.Server{HTTP2: shared}, &flush.Options{Budget: budget}, time.Minute},
	} {
		flush.Install(test.srv, test.opts)
		got := time.Duration(0)
		if c := test.srv.HTTP2; c != nil {
			got = c.WriteByteTimeout
			if test.name == "shared" && c.MaxConcurrentStreams != 7 {
				t.Error("other settings are lost")
			}
		}
		if got != test.want {
			t.Errorf("%s: WriteByteTimeout %v, want %v", test.name, got, test.want)
		}
	}
	if shared.WriteByteTimeout != 0 {
		t.Error("a configuration that others may share was changed")
	}

	// The Group of the options is the one that all join, and no other is made.
	var g flush.Group
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if g.Len() != 1 {
			t.Errorf("%d members", g.Len())
		}
	})}
	opts := &flush.Options{Group: &g}
	flush.Install(srv, opts)
	srv.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if opts.Group != &g {
		t.Error("the options were changed")
	}
	harness.Must(t, srv.Close())
	if err := g.Add(newMember(nil)); err != nil {
		t.Error("Close has shut the Group down:", err)
	}
	harness.Must(t, srv.Shutdown(t.Context()))
	for end := time.Now().Add(harness.Patience()); ; runtime.Gosched() { // the server does not wait for it
		f := newMember(nil)
		if err := g.Add(f); errors.Is(err, flush.ErrShutdown) {
			break
		}
		f.Close()
		if time.Now().After(end) {
			t.Fatal("Shutdown has not shut the Group down")
		}
	}
}

// globalServer is one that is never freed: it is installed once, however often a test runs.
var (
	globalServer  http.Server
	installGlobal = sync.OnceFunc(func() { flush.Install(&globalServer, nil) })
)

// A mistake is told at once, when the program starts.
func TestInstallMistakes(t *testing.T) {
	panics := func(name, want string, srv *http.Server) {
		t.Helper()
		defer func() {
			if v, _ := recover().(string); !strings.Contains(v, want) {
				t.Errorf("%s: %q, want %q", name, v, want)
			}
		}()
		flush.Install(srv, nil)
	}
	panics("nil", "nil server", nil)
	for name, srv := range map[string]*http.Server{"a server": new(http.Server), "a global": &globalServer, "a part": &new(struct {
		n   int
		srv http.Server
	}).srv} {
		if srv == &globalServer {
			installGlobal()
		} else {
			flush.Install(srv, nil)
		}
		h := srv.Handler
		srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) }) // by middleware
		panics(name, "installed before", srv)
	}
	flush.Install(new(http.Server), nil) // another one is no second call

	l, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") })}
	done := harness.Go(func() error { return srv.Serve(l) })
	resp, err := http.Get("http://" + l.Addr().String())
	harness.Must(t, err)
	resp.Body.Close()
	panics("a server that serves", "serves already", srv)
	http.DefaultClient.CloseIdleConnections()
	harness.Must(t, srv.Close())
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
}
