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
	var err error
	switch os.Getenv("STEPS_SERVER") {
	case "":
		ctx := context.Background()
		if os.Getenv("STEPS_GRACEFUL") != "" { // Apache sends one to a CGI program whose client has left
			var stop context.CancelFunc
			ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
			defer stop()
		}
		err = flush.Serve(ctx, handler, opts)
	case "http":
		err = http.Serve(must(net.FileListener(os.Stdin)), flush.NewHandler(steps.Handler, opts))
	case "bare":
		err = http.Serve(must(net.FileListener(os.Stdin)), steps.Handler)
	default:
		err = errors.New("STEPS_SERVER: http, bare or unset")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
