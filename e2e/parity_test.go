package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestParity checks that every row of docs/parity.md names tests, and that
// these exist.
func TestParity(t *testing.T) {
	text, err := os.ReadFile("../docs/parity.md")
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]bool{}
	files, _ := filepath.Glob("../*_test.go")
	ours, _ := filepath.Glob("*_test.go")
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Example)\w+)\(`)
	for _, name := range append(files, ours...) {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declared.FindAllSubmatch(source, -1) {
			functions[string(m[1])] = true
		}
	}

	named := regexp.MustCompile("`((?:Test|Example)[^`]+)`")
	for i, line := range strings.Split(string(text), "\n") {
		names := named.FindAllStringSubmatch(line, -1)
		row := strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "| ---") && !strings.HasSuffix(line, "| shown by |")
		if row && len(names) == 0 {
			t.Errorf("line %d names no test: %s", i+1, line)
		}
		for _, m := range names {
			name, sub, _ := strings.Cut(m[1], "/")
			if strings.HasSuffix(name, "…") {
				continue
			}
			if !functions[name] {
				t.Errorf("line %d: there is no %s", i+1, name)
			}
			if sub != "" && !subtests(name)[sub] {
				t.Errorf("line %d: %s has no subtest %s", i+1, name, sub)
			}
		}
	}
}

// subtests are the names that docs/parity.md may use.
func subtests(test string) map[string]bool {
	names := map[string]bool{}
	switch test {
	case "TestMatrix":
		for _, a := range arrangements {
			for _, f := range features {
				names[a.name()+"/"+f.name] = true
			}
		}
	case "TestBesidePHP":
		for _, s := range phpScenarios {
			names[s.name] = true
			for _, p := range phpPairs {
				names[s.name+"/"+p.name] = true
			}
		}
	case "TestBesideLua":
		for _, s := range luaScenarios {
			names[s.name] = true
		}
	}
	return names
}
