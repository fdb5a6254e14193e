package compat_test

import (
	"bufio"
	"context"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushdebug"
)

// What follows, up to the test, is a whole service: server-sent events with a
// heartbeat through gin, slow clients dropped, logs, metrics, a page of who is slow,
// and an end that every client hears of which keeps up.

var errSlow = errors.New("client too slow")

type service struct {
	all, room     flush.Group
	ended, missed expvar.Int
}

func (s *service) events(c *gin.Context) {
	c.Header("Content-Type", "text/event-stream")
	c.Writer.WriteString("retry: 1000\n\n") // to gin's writer, which counts
	f, _ := flush.From(c.Writer)
	if flush.Flush(c.Writer, false) != nil || s.room.Add(f) != nil {
		return
	}
	<-c.Request.Context().Done() // until then the hub writes
	if errors.Is(flush.Cause(c.Request.Context()), flush.ErrShutdown) {
		c.Writer.WriteString("event: goodbye\ndata:\n\n")
	}
}

func (s *service) publish(ctx context.Context, messages <-chan string, beat <-chan time.Time) {
	for {
		event := ": still here\n\n"
		select {
		case <-ctx.Done():
			return
		case m := <-messages:
			event = "data: " + m + "\n\n"
		case <-beat:
		}
		for _, f := range s.room.Broadcast([]byte(event)) {
			s.missed.Add(1)
			f.Abort(errSlow)
		}
	}
}

func (s *service) metrics(w http.ResponseWriter, _ *http.Request) {
	held, behind := 0, time.Duration(0)
	for f := range s.all.All() {
		held += f.Buffered()
		behind = max(behind, f.Stats().Behind)
	}
	fmt.Fprintf(w, "streams %d\nheld_bytes %d\nbehind_seconds %g\nended %v\nmissed %v\n", s.room.Len(), held, behind.Seconds(), &s.ended, &s.missed)
}

// run serves on l, and for its operator on internal, until ctx ends.
func (s *service) run(ctx context.Context, l, internal net.Listener, messages <-chan string, log *slog.Logger) error {
	e := gin.New()
	e.Use(gin.Recovery())
	e.GET("/events", s.events)
	srv, debug := &http.Server{Handler: e}, &http.Server{Handler: http.NewServeMux()}
	flush.Install(srv, &flush.Options{Group: &s.all, SendTimeout: 30 * time.Second, OnClose: func(r *http.Request, st flush.Stats, err error) {
		s.ended.Add(1)
		log.Info("response", "path", r.URL.Path, "bytes", st.Bytes, "took", time.Since(st.Began), "why", flush.Cause(r.Context()), "err", err)
	}})
	debug.Handler.(*http.ServeMux).Handle("/debug/flush", flushdebug.Handler(&s.all))
	debug.Handler.(*http.ServeMux).HandleFunc("/metrics", s.metrics)
	go srv.Serve(l)
	go debug.Serve(internal)
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	s.publish(ctx, messages, beat.C)
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := s.all.Shutdown(bound)
	last, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // bound may be used up
	defer done()
	return errors.Join(err, srv.Shutdown(last), debug.Shutdown(last))
}

func TestWholeService(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	var ls [2]net.Listener
	for i := range ls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls[i] = l
	}
	url := func(i int, path string) string { return "http://" + ls[i].Addr().String() + path }
	ctx, terminate := context.WithCancel(t.Context())
	messages := make(chan string)
	var log strings.Builder
	var mu sync.Mutex
	s := new(service)
	ended := make(chan error, 1)
	go func() {
		ended <- s.run(ctx, ls[0], ls[1], messages, slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil)))
	}()
	const clients = 20
	var readers []*bufio.Reader
	for range clients {
		resp, err := http.Get(url(0, "/events"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		r := bufio.NewReader(resp.Body)
		if line, err := r.ReadString('\n'); line != "retry: 1000\n" {
			t.Fatalf("%q, %v", line, err)
		}
		readers = append(readers, r)
	}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(time.Minute); s.room.Len() < clients; <-poll.C {
		if time.Now().After(end) {
			t.Fatal("they do not join")
		}
	}
	messages <- "news"
	for _, r := range readers {
		line := ""
		for line != "data: news\n" {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, want := range map[string]string{"/metrics": fmt.Sprintf("streams %d\n", clients), "/debug/flush": fmt.Sprintf("%d responses", clients)} {
		resp, err := http.Get(url(1, path))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, %v", path, b, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	terminate()
	for _, r := range readers {
		rest, err := io.ReadAll(r)
		if err != nil || !strings.HasSuffix(string(rest), "event: goodbye\ndata:\n\n") {
			t.Errorf("%q, %v", rest, err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "group has been shut down"); n != clients || s.ended.Value() != clients {
		t.Errorf("%d ended, %d logged as shut down, want %d", s.ended.Value(), n, clients)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
