package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fa492104/flush"
)

// PhaseNames writes what a filter was told.
func PhaseNames(phase flush.Phase) string {
	var names []string
	for i, name := range []string{"START", "CLEAN", "FLUSH", "FINAL"} {
		if phase&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "WRITE"
	}
	return strings.Join(names, "|")
}

// Text returns n bytes, at most 1 MiB, in which a lost or doubled piece shows.
func Text(n int) string { return allText()[:n] }

var allText = sync.OnceValue(func() string {
	var b strings.Builder
	for i := 0; b.Len() < 1<<20; i++ {
		fmt.Fprintf(&b, "line %06d\n", i)
	}
	return b.String()
})

// Numbered returns n bytes of which no two stretches are alike.
func Numbered(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%07x\n", uint32(i)*2654435761>>4)
	}
	return b.String()[:n]
}

// AcceptGzip is a header line of a client that takes gzip.
const AcceptGzip = "Accept-Encoding: gzip"

// Runs writes a string as its runs of equal bytes.
func Runs(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] == s[i] {
			j++
		}
		fmt.Fprintf(&b, "%c×%d ", s[i], j-i)
		i = j
	}
	return b.String()
}

// TempFile returns an open file with n bytes in it, and these.
func TempFile(t *testing.T, n int) (*os.File, string) {
	t.Helper()
	text := strings.Repeat("0123456789abcdef", n/16+1)[:n]
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, text
}
