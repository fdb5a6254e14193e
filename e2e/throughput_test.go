package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush/e2e/steps"
)

const (
	events         = 200_000
	rounds         = 5
	wantRatio      = 10 // this library asynchronously ÷ ngx.flush()
	benchmarksFile = "../BENCHMARKS.md"
	tableBegin     = "<!-- e2e: begin -->\n"
	tableEnd       = "<!-- e2e: end -->\n"
)

// contestants write the same events, each flushed, to one client.
var contestants = []struct {
	name  string
	place func(t *testing.T) web
	op    string
}{
	{"this library, `Flush(w, false)`", func(t *testing.T) web { return web{fastBackend.get(t), "/"} }, "ea"},
	{"this library, `Flush(w, true)`", func(t *testing.T) web { return web{fastBackend.get(t), "/"} }, "ef"},
	{"net/http, `ResponseController.Flush`", func(t *testing.T) web { return web{bareBackend.get(t), "/"} }, "ef"},
	{"`ngx.flush()`", func(t *testing.T) web { return onNginx(t, "/lua") }, "ea"},
	{"`ngx.flush(true)`", func(t *testing.T) web { return onNginx(t, "/lua") }, "ef"},
	{"PHP-FPM behind nginx, `flush()`", func(t *testing.T) web { return onNginx(t, "/fpm") }, "ef"},
}

// TestThroughput lets the contestants run in turn. It fails only if what is
// promised is missed by half.
func TestThroughput(t *testing.T) {
	took := make([][]time.Duration, len(contestants))
	for range rounds {
		for i, c := range contestants {
			took[i] = append(took[i], drain(t, c.place(t), fmt.Sprintf("%s:%d", c.op, events)))
		}
	}
	rate := make([]float64, len(contestants))
	for i := range took {
		slices.Sort(took[i])
		rate[i] = events / took[i][rounds/2].Seconds()
	}
	ngx := rate[3]
	var b strings.Builder
	fmt.Fprintf(&b, "| %d flushed events of %d bytes, one client | events/s | of `ngx.flush()` |\n| --- | ---: | ---: |\n", events, len(steps.Event))
	for i, c := range contestants {
		fmt.Fprintf(&b, "| %s | %.0f | %.1f |\n", c.name, rate[i], rate[i]/ngx)
	}
	t.Log("\n" + b.String())
	if rate[0] < wantRatio/2*ngx {
		t.Errorf("asynchronous flushes are only %.1f times as fast as ngx.flush(), want %d", rate[0]/ngx, wantRatio)
	}
	if *update {
		writeThroughput(t, b.String())
	}
}

// drain runs the script and returns the time from the request to the end of
// the response.
func drain(t *testing.T, p web, script string) time.Duration {
	t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * bound))
	begin := time.Now()
	fmt.Fprintf(c, "GET %s?%s HTTP/1.1\r\nHost: e2e.test\r\nConnection: close\r\n\r\n", p.path, query(nil, script))
	var got int
	buf := make([]byte, 256<<10)
	for body := false; ; {
		n, err := c.Read(buf)
		p := buf[:n]
		if !body {
			// The head comes whole, as it is far smaller than a segment.
			_, p, body = bytes.Cut(p, []byte("\r\n\r\n"))
		}
		got += bytes.Count(p, []byte(":")) // one in each event
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	if got != events {
		t.Fatalf("%s: %d events have arrived", p.path, got)
	}
	return took
}

// writeThroughput writes the table into BENCHMARKS.md.
func writeThroughput(t *testing.T, table string) {
	t.Helper()
	replaceSection(t, "Beside the originals", tableBegin, tableEnd, fmt.Sprintf("Made by `e2e/run -update -run Throughput`: %d interleaved rounds, medians; each server is a process of its own, the\nclient reads and discards. Asynchronous flushes of this library coalesce while one is under way, and nginx gathers what\nPHP-FPM flushes; the others send each event by itself. %s, PHP %s.\n\n", rounds, versions(), phpVersion())+table)
}

// replaceSection puts text between its marks in BENCHMARKS.md, at the end under
// a heading if there are none yet.
func replaceSection(t *testing.T, heading, begin, end, text string) {
	t.Helper()
	file, err := os.ReadFile(benchmarksFile)
	if os.IsNotExist(err) {
		file, err = []byte("# Benchmarks\n"), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(file), begin)
	if !ok {
		before += "\n## " + heading + "\n\n"
	}
	_, after, _ := strings.Cut(rest, end)
	if err := os.WriteFile(benchmarksFile, []byte(before+begin+text+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
