package flush_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// What a wire does to a body is what net/http does: the same goes through both,
// and the client gets the same, as the program does.
func TestWireIsTheServers(t *testing.T) {
	long := harness.Text(100_000)
	file, _ := harness.TempFile(t, 100_000)
	copied := func(w io.Writer, n int64) string {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := w.(io.ReaderFrom).ReadFrom(io.LimitReader(file, n))
		return fmt.Sprint(got, err)
	}
	write := func(w io.Writer, all ...string) string {
		var said []string
		for _, s := range all {
			n, err := w.Write([]byte(s))
			said = append(said, fmt.Sprint(n, err))
		}
		return strings.Join(said, ", ")
	}
	set := func(kv ...string) func(http.Header) {
		return func(h http.Header) {
			for i := 0; i < len(kv); i += 2 {
				h.Add(kv[i], kv[i+1])
			}
		}
	}
	cases := []struct {
		name   string
		before func(http.Header)
		run    func(w io.Writer) string
		after  func(http.Header)
		ends   harness.Ending // on HTTP/1.1
	}{
		{name: "nothing"},
		{name: "small", run: func(w io.Writer) string { return write(w, "a", "", "bc") }},
		{name: "long", run: func(w io.Writer) string { return write(w, long, "end") }},
		{name: "a string", run: func(w io.Writer) string { n, err := io.WriteString(w, "abc"); return fmt.Sprint(n, err) }},
		{name: "a file", run: func(w io.Writer) string { return copied(w, 100_000) }},
		{name: "a file in parts", run: func(w io.Writer) string { return write(w, "a") + copied(w, 70_000) + write(w, "b") + copied(w, 1) }},

		{name: "a length of nothing", before: set("Content-Length", "0"), run: func(w io.Writer) string { return write(w, "") }},
		{name: "a length", before: set("Content-Length", "5"), run: func(w io.Writer) string { return write(w, "ab", "cde") }},
		{name: "a length and a string", before: set("Content-Length", "3"), run: func(w io.Writer) string { n, err := io.WriteString(w, "abc"); return fmt.Sprint(n, err) }},
		{name: "more than the length", before: set("Content-Length", "5"), run: func(w io.Writer) string { return write(w, "abcde", "f") }},
		{name: "more than the length at once", before: set("Content-Length", "5"), run: func(w io.Writer) string { return write(w, "abcd", "ef", "e") }},
		{name: "less than the length", before: set("Content-Length", "5"), run: func(w io.Writer) string { return write(w, "ab", "cd") }, ends: harness.Cut},
		{name: "a file and its length", before: set("Content-Length", "100000"), run: func(w io.Writer) string { return copied(w, 100_000) }},
		{name: "half a file and its length", before: set("Content-Length", "50003"), run: func(w io.Writer) string { return write(w, "abc") + copied(w, 50_000) }},

		{name: "identity", before: set("Transfer-Encoding", "identity"), run: func(w io.Writer) string { return write(w, "abc", "", long) }},
		{name: "identity and a file", before: set("Transfer-Encoding", "identity"), run: func(w io.Writer) string { return copied(w, 100_000) }},
		{name: "identity and a length", before: set("Transfer-Encoding", "identity", "Content-Length", "3"), run: func(w io.Writer) string { return write(w, "abc") }},
		{name: "chunked", before: set("Transfer-Encoding", "chunked"), run: func(w io.Writer) string { return write(w, "abc") }},

		{name: "a trailer", before: set("Trailer", "X-One"), run: func(w io.Writer) string { return write(w, "a") }, after: set("X-One", "1")},
		{name: "a trailer and no body", before: set("Trailer", "X-One"), after: set("X-One", "1")},
		{name: "trailers", before: set("Trailer", "X-One, x-two", "Trailer", " X-Three,"), run: func(w io.Writer) string { return write(w, "a") }, after: set("X-One", "1", "X-Two", "2", "X-Two", "zwei", "X-Three", "3")},
		{name: "a trailer that is not set", before: set("Trailer", "X-One, X-Two"), run: func(w io.Writer) string { return write(w, "a") }, after: set("X-Two", "2")},
		{name: "a trailer that was not declared", run: func(w io.Writer) string { return write(w, "a") }, after: set("X-One", "1")},
		{name: "a trailer with the prefix", run: func(w io.Writer) string { return write(w, "a") }, after: set(http.TrailerPrefix+"X-One", "1", "X-Two", "2")},
		{name: "both", before: set("Trailer", "X-One"), run: func(w io.Writer) string { return write(w, "a") }, after: set("X-One", "1", http.TrailerPrefix+"X-Two", "2")},
		{name: "trailers that are none", before: set("Trailer", "Content-Type, If-Match, Te, X-One"), run: func(w io.Writer) string { return write(w, "a") }, after: set("If-Match", "1", "Te", "2", "X-One", "3")},
		{name: "a trailer beside a length", before: set("Trailer", "X-One", "Content-Length", "1"), run: func(w io.Writer) string { return write(w, "a") }, after: set("X-One", "1")},
		{name: "a trailer beside identity", before: set("Trailer", "X-One", "Transfer-Encoding", "identity"), run: func(w io.Writer) string { return write(w, "a") }, after: set("X-One", "1")},
	}
	for _, p := range []harness.Proto{harness.HTTP1, harness.HTTP10, harness.HTTPS1} {
		t.Run(p.String(), func(t *testing.T) {
			said := make(chan string, 1)
			do := func(i int, w io.Writer, h http.Header) {
				s := ""
				if cases[i].run != nil {
					s = cases[i].run(w)
				}
				if cases[i].after != nil {
					cases[i].after(h)
				}
				said <- s
			}
			begin := func(r *http.Request, h http.Header) (i int) {
				i, _ = strconv.Atoi(r.URL.Path[1:])
				if cases[i].before != nil {
					cases[i].before(h)
				}
				return i
			}
			bare := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "close")
				i := begin(r, w.Header())
				http.NewResponseController(w).Flush()
				do(i, w, w.Header())
			}))
			ours := harness.Serve(t, p, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				i := begin(r, w.Header())
				f := harness.Flusher(w)
				odd := p == harness.HTTP10 && w.Header().Get("Transfer-Encoding") == "chunked"
				if err := f.Detach(); err != nil || f.Stats().Detached == odd {
					t.Errorf("%s: Detach: %v, %v", cases[i].name, err, f.Stats().Detached)
				}
				go func() {
					do(i, f, f.Header())
					f.Close()
				}()
			}), nil))
			for i, c := range cases {
				type result struct {
					said, body      string
					behind          string // the end
					header, trailer http.Header
					end             harness.Ending
				}
				get := func(srv *harness.Server) result {
					s := harness.Open(t, srv, "GET", "/"+strconv.Itoa(i), nil)
					header := s.Header().Clone()
					header.Del("Date")
					body, trailer, end := s.Rest()
					behind, _ := io.ReadAll(s.Reader) // a cut may be a reset
					return result{harness.Next(t, said), body, string(behind), header, trailer, end}
				}
				want, got := get(bare), get(ours)
				if got.said != want.said {
					t.Errorf("%s: the program got %s; from net/http %s", c.name, got.said, want.said)
				}
				if got.body != want.body || got.end != want.end || p == harness.HTTP1 && c.ends != "" && got.end != c.ends {
					t.Errorf("%s: the client got %d bytes, %s; from net/http %d, %s", c.name, len(got.body), got.end, len(want.body), want.end)
				}
				if got.behind != want.behind {
					t.Errorf("%s: %q came behind the end; from net/http %q", c.name, got.behind, want.behind)
				}
				if !maps.EqualFunc(got.header, want.header, slices.Equal) || !maps.EqualFunc(got.trailer, want.trailer, slices.Equal) {
					t.Errorf("%s: headers %v and trailers %v; from net/http %v and %v", c.name, got.header, got.trailer, want.header, want.trailer)
				}
			}
		})
	}
}
