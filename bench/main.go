// Command bench measures this library beside plain net/http and writes the
// table and the figures of BENCHMARKS.md.
//
// Each comparison has two lanes that do the same work, one bare and one
// through the library, on streams that stay open. They take turns, a short
// slice each, so that what else the machine does hits both. The figure is the
// median of the ratios of the pairs, not the ratio of two medians.
//
//	go run .          everything, and write ../BENCHMARKS.md and ../docs
//	go run . -short   under a minute: fail if a figure is beyond twice its margin
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"
)

func main() {
	log.SetFlags(0)
	short := flag.Bool("short", false, "check the promised figures in less than a minute and write nothing")
	dir := flag.String("dir", "..", "where BENCHMARKS.md and docs are")
	only := flag.String("only", "", "measure what matches this regular expression, and write nothing")
	repeat := flag.Float64("x", 1, "how many times as many pairs to measure")
	// What follows is for the processes that the command starts.
	ask := flag.String("ask", "", "be a client that asks this address for responses")
	stream := flag.String("stream", "", "be a client that reads one stream from this address")
	upstream := flag.Bool("upstream", false, "be a server of events for a proxy")
	http2 := flag.Bool("http2", false, "the client speaks HTTP/2")
	gzip := flag.Bool("gzip", false, "the client accepts gzip")
	paced := flag.Bool("paced", false, "the client measures paced events")
	flag.Parse()
	switch {
	case *ask != "":
		answerAsks(*ask, *gzip, *paced)
		return
	case *stream != "":
		readStream(*stream, *http2)
		return
	case *upstream:
		serveEvents()
		return
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal(err)
	}
	began := time.Now()
	if !run(comparisons, match, *short, *repeat, *dir) {
		os.Exit(1)
	}
	fmt.Printf("%s in %.0f s\n", runtime.Version(), time.Since(began).Seconds())
}

// run measures and reports, and says whether every promise was kept.
func run(all []comparison, match *regexp.Regexp, short bool, repeat float64, dir string) bool {
	var results []result
	kept := true
	for _, c := range all {
		if !match.MatchString(c.name) || short && c.limit == 0 {
			continue
		}
		pairs := c.pairs
		if short {
			pairs = max(c.pairs/8, 10)
		}
		pairs = int(float64(pairs) * repeat)
		limit := c.limit
		if short {
			limit = c.ci
		}
		var r result
		// Noise makes a figure worse far more often than better. A figure that
		// is beyond its limit has more tries.
		for range 5 {
			got := measure(c, pairs)
			if r.pairs == 0 || c.better(got.ratio, r.ratio) {
				r = got
			}
			if c.limit == 0 || !c.better(limit, r.ratio) {
				break
			}
		}
		fmt.Println(r.line())
		if c.limit != 0 && c.better(limit, r.ratio) || c.allocs && r.allocs >= 0.01 {
			kept = false
			fmt.Printf("  BEYOND %s\n", c.promise(limit))
		}
		results = append(results, r)
	}
	if short || match.String() != "" {
		return kept
	}
	for i := range results {
		results[i].tidy()
	}
	if err := writeReport(filepath.Join(dir, "BENCHMARKS.md"), results); err != nil {
		log.Fatal(err)
	}
	if err := writeFigures(filepath.Join(dir, "docs"), results); err != nil {
		log.Fatal(err)
	}
	return kept
}
