// Sse sends each line of its standard input to every browser that listens, as
// server-sent events. A client that was away gets what it missed; one that
// reads too slowly is told that it missed something and holds up nobody.
//
//	ping 127.0.0.1 | go run ./examples/sse
package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fa492104/flush"
)

const (
	keep  = 1000             // events held for clients that come back
	beat  = 15 * time.Second // between two signs of life
	grace = 5 * time.Second  // how long streams have to end after Ctrl-C
)

var errStopping = errors.New("the server is stopping")

//go:embed page.html
var page []byte

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	if err := serve(ctx, ln, os.Stdin, os.Stderr); err != nil {
		log.Fatal(err)
	}
}

// serve publishes the lines of in and answers on ln until ctx ends. The end of
// in ends nothing.
func serve(ctx context.Context, ln net.Listener, in io.Reader, out io.Writer) error {
	streams, stopStreams := context.WithCancelCause(context.Background())
	defer stopStreams(nil)

	h := &handler{feed: newFeed(time.Now()), log: log.New(out, "", 0)}
	srv := &http.Server{
		Handler: flush.NewHandler(h.routes(), &flush.Options{
			SendTimeout:      30 * time.Second,
			NoProxyBuffering: true,
			OnClose:          h.closed,
		}),
		BaseContext:       func(net.Listener) context.Context { return streams },
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 2)
	go func() { failed <- srv.Serve(ln) }()
	go func() {
		if err := h.feed.publishLines(in); err != nil {
			failed <- err
		}
	}()
	fmt.Fprintf(out, "Open http://%[1]v/ in a browser, or run\n\n\tcurl -N http://%[1]v/events\n\n", ln.Addr())

	select {
	case err := <-failed:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "stopping")
	stopStreams(errStopping)
	left, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Shutdown(left); err != nil {
		return errors.Join(err, srv.Close())
	}
	return nil
}

type handler struct {
	feed *feed
	log  *log.Logger
}

func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.HandleFunc("GET /events", h.stream)
	return mux
}

func (h *handler) closed(r *http.Request, s flush.Stats, err error) {
	h.log.Printf("%s %s: %d bytes, %d lost, at most %d held: %v", r.RemoteAddr, r.URL.Path, s.Bytes, s.Lost, s.MaxPending, err)
}

func (h *handler) stream(w http.ResponseWriter, r *http.Request) {
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
	cursor, gap := h.feed.cursor(r.Header.Get("Last-Event-ID"))
	io.WriteString(f, "retry: 1000\n\n")
	f.FlushAsync()

	ctx, cancel := context.WithCancel(r.Context())
	var beats sync.WaitGroup
	beats.Go(func() { heartbeat(ctx, f) })
	defer beats.Wait()
	defer cancel()
	for ctx.Err() == nil {
		events, missed, more := h.feed.since(cursor)
		if missed > 0 {
			cursor += missed
			gap = true
		}
		if gap {
			gap = false
			io.WriteString(f, "event: gap\ndata: events are missing here\n\n")
		}
		slow := false
		for _, e := range events {
			err := f.TryWrite(e)
			if slow = errors.Is(err, flush.ErrNoRoom); slow {
				break
			}
			if err != nil {
				return
			}
			cursor++
		}
		if slow {
			// What the client has not taken fills all the room it has. It
			// catches up first; the feed may forget events meanwhile.
			h.log.Printf("%s: slow, waits with %d bytes", r.RemoteAddr, f.Buffered())
			if f.FlushWait(ctx) != nil {
				return
			}
			continue
		}
		if f.FlushAsync() != nil {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}

// heartbeat writes beside the stream, with no lock: a Flusher takes writes
// from any goroutine and never mixes two of them. It shows proxies that the
// connection lives, and shows us when it does not.
func heartbeat(ctx context.Context, f *flush.Flusher) {
	sign := []byte(":\n\n")
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		err := f.TryWrite(sign)
		if errors.Is(err, flush.ErrNoRoom) {
			continue // there is enough on its way
		}
		if err != nil || f.FlushAsync() != nil {
			return
		}
	}
}

// A feed holds the last events, ready to be sent.
type feed struct {
	run string // in every id: ids of an earlier run count for nothing

	mu     sync.Mutex
	forgot int64    // events that are not held any more
	events [][]byte // those that came after
	more   chan struct{}
}

func newFeed(start time.Time) *feed {
	return &feed{run: strconv.FormatInt(start.UnixNano(), 36), more: make(chan struct{})}
}

// publishLines makes each line of in an event, and several of one that is
// longer than 4 KiB: no event must outgrow what a Flusher holds.
func (f *feed) publishLines(in io.Reader) error {
	r := bufio.NewReaderSize(in, 4<<10)
	for {
		line, _, err := r.ReadLine()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		f.publish(string(line))
	}
}

// anyNewline is what ends a line in an event stream.
var anyNewline = strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ")

func (f *feed) publish(data string) {
	data = anyNewline.Replace(strings.ToValidUTF8(data, "\uFFFD"))
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.forgot + int64(len(f.events)) + 1
	f.events = append(f.events, fmt.Appendf(nil, "id: %s-%d\ndata: %s\n\n", f.run, id, data))
	if len(f.events) > keep {
		f.events = f.events[1:]
		f.forgot++
	}
	close(f.more)
	f.more = make(chan struct{})
}

// since returns the events behind the first n, how many of them are gone, and
// a channel that is closed when there are more.
func (f *feed) since(n int64) (events [][]byte, gone int64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone = max(f.forgot-n, 0)
	return f.events[n+gone-f.forgot:], gone, f.more
}

// cursor returns how many events the client with this Last-Event-ID has had.
// One that has none gets all that are held; one from before a restart, or with
// an id that makes no sense, does too, and is told of the gap.
func (f *feed) cursor(lastID string) (n int64, gap bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	run, number, _ := strings.Cut(lastID, "-")
	n, err := strconv.ParseInt(number, 10, 64)
	if run != f.run || err != nil || n < 0 || n > f.forgot+int64(len(f.events)) {
		return f.forgot, lastID != ""
	}
	return n, false
}
