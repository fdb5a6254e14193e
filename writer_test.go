package flush_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
	"github.com/fa492104/flush/internal/harness"
)

// What existing handlers and middleware assert a writer to be.
var _ interface {
	http.ResponseWriter
	http.Flusher
	http.Hijacker
	http.CloseNotifier //lint:ignore SA1019 asserted in the wild
	io.ReaderFrom
	io.StringWriter
	FlushError() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	EnableFullDuplex() error
	Unwrap() http.ResponseWriter
} = (*flush.Flusher)(nil)

// lengths returns the lengths of a plain writer's calls, and their text where
// that is short.
func lengths(p *harness.Plain) string {
	var b strings.Builder
	for i, c := range *p.Calls {
		if i > 0 {
			b.WriteByte(' ')
		}
		if len(c) < 10 {
			b.WriteString(c)
		} else {
			fmt.Fprint(&b, "#", len(c))
		}
	}
	return b.String()
}

// Floor 2 moves down by itself at BufferSize, and not before.
func TestWriteMovesAtBufferSize(t *testing.T) {
	for _, test := range []struct {
		size   int // BufferSize
		writes []int
		want   string // before Close
		held   int
	}{
		{0, []int{4095}, "", 4095},
		{0, []int{4096}, "200 #4096", 0},
		{0, []int{2000, 2000}, "", 4000},
		{0, []int{2000, 2096}, "200 #4056 #40", 0},
		{0, []int{0, 0}, "", 0},
		{100, []int{50, 49}, "", 99},
		{100, []int{50, 50}, "200 #100", 0},
		{100, []int{50, 50, 20}, "200 #100", 20},
		{-1, []int{11, 12}, "200 #11 #12", 0},
		{-1, []int{0}, "", 0},
		{1, []int{11}, "200 #11", 0},
		{1 << 20, []int{100_000, 100_000}, "", 200_000},
		{0, []int{100_000}, "200 #32768 #32768 #34464", 0},
	} {
		for _, way := range []string{"Write", "WriteString", "ReadFrom"} {
			p := harness.NewPlain()
			f := flush.New(harness.Flushable{Plain: p}, nil, &flush.Options{BufferSize: test.size})
			total := 0
			for _, n := range test.writes {
				var m int
				var err error
				switch text := strings.Repeat("x", n); way {
				case "Write":
					m, err = f.Write([]byte(text))
				case "WriteString":
					m, err = f.WriteString(text)
				default:
					var m64 int64
					m64, err = f.ReadFrom(strings.NewReader(text))
					m = int(m64)
				}
				if m != n || err != nil {
					t.Errorf("%s of %d bytes: %d, %v", way, n, m, err)
				}
				total += n
			}
			if got := lengths(p); got != test.want && (way != "ReadFrom" || total <= 32<<10) {
				t.Errorf("%d, %s %v: server saw %q, want %q", test.size, way, test.writes, got, test.want)
			}
			if held := f.Buffered(); held != test.held && way != "ReadFrom" {
				t.Errorf("%d, %s %v: %d bytes held, want %d", test.size, way, test.writes, held, test.held)
			}
			if room, most := f.Available(), max(64<<10, test.size); room+f.Buffered() != most {
				t.Errorf("%d bytes held, %d available, want %d in all", f.Buffered(), room, most)
			}
			if err := f.Close(); err != nil || f.Stats().Bytes != int64(total) {
				t.Errorf("Close: %v, %+v", err, f.Stats())
			}
			if f.Available() != 0 || f.Buffered() != 0 {
				t.Errorf("%d bytes held, %d available after the end", f.Buffered(), f.Available())
			}
		}
	}
}

// Write keeps no reference to the caller's bytes.
func TestWriteKeepsNothing(t *testing.T) {
	for _, n := range []int{10, 5000} {
		p := harness.NewPlain()
		f := flush.New(harness.Flushable{Plain: p}, nil, nil)
		b := bytes.Repeat([]byte("a"), n)
		f.Write(b)
		f.FlushAsync()
		f.Write(b)
		copy(b, bytes.Repeat([]byte("b"), n))
		f.Close()
		if got := strings.Count(p.String(), "a"); got != 2*n || strings.Contains(p.String(), "b") {
			t.Errorf("%d of %d bytes arrived unchanged", got, 2*n)
		}
	}
}

