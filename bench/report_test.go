package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// everyResult is a result for every comparison of both tables.
func everyResult() (results, others []result) {
	for i, c := range comparisons {
		results = append(results, result{comparison: c, bare: 1, ours: float64(i), ratio: float64(i), pairs: 1})
	}
	for _, col := range columns {
		for i, c := range contenders {
			r := result{comparison: col.comparison, bare: 1, ours: float64(1000 * i), ratio: float64(i), pairs: 1}
			r.name = cellName(col.name, c)
			if c.does(col) {
				others = append(others, r)
			}
		}
	}
	return results, others
}

// The tables replace what is between the marks of the real file, and nothing
// else.
func TestWriteReport(t *testing.T) {
	old, err := os.ReadFile("../BENCHMARKS.md")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "BENCHMARKS.md")
	if err := os.WriteFile(name, old, 0o666); err != nil {
		t.Fatal(err)
	}
	results, others := everyResult()
	for range 2 {
		if err := writeReport(name, results, others); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rest := func(text string) string {
		for _, mark := range []string{"made by bench", "made by bench, others"} {
			if text, err = between(text, mark, ""); err != nil {
				t.Fatal(err)
			}
		}
		return text
	}
	if rest(string(old)) != rest(string(text)) {
		t.Error("what is outside the marks has changed")
	}
	for _, c := range comparisons {
		if !strings.Contains(string(text), "\n| "+c.name+" | ") {
			t.Errorf("no line %q", c.name)
		}
	}
	for _, c := range contenders {
		if !strings.Contains(string(text), "\n| "+c.name+" | ") || !strings.Contains(string(text), "\n- **"+c.name+"**: ") {
			t.Errorf("no row or no note %q", c.name)
		}
	}
	if err := os.WriteFile(name, []byte("no marks"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := writeReport(name, results, others); err == nil {
		t.Error("no error for a file without marks")
	}
}

// The picture is XML and has a bar or a dash for every cell.
func TestPicture(t *testing.T) {
	_, others := everyResult()
	bars, dashes := 0, 0
	for d := xml.NewDecoder(strings.NewReader(string(picture(others)))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			for _, a := range token.Attr {
				if a.Name.Local == "rx" {
					bars++
				}
			}
		case xml.CharData:
			if string(token) == "–" {
				dashes++
			}
		}
	}
	if want := len(panels) * len(contenders); bars+dashes != want || dashes == 0 {
		t.Errorf("%d bars and %d dashes, want %d", bars, dashes, want)
	}
}
