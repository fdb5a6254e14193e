package flush_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

// Handlers call others on behalf of their client and pass the request's context
// on. What those return, and what is logged, when the client leaves must be what
// it is without this package.

// An upstream answers /silent with nothing at all, /head with a head, /half with
// a part of a body, until its client leaves, and all else at once.
func serveUpstream(t *testing.T) (base *url.URL, client *http.Transport) {
	srv := harness.ServeMemory(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/silent":
		case "/head":
			rc.Flush()
		case "/half":
			io.WriteString(w, "half")
			rc.Flush()
		default:
			io.WriteString(w, "all")
			return
		}
		<-r.Context().Done()
	}), 0)
	client = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return srv.Dial(ctx) }}
	t.Cleanup(client.CloseIdleConnections)
	base, err := url.Parse(srv.URL("/"))
	if err != nil {
		t.Fatal(err)
	}
	return base, client
}

// An outgoing is a piece of code that is given a handler's context. It returns at
// once, or when the context ends.
type outgoing struct {
	name string
	call func(ctx context.Context, base *url.URL, client *http.Transport) error
}

func getWith(ctx context.Context, url string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		panic(err)
	}
	return r
}

var callers = []outgoing{
	{"http.Client, no answer", func(ctx context.Context, base *url.URL, tr *http.Transport) error {
		_, err := (&http.Client{Transport: tr}).Do(getWith(ctx, base.JoinPath("silent").String()))
		return err
	}},
	{"http.Client, half an answer", func(ctx context.Context, base *url.URL, tr *http.Transport) error {
		resp, err := (&http.Client{Transport: tr}).Do(getWith(ctx, base.JoinPath("half").String()))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
		return err
	}},
	{"http.Transport, derived context", func(ctx context.Context, base *url.URL, tr *http.Transport) error {
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, valueKey{}, "v"), time.Hour)
		defer cancel()
		_, err := tr.RoundTrip(getWith(ctx, base.JoinPath("silent").String()))
		return err
	}},
	{"net.Dialer", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		<-ctx.Done()
		_, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:9")
		return err
	}},
	{"crypto/tls", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		a, b := flushtest.Pipe(64 << 10)
		defer a.Close()
		defer b.Close()
		return tls.Client(a, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
	}},
	{"os/exec", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		<-ctx.Done()
		return exec.CommandContext(ctx, "/nowhere").Run()
	}},
	{"database/sql", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		db := sql.OpenDB(database{})
		defer db.Close()
		db.SetMaxOpenConns(1)
		taken, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer taken.Close()
		_, err = db.ExecContext(ctx, "waits for its turn")
		return err
	}},
	{"context.AfterFunc", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		cause := make(chan error)
		context.AfterFunc(ctx, func() { cause <- context.Cause(ctx) })
		return <-cause
	}},
	{"a worker's own cause", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		time.AfterFunc(time.Hour, func() { cancel(errors.New("too slow")) })
		<-ctx.Done()
		return context.Cause(ctx)
	}},
	{"a loop", func(ctx context.Context, _ *url.URL, _ *http.Transport) error {
		for ctx.Err() == nil {
			time.Sleep(time.Second) // of synctest
		}
		return ctx.Err()
	}},
}

// A database has connections that do nothing.
type database struct{}

func (database) Connect(ctx context.Context) (driver.Conn, error) { return database{}, ctx.Err() }
func (database) Driver() driver.Driver                            { return nil }
func (database) Prepare(string) (driver.Stmt, error)              { return nil, driver.ErrBadConn }
func (database) Close() error                                     { return nil }
func (database) Begin() (driver.Tx, error)                        { return nil, driver.ErrBadConn }

// theirWraps are the ways to run a handler that its callers must not tell apart.
var theirWraps = []struct {
	name string
	wrap func(http.Handler) http.Handler
}{
	{"bare", harness.Bare},
	{"wrapped", harness.WrappedBy(nil)},
	{"async", harness.WrappedBy(&flush.Options{Flush: flush.Async})},
	{"twice", func(h http.Handler) http.Handler { return harness.WrappedBy(nil)(harness.WrappedBy(nil)(h)) }},
}

// A moment is when the client leaves.
var moments = []string{"before the call", "during the call", "after the response"}

