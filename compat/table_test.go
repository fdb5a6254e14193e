package compat_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
)

var update = flag.Bool("update", false, "write the table into ../docs/compat.md")

// rows are the rows of the table.
func rows() []subject {
	var all []subject
	for _, rows := range []func() []subject{
		nethttpRows, chiRows, gorillaRows, gzhttpRows, httpcompressionRows, httpsnoopRows,
		otelhttpRows, ginRows, echoRows, goSSERows, connectRows, grpcRows,
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
						if s.h2only && proto(p) == http1 {
							continue
						}
						t.Run(proto(p).String(), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) { by[p] = c.cell(t, s, proto(p)) })
						})
					}
					got := by[1]
					if !s.h2only && by[0] != by[1] {
						got = by[0] + "; HTTP/2: " + by[1]
					}
					if got != s.want[i] {
						t.Errorf("got %q, the table says %q", got, s.want[i])
					}
				})
			}
		})
	}
}

const (
	document = "../docs/compat.md"
	begin    = "<!-- table: go test -run TestTable -update -->\n"
	end      = "<!-- end of table -->\n"
)

// The document has the table that TestCells has tested.
func TestTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| with | where |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.title)
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(columns)) + "\n")
	for _, s := range rows() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.name, s.place, strings.Join(s.want[:], " | "))
	}
	p, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(p), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the document has no place for the table")
	}
	if *update {
		if err := os.WriteFile(document, []byte(before+begin+b.String()+end+after), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != b.String() {
		t.Errorf("%s is not what is tested: go test -run TestTable -update", document)
	}
}
