// Sapi is one handler in one binary that a web server can run as FastCGI or as
// CGI, and a person on the command line:
//
//	go run ./examples/sapi '/?lines=25'
//
// The handler walks along a chain: each link is the SHA-256 of the one before.
// It shows link 2, 4, 8 and so on as soon as it is there, wherever it runs.
// Each line takes twice as long as the one before, so that the last take
// seconds.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/fa492104/flush"
)

const (
	usual = 24 // lines
	most  = 30 // bounds the work that one request can ask for
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := flush.Serve(ctx, http.HandlerFunc(chain), &flush.Options{NoProxyBuffering: true})
	if err != nil {
		log.Fatal(err)
	}
}

func chain(w http.ResponseWriter, r *http.Request) {
	lines := usual
	if s := r.FormValue("lines"); s != "" {
		var err error
		if lines, err = strconv.Atoi(s); err != nil || lines < 1 || lines > most {
			http.Error(w, fmt.Sprintf("lines: a number from 1 to %d", most), http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var link [sha256.Size]byte
	n := 0
	for line := 1; line <= lines; line++ {
		for ; n < 1<<line; n++ {
			if n%(1<<16) == 0 && r.Context().Err() != nil {
				return // the client has gone
			}
			link = sha256.Sum256(link[:])
		}
		fmt.Fprintf(w, "%10d  %x\n", n, link)
		if err := flush.Flush(w, true); err != nil {
			log.Print(err)
			return
		}
	}
}
