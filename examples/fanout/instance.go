package main

import (
	"context"
	"encoding/json"
	"errors"
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
	maxEvent = 8 << 10          // with its line breaks spelt out it fits into a Flusher
	beat     = 15 * time.Second // between two signs of life
	grace    = 5 * time.Second  // how long streams have to end
	readers  = 64               // clients for whom the store is read at a time
)

var errStopping = errors.New("the server is stopping")

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
		hub:   hub{streams: make(map[*stream]struct{})},
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
		in.hub.broadcast(meta.Sequence.Stream, m.Data())
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { in.log.Print(err) }))
	return err
}

// serve answers on ln until ctx ends, and then closes the instance.
func (in *instance) serve(ctx context.Context, ln net.Listener) error {
	defer in.nc.Close()
	defer in.live.Stop()
	streams, stopStreams := context.WithCancelCause(context.Background())
	defer stopStreams(nil)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", in.stream)
	// Not for pages of other sites: their visitors' browsers would publish for them.
	mux.Handle("POST /events", http.NewCrossOriginProtection().Handler(http.HandlerFunc(in.publish)))
	mux.HandleFunc("GET /stats", in.stats)
	srv := &http.Server{
		Handler: flush.NewHandler(mux, &flush.Options{
			Flush:            flush.Async,
			SendTimeout:      30 * time.Second,
			NoProxyBuffering: true,
		}),
		BaseContext:       func(net.Listener) context.Context { return streams },
		ReadHeaderTimeout: 10 * time.Second,
	}
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
		stopStreams(errStopping)
		in.hub.end()
		left, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if err := srv.Shutdown(left); err != nil {
			return errors.Join(err, srv.Close())
		}
		return nil
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
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	s := &stream{f: f, drop: cancel}
	if in.detach {
		if err := f.Detach(); err != nil {
			in.log.Printf("%s: %v", r.RemoteAddr, err)
			return
		}
		s.drop = func(err error) { go in.cutOff(f, r.RemoteAddr, err) }
	} else {
		f.FlushAsync() // the headers: the first event may be long in coming
	}
	last, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64)
	if err == nil {
		s.cursor = last
		if err := in.catchUp(ctx, s); err != nil {
			in.log.Printf("%s: %v", r.RemoteAddr, err)
			f.Abort(err)
			return
		}
	} else {
		in.hub.joinNow(s)
	}
	if in.detach {
		context.AfterFunc(r.Context(), func() { in.hub.leave(s) })
		return
	}
	defer in.hub.leave(s)
	<-ctx.Done()
	if cause := context.Cause(ctx); errors.Is(cause, errSlow) {
		in.cutOff(f, r.RemoteAddr, cause)
	}
}

// cutOff drops a stream. What it holds is in the store.
func (in *instance) cutOff(f *flush.Flusher, addr string, why error) {
	in.log.Printf("%s: dropped with %d bytes: %v", addr, f.Buffered(), why)
	f.Abort(why)
}
