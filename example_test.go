package flush_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/fa492104/flush"
)

// get prints what a client sees of h: each piece of the body as it comes.
func get(h http.Handler) {
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		fmt.Println(lines.Text())
	}
}

func ExampleFlush() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "the client has this")
		if err := flush.Flush(w, true); err != nil {
			return // the client has gone, or does not read any more
		}
		fmt.Fprintln(w, "while the handler works on this")
	}), nil))
	// Output:
	// 200 OK
	// the client has this
	// while the handler works on this
}

// On any writer that nobody has wrapped, Flush is the server's own flush.
func ExampleFlush_plain() {
	get(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "sent")
		fmt.Println(flush.Flush(w, true))
	}))
	// Unordered output:
	// <nil>
	// 200 OK
	// sent
}

func ExampleNew() {
	get(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := flush.New(w, r, nil)
		done := false
		defer func() {
			if done {
				f.Close()
			} else {
				f.Abort(nil) // a panic must not leave the response looking whole
			}
		}()
		fmt.Fprintln(f, "one")
		f.FlushAsync() // asks, and goes on at once
		fmt.Fprintln(f, "two")
		done = true
	}))
	// Output:
	// 200 OK
	// one
	// two
}

func ExampleNewHandler() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "an existing handler")
		w.(http.Flusher).Flush()
		fmt.Fprintln(w, "that flushes as it always has")
	})
	get(flush.NewHandler(mux, &flush.Options{
		Flush:       flush.Async, // now in the background
		SendTimeout: 30 * time.Second,
	}))
	// Output:
	// 200 OK
	// an existing handler
	// that flushes as it always has
}

func ExampleOptions_onClose() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		for range 3 {
			fmt.Fprintln(w, "line")
			flush.Flush(w, true)
		}
	}), &flush.Options{
		OnClose: func(r *http.Request, st flush.Stats, err error) {
			fmt.Println(r.URL.Path, st.Status, st.Bytes, "bytes", st.Pushes, "flushes", err)
		},
	}))
	// Unordered output:
	// 201 Created
	// line
	// line
	// line
	// / 201 15 bytes 3 flushes <nil>
}

// A middleware that hides the writer does not hide the Flusher.
func ExampleFromContext() {
	hide := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		})
	}
	get(flush.NewHandler(hide(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, ok := flush.From(w)
		fmt.Fprintln(w, "below the writer:", ok)
		f, ok := flush.FromContext(r.Context())
		fmt.Fprintln(w, "in the context:", ok)
		f.FlushWait(r.Context())
	})), nil))
	// Output:
	// 200 OK
	// below the writer: false
	// in the context: true
}

func ExampleFrom() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f, ok := flush.From(w); ok {
			f.SetImplicit(flush.Async) // from here on every write is flushed
		}
		fmt.Fprintln(w, "tick")
		fmt.Fprintln(w, "tock")
	}), nil))
	// Output:
	// 200 OK
	// tick
	// tock
}

// Half a page is taken back, and an error page sent instead.
func ExampleFlusher_Clean_orAbort() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"page"`)
		fmt.Fprintln(w, "<h1>Orders</h1>")
		f, _ := flush.From(w)
		if err := f.Clean(); err != nil {
			panic(http.ErrAbortHandler) // too late: let the client see the cut
		}
		http.Error(w, "no database today", http.StatusServiceUnavailable)
	}), nil))
	// Output:
	// 503 Service Unavailable
	// no database today
}

// The client learns what kind of answer it will get before the work begins.
func ExampleFlusher_SendHeaders() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusAccepted)
		f, _ := flush.From(w)
		if err := f.SendHeaders(); err != nil {
			return
		}
		fmt.Fprintln(w, `{"done":true}`)
	}), nil))
	// Output:
	// 202 Accepted
	// {"done":true}
}

func ExampleFlusher_FlushWait() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "event")
		f, _ := flush.From(w)
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		err := f.FlushWait(ctx)
		switch {
		case errors.Is(err, flush.ErrTimeout), errors.Is(err, flush.ErrClientGone):
			return
		case errors.Is(err, context.DeadlineExceeded):
			fmt.Fprintln(w, "that took long, but goes on")
		}
	}), nil))
	// Output:
	// 200 OK
	// event
}

// The handler of a request whose client has left finds out why.
func ExampleErrClientGone() {
	left := make(chan error)
	srv := httptest.NewServer(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush.Flush(w, true)
		<-r.Context().Done()
		left <- flush.Cause(r.Context())
	}), nil))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(errors.Is(<-left, flush.ErrClientGone))
	// Output:
	// true
}

// On the command line there is no server: headers are kept, and every write is
// flushed, as PHP's does.
func ExampleNewOutput() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	f.Header().Set("Content-Type", "text/plain")
	fmt.Println(f.HeadersSent())
	io.WriteString(f, "output\n")
	fmt.Println(f.HeadersSent())
	// Output:
	// false
	// output
	// true
}

// A profile is a value: plug in a server of one's own.
func ExampleSAPI() {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, &flush.Options{SAPI: flush.SAPI{
		Name:        "mine",
		Headers:     flush.HeadersFirst,
		ContentType: "text/x-mine",
	}})
	flush.Flush(f, true) // the headers, though there is no output yet
	fmt.Println(f.HeadersSent(), rec.Header().Get("Content-Type"))
	f.Close()
	// Output:
	// true text/x-mine
}

func ExampleFlusher_ReadFrom() {
	get(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upstream := strings.NewReader("passed on\nas it comes\n")
		io.Copy(w, upstream)
	}), &flush.Options{Implicit: flush.Wait}))
	// Output:
	// 200 OK
	// passed on
	// as it comes
}

func ExampleMode_String() {
	fmt.Println(flush.Off, flush.Async, flush.Wait)
	// Output:
	// off async wait
}
