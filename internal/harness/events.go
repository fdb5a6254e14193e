package harness

import (
	"io"
	"net/http"
)

// An EventStream is a handler of server-sent events as they are written: it
// knows of no shutdown, only of its context. It says goodbye.
func EventStream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	io.WriteString(w, "data: hello\n\n")
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
	io.WriteString(w, "data: goodbye\n\n")
}

// Hello and Goodbye are what it says.
const Hello, Goodbye = "data: hello\n\n", "data: goodbye\n\n"
