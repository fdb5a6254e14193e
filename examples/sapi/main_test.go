package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

// The test binary is the program when this variable is set.
const asProgram = "SAPI_TEST_MAIN"

func init() {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
}

func program(t *testing.T, args []string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), append(env, asProgram+"=1", "GORACE=atexit_sleep_ms=0")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Each line stands twice as far along the chain as the one before, which is
// the work done for it.
func TestLinesDouble(t *testing.T) {
	w := httptest.NewRecorder()
	flush.NewHandler(http.HandlerFunc(chain), nil).ServeHTTP(w, httptest.NewRequest("GET", "/?lines=9", nil))
	var want strings.Builder
	link := make([]byte, sha256.Size)
	for n := 1; n <= 1<<9; n++ {
		sum := sha256.Sum256(link)
		link = sum[:]
		if n > 1 && n&(n-1) == 0 {
			fmt.Fprintf(&want, "%10d  %x\n", n, link)
		}
	}
	if got := w.Body.String(); got != want.String() {
		t.Errorf("got:\n%s\nwant:\n%s", got, &want)
	}
}

// A line is with the client while the next ones are worked for: the last of
// those asked for is minutes away. When the client leaves, so does the handler.
func TestLinesAsTheyAreFound(t *testing.T) {
	ended := make(chan struct{})
	srv := flushtest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		flush.NewHandler(http.HandlerFunc(chain), nil).ServeHTTP(w, r)
	}), nil)
	resp, err := srv.Client().Get(fmt.Sprintf("%s/?lines=%d", srv.URL, most))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(resp.Body)
	for line := 1; line <= 12; line++ {
		got, err := lines.ReadString('\n')
		if want := fmt.Sprintf("%10d  ", 1<<line); err != nil || !strings.HasPrefix(got, want) {
			t.Fatalf("line %d: %q, %v", line, got, err)
		}
	}
	select {
	case <-ended:
		t.Error("the handler has ended before its last line")
	default:
	}
	resp.Body.Close()
	<-ended
}

func TestLines(t *testing.T) {
	for _, lines := range []string{"0", "-1", "31", "x"} {
		w := httptest.NewRecorder()
		chain(w, httptest.NewRequest("GET", "/?lines="+lines, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("lines=%s: status %d", lines, w.Code)
		}
	}
}

func TestSameOutputAsCommandAndCGI(t *testing.T) {
	command := program(t, []string{"/?lines=8"})
	cgi := program(t, nil, "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1", "REQUEST_URI=/?lines=8")
	head, body, _ := strings.Cut(cgi, "\r\n\r\n")
	if !strings.Contains(head, "Content-Type: text/plain") {
		t.Errorf("CGI head %q", head)
	}
	if !strings.HasPrefix(command, "         2  ") || body != command {
		t.Errorf("as a command %q, as CGI %q", command, body)
	}
}
