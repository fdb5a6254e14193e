// Ndjson exports a CSV file as one JSON object a line, while it is being read:
// no more of it is in memory than the client has yet to take. Progress goes to
// standard error.
//
//	go run ./examples/ndjson -csv FILE
package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/fa492104/flush"
)

const (
	interval = 200 * time.Millisecond // a row waits no longer than this for others to share a flush
	grace    = 5 * time.Second        // how long exports have to end after Ctrl-C
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	name := flag.String("csv", "", "file to export; its first row names the columns")
	flag.Parse()
	if err := listen(*addr, *name); err != nil {
		log.Fatal(err)
	}
}

func listen(addr, name string) error {
	if name == "" {
		return errors.New("-csv FILE is missing")
	}
	open := openFile(name)
	f, _, err := open() // rather now than at the first request
	if err != nil {
		return err
	}
	f.Close()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	return serve(ctx, ln, open, os.Stderr)
}

// serve answers on ln until ctx ends.
func serve(ctx context.Context, ln net.Listener, open opener, out io.Writer) error {
	h := &handler{open: open, log: log.New(out, "", 0)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.export)
	srv := &http.Server{
		Handler: flush.NewHandler(mux, &flush.Options{
			FlushInterval:    interval,
			BufferSize:       32 << 10,
			SendTimeout:      30 * time.Second,
			NoProxyBuffering: true,
			OnClose:          h.closed,
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	fmt.Fprintf(out, "curl -N http://%v/\n\n", ln.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "stopping")
	left, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := srv.Shutdown(left); err != nil {
		return errors.Join(err, srv.Close()) // what is cut does not look whole
	}
	return nil
}

// An opener opens the file and says how large it is.
type opener func() (io.ReadCloser, int64, error)

func openFile(name string) opener {
	return func() (io.ReadCloser, int64, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return f, info.Size(), nil
	}
}

type handler struct {
	open opener
	log  *log.Logger
}

func (h *handler) closed(r *http.Request, s flush.Stats, err error) {
	h.log.Printf("%s: %d, %d bytes, at most %d held, waited %v for the client: %v",
		r.RemoteAddr, s.Status, s.Bytes, s.MaxPending, s.Waited.Round(time.Millisecond), err)
}

func (h *handler) export(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	if r.Method == http.MethodHead {
		return
	}
	f, ok := flush.From(w)
	if !ok {
		http.Error(w, "not behind flush.NewHandler", http.StatusInternalServerError)
		return
	}
	src, size, err := h.open()
	if err == nil {
		defer src.Close()
		report := func(percent, rows int) { h.log.Printf("%s: %3d%%, %d rows", r.RemoteAddr, percent, rows) }
		err = convert(f, src, size, report)
	}
	switch {
	case err == nil || f.Err() != nil:
		// Done, or nobody is there to be told.
	case f.Clean() == nil:
		http.Error(w, "the file cannot be exported", http.StatusInternalServerError)
		h.log.Printf("%s: %v", r.RemoteAddr, err)
	default:
		f.Abort(err) // the client must not take half of it for the whole
	}
}

// convert writes the rows of the CSV file src to w, one object a line. It
// reports after each tenth of the size.
func convert(w io.Writer, src io.Reader, size int64, report func(percent, rows int)) error {
	in := csv.NewReader(src)
	in.ReuseRecord = true
	columns, err := in.Read()
	if err == io.EOF {
		return errors.New("the file has no first row")
	}
	if err != nil {
		return err
	}
	keys := make([][]byte, len(columns)) // {"a": and then ,"b":
	for i, name := range columns {
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		before := ","
		if i == 0 {
			before = "{"
		}
		keys[i] = fmt.Appendf(nil, "%s%s:", before, key)
	}
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	tenth := 0
	for rows := 0; ; rows++ {
		record, err := in.Read()
		if err == io.EOF {
			report(100, rows)
			return nil
		}
		if err != nil {
			return err
		}
		line.Reset()
		for i, value := range record {
			line.Write(keys[i])
			if err := enc.Encode(value); err != nil {
				return err
			}
			line.Truncate(line.Len() - 1) // the encoder's newline
		}
		line.WriteString("}\n")
		if _, err := w.Write(line.Bytes()); err != nil {
			return err
		}
		if size > 0 {
			if t := int(10 * in.InputOffset() / size); t > tenth && t < 10 {
				tenth = t
				report(10*t, rows+1)
			}
		}
	}
}
