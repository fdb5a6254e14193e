package flush_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fa492104/flush"
)

// readmeBlocks returns the Go blocks of README.md.
func readmeBlocks(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)\n```go\n(.*?)```\n").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatal("README.md has no Go block")
	}
	return blocks
}

// The first block is a whole program, and what the README says about building
// it from a checkout works without a network.
func TestReadmeProgram(t *testing.T) {
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	program := readmeBlocks(t)[0]
	if n := strings.Count(program, "\n"); n > 25 {
		t.Errorf("the first program has %d lines, want at most 25", n)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o666); err != nil {
		t.Fatal(err)
	}
	goCommand(t, dir, "mod", "init", "hello")
	goCommand(t, dir, "mod", "edit", "-replace", "github.com/fa492104/flush="+root)
	goCommand(t, dir, "mod", "tidy")
	goCommand(t, dir, "vet", ".")
	goCommand(t, dir, "build", "-o", os.DevNull, ".")
}

// The other blocks are parts of a program: they compile inside a function that
// has what they take for granted.
func TestReadmeSnippets(t *testing.T) {
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	var src strings.Builder
	src.WriteString(`package snippets

import (
	"log"
	"net/http"
	"time"

	"github.com/fa492104/flush"
)

var (
	_ = log.Print
	_ = time.Now
	_ = flush.New

	mux               *http.ServeMux
	logging, compress func(http.Handler) http.Handler
	export, render    func(http.ResponseWriter) error
)
`)
	for _, block := range readmeBlocks(t)[1:] {
		result := ""
		if strings.Contains(block, "return f.Close()") {
			result = "error"
		}
		src.WriteString("\nfunc _(w http.ResponseWriter, r *http.Request) " + result + " {\n" + block)
		if strings.HasPrefix(block, "handler := ") {
			src.WriteString("_ = handler\n")
		}
		src.WriteString("}\n")
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

func goCommand(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// The table of profiles says what the profiles say.
func TestReadmeProfiles(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	headers := map[flush.HeaderOrder]string{
		flush.HeadersFirst:      "headers first",
		flush.HeadersWithOutput: "headers with the first output",
		flush.OutputOnly:        "output only",
	}
	implicit := map[flush.Mode]string{0: "off", flush.Wait: "after each write"}
	held := map[int]string{0: "–", 1 << 20: "1 MiB"}
	for _, p := range []struct {
		funcs string
		sapi  flush.SAPI
	}{
		{"`NetHTTP()`, the default", flush.NetHTTP()},
		{"`Apache2Handler()`", flush.Apache2Handler()},
		{"`CGI()`, `FastCGI()`", flush.CGI()},
		{"`CGI()`, `FastCGI()`", flush.FastCGI()},
		{"`FPM()`", flush.FPM()},
		{"`OpenResty()`", flush.OpenResty()},
		{"`CLI()`", flush.CLI()},
		{"`Embed()`", flush.Embed()},
	} {
		contentType := p.sapi.ContentType
		if contentType == "" {
			contentType = "–"
		}
		row := "\n| " + strings.Join([]string{
			p.funcs, p.sapi.Name, headers[p.sapi.Headers], contentType, implicit[p.sapi.Implicit], held[p.sapi.HTTP10Buffer],
		}, " | ") + " |\n"
		if !strings.Contains(string(text), row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
}
