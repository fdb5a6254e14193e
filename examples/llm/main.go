// Llm is a reverse proxy in front of a language model that streams tokens. A
// slow client never makes the proxy flush more often than the client takes,
// and one that leaves stops the model. The model is a fake that replays a text
// unless -upstream names a real one. Its page shows the same stream through a
// proxy that buffers and through flush, side by side, and what each costs.
//
//	go run ./examples/llm
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"time"

	"github.com/fa492104/flush"
)

// grace is how long answers have to end after Ctrl-C.
const grace = 5 * time.Second

var errStopping = errors.New("the proxy is stopping")

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	target := flag.String("upstream", "", "URL of the model; empty: a fake one")
	pace := flag.Duration("pace", 20*time.Millisecond, "time between two tokens of the fake model")
	flag.Parse()
	if err := listen(*addr, *target, *pace); err != nil {
		log.Fatal(err)
	}
}

func listen(addr, target string, pace time.Duration) error {
	if pace <= 0 {
		return errors.New("-pace must be more than 0")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	if target == "" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		model := &http.Server{Handler: &upstream{pace, log.New(os.Stderr, "", 0)}}
		go model.Serve(ln)
		defer model.Close()
		target = "http://" + ln.Addr().String()
	}
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return serve(ctx, ln, u, http.DefaultTransport, os.Stderr)
}

// serve answers on ln from the model at target until ctx ends.
func serve(ctx context.Context, ln net.Listener, target *url.URL, transport http.RoundTripper, out io.Writer) error {
	answers, stopAnswers := context.WithCancelCause(context.Background())
	defer stopAnswers(nil)

	log := log.New(out, "", 0)
	srv := &http.Server{
		Handler:           routes(newProxy(target, transport, log), options(log)),
		BaseContext:       func(net.Listener) context.Context { return answers },
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	log.Printf("Open http://%[1]v/ in a browser, or run\n\n\tcurl -N -d '{\"stream\": true}' http://%[1]v/v1/chat/completions\n\n", ln.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	log.Print("stopping")
	left, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Shutdown(left); err != nil {
		stopAnswers(errStopping)
		return errors.Join(err, srv.Close())
	}
	return nil
}

// routes has the page at the root, and the proxy everywhere else. Pages of other
// sites may not ask: the answer would be theirs for the price of a visit.
func routes(proxy http.Handler, opts *flush.Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", showPage)
	mux.Handle("POST /compare/{way}", &comparison{proxy, opts})
	mux.Handle("/", flush.NewHandler(proxy, opts))
	return http.NewCrossOriginProtection().Handler(mux)
}
