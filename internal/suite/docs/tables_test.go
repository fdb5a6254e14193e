package docs_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fa492104/flush"
)

// Tables that must follow the code are compared with it in both directions: what
// the code has is in the table, and what the table has is in the code.

// table returns the cells of the rows of the table in doc whose first line begins
// with head.
func table(t *testing.T, doc, head string) [][]string {
	t.Helper()
	_, text, ok := strings.Cut(documents(t)[doc], "\n"+head)
	if !ok {
		t.Fatalf("%s has no table %q", doc, head)
	}
	lines := strings.Split(text, "\n")
	var rows [][]string
	for _, line := range lines[2:] {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		if slices.Contains(cells, "") {
			t.Errorf("%s: an empty cell in %s", doc, line)
		}
		rows = append(rows, cells)
	}
	return rows
}

// compareLines fails with the difference of a document and the code.
func compareLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%s has\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
}

// Tables of the fields of a struct have all of them, in order, with their types.
func TestTablesOfFields(t *testing.T) {
	for _, table := range []struct {
		doc, head string
		of        reflect.Type
		cells     int
	}{
		{"README.md", "| field | type | if not set |", reflect.TypeFor[flush.Options](), 5},
		{"docs/watching.md", "| field | type |", reflect.TypeFor[flush.Stats](), 3},
		{"docs/watching.md", "| of a Budget | type |", reflect.TypeFor[flush.BudgetStats](), 3},
		{"docs/buffers.md", "| option | type |", reflect.TypeFor[flush.BufferOptions](), 3},
	} {
		var got, want []string
		for _, cells := range tableOf(t, table.doc, table.head, table.cells) {
			got = append(got, cells[0]+" "+cells[1])
		}
		for i := range table.of.NumField() {
			field := table.of.Field(i)
			want = append(want, fmt.Sprintf("`%s` `%s`", field.Name, strings.ReplaceAll(field.Type.String(), "flush.", "")))
		}
		compareLines(t, table.doc, got, want)
	}
}

// tableOf is table, and checks that each row has so many cells.
func tableOf(t *testing.T, doc, head string, cells int) [][]string {
	t.Helper()
	rows := table(t, doc, head)
	for _, row := range rows {
		if len(row) != cells {
			t.Fatalf("%s: %d cells, want %d: %s", doc, len(row), cells, row)
		}
	}
	return rows
}

// README has each error of the package, and no other.
func TestTableOfErrors(t *testing.T) {
	api, err := os.ReadFile("testdata/api.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, row := range tableOf(t, "README.md", "| error | means |", 2) {
		for _, m := range regexp.MustCompile("`(Err\\w+)`").FindAllStringSubmatch(row[0], -1) {
			got = append(got, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^var (Err\w+) `).FindAllStringSubmatch(string(api), -1) {
		want = append(want, m[1])
	}
	slices.Sort(got)
	slices.Sort(want)
	compareLines(t, "README.md", got, want)
}

// profiles are the functions of the API that return a SAPI.
var profiles = map[string]func() flush.SAPI{
	"NetHTTP": flush.NetHTTP, "Apache2Handler": flush.Apache2Handler, "CGI": flush.CGI, "FastCGI": flush.FastCGI,
	"FPM": flush.FPM, "OpenResty": flush.OpenResty, "CLI": flush.CLI, "Embed": flush.Embed,
}

// The tables of profiles say what the profiles say, in docs/php.md and in the
// package's documentation.
func TestTablesOfProfiles(t *testing.T) {
	api, err := os.ReadFile("testdata/api.txt")
	if err != nil {
		t.Fatal(err)
	}
	exported := regexp.MustCompile(`(?m)^func (\w+)\(\) SAPI$`).FindAllStringSubmatch(string(api), -1)
	if len(exported) != len(profiles) {
		t.Errorf("%d profiles are exported, this test knows %d", len(exported), len(profiles))
	}
	dash := func(s, none string) string {
		if s == "" {
			return none
		}
		return s
	}
	headers := map[flush.HeaderOrder]string{
		flush.HeadersFirst:      "headers first",
		flush.HeadersWithOutput: "headers with the first output",
		flush.OutputOnly:        "output only",
	}
	implicit := map[flush.Mode]string{0: "off", flush.Wait: "after each write"}
	var got, want []string
	for _, row := range tableOf(t, "docs/php.md", "| profile | name |", 6) {
		for _, m := range regexp.MustCompile("`(\\w+)\\(\\)`").FindAllStringSubmatch(row[0], -1) {
			got = append(got, m[1]+": "+strings.Join(row[1:], ", "))
		}
	}
	for _, m := range exported {
		p := profiles[m[1]]()
		held := map[int]string{0: "–", 1 << 20: "1 MiB"}[p.HTTP10Buffer]
		want = append(want, m[1]+": "+strings.Join([]string{p.Name, headers[p.Headers], dash(p.ContentType, "–"), implicit[p.Implicit], held}, ", "))
	}
	slices.Sort(got)
	slices.Sort(want)
	compareLines(t, "docs/php.md", got, want)

	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "//\tprofile ")
	text, _, _ = strings.Cut(text, "\n//\n")
	_, text, _ = strings.Cut(text, "\n")
	cells := regexp.MustCompile(`  +`)
	got, want = nil, nil
	var rows [][]string
	for line := range strings.SplitSeq(text, "\n") {
		row := cells.Split(strings.TrimPrefix(line, "//\t"), -1)
		if len(row) == 1 { // names that found no place in the line above
			rows[len(rows)-1][0] += row[0]
			continue
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		for name := range strings.SplitSeq(row[0], ",") {
			got = append(got, strings.TrimSpace(name)+": "+strings.Join(row[1:], ", "))
		}
	}
	for name, f := range profiles {
		p := f()
		mode := map[flush.Mode]string{0: "Off", flush.Wait: "Wait"}[p.Implicit]
		held := map[int]string{0: "0", 1 << 20: "1 MiB"}[p.HTTP10Buffer]
		want = append(want, name+": "+strings.Join([]string{p.Headers.String(), dash(p.ContentType, "-"), mode, held}, ", "))
	}
	slices.Sort(got)
	slices.Sort(want)
	compareLines(t, "doc.go", got, want)
}