// Writes of several goroutines are not torn apart, whatever is flushed when.
func TestWriteIsNotTorn(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		const writers, each = 6, 40
		srv := harness.Serve(t, p, harness.Wrapped(&flush.Options{MaxPending: 8 << 10}, func(w http.ResponseWriter, _ *http.Request) {
			var wg sync.WaitGroup
			for i := range writers {
				wg.Go(func() {
					for j := range each {
						line := strings.Repeat(string(rune('a'+i)), 1<<(j%15)) + "\n"
						if n, err := io.WriteString(w, line); n != len(line) || err != nil {
							t.Error(n, err)
						}
						if j%3 == 0 {
							flush.Flush(w, j%2 == 0)
						}
					}
				})
			}
			wg.Wait()
		}))
		body, _, end := harness.Open(t, srv, "GET", "/", nil).Rest()
		if end == harness.Cut {
			t.Error("cut")
		}
		seen := make(map[string]int)
		for line := range strings.Lines(body) {
			if strings.Trim(line, line[:1]) != "\n" {
				t.Fatalf("torn: %q", harness.Clip([]byte(line)))
			}
			seen[line]++
		}
		for i := range writers {
			for j := range each {
				line := strings.Repeat(string(rune('a'+i)), 1<<(j%15)) + "\n"
				if seen[line] == 0 {
					t.Errorf("missing: %d of %d bytes", i, len(line))
				}
			}
		}
	})
}

// Errors that leave the connection usable are net/http's own and do not stick.
func TestWriteErrorsOfNetHTTP(t *testing.T) {
	for _, test := range []struct {
		name  string
		first func(w http.ResponseWriter)
		p     string
		n     int
		err   error
		want  string
	}{
		{"longer than declared", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "3") }, "four", 0, http.ErrContentLength, ""},
		{"crossing the declared length", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "3")
			io.WriteString(w, "abc")
		}, "d", 0, http.ErrContentLength, "abc"},
		{"just as declared", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "3") }, "abc", 3, nil, "abc"},
		{"no content", func(w http.ResponseWriter) { w.WriteHeader(204) }, "abc", 0, http.ErrBodyNotAllowed, ""},
		{"not modified", func(w http.ResponseWriter) { w.WriteHeader(304) }, "abc", 0, http.ErrBodyNotAllowed, ""},
		{"empty on no content", func(w http.ResponseWriter) { w.WriteHeader(204) }, "", 0, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				closed := make(chan error, 1)
				opts := &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					test.first(w)
					if n, err := io.WriteString(w, test.p); n != test.n || err != test.err {
						t.Errorf("got %d, %v, want %d, %v", n, err, test.n, test.err)
					}
					if err := flush.Flush(w, true); err != nil {
						t.Error("flush:", err)
					}
					if err := harness.Flusher(w).Err(); err != nil {
						t.Error("it sticks:", err)
					}
				}), 0)
				if body, _, _ := harness.Open(t, srv, "GET", "/", nil).Rest(); body != test.want {
					t.Errorf("client got %q", body)
				}
				if err := <-closed; err != nil {
					t.Error("OnClose:", err)
				}
			})
		})
	}
}

// A Content-Length that the server takes for one holds from the first Write, and
// no other does.
func TestLengthsThatAreNone(t *testing.T) {
	for _, c := range []struct {
		value        string
		http1, http2 bool // it is one
	}{
		{"5", true, true},
		{"+5", true, false},
		{"05", true, true},
		{"-5", false, false},
		{"five", false, false},
		{"5 ", false, false},
		{"0x5", false, false},
		{"", false, false},
		{"99999999999999999999", false, false},
	} {
		for _, major := range []int{1, 2} {
			r := httptest.NewRequest("GET", "/", nil)
			r.ProtoMajor = major
			f := flush.New(harness.NewPlain(), r, nil)
			f.Header().Set("Content-Length", c.value)
			n, err := f.Write([]byte("longer"))
			if is := major == 1 && c.http1 || major == 2 && c.http2; is && (n != 0 || err != http.ErrContentLength) || !is && (n != 6 || err != nil) {
				t.Errorf("HTTP/%d, %q: Write: %d, %v", major, c.value, n, err)
			}
			f.Abort(nil)
		}
	}
}

