package flushtest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushtest"
)

func TestRecorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r flushtest.Recorder
		r.Header().Set("Link", "</x>")
		r.WriteHeader(103)
		r.Header().Set("Content-Type", "text/plain")
		time.Sleep(time.Second)
		r.WriteHeader(201)
		r.WriteHeader(500)
		io.WriteString(&r, "one")
		io.WriteString(&r, "")
		r.Flush()
		io.WriteString(&r, "two ")
		io.WriteString(&r, "three")
		if err := r.FlushError(); err != nil {
			t.Error(err)
		}
		r.Flush()
		r.Expect(t, "headers 103", "headers 201", `bytes "one"`, "flush", `bytes "two "`, `bytes "three"`, "flush", "flush")
		r.ExpectFlushed(t, "one", "two three")
		io.WriteString(&r, "rest")
		if got := r.Unflushed(); got != "rest" {
			t.Errorf("unflushed: %q", got)
		}
		if got := r.Flushed(); len(got) != 2 {
			t.Errorf("flushed: %q", got)
		}
		e := r.Events()
		if e[0].At != 0 || e[1].At != time.Second || e[1].Header.Get("Content-Type") != "text/plain" || e[0].Header.Get("Content-Type") != "" {
			t.Errorf("%+v", e[:2])
		}
		if s := r.String(); !strings.Contains(s, "1s  headers 201\n") || !strings.Contains(s, "Content-Type: text/plain\n") {
			t.Errorf("%s", s)
		}
	})
}

func TestRecorderIsAServer(t *testing.T) {
	var r flushtest.Recorder
	r.Flush()
	r.Expect(t, "headers 200", "flush")
	for _, code := range []int{101, 204, 304} {
		var r flushtest.Recorder
		r.WriteHeader(code)
		if _, err := io.WriteString(&r, "x"); err != http.ErrBodyNotAllowed {
			t.Errorf("%d: %v", code, err)
		}
		r.Expect(t, fmt.Sprintf("headers %d", code))
	}
	var wg sync.WaitGroup
	var all flushtest.Recorder
	for range 10 {
		wg.Go(func() { io.WriteString(&all, "x"); all.Flush() })
	}
	wg.Wait()
	if got := strings.Join(all.Flushed(), ""); got != "xxxxxxxxxx" {
		t.Errorf("%q", got)
	}
}

// A failed testing.TB that the test goes on after.
type failed struct {
	testing.TB
	text string
}

func (f *failed) Helper()                           {}
func (f *failed) Errorf(format string, args ...any) { f.text += fmt.Sprintf(format, args...) }

func TestRecorderFailsWell(t *testing.T) {
	var r flushtest.Recorder
	io.WriteString(&r, "one")
	r.Flush()
	io.WriteString(&r, "two")
	for _, test := range []struct {
		check func(testing.TB)
		says  string
	}{
		{func(t testing.TB) { r.Expect(t, "headers 200", "flush") }, `event 2 is bytes "one", want flush`},
		{func(t testing.TB) { r.Expect(t, "headers 200", `bytes "one"`, "flush") }, `event 4 is bytes "two", want nothing more`},
		{func(t testing.TB) { r.Expect(t, "headers 200", `bytes "one"`, "flush", `bytes "two"`, "flush") }, "event 5 is nothing more, want flush"},
		{func(t testing.TB) { r.ExpectFlushed(t, "onetwo") }, "flushed piece 1 is one, want onetwo"},
		{func(t testing.TB) { r.ExpectFlushed(t, "one") }, `"two" was written and not flushed`},
	} {
		f := &failed{TB: t}
		test.check(f)
		if !strings.Contains(f.text, test.says) || !strings.Contains(f.text, `bytes "two"`) {
			t.Errorf("%q, want %q and the timeline", f.text, test.says)
		}
	}
}

func TestEventString(t *testing.T) {
	if s := flushtest.EventKind(9).String(); s != "EventKind(9)" {
		t.Error(s)
	}
	if s := flushtest.Headers.String() + flushtest.Bytes.String() + flushtest.Flush.String(); s != "headersbytesflush" {
		t.Error(s)
	}
}

func ExampleRecorder() {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := range 2 {
			fmt.Fprintln(w, "event", i)
			flush.Flush(w, true)
		}
	})
	var rec flushtest.Recorder
	flush.NewHandler(h, nil).ServeHTTP(&rec, httptest.NewRequest("GET", "/", nil))
	for _, e := range rec.Events() {
		fmt.Println(e)
	}
	// Output:
	// headers 200
	// bytes "event 0\n"
	// flush
	// bytes "event 1\n"
	// flush
}
