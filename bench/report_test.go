package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// everyResult is a run of everything, with figures of all kinds.
func everyResult() (all run) {
	for i, c := range comparisons {
		ratio := []float64{0.01, 0.5, 0.99, 1, 1.04, 1.3, 2.2, 60}[i%8]
		all.promises = append(all.promises, result{comparison: c, bare: 1000, ours: 1000 * ratio, ratio: ratio, pairs: 1})
	}
	for _, col := range columns {
		for i, c := range contenders {
			r := result{comparison: col.comparison, bare: 1, ours: float64(1000 * i), ratio: float64(i), pairs: 1}
			r.name = cellName(col.name, c)
			if c.does(col) {
				all.others = append(all.others, r)
			}
		}
	}
	for i, g := range gatherings {
		all.crowds = append(all.crowds, crowdResult{gathering: g, idle: state{Resident: float64(3000 * (i + 1))}, time: 1e8, cpu: float64(3000 + 500*i)})
	}
	for i, s := range standalones {
		all.proxies = append(all.proxies, standaloneResult{s, 1e5, 4000, float64(10000 + i)})
	}
	return all
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
	all := everyResult()
	for range 2 {
		if err := writeReport(name, all); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rest := func(text string) string {
		for _, mark := range []string{"made by bench", "made by bench, others", "made by bench, crowds", "made by bench, proxies"} {
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
	for _, g := range gatherings {
		if !strings.Contains(string(text), "\n| "+g.name+" | ") || !strings.Contains(string(text), "\n- **"+g.name+"**: ") {
			t.Errorf("no row or no note %q", g.name)
		}
	}
	if err := os.WriteFile(name, []byte("no marks"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := writeReport(name, all); err == nil {
		t.Error("no error for a file without marks")
	}
}

// The pictures are XML and name everything that was measured, the date and the
// machine. A bar is in the picture, and so is its label.
func TestPictures(t *testing.T) {
	all := everyResult()
	var rows int
	for _, p := range panels {
		for _, col := range columns {
			for _, c := range contenders {
				if col.name == p.column && c.does(col) {
					rows++
				}
			}
		}
	}
	rows += 2*len(gatherings) + len(standalones)
	for name, test := range map[string]struct {
		svg  []byte
		bars int
	}{
		"promises": {promisesPicture(all.promises), -1},
		"others":   {othersPicture(all), rows},
	} {
		text, bars := "", 0
		for d := xml.NewDecoder(bytes.NewReader(test.svg)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch token := token.(type) {
			case xml.StartElement:
				for _, a := range token.Attr {
					if a.Name.Local == "rx" {
						bars++
					}
				}
			case xml.CharData:
				text += string(token) + "\n"
			}
		}
		if test.bars >= 0 && bars != test.bars {
			t.Errorf("%s: %d bars, want %d", name, bars, test.bars)
		}
		if name == "promises" {
			for _, c := range comparisons {
				if !strings.Contains(text, "\n"+c.name+"\n") {
					t.Errorf("%s: no row %q", name, c.name)
				}
			}
		}
		if want := time.Now().UTC().Format("2006"); !strings.Contains(text, want) || !strings.Contains(text, runtime.Version()) {
			t.Errorf("%s: does not say when and on what it was made", name)
		}
	}
}

// What costs more than was promised shows it.
func TestPictureLabel(t *testing.T) {
	for _, test := range []struct {
		r    result
		want string
	}{
		{result{comparison: comparison{limit: 1.05}, ratio: 1.31}, "+31 % ✗ +5 %"},
		{result{comparison: comparison{limit: 1.05}, ratio: 1.04}, "+4 %"},
		{result{ratio: 2.04}, "2.0×"},
		{result{ratio: 0.88}, "−12 %"},
		{result{comparison: comparison{limit: 50, rate: true}, ratio: 32}, "32× ✗ 50×"},
		{result{comparison: comparison{limit: 1024, delta: true, unit: "B"}, bare: 15000, ours: 16500, ratio: 1500}, "+10 % ✗ +1024 B"},
		{result{comparison: comparison{limit: 2560, alone: true, unit: "B"}, bare: 26000, ours: 2600, ratio: 2600}, "10× ✗ 2560 B"},
	} {
		if got := test.r.pictureLabel(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.r, got, test.want)
		}
	}
}