// A copy of nothing fixes no headers, be it of a file or not.
func TestCopyOfNothingLeavesTheHeaders(t *testing.T) {
	empty, _ := harness.TempFile(t, 0)
	atEnd, _ := harness.TempFile(t, 100)
	if _, err := atEnd.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	whole, _ := harness.TempFile(t, 100)
	for name, src := range map[string]io.Reader{
		"an empty file": empty, "a file at its end": atEnd, "none of a file": io.LimitReader(whole, 0),
		"less than none of a file": &io.LimitedReader{R: whole, N: -1}, "a reader": strings.NewReader(""),
	} {
		t.Run(name, func(t *testing.T) {
			harness.EachProto(t, func(t *testing.T, p harness.Proto) {
				srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
					if n, err := harness.Flusher(w).ReadFrom(src); n != 0 || err != nil {
						t.Errorf("ReadFrom: %d, %v", n, err)
					}
					w.Header().Set("X-Late", "yes")
					w.WriteHeader(404)
				}))
				s := harness.Open(t, srv, "GET", "/", nil)
				s.Start()
				if r := s.Response(); r.StatusCode != 404 || r.Header.Get("X-Late") != "yes" {
					t.Errorf("got %d, %v", r.StatusCode, r.Header)
				}
				s.Rest()
			})
		})
	}
}

// A sender stands for a server's writer with a ReadFrom of its own. It notes
// what that was given.
type sender struct {
	*harness.Plain
	body bytes.Buffer
	sent int
}

func (s *sender) Write(p []byte) (int, error) { s.Note("write"); return s.body.Write(p) }
func (s *sender) Flush()                      { s.Note("flush") }

func (s *sender) ReadFrom(src io.Reader) (int64, error) {
	lr, ok := src.(*io.LimitedReader)
	if !ok {
		s.Note("%T*", src)
	} else if _, ok := lr.R.(interface{ Stat() (os.FileInfo, error) }); !ok {
		s.Note("%T*", lr.R)
	} else if lr.N > 1<<20<<s.sent {
		s.Note("slice of %d", lr.N)
	} else {
		s.Note("send")
	}
	s.sent++
	return s.body.ReadFrom(src)
}

