//go:build unix

package docs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// Every piece of Go in docs/recipes.md stands here, but for its indentation, and
// is run.
func TestRecipesAreWhatTestsRun(t *testing.T) {
	source, err := os.ReadFile("internal/suite/docs/recipes_test.go")
	harness.Must(t, err)
	flat := func(s string) string {
		var b strings.Builder
		for line := range strings.Lines(s) {
			b.WriteString(strings.TrimLeft(line, "\t"))
		}
		return b.String()
	}
	all := flat(string(source))
	for _, b := range goBlocks(documents(t)["docs/recipes.md"]) {
		if !strings.Contains(all, flat(b.code)) {
			t.Errorf("docs/recipes.md:%d is not run here", b.line)
		}
	}
}

func recipeShutdown(mux http.Handler, l net.Listener, ctx context.Context, all, room *flush.Group) {
	srv := &http.Server{Handler: mux}
	flush.Install(srv, &flush.Options{Group: all})
	go srv.Serve(l)
	<-ctx.Done() // SIGTERM, by signal.NotifyContext

	bound, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	room.Broadcast([]byte("event: bye\ndata:\n\n"))
	all.Shutdown(bound) // waits for the streams and for what is under way, and aborts what is left

	last, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	srv.Shutdown(last)
}

func recipeGoodbye(w http.ResponseWriter, r *http.Request) {
	f, _ := flush.From(w)
	<-r.Context().Done()
	if errors.Is(flush.Cause(r.Context()), flush.ErrShutdown) {
		if err := f.TryWrite([]byte("event: bye\ndata:\n\n")); err != nil {
			f.Abort(err)
		}
	}
}

// A stream is told, a handler says so itself, and a download has no goodbye in it.
func TestRecipeShutdown(t *testing.T) {
	harness.CheckGoroutines(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	var all, room flush.Group
	park := harness.NewPark(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/room", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, harness.Hello)
		flush.Flush(w, true)
		room.Add(harness.Flusher(w))
		park.Here()
		<-r.Context().Done()
	})
	mux.HandleFunc("/alone", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		flush.Flush(w, true)
		recipeGoodbye(w, r)
	})
	mux.HandleFunc("/download", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half ")
		flush.Flush(w, true)
		park.Here()
		io.WriteString(w, "whole")
	})
	ctx, terminate := context.WithCancel(t.Context())
	ended := harness.Go(func() error { recipeShutdown(mux, l, ctx, &all, &room); return nil })
	srv := &harness.Server{Server: &http.Server{Addr: l.Addr().String()}, Proto: harness.HTTP1}
	inRoom := harness.Open(t, srv, "GET", "/room", nil)
	inRoom.Expect(harness.Hello)
	park.Next()
	alone := harness.Open(t, srv, "GET", "/alone", nil)
	alone.Response()
	download := harness.Open(t, srv, "GET", "/download", nil)
	download.Expect("half ")
	park.Wait()
	terminate()
	inRoom.ExpectEnd("event: bye\ndata:\n\n")
	alone.ExpectEnd("event: bye\ndata:\n\n")
	park.Resume()
	download.ExpectEnd("whole")
	for _, s := range []*harness.Stream{inRoom, alone, download} {
		s.Leave()
	}
	harness.Must(t, <-ended)
}

var errSlow = errors.New("too slow")

func recipeRoom(room *flush.Group, event []byte) {
	for _, f := range room.Broadcast(event) { // waits for nobody
		f.Abort(errSlow) // it has missed the event whole; it comes back with Last-Event-ID
	}
}

func recipeReplace(f *flush.Flusher, event []byte) {
	if err := f.TryWrite(event); err != nil && !errors.Is(err, flush.ErrNoRoom) {
		return
	}
	f.FlushAsync()
}

func recipeDrop(f *flush.Flusher, event []byte) {
	if err := f.TryWrite(event); err != nil {
		f.Abort(err)
		return
	}
	f.FlushAsync()
}

