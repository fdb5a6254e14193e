package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fa492104/flush"
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

func TestSearch(t *testing.T) {
	w := httptest.NewRecorder()
	flush.NewHandler(http.HandlerFunc(search), nil).ServeHTTP(w, httptest.NewRequest("GET", "/?bits=9", nil))
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	if len(lines) != 9 {
		t.Fatalf("%d lines:\n%s", len(lines), w.Body)
	}
	for i, line := range lines {
		var found, n int
		var sum string
		if _, err := fmt.Sscan(line, &found, &n, &sum); err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(fmt.Append(nil, n))
		if found != i+1 || sum != fmt.Sprintf("%x", want) || want[0]>>(8-min(found, 8)) != 0 {
			t.Errorf("line %d: %s", i, line)
		}
	}
}

func TestBits(t *testing.T) {
	for _, bits := range []string{"0", "-1", "29", "x"} {
		w := httptest.NewRecorder()
		search(w, httptest.NewRequest("GET", "/?bits="+bits, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("bits=%s: status %d", bits, w.Code)
		}
	}
}

func TestSameOutputAsCommandAndCGI(t *testing.T) {
	command := program(t, []string{"/?bits=8"})
	cgi := program(t, nil, "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SERVER_PROTOCOL=HTTP/1.1", "REQUEST_URI=/?bits=8")
	head, body, _ := strings.Cut(cgi, "\r\n\r\n")
	if !strings.Contains(head, "Content-Type: text/plain") {
		t.Errorf("CGI head %q", head)
	}
	if !strings.HasPrefix(command, " 1  ") || body != command {
		t.Errorf("as a command %q, as CGI %q", command, body)
	}
}