// The server's own ReadFrom, which can use sendfile, gets a regular file, bare
// or under one limit, in slices; and nothing else.
func TestReadFromKeepsSendfile(t *testing.T) {
	const size = 5 << 20
	limit := func(r io.Reader, n int64) io.Reader { return &io.LimitedReader{R: r, N: n} }
	for _, test := range []struct {
		name string
		opts *flush.Options
		copy func(f *flush.Flusher, file *os.File) (int64, error)
		n    int
		sent bool // by the server's ReadFrom
	}{
		{"file", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return f.ReadFrom(file) }, size, true},
		{"io.Copy", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return io.Copy(f, file) }, size, true},
		{"io.CopyN", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return io.CopyN(f, file, 3<<20) }, 3 << 20, true},
		{"limit", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return f.ReadFrom(limit(file, 3<<20)) }, 3 << 20, true},
		{"limit beyond the end", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return f.ReadFrom(limit(file, size+1)) }, size, true},
		{"limit zero", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return f.ReadFrom(limit(file, 0)) }, 0, false},
		{"limit negative", nil, func(f *flush.Flusher, file *os.File) (int64, error) { return f.ReadFrom(limit(file, -5)) }, 0, false},
		{"two limits", nil, func(f *flush.Flusher, file *os.File) (int64, error) {
			return f.ReadFrom(limit(limit(file, 3<<20), 2<<20))
		}, 2 << 20, false},
		{"reader", nil, func(f *flush.Flusher, file *os.File) (int64, error) {
			return f.ReadFrom(struct{ io.Reader }{file})
		}, size, false},
		{"asynchronous", &flush.Options{Flush: flush.Async}, func(f *flush.Flusher, file *os.File) (int64, error) {
			f.FlushAsync()
			return f.ReadFrom(file)
		}, size, true},
		{"implicit", &flush.Options{Implicit: flush.Wait}, func(f *flush.Flusher, file *os.File) (int64, error) { return f.ReadFrom(file) }, size, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, text := harness.TempFile(t, size)
			s := &sender{Plain: harness.NewPlain()}
			f := flush.New(s, nil, test.opts)
			io.WriteString(f, "first,")
			n, err := test.copy(f, file)
			if n != int64(test.n) || err != nil {
				t.Errorf("got %d, %v, want %d", n, err, test.n)
			}
			io.WriteString(f, ",last")
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			if want := "first," + text[:test.n] + ",last"; s.body.String() != want {
				t.Errorf("%d bytes arrived, or others, want %d", s.body.Len(), len(want))
			}
			if got := f.Stats().Bytes; got != int64(s.body.Len()) {
				t.Errorf("Stats.Bytes %d, want %d", got, s.body.Len())
			}
			calls := s.String()
			if got := strings.Count(calls, "send"); test.sent == (got == 0) {
				t.Errorf("server saw %q", calls)
			}
			if strings.ContainsAny(calls, "*") || strings.Contains(calls, "slice") || test.sent && strings.Count(calls, "write") > 2 {
				t.Errorf("server saw %q", calls)
			}
			if test.name == "implicit" && strings.Contains(calls, "send flush send") || test.name == "implicit" && !strings.Contains(calls, "send flush") {
				t.Errorf("want one flush after the copy, server saw %q", calls)
			}
		})
	}
}

// What a limit around a file still lets through is known after the copy.
func TestReadFromCountsDownTheLimit(t *testing.T) {
	file, _ := harness.TempFile(t, 1000)
	f := flush.New(&sender{Plain: harness.NewPlain()}, nil, nil)
	lr := &io.LimitedReader{R: file, N: 1500}
	if n, err := f.ReadFrom(lr); n != 1000 || err != nil || lr.N != 500 {
		t.Errorf("%d, %v, %d left", n, err, lr.N)
	}
	f.Close()
}

// A file does not cross the declared length, and the error is net/http's.
func TestReadFromContentLength(t *testing.T) {
	file, text := harness.TempFile(t, 1000)
	s := &sender{Plain: harness.NewPlain()}
	f := flush.New(s, nil, nil)
	f.Header().Set("Content-Length", "600")
	if n, err := io.Copy(f, file); n != 600 || err != http.ErrContentLength {
		t.Errorf("%d, %v", n, err)
	}
	f.Close()
	if s.body.String() != text[:600] {
		t.Errorf("%d bytes arrived", s.body.Len())
	}
}

// Over real connections every byte of a file arrives, whatever stands around.
func TestReadFromFile(t *testing.T) {
	file, text := harness.TempFile(t, 3<<20)
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "first,")
			if r.URL.Path == "/async" {
				flush.Flush(w, false)
			}
			io.Copy(w, io.NewSectionReader(file, 0, 10))
			f, err := os.Open(file.Name())
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if n, err := io.Copy(w, f); n != int64(len(text)) || err != nil {
				t.Error(n, err)
			}
			io.WriteString(w, ",last")
		}))
		for _, path := range []string{"/", "/async"} {
			harness.Open(t, srv, "GET", path, nil).ExpectEnd("first," + text[:10] + text + ",last")
		}
	})
}