// Events larger than MaxPending reach those that keep up; one that does not is
// dropped, or misses them, as the recipe says.
func TestRecipesForSlowClients(t *testing.T) {
	for name, drops := range map[string]bool{"room": true, "drop": true, "replace": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var room flush.Group
				quick, slow := harness.NewSink(t), harness.NewSink(t)
				slow.Hold(0)
				fs := make([]*flush.Flusher, 2)
				for i, s := range []*harness.Sink{quick, slow} {
					fs[i] = flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{MaxPending: 5000})
					harness.Must(t, room.Add(fs[i]))
				}
				for range 3 {
					event := make([]byte, 9000)
					switch name {
					case "room":
						recipeRoom(&room, event)
					case "drop":
						for _, f := range fs {
							recipeDrop(f, event)
						}
					case "replace":
						for _, f := range fs {
							recipeReplace(f, event)
						}
					}
					synctest.Wait()
				}
				if got := len(quick.Body()); got != 27_000 {
					t.Errorf("the one that keeps up got %d bytes", got)
				}
				want := errSlow
				if name == "drop" {
					want = flush.ErrNoRoom
				}
				if err := fs[1].Err(); drops != errors.Is(err, want) || !drops && err != nil {
					t.Error("the slow one:", err)
				}
				slow.Release()
				for _, f := range fs {
					f.Close()
				}
				if got := len(slow.Body()); !drops && got != 9000 {
					t.Errorf("the slow one got %d bytes in all", got)
				}
			})
		})
	}
}

func recipeHeartbeat(r *http.Request, f *flush.Flusher) {
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			if err := f.TryWrite([]byte(": still here\n\n")); err != nil {
				f.Abort(err)
				return
			}
			f.FlushAsync()
		}
	}
}

// The heartbeat ends with a client whose leaving nobody tells, soon after a write
// has met it.
func TestRecipeHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := harness.NewClock()
		f := flush.New(harness.Failing{Plain: harness.NewPlain(), Err: errors.New("broken pipe")}, nil, nil)
		r, err := http.NewRequest("GET", "/", nil)
		harness.Must(t, err)
		recipeHeartbeat(r, f)
		if at := clock.Now(); at > 30*time.Second {
			t.Errorf("it was found after %v", at)
		}
		f.Close()
	})
}

var errGap = errors.New("no token for too long")

func recipeGap(f *flush.Flusher, tokens <-chan string, longest time.Duration) {
	gap := time.AfterFunc(longest, func() { f.Abort(errGap) })
	defer gap.Stop()
	for token := range tokens {
		gap.Reset(longest)
		if _, err := io.WriteString(f, token); err != nil {
			return // the client has left, or errGap
		}
		f.FlushAsync()
	}
}

// A model that goes on talking is whole however long it takes; one that stops is
// cut after the gap, and what it had said arrives.
func TestRecipeGap(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		harness.Bubble(t, func(t *testing.T, p harness.Proto) {
			clock := harness.NewClock()
			ended := make(chan time.Duration, 1)
			srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) {
				if stalls != errors.Is(err, errGap) {
					t.Error(err)
				}
				ended <- clock.Now()
			}}, func(w http.ResponseWriter, r *http.Request) {
				tokens := make(chan string)
				go func() {
					defer close(tokens)
					for range 3 {
						tokens <- "token "
						time.Sleep(30*time.Second - 1)
					}
					if stalls {
						<-r.Context().Done()
					}
				}()
				recipeGap(harness.Flusher(w), tokens, 30*time.Second)
			}), 0)
			s := harness.Open(t, srv, "GET", "/", nil)
			got, _, end := s.Rest()
			if got != "token token token " || stalls != (end == harness.Cut) && p != harness.HTTP10 {
				t.Errorf("%q, then %s", got, end)
			}
			if at := <-ended; stalls && at != 90*time.Second-2 {
				t.Errorf("it ended after %v", at)
			}
			s.Leave()
		})
	}
}

