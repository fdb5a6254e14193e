package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestSAPIExample runs the binary of examples/sapi as a command, as FastCGI
// under nginx and as CGI under Apache. It is one handler, and says the same.
func TestSAPIExample(t *testing.T) {
	out, err := exec.Command(sapiProgram.get(t), "/?lines=12").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(string(out), "\n", `\n`)
	if strings.Count(want, `\n`) != 12 {
		t.Errorf("on the command line %s", want)
	}
	for name, p := range map[string]web{
		"FastCGI": onNginx(t, "/sapi"),
		"CGI":     onApache(t, "/sapi"),
	} {
		t.Run(name, func(t *testing.T) {
			s := p.request(t, "lines=12", ask{})
			if got := s.reach(func(v view) bool { return v.closed }).String(); got != "200 "+want+" end" {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}
