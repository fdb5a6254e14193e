// Llm is a reverse proxy in front of a language model that streams tokens. A
// slow client never makes the proxy flush more often than the client takes,
// and one that leaves stops the model. The model is a fake that replays a text
// unless -upstream names a real one.
//
//	go run ./examples/llm
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"time"

	"github.com/fa492104/flush"
)

const (
	grace       = 5 * time.Second // how long answers have to end after Ctrl-C
	maxQuestion = 10 << 20
)

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

	srv := &http.Server{
		Handler:           newProxy(target, transport, log.New(out, "", 0)),
		BaseContext:       func(net.Listener) context.Context { return answers },
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	fmt.Fprintf(out, "curl -N -d '{\"stream\": true}' http://%v/v1/chat/completions\n\n", ln.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "stopping")
	left, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Shutdown(left); err != nil {
		stopAnswers(errStopping)
		return errors.Join(err, srv.Close())
	}
	return nil
}

// newProxy returns the proxy. ReverseProxy asks for a flush after every read
// from an event stream; with flush.Async it does not wait for one, so that
// tokens for a slow client share the next. Once MaxPending bytes are held it
// stops reading, which in the end stops the model.
//
// A client that leaves ends the request's context, and with it the request to
// the model.
func newProxy(target *url.URL, transport http.RoundTripper, log *log.Logger) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Accept-Encoding") // a compressed stream comes in lumps
		},
		Transport: transport,
		ErrorLog:  log,
	}
	return flush.NewHandler(bodyFirst(proxy), &flush.Options{
		Flush:            flush.Async,
		MaxPending:       16 << 10,
		SendTimeout:      30 * time.Second,
		NoProxyBuffering: true,
		OnClose: func(r *http.Request, s flush.Stats, err error) {
			log.Printf("%s %s: %d, %d bytes, %d flushes asked for, %d done: %v",
				r.RemoteAddr, r.URL.Path, s.Status, s.Bytes, s.Flushes, s.Pushes, err)
		},
	})
}

// bodyFirst reads the question before it is passed on. On HTTP/1 the server
// closes the request body when the answer begins, be it under the hands of the
// transport that has not yet seen its end; that would cut the answer.
func bodyFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		question, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			http.Error(w, "the question is too large", http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			return // the client has gone in the middle of it
		}
		r.Body = io.NopCloser(bytes.NewReader(question))
		r.ContentLength = int64(len(question))
		next.ServeHTTP(w, r)
	})
}
