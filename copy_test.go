package flush_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/fa492104/flush"
)

// A copy of nothing, or one that fails with its first Read, decides nothing: the
// handler can still answer otherwise.
func TestCopyOfNothingLeavesTheHeadersOpen(t *testing.T) {
	sources := map[string]func(t *testing.T) *os.File{
		"empty file": func(t *testing.T) *os.File { return file(t, 0) },
		"file at its end": func(t *testing.T) *os.File {
			f := file(t, 100)
			if _, err := f.Seek(0, io.SeekEnd); err != nil {
				t.Fatal(err)
			}
			return f
		},
		"file that cannot be read": func(t *testing.T) *os.File {
			f, err := os.OpenFile(filepath.Join(t.TempDir(), "x"), os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			if _, err := f.WriteString("hello"); err != nil {
				t.Fatal(err)
			}
			return f
		},
	}
	ways := map[string]func(http.Handler) http.Handler{
		"bare": bare, "NewHandler": wrappedBy(nil), "New": endedNew, "async": wrappedBy(&flush.Options{Flush: flush.Async}),
		"every write moves": wrappedBy(&flush.Options{BufferSize: -1}),
	}
	for name, source := range sources {
		for way, wrap := range ways {
			t.Run(name+"/"+way, func(t *testing.T) {
				eachProto(t, func(t *testing.T, p proto) {
					f := source(t)
					srv := serve(t, p, wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						n, err := io.Copy(w, io.LimitReader(f, 50))
						w.Header().Set("X-Copied", fmt.Sprint(n, err != nil))
						http.Error(w, "nothing there", http.StatusNotFound)
					})))
					s := open(t, srv, "GET", "/", nil)
					if r := s.response(); r.StatusCode != http.StatusNotFound || r.Header.Get("X-Copied") == "" {
						t.Errorf("%s, header %v", r.Status, r.Header)
					}
					s.expectEnd("nothing there\n")
				})
			})
		}
	}
}
