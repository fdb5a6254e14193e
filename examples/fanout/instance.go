package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/fa492104/flush"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	subject  = "fanout.events"
	maxEvent = 8 << 10          // with its line breaks spelt out it fits into a Flusher's queue
	beat     = 15 * time.Second // between two signs of life
	grace    = 5 * time.Second  // how long streams have to end
	readers  = 64               // clients for whom the store is read at a time
)

// An instance is one of the machines.
type instance struct {
	hub    hub
	nc     *nats.Conn
	js     jetstream.JetStream
	events jetstream.Stream
	live   jetstream.ConsumeContext
	turns  chan struct{} // held while the store is read for a client
	detach bool          // streams outlive their handlers
	log    *log.Logger
}

func newInstance(ctx context.Context, url string, replicas int, out io.Writer) (*instance, error) {
	nc, err := nats.Connect(url, nats.Name("fanout"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	in := &instance{
		hub:   hub{ahead: make(map[uint64][]*flush.Flusher)},
		nc:    nc,
		turns: make(chan struct{}, readers),
		log:   log.New(out, "", 0),
	}
	if err := in.follow(ctx, replicas); err != nil {
		nc.Close()
		return nil, err
	}
	return in, nil
}

// follow begins to hand out what is published from now on.
func (in *instance) follow(ctx context.Context, replicas int) error {
	var err error
	if in.js, err = jetstream.New(in.nc); err != nil {
		return err
	}
	in.events, err = in.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "FANOUT",
		Subjects: []string{subject},
		Replicas: replicas,
		MaxMsgs:  100_000,
		MaxAge:   time.Hour,
	})
	if err != nil {
		return err
	}
	info, err := in.events.Info(ctx)
	if err != nil {
		return err
	}
	in.hub.last = info.State.LastSeq
	next, err := in.events.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   in.hub.last + 1,
	})
	if err != nil {
		return err
	}
	in.live, err = next.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			in.log.Print(err)
			return
		}
		if slow := in.hub.broadcast(meta.Sequence.Stream, m.Data()); slow > 0 {
			in.log.Printf("event %d: %d clients dropped: %v", meta.Sequence.Stream, slow, errSlow)
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { in.log.Print(err) }))
	return err
}

// serve answers on ln until ctx ends, and then closes the instance.
func (in *instance) serve(ctx context.Context, ln net.Listener) error {
	defer in.nc.Close()
	defer in.live.Stop()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", in.stream)
	// Not for pages of other sites: their visitors' browsers would publish for them.
	mux.Handle("POST /events", http.NewCrossOriginProtection().Handler(http.HandlerFunc(in.publish)))
	mux.HandleFunc("GET /stats", in.stats)
	var all flush.Group // the streams, the live ones and those that catch up, end with it
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	flush.Install(srv, &flush.Options{
		Group:            &all,
		Flush:            flush.Async,
		SendTimeout:      30 * time.Second,
		NoProxyBuffering: true,
	})
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case err := <-failed:
			return err
		case <-ticker.C:
			in.hub.heartbeat()
			continue
		case <-ctx.Done():
		}
		left, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		err := all.Shutdown(left) // what they hold still goes out
		if srv.Shutdown(left) != nil {
			srv.Close()
		}
		return err
	}
}

func (in *instance) stats(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(in.hub.count())
}

// publish stores the body as an event and answers with its number. A client
// that does not know whether it was heard says it again, with the same
// Idempotency-Key.
func (in *instance) publish(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		http.Error(w, "the event is too large", http.StatusRequestEntityTooLarge)
		return
	}
	var opts []jetstream.PublishOpt
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		opts = append(opts, jetstream.WithMsgID(key))
	}
	ack, err := in.js.Publish(r.Context(), subject, data, opts...)
	if err != nil {
		in.log.Print(err)
		http.Error(w, "the event was perhaps not stored", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, ack.Sequence)
}

func (in *instance) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return
	}
	f, ok := flush.From(w)
	if !ok {
		http.Error(w, "not behind flush.NewHandler", http.StatusInternalServerError)
		return
	}
	if in.detach {
		if err := f.Detach(); err != nil {
			in.log.Printf("%s: %v", r.RemoteAddr, err)
			return
		}
	}
	ctx := r.Context()                                                                          // of a detached response too: it ends with that
	if err := in.begin(ctx, f, r.Header.Get("Last-Event-ID")); err != nil && ctx.Err() == nil { // else it has ended
		f.Abort(err)
	}
	if !in.detach {
		<-ctx.Done()
	}
}

// begin sends what the client has missed and has the hub do the rest.
func (in *instance) begin(ctx context.Context, f *flush.Flusher, lastID string) error {
	if err := f.FlushAsync(); err != nil { // the headers: the first event may be long in coming
		return err
	}
	if cursor, err := strconv.ParseUint(lastID, 10, 64); err == nil {
		return in.catchUp(ctx, f, cursor)
	}
	return in.hub.joinNow(f)
}
