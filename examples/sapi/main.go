// Sapi is one handler in one binary that a web server can run as FastCGI or as
// CGI, and a person on the command line:
//
//	go run ./examples/sapi '/?bits=22'
//
// The handler looks for the first number whose SHA-256 starts with 1, 2, 3 …
// zero bits. Each search takes twice as long as the last on average and its line is
// shown as soon as it is found, wherever it runs.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log"
	"math/bits"
	"net/http"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/fa492104/flush"
)

// most bounds the work that one request can ask for.
const most = 28

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := flush.Serve(ctx, http.HandlerFunc(search), &flush.Options{NoProxyBuffering: true})
	if err != nil {
		log.Fatal(err)
	}
}

func search(w http.ResponseWriter, r *http.Request) {
	want := 20
	if s := r.FormValue("bits"); s != "" {
		var err error
		if want, err = strconv.Atoi(s); err != nil || want < 1 || want > most {
			http.Error(w, fmt.Sprintf("bits: a number from 1 to %d", most), http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	n := uint64(0)
	for found := 1; found <= want; found++ {
		var sum [sha256.Size]byte
		for ; ; n++ {
			if n%(1<<16) == 0 && r.Context().Err() != nil {
				return // the client has gone
			}
			sum = sha256.Sum256(strconv.AppendUint(nil, n, 10))
			if bits.LeadingZeros64(binary.BigEndian.Uint64(sum[:])) >= found {
				break
			}
		}
		fmt.Fprintf(w, "%2d  %-10d %x\n", found, n, sum)
		if err := flush.Flush(w, true); err != nil {
			log.Print(err)
			return
		}
	}
}