// A source that trickles is read with neither baton nor deadline held: others
// write and flush meanwhile, and no send timeout runs. With implicit flush on,
// each read arrives when it is made.
func TestReadFromSlowSource(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		t.Run(mode.String(), func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				r, w := io.Pipe()
				broken := errors.New("broken")
				opts := &flush.Options{Implicit: mode, SendTimeout: time.Minute}
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(rw http.ResponseWriter, _ *http.Request) {
					go func() {
						for i := range 3 {
							<-time.After(time.Hour)
							fmt.Fprintf(w, "read%d", i)
						}
						w.CloseWithError(broken)
					}()
					time.AfterFunc(90*time.Minute, func() { io.WriteString(rw, "meanwhile") })
					if n, err := io.Copy(rw, r); n != 15 || err != broken {
						t.Errorf("%d, %v", n, err)
					}
				}), 0)
				begin := time.Now()
				s := harness.Open(t, srv, "GET", "/", nil)
				for _, step := range []struct {
					text string
					at   time.Duration
				}{{"read0", time.Hour}, {"meanwhile", 90 * time.Minute}, {"read1", 2 * time.Hour}, {"read2", 3 * time.Hour}} {
					s.Expect(step.text)
					if at := time.Since(begin); at != step.at {
						t.Errorf("%s after %v", step.text, at)
					}
				}
				s.ExpectEnd("")
			})
		})
	}
}

// A reader that gives bytes together with its error loses neither.
func TestReadFromDataWithError(t *testing.T) {
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, nil)
	if n, err := f.ReadFrom(iotest.DataErrReader(strings.NewReader("all of it"))); n != 9 || err != nil {
		t.Error(n, err)
	}
	if n, err := f.ReadFrom(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("abc")))); n != 1 || err != iotest.ErrTimeout {
		t.Error(n, err)
	}
	f.Close()
	if want := "200 all of ita"; p.String() != want {
		t.Errorf("server saw %q, want %q", p, want)
	}
}

func TestHijack(t *testing.T) {
	for _, before := range []string{"nothing", "header", "write", "flush", "async"} {
		t.Run(before, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := make(chan error, 1)
				opts := &flush.Options{SendTimeout: time.Minute, OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
					f := harness.Flusher(w)
					switch before {
					case "header":
						w.WriteHeader(202)
					case "write":
						io.WriteString(w, "held")
					case "flush":
						io.WriteString(w, "held")
						flush.Flush(w, true)
					case "async":
						io.WriteString(w, "held")
						flush.Flush(w, false)
					}
					conn, rw, err := http.NewResponseController(harness.Unwrapper{ResponseWriter: w}).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					for name, call := range map[string]func() error{
						"Write":            func() error { _, err := w.Write([]byte("late")); return err },
						"empty Write":      func() error { _, err := w.Write(nil); return err },
						"ReadFrom":         func() error { _, err := f.ReadFrom(strings.NewReader("late")); return err },
						"Flush":            func() error { return flush.Flush(w, true) },
						"FlushAsync":       f.FlushAsync,
						"FlushError":       f.FlushError,
						"SendHeaders":      f.SendHeaders,
						"Hijack":           func() error { _, _, err := f.Hijack(); return err },
						"SetReadDeadline":  func() error { return f.SetReadDeadline(time.Now()) },
						"SetWriteDeadline": func() error { return f.SetWriteDeadline(time.Now()) },
						"EnableFullDuplex": f.EnableFullDuplex,
					} {
						if err := call(); !errors.Is(err, http.ErrHijacked) {
							t.Errorf("%s: %v", name, err)
						}
					}
					w.WriteHeader(500)
					f.Flush()
					if f.Available() != 0 {
						t.Error("bytes available")
					}
					<-time.After(2 * time.Hour) // no deadline of ours holds
					io.WriteString(rw, "raw")
					rw.Flush()
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				want := map[string]string{
					"header": "HTTP/1.1 202 Accepted\r\n\r\nraw", "nothing": "raw",
				}[before]
				got, _ := io.ReadAll(s.Reader)
				if want != "" && dropDate(string(got)) != want {
					t.Errorf("client got %q, want %q", got, want)
				}
				if want == "" && (!strings.HasPrefix(string(got), "HTTP/1.1 200 OK\r\n") || !strings.Contains(string(got), "\r\n\r\n4\r\nheld\r\nraw")) {
					t.Errorf("client got %q", got)
				}
				if err := <-closed; err != nil {
					t.Error("OnClose:", err)
				}
			})
		})
	}
}

