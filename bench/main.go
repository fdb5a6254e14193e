// Command bench measures this library beside plain net/http and beside other
// ways to stream, and writes the tables of BENCHMARKS.md and the pictures.
//
// Each comparison has two lanes that do the same work, on streams that stay
// open. They take turns, a short slice each, so that what else the machine does
// hits both. The figure is the median of the ratios of the pairs, not the ratio
// of two medians.
//
//	go run .          everything, and write ../BENCHMARKS.md and ../docs
//	go run . -short   the promises in fewer pairs: fail if one is worse than CI allows
package main

import (
	"errors"
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
	short := flag.Bool("short", false, "check the promised figures, in fewer pairs, and write nothing")
	dir := flag.String("dir", "..", "where BENCHMARKS.md and docs are")
	only := flag.String("only", "", "measure the rows that match this regular expression (and crowd: NAME, proxy: NAME), and write nothing")
	repeat := flag.Float64("x", 1, "how many times as many pairs to measure")
	// What follows is for the processes that the command starts.
	ask := flag.String("ask", "", "be a client that asks this address for responses")
	stream := flag.String("stream", "", "be a client that reads one stream from this address")
	gathered := flag.String("gather", "", "be a server of many streams of that kind")
	hold := flag.String("hold", "", "be the clients of many streams at this address")
	upstream := flag.String("upstream", "", "be a server of bursts or tokens for a proxy")
	proxy := flag.String("proxy", "", "be a proxy, bare or flush, of the address to ask")
	clients := flag.Int("clients", 0, "the client asks for so many responses at a time")
	http2 := flag.Bool("http2", false, "the client speaks HTTP/2")
	gzip := flag.Bool("gzip", false, "the client accepts gzip")
	paced := flag.Bool("paced", false, "the client measures paced events")
	flag.Parse()
	switch {
	case *proxy != "":
		serveProxy(*proxy, *ask)
		return
	case *ask != "" && *clients > 0:
		answerTogether(*ask, *clients)
		return
	case *ask != "":
		answerAsks(*ask, *gzip, *paced)
		return
	case *stream != "":
		readStream(*stream, *http2)
		return
	case *gathered != "":
		serveGathering(*gathered)
		return
	case *hold != "":
		holdStreams(*hold)
		return
	case *upstream != "":
		serveEvents(*upstream)
		return
	}
	match, err := regexp.Compile(*only)
	check(err)
	began := time.Now()
	missed := 0
	if *short {
		missed = checkPromises(comparisons, match, *repeat)
	} else {
		all := run{
			promises: measureAll(comparisons, match, *repeat),
			others:   measureColumns(match, *repeat),
			crowds:   measureCrowds(match, *repeat),
			proxies:  measureStandalones(match, *repeat),
		}
		if *only == "" {
			check(all.write(*dir))
		}
		for _, r := range all.promises {
			missed += r.misses(r.limit)
		}
	}
	fmt.Printf("%s in %.0f s\n", runtime.Version(), time.Since(began).Seconds())
	if missed > 0 {
		fmt.Printf("%d promised figures missed\n", missed)
		os.Exit(1)
	}
}

// write writes the tables and the pictures.
func (all *run) write(dir string) error {
	return errors.Join(
		writeReport(filepath.Join(dir, "BENCHMARKS.md"), *all),
		os.WriteFile(filepath.Join(dir, "docs", "bench.svg"), promisesPicture(all.promises), 0o666),
		os.WriteFile(filepath.Join(dir, "docs", "bench-others.svg"), othersPicture(*all), 0o666),
	)
}

// measureAll measures what matches.
func measureAll(all []comparison, match *regexp.Regexp, repeat float64) []result {
	var results []result
	for _, c := range all {
		if !match.MatchString(c.name) || !c.possible() {
			continue
		}
		r := measure(c, max(int(float64(c.pairs)*repeat), 1))
		r.tidy()
		fmt.Println(r.line())
		results = append(results, r)
	}
	return results
}
