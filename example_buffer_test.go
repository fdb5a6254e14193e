package flush_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/fa492104/flush"
)

// A buffer holds what is written until it is flushed, and a filter changes it
// on the way.
func ExampleFlusher_StartBuffer() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(&flush.BufferOptions{
		Filter: func(p []byte, _ flush.Phase) ([]byte, error) { return bytes.ToUpper(p), nil },
	})
	fmt.Fprintln(f, "held")
	fmt.Println("before")
	b.Close()
	fmt.Println("after")
	// Output:
	// before
	// HELD
	// after
}

// What a buffer holds can be taken out, for a cache or for another place on
// the page.
func ExampleBuffer_Discard() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprint(f, "the menu")
	menu := b.Bytes()
	b.Discard()
	fmt.Fprintf(f, "first the page, then %s\n", menu)
	// Output:
	// first the page, then the menu
}

// A flush of the response leaves buffers alone, unless they follow it.
func ExampleFlusher_FlushAll() {
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		f.StartBuffer(nil)
		io.WriteString(w, "hello")
		flush.Flush(w, true)
		fmt.Printf("after Flush: %d bytes held, headers sent: %v\n", f.Top().Len(), f.HeadersSent())
		f.FlushAll(true)
		fmt.Printf("after FlushAll: %d bytes held\n", f.Top().Len())
	}), nil)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	// Output:
	// after Flush: 5 bytes held, headers sent: true
	// after FlushAll: 0 bytes held
}

// An error in the middle of a page does not leave half a page: what has not
// been sent is taken back.
func ExampleFlusher_Clean() {
	h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, _ := flush.From(w)
		f.StartBuffer(nil) // holds the page, however long it is
		io.WriteString(w, "<h1>Half a pa")
		if err := errors.New("no such luck"); err != nil && f.Clean() == nil {
			http.Error(w, "Sorry.", http.StatusInternalServerError)
		}
	}), nil)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	fmt.Print(rec.Code, " ", rec.Body)
	// Output:
	// 500 Sorry.
}

// Every response of a handler is compressed, and each flush can be decoded at
// once.
func ExampleGzip() {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "an existing handler")
		w.(http.Flusher).Flush()
	})
	compressed := flush.NewHandler(h, &flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
	}})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	compressed.ServeHTTP(rec, r)
	fmt.Println(rec.Header().Get("Content-Encoding"))
	// Output:
	// gzip
}

// Flush lets out what a buffer holds, and the buffer goes on.
func ExampleBuffer_Flush() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprintln(f, "one")
	fmt.Println("held:", b.Len())
	b.Flush()
	fmt.Println("held:", b.Len())
	// Output:
	// held: 4
	// one
	// held: 0
}

func ExampleBuffer_Clean() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprintln(f, "a draft")
	b.Clean()
	fmt.Fprintln(f, "the real thing")
	b.Close()
	// Output: the real thing
}

func ExampleBuffer_Close() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(&flush.BufferOptions{
		Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if phase&flush.PhaseFinal != 0 {
				p = append(bytes.Clone(p), "the end\n"...)
			}
			return p, nil
		},
	})
	fmt.Fprintln(f, "the beginning")
	fmt.Println(b.Close())
	fmt.Println(b.Close())
	// Output:
	// the beginning
	// the end
	// <nil>
	// flush: buffer has ended
}

func ExampleBuffer_Bytes() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprint(f, "for the cache")
	fmt.Printf("%q\n", b.Bytes())
	b.Discard()
	// Output: "for the cache"
}

func ExampleBuffer_Len() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprint(f, "1234567")
	fmt.Println(b.Len())
	b.Discard()
	// Output: 7
}

func ExampleBuffer_Status() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(&flush.BufferOptions{Name: "page", ChunkSize: 4096, NoClean: true})
	s := b.Status()
	fmt.Println(s.Name, s.Level, s.ChunkSize, s.Started, b.Clean())
	// Output: page 0 4096 false flush: buffer does not allow this
}

func ExampleHeaderOrder_String() {
	fmt.Println(flush.OpenResty().Headers, flush.CLI().Headers)
	// Output: HeadersWithOutput OutputOnly
}