// dropDate drops the header lines that the server adds to a hijacked response.
func dropDate(s string) string {
	head, body, _ := strings.Cut(s, "\r\n\r\n")
	if body == "" {
		return s
	}
	status, _, _ := strings.Cut(head, "\r\n")
	return status + "\r\n\r\n" + body
}

// A Hijack flushes what was written before. Headers alone it only hands over: the
// server's own Hijack sees to them.
func TestHijackFlushesWhatWasWritten(t *testing.T) {
	for _, test := range []struct {
		do   func(f *flush.Flusher)
		want string
	}{
		{func(*flush.Flusher) {}, "hijack"},
		{func(f *flush.Flusher) { f.WriteHeader(101) }, "101 hijack"},
		{func(f *flush.Flusher) { f.WriteHeader(202) }, "202 hijack"},
		{func(f *flush.Flusher) { f.WriteString("held") }, "200 held flush hijack"},
		{func(f *flush.Flusher) { f.WriteString("held"); f.FlushWait(harness.NoContext) }, "200 held flush flush hijack"},
	} {
		p := harness.NewPlain()
		f := flush.New(plainHijacker{harness.Flushable{Plain: p}}, nil, nil)
		test.do(f)
		if _, _, err := f.Hijack(); err != nil || p.String() != test.want {
			t.Errorf("%v; the server was called for %s, want %s", err, p, test.want)
		}
		f.Close()
	}
}

type plainHijacker struct{ harness.Flushable }

func (p plainHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	p.Note("hijack")
	return nil, nil, nil
}

// Hijack waits for what is being carried, and no longer than SendTimeout.
func TestHijackWaitsForCarrier(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprint(reads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				done := make(chan struct{})
				srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(&flush.Options{SendTimeout: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
					defer close(done)
					begin := time.Now()
					io.WriteString(w, strings.Repeat("x", 5000))
					w.Write(make([]byte, 50_000))
					flush.Flush(w, false)
					conn, _, err := harness.Flusher(w).Hijack()
					if took := time.Since(begin); reads && (err != nil || took != time.Minute-1) || !reads && (!errors.Is(err, flush.ErrTimeout) || took != time.Minute) {
						t.Errorf("%v after %v", err, took)
					}
					if err == nil {
						conn.Close()
					}
				}), 100_000, harness.WrapConn(func(c net.Conn) net.Conn {
					return flushtest.NewConn(c, flushtest.Script{StallAt: 10_000, Release: afterFunc(reads, time.Minute-1)})
				}))
				harness.Open(t, srv, "GET", "/", nil)
				<-done
			})
		})
	}
}

// afterFunc returns a channel that is closed after d, or never.
func afterFunc(ever bool, d time.Duration) chan struct{} {
	c := make(chan struct{})
	if ever {
		time.AfterFunc(d, func() { close(c) })
	}
	return c
}

// A hijacker that refuses leaves the response as it was.
type refusing struct {
	harness.Flushable
	err error
}

func (r refusing) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, r.err }

func TestHijackRefused(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		w   func(*harness.Plain) http.ResponseWriter
		err error
	}{
		{func(p *harness.Plain) http.ResponseWriter { return refusing{harness.Flushable{Plain: p}, broken} }, broken},
		{func(p *harness.Plain) http.ResponseWriter { return harness.Flushable{Plain: p} }, http.ErrNotSupported},
	} {
		p := harness.NewPlain()
		f := flush.New(test.w(p), nil, nil)
		f.WriteString("on, ")
		if _, _, err := f.Hijack(); !errors.Is(err, test.err) {
			t.Errorf("got %v, want %v", err, test.err)
		}
		f.WriteString("goes it")
		if err := f.Close(); err != nil || !strings.Contains(strings.ReplaceAll(p.String(), "flush ", ""), "on,") || !strings.HasSuffix(p.String(), "goes it") {
			t.Errorf("%v, server saw %q", err, p)
		}
	}
}

