package flush_test

import (
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/fa492104/flush/internal/harness"
)

// What the send timeout of a file stands on: Linux moves the position of a file
// with each part of it that a connection has taken, while the call that sends it is
// under way.
func TestLinuxMovesAFileThatIsBeingSent(t *testing.T) {
	const size = 4 << 20
	file, _ := harness.TempFile(t, size)
	done := make(chan bool)
	srv := harness.Serve(t, harness.HTTP1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		w.Header().Set("Content-Length", "4194304")
		w.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: file, N: size})
	}), harness.SmallBuffers)
	s := harness.Open(t, srv, "GET", "/", nil)
	body := s.Response().Body
	positions := make(map[int64]bool)
	for last := int64(0); last < size; {
		at := last
		for began := time.Now(); at == last; runtime.Gosched() {
			var err error
			if at, err = file.Seek(0, io.SeekCurrent); err != nil {
				t.Fatal(err)
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("it stays at %d", at)
			}
		}
		last = at
		positions[at] = true
		io.CopyN(io.Discard, body, size/16)
	}
	<-done
	if len(positions) < 4 {
		t.Errorf("%d positions were seen", len(positions))
	}
}
