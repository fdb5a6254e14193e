package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/fa492104/flush"
)

// Events that come faster than the client takes them share a flush.
func ExampleFlusher_FlushAsync() {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	for i := range 1000 {
		fmt.Fprintf(f, "data: %d\n\n", i)
		if err := f.FlushAsync(); err != nil {
			return // the client has gone
		}
	}
	fmt.Println(f.Close())
	s := f.Stats()
	fmt.Println(s.Flushes, "asked for, no more done:", s.Pushes <= s.Flushes)
	// Output:
	// <nil>
	// 1000 asked for, no more done: true
}

// Code that knows http.Flusher, or http.ResponseController, goes on to work.
func ExampleFlusher_Flush() {
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "old code")
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	rec := httptest.NewRecorder()
	flush.NewHandler(http.HandlerFunc(handler), nil).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	fmt.Println(rec.Flushed, rec.Body)
	// Output: true old code
}

func ExampleFlusher_FlushError() {
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "old code")
		fmt.Println(http.NewResponseController(w).Flush())
	}
	flush.NewHandler(http.HandlerFunc(handler), nil).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	// Output: <nil>
}

// Implicit flush makes code stream that never flushes.
func ExampleFlusher_SetImplicit() {
	var out strings.Builder
	f := flush.NewOutput(&out, &flush.Options{Implicit: flush.Off})
	io.WriteString(f, "one ")
	fmt.Printf("%q\n", out.String())
	f.SetImplicit(flush.Wait)
	io.WriteString(f, "two ")
	fmt.Printf("%q\n", out.String())
	f.Close()
	// Output:
	// ""
	// "one two "
}

// A publisher with many streams waits for none: it drops those that have no
// room.
func ExampleFlusher_Available() {
	slow, release := newSlowClient()
	f := flush.New(slow, nil, &flush.Options{MaxPending: 16, BufferSize: 16})
	event := "data: tick\n\n"
	sent := 0
	for ; f.Available() >= len(event); sent++ {
		f.WriteString(event)
		f.FlushAsync()
	}
	fmt.Println("no room after", sent, "with", f.Buffered(), "bytes held")
	release()
	fmt.Println(f.Close())
	// Output:
	// no room after 1 with 12 bytes held
	// <nil>
}

func ExampleFlusher_Buffered() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	f.WriteString("ten bytes.")
	fmt.Println(f.Buffered())
	f.FlushWait(context.Background())
	fmt.Println(f.Buffered())
	// Output:
	// 10
	// 0
}

// newSlowClient returns a writer that takes nothing before it is released.
func newSlowClient() (w http.ResponseWriter, release func()) {
	ready := make(chan struct{})
	return &slowClient{httptest.NewRecorder(), ready}, func() { close(ready) }
}

type slowClient struct {
	*httptest.ResponseRecorder
	ready chan struct{}
}

func (s *slowClient) Write(p []byte) (int, error) {
	<-s.ready
	return s.ResponseRecorder.Write(p)
}

// What has been fixed can be taken back as long as it has not been sent.
func ExampleFlusher_HeadersSent() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	f.WriteHeader(http.StatusAccepted)
	f.WriteString("half a page")
	fmt.Println(f.HeadersSent())
	f.FlushWait(context.Background())
	fmt.Println(f.HeadersSent(), f.Clean())
	// Output:
	// false
	// true flush: headers have been sent
}

// A trailer says what is known only after the body.
func ExampleFlusher_Header() {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	f.Header().Set("Trailer", "Rows")
	f.WriteString("1\n2\n3\n")
	f.FlushWait(context.Background())
	f.Header().Set("Rows", "3")
	f.Close()
	fmt.Println(rec.Result().Trailer)
	// Output: map[Rows:[3]]
}

func ExampleFlusher_WriteHeader() {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	f.WriteHeader(http.StatusTeapot)
	f.WriteHeader(http.StatusOK) // the first one wins
	f.Close()
	fmt.Println(rec.Code)
	// Output: 418
}

