package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush/flushtest"
)

// hookFS calls a hook before each Read of a file.
type hookFS struct {
	fstest.MapFS
	read func(name string, off int64) error
}

func (h hookFS) Open(name string) (fs.File, error) {
	f, err := h.MapFS.Open(name)
	if err != nil {
		return nil, err
	}
	return &hookFile{File: f, name: name, read: h.read}, nil
}

type hookFile struct {
	fs.File
	name string
	off  int64
	read func(name string, off int64) error
}

func (f *hookFile) Read(p []byte) (int, error) {
	if err := f.read(f.name, f.off); err != nil {
		return 0, err
	}
	n, err := f.File.Read(p)
	f.off += int64(n)
	return n, err
}

// endlessFS has one file, of 3 bytes when listed, that never ends when read.
type endlessFS struct {
	fstest.MapFS
	opened, closed chan struct{}
}

func newEndlessFS() endlessFS {
	return endlessFS{fstest.MapFS{"endless": {Data: []byte("abc")}}, make(chan struct{}), make(chan struct{})}
}

func (e endlessFS) Open(string) (fs.File, error) {
	close(e.opened)
	return endlessFile{closed: e.closed}, nil
}

type endlessFile struct {
	fs.File
	closed chan struct{}
}

func (f endlessFile) Read(p []byte) (int, error) { return len(p), nil }

func (f endlessFile) Close() error {
	close(f.closed)
	return nil
}

// output hands on what the program prints, one Write at a time.
type output chan string

func (o output) Write(p []byte) (int, error) {
	o <- string(p)
	return len(p), nil
}

func (o output) contains(t *testing.T, ctx context.Context, want string) {
	t.Helper()
	for {
		select {
		case s := <-o:
			if strings.Contains(s, want) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("the program did not print %q", want)
		}
	}
}

func newTestHandler(fsys fs.FS, out output) *handler {
	return &handler{fsys: fsys, what: "of <a test>", log: log.New(out, "", 0)}
}

