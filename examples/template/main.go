// Template renders a page with html/template into an output buffer, and sends
// it section by section: each one appears as soon as its data is there, and
// only when it is whole. If the first section fails, the visitor gets a clean
// 500 instead of half a page; if a later one does, the page says so.
//
//	go run ./examples/template -dir .
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"html/template"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/fa492104/flush"
)

//go:embed page.html
var files embed.FS

var page = template.Must(template.ParseFS(files, "page.html"))

// A section is a part of the page. Its rows take time to find, and may fail.
type section struct {
	Title string
	find  func(ctx context.Context) ([]row, error)
}

type row struct{ Name, Value string }

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	dir := flag.String("dir", ".", "folder to count")
	flag.Parse()
	root, err := os.OpenRoot(*dir)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("Open http://%[1]v/ in a browser, or run\n\n\tcurl -N http://%[1]v/\n\n", ln.Addr())
	srv := &http.Server{
		Handler:           newHandler(program, memory, folder(root.FS())),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(srv.Serve(ln))
}

func newHandler(sections ...section) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { show(w, r, sections) })
	return flush.NewHandler(mux, &flush.Options{NoProxyBuffering: true})
}

func show(w http.ResponseWriter, r *http.Request, sections []section) {
	f, ok := flush.FromContext(r.Context())
	if !ok {
		panic("show needs flush.NewHandler")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	b := f.StartBuffer(nil)
	err := page.ExecuteTemplate(w, "page.html", &view{r.Context(), f, sections})
	if err == nil {
		return // what is in the buffer goes out with the response
	}
	log.Print(err)
	if f.Clean() == nil {
		// Nothing had been sent: half a page is taken back.
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	b.Discard() // half a section
	page.ExecuteTemplate(w, "failed", nil)
}

// A view is what the template sees.
type view struct {
	ctx      context.Context
	f        *flush.Flusher
	sections []section
}

func (v *view) Sections() []boundSection {
	var bound []boundSection
	for _, s := range v.sections {
		bound = append(bound, boundSection{s, v.ctx})
	}
	return bound
}

// Flush sends what has been rendered. Its error, when the visitor has gone,
// ends the rendering.
func (v *view) Flush() (string, error) { return "", v.f.FlushAll(true) }

// A boundSection finds its rows for one request.
type boundSection struct {
	section
	ctx context.Context
}

func (s boundSection) Rows() ([]row, error) { return s.find(s.ctx) }

var program = section{"Program", func(context.Context) ([]row, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []row{
		{"Executable", exe},
		{"Process", fmt.Sprint(os.Getpid())},
		{"Go", runtime.Version()},
	}, nil
}}

var memory = section{"Memory", func(context.Context) ([]row, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return []row{
		{"Heap in use", fmt.Sprintf("%d KiB", m.HeapInuse>>10)},
		{"Collections", fmt.Sprint(m.NumGC)},
		{"Goroutines", fmt.Sprint(runtime.NumGoroutine())},
	}, nil
}}

// folder counts what is in a folder, at any depth.
func folder(fsys fs.FS) section {
	return section{"Folder", func(ctx context.Context) ([]row, error) {
		var count, bytes int64
		err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if ctx.Err() != nil {
				return flush.Cause(ctx)
			}
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				count++
				bytes += info.Size()
			}
			return nil
		})
		return []row{{"Files", fmt.Sprint(count)}, {"Size", fmt.Sprintf("%d KiB", (bytes+1023)>>10)}}, err
	}}
}