func ExampleFlusher_Write() {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	n, err := f.Write([]byte("accepted"))
	fmt.Println(n, err, rec.Body.Len())
	f.Close()
	_, err = f.Write([]byte("late"))
	fmt.Println(err, rec.Body.Len())
	// Output:
	// 8 <nil> 0
	// flush: response has ended 8
}

func ExampleFlusher_WriteString() {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, nil)
	f.WriteString("no copy to []byte")
	f.Close()
	fmt.Println(rec.Body)
	// Output: no copy to []byte
}

// A handler of one's own ends with Close, or with Abort and a panic.
func ExampleFlusher_Close() {
	serve := func(w http.ResponseWriter, r *http.Request, page func(io.Writer) error) {
		f := flush.New(w, r, nil)
		if err := page(f); err != nil {
			f.Abort(err)
			panic(http.ErrAbortHandler)
		}
		if err := f.Close(); err != nil {
			log.Print(err)
		}
	}
	rec := httptest.NewRecorder()
	serve(rec, httptest.NewRequest("GET", "/", nil), func(w io.Writer) error {
		_, err := io.WriteString(w, "whole")
		return err
	})
	fmt.Println(rec.Body, rec.Header().Get("Content-Length"))
	// Output: whole 5
}

// An export that fails half-way must not look whole.
func ExampleFlusher_Abort() {
	export := func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		f.WriteString("row 1\n")
		f.FlushWait(r.Context())
		f.Abort(errors.New("no row 2"))
	}
	srv := httptest.NewServer(flush.NewHandler(http.HandlerFunc(export), nil))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%q, %v\n", body, err)
	// Output: "row 1\n", unexpected EOF
}

func ExampleFlusher_Err() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	fmt.Println(f.Err())
	f.Abort(errors.New("out of paper"))
	fmt.Println(f.Err())
	// Output:
	// <nil>
	// out of paper
}

func ExampleFlusher_Stats() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	f.WriteString("hello")
	f.FlushWait(context.Background())
	f.WriteString("lost")
	f.Abort(nil)
	s := f.Stats()
	fmt.Println(s.Status, s.Bytes, s.Lost, s.Flushes, s.Pushes)
	// Output: 200 5 4 1 1
}

// Some functions of net/http want the server's own writer.
func ExampleFlusher_Unwrap() {
	handler := func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		r.Body = http.MaxBytesReader(f.Unwrap(), r.Body, 4)
		_, err := io.ReadAll(r.Body)
		fmt.Println(err)
	}
	flush.NewHandler(http.HandlerFunc(handler), nil).ServeHTTP(httptest.NewRecorder(),
		httptest.NewRequest("POST", "/", strings.NewReader("too long")))
	// Output: http: request body too large
}

// After Hijack the connection is the handler's own.
func ExampleFlusher_Hijack() {
	late := make(chan error, 1)
	srv := httptest.NewUnstartedServer(flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		_, err = io.WriteString(w, "too late")
		late <- err
	}), nil))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the late Write is logged, as by net/http
	srv.Start()
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s, %t\n", body, errors.Is(<-late, http.ErrHijacked))
	// Output: hi, true
}

// CloseNotify is for old code; new code takes the request's context.
func ExampleFlusher_CloseNotify() {
	ctx, leave := context.WithCancel(context.Background())
	f := flush.New(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx), nil)
	defer f.Close()
	gone := f.CloseNotify()
	leave()
	fmt.Println(<-gone)
	// Output: true
}

// A deadline for reading the request. A recorder has none.
func ExampleFlusher_SetReadDeadline() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	err := f.SetReadDeadline(time.Now().Add(time.Minute))
	fmt.Println(errors.Is(err, http.ErrNotSupported))
	// Output: true
}