func recipeMetrics(streams *flush.Group) (*flush.Options, func() (open, held int, behind time.Duration)) {
	opts := &flush.Options{Group: streams, OnClose: func(r *http.Request, s flush.Stats, err error) {
		slog.Info("response", "path", r.URL.Path, "status", s.Status, "bytes", s.Bytes, "lost", s.Lost,
			"held at most", s.MaxPending, "took", time.Since(s.Began), "why", flush.Cause(r.Context()), "error", err)
	}}
	return opts, func() (int, int, time.Duration) {
		open, held, behind := 0, 0, time.Duration(0)
		for f := range streams.All() {
			open++
			held += f.Buffered()
			behind = max(behind, f.Stats().Behind)
		}
		return open, held, behind
	}
}

func TestRecipeMetrics(t *testing.T) {
	var log bytes.Buffer
	standard := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(standard)
	synctest.Test(t, func(t *testing.T) {
		var streams flush.Group
		opts, look := recipeMetrics(&streams)
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "held")
			time.Sleep(time.Minute)
			if open, held, behind := look(); open != 1 || held != 4 || behind != time.Minute {
				t.Errorf("%d responses are open, %d bytes held, for %v", open, held, behind)
			}
		}), 0)
		s := harness.Open(t, srv, "GET", "/path", nil)
		s.ExpectEnd("held")
		synctest.Wait()
		if open, held, behind := look(); open != 0 || held != 0 || behind != 0 {
			t.Errorf("%d responses are open, %d bytes held, for %v", open, held, behind)
		}
		s.Leave()
	})
	for _, want := range []string{"path=/path", "status=200", "bytes=4", "took=1m0s", "error=<nil>"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q: %s", want, &log)
		}
	}
}

func recipeWork(w http.ResponseWriter, r *http.Request, f *flush.Flusher, work func(context.Context)) {
	w.Header().Set("Connection", "close")
	io.WriteString(w, "accepted\n")
	if err := f.Close(); err != nil {
		return
	}
	work(context.WithoutCancel(r.Context())) // the client may leave now
}

// The client has its answer, and may leave, while the work goes on.
func TestRecipeWork(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		park := harness.NewPark(t)
		worked := make(chan error, 1)
		srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			recipeWork(w, r, harness.Flusher(w), func(ctx context.Context) {
				park.Here()
				worked <- ctx.Err()
			})
		}))
		s := harness.Open(t, srv, "GET", "/", nil)
		s.Expect("accepted\n")
		park.Wait()
		if p != harness.HTTP2 {
			s.ExpectEnd("")
		}
		s.Leave()
		park.Resume()
		harness.Must(t, <-worked)
	})
}

func recipeH2C(mux http.Handler) *http.Server {
	srv := &http.Server{Handler: mux}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	flush.Install(srv, nil)
	return srv
}

// One address without TLS for HTTP/1 and HTTP/2, with connections known on both.
func TestRecipeH2C(t *testing.T) {
	harness.CheckGoroutines(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	srv := recipeH2C(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		if _, _, err := harness.Flusher(w).Backlog(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		harness.EventStream(w, r)
	}))
	served := harness.Go(func() error { return srv.Serve(l) })
	var streams []*harness.Stream
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP2} {
		c := &harness.Server{Server: &http.Server{Addr: l.Addr().String()}, Proto: p, Clear: true}
		s := harness.Open(t, c, "GET", "/", nil)
		if got := s.Header().Get("X-Proto"); got != map[harness.Proto]string{harness.HTTP1: "HTTP/1.1", harness.HTTP2: "HTTP/2.0"}[p] {
			t.Error(got)
		}
		s.Expect(harness.Hello)
		streams = append(streams, s)
		if p == harness.HTTP2 {
			defer c.Client().CloseIdleConnections()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience())
	defer cancel()
	ended := harness.Go(func() error { return srv.Shutdown(ctx) })
	for _, s := range streams {
		s.ExpectEnd(harness.Goodbye)
	}
	harness.Must(t, <-ended)
	if err := <-served; err != http.ErrServerClosed {
		t.Error(err)
	}
	for _, s := range streams {
		s.Leave()
	}
}
