package flush_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/fa492104/flush"
)

// What a filter copies from a file goes the way of what it writes, in every phase
// and on every protocol: the server's own way for files is not the stack's.
func TestFilterCopiesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("<file>"), 0o600))
	for _, test := range []struct {
		when flush.Phase
		want string
	}{
		{flush.PhaseFlush, "one <file>two"}, // it enters the buffer behind what has gone on
		{flush.PhaseFinal, "one two<file>"},
	} {
		eachProto(t, func(t *testing.T, p proto) {
			srv := serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
					if phase&test.when != 0 {
						file, err := os.Open(path)
						must(t, err)
						defer file.Close()
						if n, err := io.Copy(f, file); n != 6 || err != nil {
							t.Errorf("phase %d: copied %d bytes, %v", phase, n, err)
						}
					}
					return p, nil
				}})
				io.WriteString(w, "one ")
				expectError(t, "Flush", f.Top().Flush(), nil)
				io.WriteString(w, "two")
			}), nil))
			open(t, srv, "GET", "/", nil).expectEnd(test.want)
		})
	}
}
