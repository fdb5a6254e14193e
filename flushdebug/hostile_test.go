package flushdebug_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushdebug"
)

// hostileGroup has one member, whose request and failure are whatever somebody
// chose to send.
func hostileGroup(t *testing.T, text string) *flush.Group {
	t.Helper()
	var g flush.Group
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path, r.RemoteAddr, r.Method = "/"+text, text, text
	f := flush.New(refusing{httptest.NewRecorder(), errors.New(strings.Repeat(text, 10_000))}, r, nil)
	t.Cleanup(func() { f.Close() })
	if err := g.Add(f); err != nil {
		t.Fatal(err)
	}
	f.WriteString("x")
	f.FlushWait(t.Context())
	if f.Err() == nil {
		t.Fatal("it has not failed")
	}
	return &g
}

type refusing struct {
	http.ResponseWriter
	err error
}

func (w refusing) Write([]byte) (int, error) { return 0, w.err }

// What others have sent neither speaks to the terminal of who looks, nor turns
// the page around, nor makes it long.
func TestHostileTextOnlyShows(t *testing.T) {
	for _, text := range []string{"\x1b]0;owned\a\x1b[2J", "\u009b2J", "a\u202egnp.exe", "\x00\r\nX: y", "\xff\xfe", "\u2028"} {
		g := hostileGroup(t, text)
		for _, target := range []string{"/", "/?format=json"} {
			body := get(t, g, "GET", target).Body.String()
			if i := strings.IndexFunc(body, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }); i >= 0 {
				t.Errorf("%q: %s has %q", text, target, body[i:min(i+10, len(body))])
			}
			if len(body) > 16<<10 {
				t.Errorf("%q: %s has %d bytes", text, target, len(body))
			}
		}
		if got := ask(t, g).Responses[0].Failure; got == "" || len(got) > 600 {
			t.Errorf("%q: the failure is %q", text, got)
		}
	}
	if text := get(t, hostileGroup(t, "/é漢 x"), "GET", "/").Body.String(); !strings.Contains(text, "//é漢 x") {
		t.Error("what shows is not shown")
	}
}

// A request for the page reads no body, whatever it says of itself: a form in it
// would come to lie in memory, and its files on the disk.
func TestHandlerReadsNoBody(t *testing.T) {
	body := strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"format\"\r\n\r\njson\r\n--b--\r\n")
	size := body.Len()
	r := httptest.NewRequest("GET", "/", body)
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	rec := httptest.NewRecorder()
	flushdebug.Handler(nil).ServeHTTP(rec, r)
	if body.Len() != size || r.MultipartForm != nil {
		t.Errorf("it has read %d bytes", size-body.Len())
	}
	if got := rec.Header().Get("Content-Type"); !strings.HasPrefix(got, "text/html") {
		t.Errorf("answered with %s", got)
	}
}

// A CONNECT has no path, and is a request all the same.
func TestRequestWithoutPath(t *testing.T) {
	var g flush.Group
	r := httptest.NewRequest("CONNECT", "example.com:443", nil)
	r.URL.Path = ""
	f := flush.New(httptest.NewRecorder(), r, nil)
	defer f.Close()
	g.Add(f)
	if text := get(t, &g, "GET", "/").Body.String(); strings.Contains(text, "(no request)") || !strings.Contains(text, "CONNECT") {
		t.Error(text)
	}
}
