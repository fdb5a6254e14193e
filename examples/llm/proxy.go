package main

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/fa492104/flush"
)

const maxQuestion = 10 << 20

// newProxy returns a proxy in front of the model at target, as the standard
// library has it: it flushes after every read from an event stream, and waits
// for the client before it reads on.
func newProxy(target *url.URL, transport http.RoundTripper, log *log.Logger) http.Handler {
	return bodyFirst(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			// A compressed stream comes in lumps. To delete the header is not
			// enough: http.Transport then asks for gzip by itself.
			r.Out.Header.Set("Accept-Encoding", "identity")
		},
		Transport: transport,
		ErrorLog:  log,
	})
}

// options make the proxy one that does not wait: with flush.Async, tokens for a
// slow client share the next flush. Once MaxPending bytes are held it stops
// reading, which in the end stops the model.
//
// A client that leaves ends the request's context, and with it the request to
// the model.
func options(log *log.Logger) *flush.Options {
	return &flush.Options{
		Flush:            flush.Async,
		MaxPending:       16 << 10,
		SendTimeout:      30 * time.Second,
		NoProxyBuffering: true,
		OnClose: func(r *http.Request, s flush.Stats, err error) {
			log.Printf("%s %s: %d, %d bytes, %d flushes asked for, %d done: %v",
				r.RemoteAddr, r.URL.Path, s.Status, s.Bytes, s.Flushes, s.Pushes, err)
		},
	}
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
