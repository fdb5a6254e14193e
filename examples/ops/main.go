// Ops is what a service of event streams needs around its handlers: who is slow
// right now, metrics, a line in the log for each response, slow clients that cost
// nobody else anything, and an end on SIGTERM that every client hears of which keeps up.
//
//	go run . &
//	curl -N http://127.0.0.1:8080/events
//	curl http://127.0.0.1:8081/metrics     # and /debug/flush in a browser
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushdebug"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address of the streams")
	internal := flag.String("internal", "127.0.0.1:8081", "address of /metrics and /debug/flush, for you alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *internal, slog.Default()); err != nil {
		slog.Error("ops", "err", err)
		os.Exit(1)
	}
}

// errSlow is why a client is dropped that had no room for an event. It comes back
// by itself.
var errSlow = errors.New("client too slow")

const (
	tick      = time.Second      // between two events
	beat      = 15 * time.Second // between two signs of life
	goodbyeIn = 10 * time.Second // after SIGTERM every response has had its end
)

// run serves until ctx ends, and then until every client has had its goodbye.
func run(ctx context.Context, addr, internal string, log *slog.Logger) error {
	var live, room flush.Group // all responses; those that want events
	m := newMetrics(&live)
	srv := &http.Server{Handler: routes(&room), ReadHeaderTimeout: 10 * time.Second}
	flush.Install(srv, &flush.Options{
		Group:            &live,
		SendTimeout:      30 * time.Second,
		NoProxyBuffering: true,
		Budget:           m.budget,
		OnClose: func(r *http.Request, s flush.Stats, err error) {
			reason := reasonOf(r, err)
			m.ended.WithLabelValues(reason).Inc()
			m.bytes.Add(float64(s.Bytes))
			log.Info("response", "path", r.URL.Path, "client", r.RemoteAddr, "status", s.Status, "bytes", s.Bytes,
				"lost", s.Lost, "took", time.Since(s.Began), "waited", s.Waited, "ended", reason)
		},
	})
	inside := http.NewServeMux()
	inside.Handle("/debug/flush", flushdebug.Handler(&live))
	inside.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	debug := &http.Server{Handler: inside, ReadHeaderTimeout: 10 * time.Second}

	failed := make(chan error, 2)
	for s, a := range map[*http.Server]string{srv: addr, debug: internal} {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		log.Info("listening", "address", "http://"+l.Addr().String(), "internal", s == debug)
		go func() { failed <- s.Serve(l) }()
	}
	go publish(ctx, &room, m)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeIn)
	defer cancel()
	err := live.Shutdown(grace)                                                // streams say goodbye; what is left after that time is cut
	last, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // grace may be used up
	defer done()
	return errors.Join(err, srv.Shutdown(last), debug.Shutdown(last))
}

// routes are the service itself. Its handler of event streams writes to the Flusher
// only before it joins the room, and after its context has ended.
func routes(room *flush.Group) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		f, _ := flush.From(w)
		fmt.Fprint(w, "retry: 1000\n\n")
		if f.FlushAsync() != nil || room.Add(f) != nil {
			return
		}
		<-r.Context().Done()
		if errors.Is(flush.Cause(r.Context()), flush.ErrShutdown) {
			io.WriteString(w, "event: goodbye\ndata: this server goes down\n\n")
		}
	})
	return mux
}

// publish tells the room the time. A client without room for it is dropped.
func publish(ctx context.Context, room *flush.Group, m *metrics) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	beats := time.NewTicker(beat)
	defer beats.Stop()
	for {
		var event string
		select {
		case <-ctx.Done():
			return
		case t := <-ticks.C:
			event = "data: " + t.UTC().Format(time.RFC3339) + "\n\n"
		case <-beats.C:
			event = ": still here\n\n"
		}
		for _, f := range room.Broadcast([]byte(event)) {
			m.missed.Inc()
			f.Abort(errSlow)
		}
	}
}

// reasonOf says in a word why a response ended.
func reasonOf(r *http.Request, err error) string {
	cause := flush.Cause(r.Context())
	for _, c := range []struct {
		is   error
		name string
	}{
		{errSlow, "too slow"}, {flush.ErrOverBudget, "over budget"}, {flush.ErrTimeout, "timeout"},
		{flush.ErrShutdown, "shutdown"}, {flush.ErrClientGone, "client gone"},
	} {
		if errors.Is(err, c.is) || errors.Is(cause, c.is) {
			return c.name
		}
	}
	if err != nil {
		return "failed"
	}
	return "done"
}
