package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
