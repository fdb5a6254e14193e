package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// step returns a section that waits for a token, and then fails if err says so.
func step(title string, token <-chan struct{}, err error) section {
	return section{title, func(ctx context.Context) ([]row, error) {
		select {
		case <-token:
			return []row{{"about " + title, "<" + title + ">"}}, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}
}

func start(t *testing.T, sections ...section) (get func() *http.Response) {
	srv := httptest.NewServer(newHandler(sections...))
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return func() *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
}

// until reads up to the first line that contains want, and returns it all.
func until(t *testing.T, r *bufio.Reader, want string) string {
	t.Helper()
	var got strings.Builder
	for {
		line, err := r.ReadString('\n')
		got.WriteString(line)
		if strings.Contains(line, want) {
			return got.String()
		}
		if err != nil {
			t.Fatalf("no %q before %v in:\n%s", want, err, got.String())
		}
	}
}

// Each section arrives, whole, while the next one is withheld.
func TestSectionBySection(t *testing.T) {
	token := make(chan struct{}, 1)
	get := start(t, step("one", token, nil), step("two", token, nil))
	token <- struct{}{}
	resp := get()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	body := bufio.NewReader(resp.Body)
	first := until(t, body, "</section>")
	if !strings.Contains(first, "<td>&lt;one&gt;</td>") || strings.Contains(first, "two") {
		t.Errorf("first section:\n%s", first)
	}
	token <- struct{}{}
	second := until(t, body, "</section>")
	if !strings.Contains(second, "<td>&lt;two&gt;</td>") {
		t.Errorf("second section:\n%s", second)
	}
	rest, err := io.ReadAll(body)
	if err != nil || !strings.HasSuffix(string(rest), "<p>That is all.</p>\n</html>\n") {
		t.Errorf("%q, %v", rest, err)
	}
}

// Nothing of the page is left when its first section fails.
func TestFirstSectionFails(t *testing.T) {
	token := make(chan struct{}, 1)
	token <- struct{}{}
	resp := start(t, step("one", token, errors.New("no such luck")))()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 500 || string(body) != "The page could not be made.\n" {
		t.Errorf("%s %q, %v", resp.Status, body, err)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
}

// What has been sent stays; half a section does not follow.
func TestLaterSectionFails(t *testing.T) {
	token := make(chan struct{}, 2)
	token <- struct{}{}
	token <- struct{}{}
	resp := start(t, step("one", token, nil), step("two", token, errors.New("no such luck")))()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%s, %v", resp.Status, err)
	}
	page := string(body)
	if !strings.HasSuffix(page, "</section>\n<p class=\"failed\">The rest could not be found.</p>\n</html>\n") || strings.Contains(page, "two") {
		t.Errorf("got:\n%s", page)
	}
}

// A visitor who leaves ends the work.
func TestVisitorLeaves(t *testing.T) {
	token := make(chan struct{}, 1)
	ended := make(chan error, 1)
	token <- struct{}{}
	resp := start(t, step("one", token, nil), section{"two", func(ctx context.Context) ([]row, error) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	}})()
	until(t, bufio.NewReader(resp.Body), "</section>")
	resp.Body.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no cause")
		}
	case <-time.After(time.Minute):
		t.Fatal("still at work for a visitor who has left")
	}
}

func TestSections(t *testing.T) {
	fsys := fstest.MapFS{"a": {Data: []byte("123")}, "sub/b": {Data: []byte("45")}}
	resp := start(t, program, memory, folder(fsys))()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{">Program<", ">Goroutines<", `<th scope="row">Files</th><td>2</td>`, `<th scope="row">Size</th><td>1 KiB</td>`, "That is all."} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in:\n%s", want, body)
		}
	}
}
