package flush_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents returns every page of prose by its name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(text)
		}
	}
	return texts
}

// Links within the repository lead somewhere.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// What the prose calls by name exists.
func TestDocumentNames(t *testing.T) {
	api, err := os.ReadFile("testdata/api.txt")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\b(flush\.|f\.|Options\.|Stats\.)([A-Z]\w*)`)
	kinds := map[string]string{
		"flush.":   `(?m)^(const|func|type|var) %s\b`,
		"f.":       `(?m)^method \(\*Flusher\) %s\(`,
		"Options.": `(?m)^type Options struct, %s `,
		"Stats.":   `(?m)^type Stats struct, %s `,
	}
	for doc, text := range documents(t) {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(strings.ReplaceAll(kinds[m[1]], "%s", m[2])).Match(api) {
				t.Errorf("%s names %s, which does not exist", doc, m[0])
			}
		}
	}
}