// start runs the program on a real socket. stop is its Ctrl-C, and waits for it.
func start(t *testing.T, ctx context.Context, fsys fs.FS) (url string, out output, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out = make(output, 100)
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- serve(running, ln, newTestHandler(fsys, out)) }()
	stop = func() error {
		cancel()
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

func get(t *testing.T, ctx context.Context, client *http.Client, url, accept string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// until reads lines up to the first that contains want, and returns them.
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

const browser = "text/html,application/xhtml+xml,*/*;q=0.8"

// Each part of the page arrives while the next byte of the job is withheld.
func TestPageStepByStep(t *testing.T) {
	const chunk, chunks = 256 << 10, 4
	evil := `a <b>&"'</li>.txt`
	token := make(chan struct{})
	ctx := soon(t)
	fsys := hookFS{fstest.MapFS{
		evil:        {Data: []byte("small")},
		"big.bin":   {Data: make([]byte, chunks*chunk)},
		"sub/z.txt": {Data: []byte("last")},
	}, func(_ string, off int64) error {
		if off%chunk == 0 {
			select {
			case <-token:
			case <-ctx.Done():
			}
		}
		return nil
	}}
	url, out, stop := start(t, ctx, fsys)
	out.contains(t, ctx, "curl -N "+url)

	resp := get(t, ctx, http.DefaultClient, url, browser)
	if got := resp.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	page := bufio.NewReader(resp.Body)
	all := until(t, page, `aria-valuenow="0"`)
	for _, want := range []string{
		`<meta name="viewport" content="width=device-width`, // else a phone shows the page small
		`<div role="status" aria-live="polite">`,
		`<p slot="head" class="quiet">of &lt;a test&gt;</p>`,
		`aria-valuetext="0%, 0 bytes of 1.0 MB"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in:\n%s", want, all)
		}
	}

	token <- struct{}{}
	all += until(t, page, `<div role="listitem">`)
	if want := `<div role="listitem">` + html.EscapeString(evil) + " "; !strings.Contains(all, want) {
		t.Errorf("no %q in:\n%s", want, all)
	}
	for range chunks {
		token <- struct{}{}
		all += until(t, page, `role="progressbar"`)
	}
	token <- struct{}{} // the Read that meets the end of big.bin
	all += until(t, page, fmt.Sprintf("%x", sha256.Sum256(make([]byte, chunks*chunk))))
	token <- struct{}{}
	all += until(t, page, `aria-valuenow="100"`)
	rest, err := io.ReadAll(page)
	if err != nil {
		t.Fatal(err)
	}
	all += string(rest)
	if !strings.Contains(all, fmt.Sprintf(`<div role="listitem">sub/z.txt <small>4 bytes</small> <code>%x</code></div>`, sha256.Sum256([]byte("last")))) ||
		!strings.HasSuffix(all, "<p slot=\"say\" class=\"end\">3 of 3 files hashed</p>\n</body>\n</html>\n") {
		t.Errorf("the page does not end well:\n%s", all)
	}
	if strings.Contains(all, "<script") {
		t.Error("the page has a script")
	}

	last := -1
	for _, m := range regexp.MustCompile(`role="progressbar" .*aria-valuenow="(\d+)"`).FindAllStringSubmatch(all, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n <= last || n > 100 {
			t.Errorf("bar %q after %d", m[1], last)
		}
		last = n
	}
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestPlainText(t *testing.T) {
	ctx := soon(t)
	url, _, _ := start(t, ctx, hookFS{fstest.MapFS{
		"empty":    {},
		"esc\x1b[": {Data: []byte("1")},
		"torn":     {Data: []byte("22")},
		"whole":    {Data: []byte("333")},
		"link":     {Data: []byte("whole"), Mode: fs.ModeSymlink},
		"pipe":     {Mode: fs.ModeNamedPipe},
	}, func(name string, off int64) error {
		if name == "torn" {
			return errors.New("disk on <fire>")
		}
		return nil
	}})
	resp := get(t, ctx, http.DefaultClient, url, "*/*")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	want := fmt.Sprintf(`SHA-256 of every file
of <a test>
  0%%  0 bytes of 6 bytes
      %x  "empty"  0 bytes
 16%%  1 byte of 6 bytes
      %x  "esc\x1b["  1 byte
 50%%  3 bytes of 6 bytes
      "disk on <fire>"
100%%  6 bytes of 6 bytes
      %x  "whole"  3 bytes
3 of 4 files hashed
`, sha256.Sum256(nil), sha256.Sum256([]byte("1")), sha256.Sum256([]byte("333")))
	if string(body) != want {
		t.Errorf("got:\n%s\nwant:\n%s", body, want)
	}
}

func TestOtherRequests(t *testing.T) {
	ctx := soon(t)
	url, _, _ := start(t, ctx, fstest.MapFS{})
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "", 200, "SHA-256 of every file\nof <a test>\n100%  0 bytes of 0 bytes\n0 of 0 files hashed\n"},
		{"HEAD", "", 200, ""},
		{"GET", "favicon.ico", 404, "404 page not found\n"},
		{"POST", "", 405, "Method Not Allowed\n"},
	} {
		req, err := http.NewRequestWithContext(ctx, tt.method, url+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || string(body) != tt.body || err != nil {
			t.Errorf("%s /%s: %d %q, %v, want %d %q", tt.method, tt.path, resp.StatusCode, body, err, tt.status, tt.body)
		}
	}
}

func TestUnreadableFolder(t *testing.T) {
	rec := httptest.NewRecorder()
	h := &handler{fsys: brokenFS{}}
	h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	if got := rec.Body.String(); !strings.Contains(got, "no such luck") || !strings.HasSuffix(got, "0 of 0 files hashed\n") {
		t.Errorf("got:\n%s", got)
	}
}

type brokenFS struct{}

func (brokenFS) Open(string) (fs.File, error) { return nil, errors.New("no such luck") }

func TestClientLeaves(t *testing.T) {
	ctx := soon(t)
	fsys := newEndlessFS()
	url, out, _ := start(t, ctx, fsys)
	resp := get(t, ctx, http.DefaultClient, url, "*/*")
	<-fsys.opened
	resp.Body.Close()
	select {
	case <-fsys.closed:
	case <-ctx.Done():
		t.Fatal("still hashing for a client that has left")
	}
	out.contains(t, ctx, "stopped after 0 of 1 files: ")
}

// A failed write stops the job even if nothing cancels the request.
func TestWriteFails(t *testing.T) {
	out := make(output, 2)
	fsys := hookFS{fstest.MapFS{"a": {Data: []byte("1")}, "b": {Data: []byte("2")}}, func(name string, _ int64) error {
		t.Errorf("%s was read for nobody", name)
		return nil
	}}
	req := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
	(&handler{fsys: fsys, log: log.New(out, "", 0)}).ServeHTTP(brokenWriter{httptest.NewRecorder()}, req)
	out <- "nothing"
	if got, want := <-out, "192.0.2.1:1234: stopped after 0 of 0 files: broken pipe\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

type brokenWriter struct{ *httptest.ResponseRecorder }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// Ctrl-C ends the page of a running job properly.
func TestStop(t *testing.T) {
	ctx := soon(t)
	fsys := newEndlessFS()
	url, out, stop := start(t, ctx, fsys)
	resp := get(t, ctx, http.DefaultClient, url, browser)
	<-fsys.opened
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("the response was cut: %v", err)
	}
	if want := "<div role=\"listitem\" class=\"fail\">the server is stopping</div>\n<p slot=\"say\" class=\"end\">0 of 1 files hashed</p>\n</body>\n</html>\n"; !strings.HasSuffix(string(body), want) {
		t.Errorf("the page does not end with %q:\n%s", want, body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	out.contains(t, ctx, "stopped after 0 of 1 files: the server is stopping")
}

// Without a folder the job is one of ten seconds, on any machine. The bar comes
// at every percent, and at each tenth it is said to those who cannot see it.
func TestSampleTakesTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSample()
		var bars, said []time.Duration
		begin := time.Now()
		j := &job{fsys: s, Percent: -1}
		j.show = func(part string, data any) {
			if part == "bar" {
				bars = append(bars, time.Since(begin))
				if j.Tenth {
					said = append(said, time.Since(begin))
				}
			}
		}
		if err := j.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin).Round(10 * time.Millisecond); got != sampleTime {
			t.Errorf("it took %v, want %v", got, sampleTime)
		}
		if len(bars) != 101 || len(said) != 11 {
			t.Errorf("%d bars of which %d are said, want 101 and 11", len(bars), len(said))
		}
		for i := 1; i < len(bars); i++ {
			if step := bars[i] - bars[i-1]; step > sampleTime/50 {
				t.Errorf("the bar stood at %d%% for %v", i-1, step)
			}
		}
		sums := make(map[[sha256.Size]byte]bool)
		for i := range j.Files {
			if err := j.hash(t.Context(), &j.Files[i]); err != nil {
				t.Fatal(err)
			}
			sums[j.Files[i].Sum] = true
		}
		if len(sums) != 40 || j.Hashed != 40 {
			t.Errorf("%d files hashed, %d different, want 40", j.Hashed, len(sums))
		}
	})
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0:             "0 bytes",
		1:             "1 byte",
		999:           "999 bytes",
		1000:          "1.0 kB",
		999_949:       "999.9 kB",
		999_950:       "1.0 MB",
		102_400_000:   "102.4 MB",
		math.MaxInt64: "9.2 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) is %q, want %q", n, got, want)
		}
	}
}

// A job that does not heed Ctrl-C is cut after the grace time.
func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reading, release := make(chan struct{}), make(chan struct{})
		fsys := hookFS{fstest.MapFS{"stuck": {Data: []byte("1")}}, func(_ string, off int64) error {
			if off == 0 {
				close(reading)
				<-release
			}
			return nil
		}}
		ln := flushtest.Listen(4 << 10)
		tr := &http.Transport{DialContext: ln.Dial}
		defer tr.CloseIdleConnections()
		ctx, interrupt := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- serve(ctx, ln, newTestHandler(fsys, make(output, 100))) }()
		resp := get(t, t.Context(), &http.Client{Transport: tr}, "http://pipe/", "*/*")
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(resp.Body)
			read <- err
		}()
		<-reading

		begin := time.Now()
		interrupt()
		if err := <-read; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the client read %v, want a response that is cut", err)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("serve returned %v", err)
		}
		if got := time.Since(begin); got != grace {
			t.Errorf("stopped after %v, want %v", got, grace)
		}
		close(release)
	})
}
