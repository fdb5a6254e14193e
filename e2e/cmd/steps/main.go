// Command steps serves the step language the way its environment asks for:
// flush.Serve decides between FastCGI, CGI and the command line, and there is
// what the probe knows beside it, for mod_fcgid; with
// STEPS_SERVER set it is an HTTP server on standard input's socket.
package main

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/e2e/steps"
	"github.com/fa492104/flush/flushtest"
)

func main() {
	handler := http.NewServeMux()
	handler.Handle("/", steps.Handler)
	handler.Handle("/fcgid/endpoint", flushtest.Endpoint())
	opts := &flush.Options{NoProxyBuffering: os.Getenv("STEPS_NOPROXYBUFFERING") != ""}
	if d := os.Getenv("STEPS_SENDTIMEOUT"); d != "" {
		opts.SendTimeout = must(time.ParseDuration(d))
	}
	ctx := context.Background()
	graceful := os.Getenv("STEPS_GRACEFUL") != "" // Apache sends SIGTERM to a CGI program whose client has left
	if graceful {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
		steps.Stopping = ctx.Done()
	}
	var err error
	switch kind := os.Getenv("STEPS_SERVER"); {
	case kind == "":
		err = flush.Serve(ctx, handler, opts)
	case kind == "http" && graceful:
		err = serveUntil(ctx, opts)
	case kind == "http":
		err = http.Serve(must(net.FileListener(os.Stdin)), flush.NewHandler(steps.Handler, opts))
	case kind == "bare":
		err = http.Serve(must(net.FileListener(os.Stdin)), steps.Handler)
	default:
		err = errors.New("STEPS_SERVER: http, bare or unset")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serveUntil serves as the second program of the README does.
func serveUntil(ctx context.Context, opts *flush.Options) error {
	opts.Group = new(flush.Group)
	srv := &http.Server{Handler: steps.Handler}
	flush.Install(srv, opts)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(must(net.FileListener(os.Stdin))) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(opts.Group.Shutdown(bound), srv.Shutdown(bound))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
