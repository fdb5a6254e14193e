// Progress shows a long job as it goes, in a page without JavaScript: one
// response, flushed step by step. The job is to hash every regular file in a
// folder; the bar moves by bytes. The folder is one that is only made up and
// takes ten seconds, unless -dir names a real one.
//
//	go run ./examples/progress
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	htmltemplate "html/template"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	texttemplate "text/template"
	"time"

	"github.com/fa492104/flush"
)

// grace is how long running responses have to end after Ctrl-C.
const grace = 5 * time.Second

var errStopping = errors.New("the server is stopping")

//go:embed page.html page.txt
var files embed.FS

// A view writes one part of the page: head, bar, file, fail or tail.
type view interface {
	ExecuteTemplate(w io.Writer, part string, data any) error
}

var (
	htmlView view = htmltemplate.Must(htmltemplate.New("").Funcs(htmltemplate.FuncMap{"size": size}).ParseFS(files, "page.html"))
	textView view = texttemplate.Must(texttemplate.New("").Funcs(texttemplate.FuncMap{"size": size}).ParseFS(files, "page.txt"))
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	dir := flag.String("dir", "", "folder whose files are hashed; empty: a made-up one")
	flag.Parse()
	if err := listen(*addr, *dir); err != nil {
		log.Fatal(err)
	}
}

func listen(addr, dir string) error {
	folder, what := fs.FS(newSample()), fmt.Sprintf("in a made-up folder that takes %.0f seconds", sampleTime.Seconds())
	if dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		folder, what = root.FS(), "in "+dir
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	return serve(ctx, ln, &handler{fsys: folder, what: what, log: log.New(os.Stdout, "", 0)})
}

// serve answers on ln until ctx ends. Running jobs are then stopped and their
// pages ended; what has not ended after the grace time is cut.
func serve(ctx context.Context, ln net.Listener, h *handler) error {
	jobs, stopJobs := context.WithCancelCause(context.Background())
	defer stopJobs(nil)

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", h)
	srv := &http.Server{
		Handler:           flush.NewHandler(mux, &flush.Options{NoProxyBuffering: true}),
		BaseContext:       func(net.Listener) context.Context { return jobs },
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	h.log.Printf("Open http://%[1]v/ in a browser, or run\n\n\tcurl -N http://%[1]v/\n\n", ln.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	h.log.Print("stopping")
	stopJobs(errStopping)
	left, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Shutdown(left); err != nil {
		return errors.Join(err, srv.Close())
	}
	return nil
}

type handler struct {
	fsys fs.FS
	what string // is hashed, for people
	log  *log.Logger
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	view, contentType := textView, "text/plain; charset=utf-8"
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		view, contentType = htmlView, "text/html; charset=utf-8"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff") // sniffing makes browsers wait
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept")
	if r.Method == http.MethodHead {
		return
	}

	// Whatever ends the job early ends ctx: the client that leaves, the
	// server that stops, the flush that fails.
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	show := func(part string, data any) {
		err := view.ExecuteTemplate(w, part, data)
		if err == nil {
			err = flush.Flush(w, true)
		}
		if err != nil {
			cancel(err)
		}
	}

	show("head", h.what)
	j := &job{fsys: h.fsys, show: show, Percent: -1}
	err := j.run(ctx)
	if err != nil {
		if reason := flush.Cause(r.Context()); reason != nil {
			err = reason // the context itself says only that it is cancelled
		}
		h.log.Printf("%s: stopped after %d of %d files: %v", r.RemoteAddr, j.Hashed, len(j.Files), err)
		show("fail", err)
	}
	show("tail", j)
}
