package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// output hands on what the program prints, one Write at a time.
type output chan string

func (o output) Write(p []byte) (int, error) {
	o <- string(p)
	return len(p), nil
}

// until returns what is printed up to the first line that contains want.
func (o output) until(t *testing.T, ctx context.Context, want string) string {
	t.Helper()
	var all strings.Builder
	for {
		select {
		case s := <-o:
			all.WriteString(s)
			if strings.Contains(s, want) {
				return all.String()
			}
		case <-ctx.Done():
			t.Fatalf("no %q in:\n%s", want, all.String())
		}
	}
}

// start runs the program on a real socket. stop is its Ctrl-C, and waits for it.
func start(t *testing.T, ctx context.Context, open opener) (url string, out output, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out = make(output, 100)
	running, interrupt := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- serve(running, ln, open, out) }()
	stop = func() error {
		http.DefaultClient.CloseIdleConnections() // Shutdown waits 5 s for one that was never used
		interrupt()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() { stop() })
	return "http://" + ln.Addr().String() + "/", out, stop
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func get(t *testing.T, ctx context.Context, method, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func opens(src io.Reader, size int64) opener {
	return func() (io.ReadCloser, int64, error) { return io.NopCloser(src), size, nil }
}

func opensText(text string) opener {
	return opens(strings.NewReader(text), int64(len(text)))
}

func TestExport(t *testing.T) {
	ctx := soon(t)
	url, out, stop := start(t, ctx, opensText("name,\"in \"\"€\"\"\",note\n"+
		"tea,3.20,\"hot, or\ncold\"\n"+
		"<b>,,\\\n"))
	resp := get(t, ctx, "GET", url)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"tea","in \"€\"":"3.20","note":"hot, or\ncold"}` + "\n" +
		`{"name":"<b>","in \"€\"":"","note":"\\"}` + "\n"
	if got := resp.Header.Get("Content-Type"); string(body) != want || got != "application/x-ndjson" {
		t.Errorf("%s:\n%swant:\n%s", got, body, want)
	}
	if printed := out.until(t, ctx, "held"); !strings.Contains(printed, ": 100%, 2 rows\n") {
		t.Errorf("no good end in:\n%s", printed)
	}
	if err := stop(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

// Each row comes through while the next is withheld.
func TestAsItIsRead(t *testing.T) {
	ctx := soon(t)
	src, file := io.Pipe()
	defer file.Close()
	url, _, _ := start(t, ctx, opens(src, 0))
	go io.WriteString(file, "n\n0\n")
	lines := bufio.NewReader(get(t, ctx, "GET", url).Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf(`{"n":"%d"}`+"\n", i); line != want || err != nil {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
		fmt.Fprintln(file, i+1)
	}
}

// A large file arrives whole, and is never in memory whole.
func TestLargeFile(t *testing.T) {
	ctx := soon(t)
	const rows = 20_000
	var file bytes.Buffer
	w := csv.NewWriter(&file)
	w.Write([]string{"n", "text"})
	for i := range rows {
		w.Write([]string{fmt.Sprint(i), strings.Repeat("x", i%100)})
	}
	w.Flush()
	name := filepath.Join(t.TempDir(), "large.csv")
	if err := os.WriteFile(name, file.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	url, out, _ := start(t, ctx, openFile(name))
	dec := json.NewDecoder(get(t, ctx, "GET", url).Body)
	for i := range rows {
		var got map[string]string
		err := dec.Decode(&got)
		if want := map[string]string{"n": fmt.Sprint(i), "text": strings.Repeat("x", i%100)}; err != nil || !maps.Equal(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	if dec.More() {
		t.Error("there is more than the file has")
	}
	printed := out.until(t, ctx, "held")
	for percent := 10; percent <= 100; percent += 10 {
		if want := fmt.Sprintf(": %3d%%, ", percent); strings.Count(printed, want) != 1 {
			t.Errorf("want one %q in:\n%s", want, printed)
		}
	}
	_, rest, _ := strings.Cut(printed, " bytes, at most ")
	var held int
	if _, err := fmt.Sscan(rest, &held); err != nil || held > 64<<10 {
		t.Errorf("held %d bytes, %v, in:\n%s", held, err, printed)
	}
}

// A row that makes no sense gives an error page as long as nothing was sent,
// and after that an answer that is cut.
func TestBadRow(t *testing.T) {
	const bad = "a,b\n1,2\n3\n"
	ctx := soon(t)
	url, out, _ := start(t, ctx, opensText(bad))
	resp := get(t, ctx, "GET", url)
	body, err := io.ReadAll(resp.Body)
	if got, want := string(body), "the file cannot be exported\n"; resp.StatusCode != 500 || got != want || err != nil {
		t.Errorf("%d %q, %v", resp.StatusCode, got, err)
	}
	out.until(t, ctx, "wrong number of fields")

	src, file := io.Pipe()
	url, out, _ = start(t, ctx, opens(src, 0))
	go io.WriteString(file, bad[:len("a,b\n1,2\n")])
	resp = get(t, ctx, "GET", url)
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); line != `{"a":"1","b":"2"}`+"\n" || err != nil {
		t.Fatalf("got %q, %v", line, err)
	}
	go io.WriteString(file, "3\n")
	if rest, err := io.ReadAll(lines); err == nil {
		t.Errorf("the answer looks whole, with %q", rest)
	}
	out.until(t, ctx, "wrong number of fields")
}

func TestOtherFiles(t *testing.T) {
	ctx := soon(t)
	for _, tt := range []struct {
		what   string
		open   opener
		method string
		status int
		body   string
	}{
		{"only a first row", opensText("a,b\n"), "GET", 200, ""},
		{"an empty file", opensText(""), "GET", 500, "the file cannot be exported\n"},
		{"no file", openFile(filepath.Join(t.TempDir(), "none")), "GET", 500, "the file cannot be exported\n"},
		{"HEAD", opensText("a\n1\n"), "HEAD", 200, ""},
		{"POST", opensText("a\n1\n"), "POST", 405, "Method Not Allowed\n"},
	} {
		url, _, _ := start(t, ctx, tt.open)
		resp := get(t, ctx, tt.method, url)
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != tt.status || string(body) != tt.body || err != nil {
			t.Errorf("%s: %d %q, %v", tt.what, resp.StatusCode, body, err)
		}
	}
}

// When the client leaves, the file is closed.
func TestClientLeaves(t *testing.T) {
	ctx := soon(t)
	file := &endless{closed: make(chan struct{})}
	url, _, _ := start(t, ctx, func() (io.ReadCloser, int64, error) { return file, 0, nil })
	resp := get(t, ctx, "GET", url)
	if _, err := io.CopyN(io.Discard, resp.Body, 1000); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	select {
	case <-file.closed:
	case <-ctx.Done():
		t.Fatal("still reading for a client that has left")
	}
}

type endless struct{ closed chan struct{} }

func (e *endless) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte("row\n"), len(p)/4)), nil
}

func (e *endless) Close() error {
	close(e.closed)
	return nil
}

func TestNoFile(t *testing.T) {
	if err := listen("127.0.0.1:0", ""); err == nil {
		t.Error("no error without a file")
	}
	if err := listen("127.0.0.1:0", filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
