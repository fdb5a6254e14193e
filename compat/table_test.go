package compat_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fa492104/flush"
)

var update = flag.Bool("update", false, "write what is tested into ../docs/compat.md")

// rows are the rows of the table.
func rows() []subject {
	var all []subject
	for _, rows := range []func() []subject{
		nethttpRows, chiRows, gorillaRows, gzhttpRows, httpcompressionRows, httpsnoopRows,
		otelhttpRows, ginRows, echoRows, goSSERows, datastarRows, mcpRows, goproxyRows, connectRows, grpcRows,
	} {
		all = append(all, rows()...)
	}
	return all
}

// Every cell of the table is what happens, over HTTP/1.1 and over HTTP/2.
func TestCells(t *testing.T) {
	for _, s := range rows() {
		t.Run(s.name+"/"+string(s.place), func(t *testing.T) {
			for i, c := range columns {
				t.Run(strings.ReplaceAll(c.title, "`", ""), func(t *testing.T) {
					var by [2]string
					for p := range by {
						if s.h2only && proto(p) == http1 || c.http1 && proto(p) == http2 {
							continue
						}
						t.Run(proto(p).String(), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) { by[p] = c.cell(t, s, proto(p)) })
						})
					}
					got := by[0] + "; HTTP/2: " + by[1]
					switch {
					case s.h2only && c.http1:
						got = none
					case s.h2only:
						got = by[1]
					case c.http1 || by[0] == by[1]:
						got = by[0]
					}
					if got != s.want[i] {
						t.Errorf("got %q, the table says %q", got, s.want[i])
					}
				})
			}
		})
	}
}

// Where a wrapper's own flush loses the error of a client that stops reading,
// flush.Flush returns it, if the wrapper has Unwrap and is inside.
func TestFrontDoorTellsTimeout(t *testing.T) {
	tested := 0
	for _, s := range rows() {
		lost := s.want[5] == laterWrite || s.want[5] == onClose
		if !lost || s.place == outside || s.want[6] != yes {
			continue
		}
		tested++
		t.Run(s.name, func(t *testing.T) {
			for _, p := range []proto{http1, http2} {
				t.Run(p.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						direct := s
						direct.serve = func(t *testing.T, opts *flush.Options, run func(*session)) http.Handler {
							return s.serve(t, opts, func(c *session) {
								c.own = flushing(c, true)
								run(c)
							})
						}
						if got := timesOut(t, direct, p); got != yes {
							t.Errorf("got %q", got)
						}
					})
				})
			}
		})
	}
	if tested == 0 {
		t.Error("no row loses an error")
	}
}

const document = "../docs/compat.md"

// The document has the table that TestCells has tested, and the versions that
// go.mod requires.
func TestDocument(t *testing.T) {
	var table strings.Builder
	table.WriteString("| with | where |")
	for _, c := range columns {
		fmt.Fprintf(&table, " %s |", c.title)
	}
	table.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(columns)) + "\n")
	for _, s := range rows() {
		fmt.Fprintf(&table, "| %s | %s | %s |\n", s.name, s.place, strings.Join(s.want[:], " | "))
	}

	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var versions strings.Builder
	for line := range strings.Lines(string(mod)) {
		words := strings.Fields(strings.TrimPrefix(line, "require"))
		if len(words) == 2 && strings.Contains(words[0], ".") && strings.HasPrefix(words[1], "v") && !strings.HasPrefix(words[0], "github.com/fa492104/") {
			fmt.Fprintf(&versions, "- %s %s\n", words[0], words[1])
		}
	}

	p, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	text := replace(t, string(p), "table", table.String())
	text = replace(t, text, "versions", versions.String())
	switch {
	case text == string(p):
	case !*update:
		t.Errorf("%s is not what is tested: go test -run TestDocument -update", document)
	default:
		if err := os.WriteFile(document, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// replace puts what between the marks of that name.
func replace(t *testing.T, text, name, what string) string {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for %s", document, name)
	}
	return before + begin + what + end + after
}
