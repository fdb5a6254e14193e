package docs_test

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
	"docs/buffers.md": ``,
	"docs/detach.md":  `mux *http.ServeMux, hub interface{ join(*flush.Flusher); leave(*flush.Flusher) }`,
	"docs/recipes.md": `mux *http.ServeMux, l net.Listener, ctx context.Context, all, room, streams *flush.Group, event []byte,
		f *flush.Flusher, tokens <-chan string, longest time.Duration, errSlow, errGap error, work func(context.Context)`,
	"docs/compat.md":       `mux *http.ServeMux, logging, compress func(http.Handler) http.Handler`,
	"docs/headers.md":      `render func(http.ResponseWriter) error`,
	"docs/slow-clients.md": `mux *http.ServeMux, f *flush.Flusher, event []byte, replaceable bool`,
	"docs/watching.md":     `mux *http.ServeMux, t *testing.T`,
	"docs/migration.md": `srv *http.Server, rc *http.ResponseController, f *flush.Flusher,
		c struct{ events chan string }, e string, drop func()`,
}

// isProgram reports whether a piece of Go is a whole program.
func (b goBlock) isProgram() bool { return strings.HasPrefix(b.code, "package main\n") }

// Every whole program builds, and what the README says about building one from a
// checkout works without a network.
func TestDocumentPrograms(t *testing.T) {
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for doc, text := range documents(t) {
		for _, b := range goBlocks(text) {
			if !b.isProgram() {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", doc, b.line), func(t *testing.T) {
				dir := t.TempDir()
				program := fmt.Sprintf("//line %s:%d\n%s", doc, b.line, b.code)
				if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o666); err != nil {
					t.Fatal(err)
				}
				goCommand(t, dir, "mod", "init", "hello")
				goCommand(t, dir, "mod", "edit", "-replace", "github.com/fa492104/flush="+root)
				goCommand(t, dir, "mod", "tidy")
				goCommand(t, dir, "vet", ".")
				goCommand(t, dir, "build", "-o", os.DevNull, ".")
			})
		}
	}
}

// Every other piece of Go compiles inside a function that has what it takes for
// granted.
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
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

var (
	_ = bytes.ToUpper
	_ = context.Cause
	_ = errors.Is
	_ = fmt.Print
	_ = io.Copy
	_ = log.Print
	_ = slog.Info
	_ net.Conn
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
		for _, b := range blocks {
			if b.isProgram() {
				continue
			}
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

// Links within the repository lead somewhere, headings included.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]*)#?([^)]*)\)`)
	texts := documents(t)
	for name, text := range texts {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := name
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(name), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if m[2] != "" && !anchors(texts[filepath.ToSlash(target)])[m[2]] {
				t.Errorf("%s: %s has no heading #%s", name, target, m[2])
			}
		}
	}
}

// anchors returns what a link can call the headings of text by.
func anchors(text string) map[string]bool {
	found := make(map[string]bool)
	dropped := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		found[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return found
}

// What docs/how-it-works.md quotes stands in a comment of the code.
func TestDocumentQuotesComments(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var comments strings.Builder
	for _, name := range names {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t*//\t?(.*)$`).FindAllStringSubmatch(string(source), -1) {
			fmt.Fprintln(&comments, m[1])
		}
	}
	quotes := regexp.MustCompile("(?s)\n```text\n(.*?)```\n").FindAllStringSubmatch(documents(t)["docs/how-it-works.md"], -1)
	if len(quotes) == 0 {
		t.Error("docs/how-it-works.md quotes nothing")
	}
	for _, q := range quotes {
		if !strings.Contains(comments.String(), q[1]) {
			t.Errorf("no comment says\n%s", q[1])
		}
	}
}

// CONTRIBUTING.md says of every file of the root package what it holds, once.
func TestDocumentMap(t *testing.T) {
	_, text, _ := strings.Cut(documents(t)["CONTRIBUTING.md"], "\n## Which file holds what\n")
	text, _, _ = strings.Cut(text, "\n## ")
	holds := make(map[string]int)
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(text, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			names, err := filepath.Glob(m[1])
			if err != nil || len(names) == 0 {
				t.Errorf("there is no %s: %v", m[1], err)
			}
			for _, name := range names {
				holds[name]++
			}
		}
	}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if n := holds[name]; !strings.HasSuffix(name, "_test.go") && n != 1 {
			t.Errorf("the map has %s %d times", name, n)
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
	exported := map[string]bool{"String": true, "pkg flushtest, String": true}
	defended := maps.Clone(exported)
	name := regexp.MustCompile(`(?m)^(pkg \w+, )?(?:const|func|type|var|method \([^)]*\)) (\w+)`)
	for _, m := range name.FindAllStringSubmatch(string(api), -1) {
		exported[m[1]+m[2]] = true
	}
	_, text, _ := strings.Cut(documents(t)["CONTRIBUTING.md"], "\n## Exported names\n")
	root, rest, _ := strings.Cut(text, "\nPackage flushtest")
	kit, debug, _ := strings.Cut(rest, "\nPackage flushdebug")
	for prefix, table := range map[string]string{"": root, "pkg flushtest, ": kit, "pkg flushdebug, ": debug} {
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
