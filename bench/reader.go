package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// An answer is what a reader says of a response.
type answer struct {
	Elapsed   float64   // from the request to the last byte, in nanoseconds
	Bytes     int64     // of the body
	Latencies []float64 // of paced events, in nanoseconds
}

// answerAsks is the reader that asks for a response at each line of its
// standard input.
func answerAsks(addr string, zipped, paced bool) {
	c, err := net.Dial("tcp", addr)
	check(err)
	request := requestText
	if zipped {
		request = gzipRequestText
	}
	br, out := bufio.NewReaderSize(c, 256<<10), json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var a answer
		began := time.Now()
		_, err := io.WriteString(c, request)
		check(err)
		res, err := http.ReadResponse(br, nil)
		check(err)
		if paced {
			a.Latencies = latencies(res.Body)
		} else {
			a.Bytes, err = io.Copy(io.Discard, res.Body)
			check(err)
		}
		a.Elapsed = float64(time.Since(began))
		check(out.Encode(a))
	}
}

// latencies reads a stream of paced events to its end.
func latencies(body io.Reader) []float64 {
	var all []float64
	for lines := bufio.NewScanner(body); lines.Scan(); {
		if d, ok := latency(lines.Text(), time.Now()); ok {
			all = append(all, d)
		}
	}
	return all
}

// readStream is the reader that reads one stream to its end, or until its
// standard input ends.
func readStream(addr string, http2 bool) {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	body := io.Reader(nil)
	if http2 {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		res, err := (&http.Client{Transport: &http.Transport{Protocols: p}}).Get("http://" + addr)
		check(err)
		body = res.Body
	} else {
		body = dial(addr)
	}
	for buf := make([]byte, 256<<10); ; {
		if _, err := body.Read(buf); err != nil {
			return
		}
	}
}