// A pusher stands for a server with HTTP/2 push.
type pusher struct{ harness.Flushable }

func (p pusher) Push(target string, opts *http.PushOptions) error {
	p.Note("push %s %s", target, opts.Method)
	return nil
}

// The handler's writer pushes where the server's can, and not after the end.
func TestPush(t *testing.T) {
	p := harness.NewPlain()
	var late http.Pusher
	r := httptest.NewRequest("GET", "/", nil)
	r.ProtoMajor, r.ProtoMinor = 2, 0
	harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
		late = w.(http.Pusher)
		if err := late.Push("/style", &http.PushOptions{Method: "HEAD"}); err != nil || p.String() != "push /style HEAD" {
			t.Errorf("%v, server saw %q", err, p)
		}
	}).ServeHTTP(harness.Unwrapper{ResponseWriter: pusher{harness.Flushable{Plain: p}}}, r)
	if err := late.Push("/late", nil); !errors.Is(err, flush.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A stuckPusher stands for a server whose Push takes its time.
type stuckPusher struct {
	harness.Flushable
	begun, release chan struct{}
}

func (p stuckPusher) Push(string, *http.PushOptions) error {
	close(p.begun)
	<-p.release
	p.Note("pushed")
	return nil
}

// The end of the response waits for a Push of another goroutine: the server's
// writer is not touched after it.
func TestEndWaitsForPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := stuckPusher{harness.Flushable{Plain: harness.NewPlain()}, make(chan struct{}), make(chan struct{})}
		r := httptest.NewRequest("GET", "/", nil)
		r.ProtoMajor, r.ProtoMinor = 2, 0
		time.AfterFunc(time.Minute, func() { close(p.release) })
		begin := time.Now()
		harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			go w.(http.Pusher).Push("/style", nil)
			<-p.begun
		}).ServeHTTP(p, r)
		if took := time.Since(begin); took != time.Minute || p.String() != "pushed" {
			t.Errorf("ended after %v, server saw %q", took, p)
		}
	})
}

// What the server cannot do matches http.ErrNotSupported.
func TestUnsupported(t *testing.T) {
	for name, call := range map[string]func(f *flush.Flusher) error{
		"SetReadDeadline":  func(f *flush.Flusher) error { return f.SetReadDeadline(time.Now()) },
		"SetWriteDeadline": func(f *flush.Flusher) error { return f.SetWriteDeadline(time.Now()) },
		"EnableFullDuplex": (*flush.Flusher).EnableFullDuplex,
		"FlushWait":        func(f *flush.Flusher) error { return f.FlushWait(t.Context()) },
		"FlushAsync":       (*flush.Flusher).FlushAsync,
		"FlushError":       (*flush.Flusher).FlushError,
		"SendHeaders":      (*flush.Flusher).SendHeaders,
	} {
		f := flush.New(struct{ http.ResponseWriter }{harness.NewPlain()}, nil, nil)
		if err := call(f); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%s, then Close: %v", name, err)
		}
	}
}

func TestCloseNotify(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		for i := range 4 {
			leaves, closes := i&1 != 0, i&2 != 0
			late := make(chan (<-chan bool), 1)
			srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
				gone := harness.Flusher(w).CloseNotify()
				flush.Flush(w, true)
				if closes {
					harness.Flusher(w).Close() // the handler goes on, and so does the client
				}
				select {
				case <-gone:
					if !leaves {
						t.Error("the client is there")
					}
				case <-time.After(time.Hour):
					if leaves {
						t.Error("the client has left unnoticed")
					}
				}
				late <- gone
				time.AfterFunc(time.Second, func() { late <- harness.Flusher(w).CloseNotify() })
			}), 0)
			s := harness.Open(t, srv, "GET", "/", nil)
			s.Header()
			if leaves {
				s.Leave()
			}
			<-late
			if gone := <-<-late; !gone {
				t.Error("not gone after the end")
			}
			s.Leave()
		}
	})
}

