package main

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/fa492104/flush"
)

// exchange asks for / again and again on a kept connection; every response has
// a Content-Length.
func exchange(h http.Handler) (lane, func()) {
	addr, stop := serve(h)
	c := dial(addr)
	br := bufio.NewReaderSize(c, 256<<10)
	read := func() {
		var length int64
		for {
			line, err := br.ReadSlice('\n')
			check(err)
			if len(line) == 2 {
				break
			}
			if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
			}
		}
		for length > 0 {
			n, err := br.Discard(int(min(length, 1<<20)))
			check(err)
			length -= int64(n)
		}
	}
	read()
	request := []byte(requestText)
	work := func(n int) float64 {
		return medianCost(n, 1, func(int) {
			c.Write(request)
			read()
		})
	}
	return work, func() {
		c.Close()
		stop()
	}
}

func exchanges(h http.Handler, opts *flush.Options) func() (lane, lane, func()) {
	return func() (lane, lane, func()) {
		bare, stopBare := exchange(h)
		ours, stopOurs := exchange(flush.NewHandler(h, opts))
		return bare, ours, both(stopBare, stopOurs)
	}
}

var shortBody = []byte(strings.Repeat("short response. ", 16))

func shortResponse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Write(shortBody)
}

const largeSize = 8 << 20

func largeWrites(w http.ResponseWriter, r *http.Request) {
	p := make([]byte, 32<<10)
	w.Header().Set("Content-Length", strconv.Itoa(largeSize))
	for range largeSize / len(p) {
		w.Write(p)
	}
}

// sendFile serves a file by http.ServeFile, which is sendfile.
func sendFile() (lane, lane, func()) {
	file, err := os.CreateTemp("", "bench")
	check(err)
	_, err = file.Write(make([]byte, largeSize))
	check(err)
	file.Close()
	bare, ours, stop := exchanges(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, file.Name())
	}), nil)()
	return bare, ours, func() {
		stop()
		os.Remove(file.Name())
	}
}
