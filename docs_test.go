package flush_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
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

// A goBlock is a piece of Go in a document, from the line after its fence on.
type goBlock struct {
	line int
	code string
}

func goBlocks(text string) []goBlock {
	var blocks []goBlock
	for _, m := range regexp.MustCompile("(?s)\n```go\n(.*?)```\n").FindAllStringSubmatchIndex(text, -1) {
		blocks = append(blocks, goBlock{1 + strings.Count(text[:m[2]], "\n"), text[m[2]:m[3]]})
	}
	return blocks
}

// goCommand runs the go command in dir, without a network.
func goCommand(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// taken is what the pieces of Go in a document take for granted.
var taken = map[string]string{
	"README.md": `mux *http.ServeMux, logging, compress func(http.Handler) http.Handler,
		export, render func(http.ResponseWriter) error, subscribe func() (<-chan string, func()), t *testing.T`,
	"docs/migration.md": `srv *http.Server, rc *http.ResponseController, f *flush.Flusher,
		c struct{ events chan string }, e string, drop func()`,
	"docs/detach.md": `join, leave func(*flush.Flusher)`,
}

// Every piece of Go compiles inside a function that has what it takes for
// granted, save for README's first one, which is a whole program.
func TestDocumentSnippets(t *testing.T) {
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	var src strings.Builder
	src.WriteString(`package snippets

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

var (
	_ = bytes.ToUpper
	_ = context.Cause
	_ = fmt.Print
	_ = io.Copy
	_ = log.Print
	_ = time.Now
	_ = flush.New
	_ = flushtest.Probe
	_ testing.TB
)
`)
	for doc, text := range documents(t) {
		blocks := goBlocks(text)
		if len(blocks) != strings.Count(text, "```go") {
			t.Errorf("%s has a piece of Go that is not found", doc)
		}
		if doc == "README.md" {
			blocks = blocks[1:]
		}
		for _, b := range blocks {
			result := ""
			if strings.Contains(b.code, "\nreturn f.Close()") {
				result = "error"
			}
			fmt.Fprintf(&src, "\nfunc _(w http.ResponseWriter, r *http.Request, %s) %s {\n//line %s:%d\n%s", taken[doc], result, doc, b.line, b.code)
			for _, name := range []string{"handler", "opts"} {
				if strings.HasPrefix(b.code, name+" := ") {
					src.WriteString("_ = " + name + "\n")
				}
			}
			src.WriteString("}\n")
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "snippets.go"), []byte(src.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	goCommand(t, dir, "mod", "init", "snippets")
	goCommand(t, dir, "mod", "edit", "-replace", "github.com/fa492104/flush="+root)
	goCommand(t, dir, "mod", "tidy")
	goCommand(t, dir, "vet", ".")
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

// CONTRIBUTING.md says why each function, type, constant, variable and method
// is exported, and names none that is not. String needs no defence.
func TestDocumentDefendsEveryName(t *testing.T) {
	api, err := os.ReadFile("testdata/api.txt")
	if err != nil {
		t.Fatal(err)
	}
	const kit = "pkg flushtest, "
	exported := map[string]bool{"String": true, kit + "String": true}
	defended := maps.Clone(exported)
	name := regexp.MustCompile(`(?m)^(` + kit + `)?(?:const|func|type|var|method \([^)]*\)) (\w+)`)
	for _, m := range name.FindAllStringSubmatch(string(api), -1) {
		exported[m[1]+m[2]] = true
	}
	_, text, _ := strings.Cut(documents(t)["CONTRIBUTING.md"], "\n## Exported names\n")
	root, rest, _ := strings.Cut(text, "\nPackage flushtest")
	for prefix, table := range map[string]string{"": root, kit: rest} {
		for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(table, -1) {
			for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
				defended[prefix+m[1]] = true
			}
		}
	}
	for n := range exported {
		if !defended[n] {
			t.Errorf("nothing says why %s is exported", n)
		}
	}
	for n := range defended {
		if !exported[n] {
			t.Errorf("there is no %s", n)
		}
	}
}