// What a caller returns when the client leaves is what it returns bare: the same
// text, the same identity, the same cause of the same context. What the reason
// was, flush.Cause says to who asks.
func TestCallersSeeWhatTheySeeBare(t *testing.T) {
	for _, c := range callers {
		for _, when := range moments {
			t.Run(c.name+"/"+when, func(t *testing.T) {
				for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP2} {
					var want string
					for _, w := range theirWraps {
						synctest.Test(t, func(t *testing.T) {
							base, client := serveUpstream(t)
							saw := make(chan string, 1)
							srv := harness.ServeMemory(t, p, w.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
								ctx := r.Context()
								switch when {
								case "before the call":
									http.NewResponseController(w).Flush()
									<-ctx.Done()
								case "after the response":
									w.Header().Set("Content-Length", "4")
									io.WriteString(w, "done")
									http.NewResponseController(w).Flush()
									<-ctx.Done()
								default:
									http.NewResponseController(w).Flush()
								}
								err := c.call(ctx, base, client)
								inner := err
								for e := err; e != nil; e = errors.Unwrap(e) {
									inner = e
								}
								saw <- strings.ReplaceAll(fmt.Sprintf("%v, %T, is Canceled %t, == Canceled %t, ours %t; Err == Canceled %t, Cause == Canceled %t", err, err,
									errors.Is(err, context.Canceled), inner == context.Canceled, errors.Is(err, flush.ErrClientGone) || errors.Is(err, flush.ErrClosed),
									ctx.Err() == context.Canceled, context.Cause(ctx) == context.Canceled), base.Host, "UPSTREAM")
								if reason := flush.Cause(ctx); reason == nil {
									t.Errorf("the reason is %v", reason)
								}
							})), 0)
							s := harness.Open(t, srv, "GET", "/", nil)
							s.Header()
							if when == "after the response" {
								s.Expect("done")
							}
							synctest.Wait()
							s.Leave()
							got := <-saw
							if want == "" {
								want = got
							}
							if got != want {
								t.Errorf("%v, %s: %s\nbare %s", p, w.name, got, want)
							}
						})
					}
				}
			})
		}
	}
}

// httputil.ReverseProxy answers, calls its ErrorHandler and logs as it does
// bare, line for line, whenever the client leaves.
func TestReverseProxyLogsAsBare(t *testing.T) {
	for _, path := range []string{"silent", "head", "half", "all"} {
		for _, handles := range []bool{true, false} {
			for _, when := range moments {
				if path == "all" && when == "during the call" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%t/%s", path, handles, when), func(t *testing.T) {
					for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP2} {
						var want []string
						for _, w := range theirWraps {
							var got []string
							synctest.Test(t, func(t *testing.T) {
								base, client := serveUpstream(t)
								var out harness.SafeBuffer
								proxy := &httputil.ReverseProxy{
									Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(base) },
									Transport: client,
									ErrorLog:  log.New(&out, "proxy: ", 0),
								}
								if handles {
									proxy.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
										fmt.Fprintf(&out, "handler: %v, is Canceled %t, == %t, cause %v\n", err, errors.Is(err, context.Canceled), err == context.Canceled, context.Cause(r.Context()))
										if errors.Is(err, context.Canceled) {
											w.WriteHeader(499)
											return
										}
										w.WriteHeader(502)
									}
								}
								ended := make(chan struct{})
								left := make(chan struct{})
								srv := harness.ServeMemory(t, p, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
									defer close(ended)
									defer func() {
										v := recover()
										fmt.Fprintf(&out, "panic: %v\n", v)
										if v != nil {
											panic(v)
										}
									}()
									w.wrap(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
										if when == "before the call" {
											<-left
											<-r.Context().Done()
										}
										proxy.ServeHTTP(rw, r)
										if when == "after the response" && path == "all" {
											http.NewResponseController(rw).Flush()
											<-left
										}
									})).ServeHTTP(rw, r)
								}), 0)
								s := harness.Open(t, srv, "GET", "/"+path, nil)
								synctest.Wait()
								s.Leave()
								close(left)
								<-ended
								synctest.Wait()
								lines := out.String()
								for l := range strings.Lines(srv.Logged()) {
									if strings.HasPrefix(l, "http") {
										lines += "server: " + l
									}
								}
								lines = strings.ReplaceAll(lines, base.Host, "UPSTREAM")
								got = strings.Split(lines, "\n")
							})
							if want == nil {
								want = got
							}
							if !slices.Equal(got, want) {
								t.Errorf("%v, %s: %q\nbare %q", p, w.name, got, want)
							}
						}
					}
				})
			}
		}
	}
}

// Why the client's leaving ended the response is known to who asks, whatever
// the proxy makes of it.
func TestReverseProxyClientGoneInOnClose(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		base, client := serveUpstream(t)
		reasons := make(chan error, 2)
		opts := &flush.Options{OnClose: func(r *http.Request, _ flush.Stats, err error) {
			reasons <- flush.Cause(r.Context())
			reasons <- err
		}}
		proxy := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(base) }, Transport: client, ErrorLog: log.New(new(bytes.Buffer), "", 0),
		}
		srv := harness.ServeMemory(t, p, flush.NewHandler(proxy, opts), 0)
		s := harness.Open(t, srv, "GET", "/half", nil)
		s.Expect("half")
		s.Leave()
		for range 2 {
			if err := <-reasons; !errors.Is(err, flush.ErrClientGone) {
				t.Error(err)
			}
		}
	})
}