// A deadline bounds the whole response; SendTimeout bounds the time without
// progress. A recorder has no deadlines.
func ExampleFlusher_SetWriteDeadline() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	err := f.SetWriteDeadline(time.Now().Add(time.Minute))
	fmt.Println(errors.Is(err, http.ErrNotSupported))
	// Output: true
}

// An answer that begins before the question has been read needs full duplex on
// HTTP/1.
func ExampleFlusher_EnableFullDuplex() {
	upper := func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		if err := f.EnableFullDuplex(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		f.SendHeaders()
		question, _ := io.ReadAll(r.Body)
		f.Write(bytes.ToUpper(question))
	}
	srv := httptest.NewServer(flush.NewHandler(http.HandlerFunc(upper), nil))
	defer srv.Close()
	resp, err := http.Post(srv.URL, "text/plain", strings.NewReader("echo"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s\n", body)
	// Output: ECHO
}

// Buffers can be worked on only at the top of the stack.
func ExampleFlusher_Top() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	page := f.StartBuffer(&flush.BufferOptions{Name: "page"})
	f.StartBuffer(&flush.BufferOptions{Name: "menu"})
	fmt.Println(f.Level(), f.Top().Status().Name, page.Flush())
	// Output: 2 menu flush: buffer is not on top
}

func ExampleFlusher_Level() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	f.StartBuffer(nil)
	b := f.StartBuffer(nil)
	fmt.Println(f.Level())
	b.Close()
	fmt.Println(f.Level())
	// Output:
	// 2
	// 1
}

// FlushAcked and Backlog need to know the connection.
func ExampleConnContext() {
	srv := &http.Server{
		Handler: flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "pay 5")
			f, _ := flush.From(w)
			switch err := f.FlushAcked(r.Context()); {
			case errors.Is(err, errors.ErrUnsupported):
				log.Print("not on this system")
			case err != nil:
				log.Print("it may not have arrived: ", err)
			}
		}), nil),
		ConnContext: flush.ConnContext,
	}
	_ = srv // srv.ListenAndServe()
}

// What the kernel hoards for a slow client is old when it arrives.
func ExampleConnOptions_ConnContext() {
	srv := &http.Server{
		ConnContext: flush.ConnOptions{NotSentLowat: 16 << 10, UserTimeout: 30 * time.Second}.ConnContext,
	}
	_ = srv // srv.ListenAndServe()
}

func ExampleFlusher_FlushAcked() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	err := f.FlushAcked(context.Background())
	fmt.Println(errors.Is(err, errors.ErrUnsupported)) // a recorder has no connection
	// Output: true
}

func ExampleFlusher_Backlog() {
	f := flush.New(httptest.NewRecorder(), nil, nil)
	defer f.Close()
	_, _, err := f.Backlog()
	fmt.Println(errors.Is(err, errors.ErrUnsupported)) // a recorder has no connection
	// Output: true
}

// All responses together hold no more than 64 MiB, and an HTTP/2 connection
// that takes nothing for ten seconds is closed.
func ExampleNewBudget() {
	opts := &flush.Options{Budget: flush.NewBudget(48<<20, 64<<20)}
	http.Handle("/events", flush.NewHandler(http.NotFoundHandler(), opts))
	srv := &http.Server{
		Addr:  "127.0.0.1:0",
		HTTP2: &http.HTTP2Config{WriteByteTimeout: 10 * time.Second},
	}
	defer srv.Close()
}

func ExampleBudget_Stats() {
	budget := flush.NewBudget(48<<20, 64<<20)
	f := flush.New(httptest.NewRecorder(), nil, &flush.Options{Budget: budget})
	f.WriteString("one byte or more takes a block")
	fmt.Println(budget.Stats().Held)
	f.Close()
	fmt.Println(budget.Stats().Held)
	// Output:
	// 4096
	// 0
}

// One binary is a FastCGI server, a CGI program and a command.
func ExampleServe() {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from", r.URL.Path)
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := flush.Serve(ctx, hello, nil); err != nil {
		log.Fatal(err)
	}
}
