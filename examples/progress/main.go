// Progress shows a long job as it goes, in a page without JavaScript: one
// response, flushed step by step. The job is to hash every regular file in a
// folder; the bar moves by bytes.
//
//	go run ./examples/progress -dir .
package main

import (
	"context"
	"crypto/sha256"
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
	htmlView view = htmltemplate.Must(htmltemplate.ParseFS(files, "page.html"))
	textView view = texttemplate.Must(texttemplate.ParseFS(files, "page.txt"))
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	dir := flag.String("dir", ".", "folder whose files are hashed")
	flag.Parse()
	if err := listen(*addr, *dir); err != nil {
		log.Fatal(err)
	}
}

func listen(addr, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	return serve(ctx, ln, root.FS(), os.Stdout)
}

// serve answers on ln until ctx ends. Running jobs are then stopped and their
// pages ended; what has not ended after the grace time is cut.
func serve(ctx context.Context, ln net.Listener, fsys fs.FS, out io.Writer) error {
	jobs, stopJobs := context.WithCancelCause(context.Background())
	defer stopJobs(nil)

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", &handler{fsys: fsys, log: log.New(out, "", 0)})
	srv := &http.Server{
		Handler:           flush.NewHandler(mux, &flush.Options{NoProxyBuffering: true}),
		BaseContext:       func(net.Listener) context.Context { return jobs },
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	fmt.Fprintf(out, "Open http://%[1]v/ in a browser, or run\n\n\tcurl -N http://%[1]v/\n\n", ln.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "stopping")
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

	show("head", nil)
	j := &job{fsys: h.fsys, show: show, percent: -1}
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

// A job hashes files and shows each step.
type job struct {
	fsys    fs.FS
	show    func(part string, data any)
	Files   []file
	Hashed  int
	Total   int64 // bytes to hash
	done    int64 // of them behind us
	percent int   // last shown
}

type file struct {
	Name string
	Size int64 // when it was listed
	Sum  [sha256.Size]byte
}

func (j *job) run(ctx context.Context) error {
	if err := j.list(ctx); err != nil {
		return err
	}
	j.move(0)
	for _, f := range j.Files {
		end := j.done + f.Size
		err := j.hash(ctx, &f)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		j.move(end)
		if err != nil {
			j.show("fail", err)
			continue
		}
		j.Hashed++
		j.show("file", f)
	}
	return context.Cause(ctx)
}

// list finds the regular files. A folder that cannot be read is shown and left out.
func (j *job) list(ctx context.Context) error {
	return fs.WalkDir(j.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				j.Files = append(j.Files, file{Name: name, Size: info.Size()})
				j.Total += info.Size()
			}
		}
		if err != nil {
			j.show("fail", err)
		}
		return nil
	})
}

// hash fills in f.Sum. The bar moves on the way, but not past the size that
// was listed: the file may have grown.
func (j *job) hash(ctx context.Context, f *file) error {
	r, err := j.fsys.Open(f.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	end := j.done + f.Size
	for ctx.Err() == nil {
		n, err := io.CopyN(h, r, 256<<10)
		j.move(min(j.done+n, end))
		if err == io.EOF {
			h.Sum(f.Sum[:0])
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// move says that the first done bytes are behind us. It shows the bar when
// the whole percentage has changed, so a page has at most 101 of them.
func (j *job) move(done int64) {
	j.done = done
	percent := 100
	if j.Total > 0 {
		percent = int(100 * done / j.Total)
	}
	if percent != j.percent {
		j.percent = percent
		j.show("bar", percent)
	}
}