func TestUnwrap(t *testing.T) {
	w := harness.NewPlain()
	if f := flush.New(w, nil, nil); f.Unwrap() != w {
		t.Error("not the server's writer")
	}
}

// A copy that is refused reads nothing of its file: it can go elsewhere.
func TestRefusedCopyLeavesTheFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(f *flush.Flusher)
		want   error
	}{
		{"behind the end", func(f *flush.Flusher) { f.Close() }, flush.ErrClosed},
		{"behind too much", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "3")
			f.WriteString("four")
		}, http.ErrContentLength},
		{"behind too much, through a buffer", func(f *flush.Flusher) {
			f.Header().Set("Content-Length", "3")
			b := f.StartBuffer(nil)
			f.WriteString("four")
			b.Close()
		}, http.ErrContentLength},
	} {
		f := flush.New(sendfileSink{DeadlineSink: harness.DeadlineSink{Sink: harness.NewSink(t)}}, nil, nil)
		c.before(f)
		file, _ := harness.TempFile(t, 100)
		lr := &io.LimitedReader{R: file, N: 50}
		for name, src := range map[string]io.Reader{"file": file, "limited": lr} {
			n, err := f.ReadFrom(src)
			if at, serr := file.Seek(0, io.SeekCurrent); n != 0 || !errors.Is(err, c.want) || at != 0 || serr != nil || lr.N != 50 {
				t.Errorf("%s, %s: %d, %v; the file is at %d (%v), %d left of the limit", c.name, name, n, err, at, serr, lr.N)
			}
		}
		f.Abort(harness.ErrBoom)
	}
}

// A copy that ends with its response says so, as a Write does, though the server has
// taken all of the file; one that an Abort follows is whole.
func TestCopyBesideAnAbort(t *testing.T) {
	for _, during := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := deafSink{harness.DeadlineSink{Sink: harness.NewSink(t)}, make(chan struct{})}
			f := flush.New(s, nil, nil)
			file, _ := harness.TempFile(t, 1000)
			copied := harness.Go(func() error {
				n, err := io.Copy(f, io.LimitReader(file, 1000))
				if n != 1000 {
					t.Errorf("%d bytes copied", n)
				}
				return err
			})
			synctest.Wait()
			want := s.end(f, during)
			if err := <-copied; !errors.Is(err, want) {
				t.Errorf("aborted meanwhile %t: %v", during, err)
			}
			f.Abort(harness.ErrBoom)
		})
	}
}

// A large Write that ends with its response says so, though the server has taken all
// that it was given.
func TestLargeWriteBesideAnAbort(t *testing.T) {
	for _, during := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := deafSink{harness.DeadlineSink{Sink: harness.NewSink(t)}, make(chan struct{})}
			const high, size = 64 << 10, 64<<10 + 20_000 // what is beyond high goes to the server at once
			f := flush.New(s, nil, &flush.Options{Flush: flush.Async, MaxPending: high})
			harness.Must(t, f.FlushAsync())
			wrote := harness.WriteBehind(f, size)
			want := s.end(f, during)
			if got := <-wrote; !errors.Is(got.Err, want) || (got.N == size) == during {
				t.Errorf("aborted meanwhile %t: %+v", during, got)
			}
			f.Abort(harness.ErrBoom)
		})
	}
}

// A deafSink is a server whose large calls no deadline ends.
type deafSink struct {
	harness.DeadlineSink
	over chan struct{} // closed: they return
}

// end has the calls return, behind an Abort if it aborts, and returns its cause.
func (s deafSink) end(f *flush.Flusher, aborts bool) (cause error) {
	if aborts {
		cause = harness.ErrBoom
		go f.Abort(cause)
		synctest.Wait()
	}
	close(s.over)
	return cause
}

func (s deafSink) ReadFrom(src io.Reader) (int64, error) {
	<-s.over
	return io.Copy(io.Discard, src)
}

func (s deafSink) Write(p []byte) (int, error) {
	if len(p) < 10_000 {
		return s.DeadlineSink.Write(p)
	}
	<-s.over
	return len(p), nil
}
