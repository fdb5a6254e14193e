package flush_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// The model of a response: what a correct Flusher has accepted, fixed and
// promised, with no idea how it is done.
type responseModel struct {
	accepted []byte // since the last Clean
	total    int64  // accepted in all
	flushed  int    // everything before this position is to be flushed
	calls    int64  // flushes asked for
	fixed    bool
	status   int
	header   string // the value of X-Test when headers were fixed
	open     string // its value now
	ended    bool
	aborted  bool
}

func (m *responseModel) fix(status int) {
	if !m.fixed {
		m.fixed, m.status, m.header = true, status, m.open
	}
}

func (m *responseModel) write(p string) {
	m.fix(http.StatusOK)
	m.accepted = append(m.accepted, p...)
	m.total += int64(len(p))
}

func (m *responseModel) flush() {
	m.fix(http.StatusOK)
	m.flushed = len(m.accepted)
	m.calls++
}

func (m *responseModel) clean() {
	m.accepted, m.flushed, m.fixed, m.status = nil, 0, false, 0
}

// FuzzResponse does random operations, one at a time, on a server's writer that
// may be slow, without deadlines, or fail at an offset, and compares results,
// the bytes and the flushes with the model.
func FuzzResponse(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, []byte("w\x10aw\x20aw\x01s"))
	f.Add([]byte{1, 2, 1, 0}, []byte("hw\x10aw\x20w\x05arsc"))
	f.Add([]byte{2, 1, 0, 7}, []byte("w\xffw\xffaw\xfffsW"))
	f.Add([]byte{3, 3, 2, 0}, []byte("w\x05Cw\x05HsSsx"))
	f.Add([]byte{0, 0, 1, 0}, []byte("hw\x01asw\x7faw\x03aw\x01rs"))
	f.Add([]byte{0, 3, 1, 1}, []byte("w\x64aFFFFFFFF")) // a carrier fails beside FlushError
	f.Add([]byte{5, 1, 0, 30}, []byte("e2w\x05Cx1w\x09aIw\x03iw\x30n"))
	f.Fuzz(func(t *testing.T, setup, ops []byte) {
		if len(setup) < 4 || len(ops) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) { fuzzResponse(t, setup, ops) })
	})
}

func fuzzResponse(t *testing.T, setup, ops []byte) {
	buffer := []int{0, -1, 1, 10, 4064, 5000}[int(setup[0])%6]
	opts := &flush.Options{
		BufferSize: buffer,
		MaxPending: []int{0, 1, 20, 4096, 8128}[int(setup[1])%5],
		Flush:      flush.Mode(setup[2] % 4),
	}
	s := harness.NewSink(t)
	w := http.ResponseWriter(harness.DeadlineSink{Sink: s})
	if setup[2]&4 != 0 {
		w = s
	}
	broken := errors.New("broken")
	failAt := -1
	if setup[3] > 0 {
		failAt = int(setup[3]) * 50
		s.Fault = func(p []byte, at int) (int, error) {
			if at+len(p) <= failAt {
				return -1, nil
			}
			return max(failAt-at, 0), broken
		}
	}
	f := flush.New(w, httptest.NewRequest("GET", "/", nil), opts)
	mark := f.Available()

	var m responseModel
	implicit := flush.Off
	held := false
	open := func() { // lets the network go on: what must wait can end
		if held {
			s.Release()
			held = false
		}
	}
	// result checks the error of an operation that returned n of want.
	result := func(what string, n, want int, err error) {
		t.Helper()
		switch {
		case m.ended:
			if n != 0 || !errors.Is(err, flush.ErrClosed) {
				t.Fatalf("%s after the end: %d, %v", what, n, err)
			}
		case f.Err() != nil:
			if failAt < 0 || !errors.Is(f.Err(), flush.ErrClientGone) || !errors.Is(f.Err(), broken) {
				t.Fatalf("failure %v", f.Err())
			}
			if err != nil && err != f.Err() {
				t.Fatalf("%s: %v, failure %v", what, err, f.Err())
			}
			if n < want && err == nil {
				t.Fatalf("%s: %d of %d without an error", what, n, want)
			}
		case n != want || err != nil:
			t.Fatalf("%s: %d of %d, %v", what, n, want, err)
		}
	}
	wrote := func(what, p string, n int, err error) {
		t.Helper()
		result(what, n, len(p), err)
		if m.ended || n == 0 {
			return
		}
		m.write(p[:n])
		if implicit != flush.Off {
			m.flushed = len(m.accepted)
			m.calls++
		}
	}
	check := func() {
		t.Helper()
		st := f.Stats()
		got := s.Body() // a carrier may be at work between the two
		if !strings.HasPrefix(string(m.accepted), got) {
			t.Fatalf("sent %q, accepted %q", harness.Clip([]byte(got)), harness.Clip(m.accepted))
		}
		if n := f.Buffered(); n > mark || st.MaxPending > mark {
			t.Fatalf("%d bytes held, most %d, over %d", n, st.MaxPending, mark)
		}
		if st.Bytes > int64(len(got)) || f.Err() == nil && st.Lost != 0 {
			t.Fatalf("%d sent, %+v", len(got), st)
		}
		s.Mu.Lock()
		defer s.Mu.Unlock()
		if s.Status > 0 && (s.Status != m.status || s.Sent.Get("X-Test") != m.header) {
			t.Fatalf("sent %d %q, want %d %q", s.Status, s.Sent.Get("X-Test"), m.status, m.header)
		} else if len(got) > 0 && s.Status == 0 {
			t.Fatal("body without headers")
		}
	}
	settled := func() { // nothing is under way
		t.Helper()
		open()
		synctest.Wait()
		check()
		if n := f.Stats().Bytes; n != int64(len(s.Body())) {
			t.Fatalf("%d bytes sent, %d counted", len(s.Body()), n)
		}
		if f.Err() != nil || m.ended {
			return
		}
		if n := len(s.Body()); f.Buffered() != len(m.accepted)-n || f.Buffered() > 0 && f.Buffered() >= max(buffer, map[bool]int{true: 4096, false: 1}[buffer == 0]) {
			t.Fatalf("%d accepted, %d sent, %d held", len(m.accepted), n, f.Buffered())
		}
		if at, _ := s.LastFlush(); m.calls > 0 && at < m.flushed {
			t.Fatalf("%d to be flushed, %d were", m.flushed, at)
		}
	}

	for i := 0; i < len(ops); i++ {
		arg := func() int {
			if i+1 < len(ops) {
				i++
				return int(ops[i])
			}
			return 0
		}
		text := func(size int) string { return strings.Repeat(string(rune('a'+i%26)), size) }
		// A call may have to wait for the network, or for room: see to it that
		// it comes, later.
		if held {
			time.AfterFunc(time.Second, s.Release)
		}
		before := time.Now()
		switch op := ops[i]; op {
		case 'w':
			p := text(arg())
			n, err := f.Write([]byte(p))
			wrote("Write", p, n, err)
		case 'W':
			p := text(arg() * 100)
			n, err := f.WriteString(p)
			wrote("WriteString", p, n, err)
		case 'R':
			p := text(arg() * 50)
			n, err := f.ReadFrom(strings.NewReader(p))
			if !m.ended || len(p) > 0 {
				wrote("ReadFrom", p, int(n), err)
			}
		case 'a':
			err := f.FlushAsync()
			result("FlushAsync", 0, 0, err)
			if !m.ended {
				m.flush()
			}
			if took := time.Since(before); took != 0 {
				t.Fatalf("FlushAsync took %v", took)
			}
		case 'f':
			err := f.FlushWait(harness.NoContext)
			result("FlushWait", 0, 0, err)
			if !m.ended {
				m.flush()
			}
			if at, _ := s.LastFlush(); err == nil && (at < m.flushed || len(s.Body()) < m.flushed) {
				t.Fatalf("FlushWait returned with %d of %d flushed", at, m.flushed)
			}
		case 'F':
			was := f.Err() // a carrier may fail before the call, or behind it
			err := f.FlushError()
			if opts.Flush == flush.Off {
				if now := f.Err(); err != was && err != now {
					t.Fatalf("FlushError does nothing, and says %v, failure %v", err, now)
				}
				break
			}
			result("FlushError", 0, 0, err)
			if !m.ended {
				m.flush()
			}
		case 'e':
			err := harness.EndedWait(f)
			result("FlushWait with an ended context", 0, 0, err)
			if !m.ended {
				m.flush()
			}
			if took := time.Since(before); took != 0 {
				t.Fatalf("a FlushWait whose context has ended took %v", took)
			}
		case 'C':
			sent := f.HeadersSent()
			switch err := f.Clean(); {
			case err == nil && !sent && !m.ended && f.Err() == nil:
				m.clean()
			case errors.Is(err, flush.ErrHeadersSent) && f.HeadersSent():
			case m.ended && errors.Is(err, flush.ErrClosed):
			case f.Err() != nil && err == f.Err():
			default:
				t.Fatalf("Clean: %v, headers sent: %v", err, sent)
			}
		case 'I', 'J', 'i':
			implicit = map[byte]flush.Mode{'I': flush.Async, 'J': flush.Wait, 'i': flush.Off}[op]
			f.SetImplicit(implicit)
		case 'S':
			err := f.SendHeaders()
			result("SendHeaders", 0, 0, err)
			if !m.ended {
				m.fix(http.StatusOK)
			}
			if err == nil && !f.HeadersSent() {
				t.Fatal("SendHeaders has not sent headers")
			}
		case 'H':
			code := 200 + arg()%4 // bodies are allowed with all of them
			f.WriteHeader(code)
			if !m.ended && f.Err() == nil {
				m.fix(code)
			}
		case 'x':
			m.open = fmt.Sprint(arg())
			f.Header().Set("X-Test", m.open)
		case 'h':
			if !held {
				s.Hold(len(s.Body()) + arg())
				held = true
			}
		case 'r':
			open()
		case 's':
			settled()
		case 'n':
			f.Abort(nil)
			m.aborted = m.aborted || !m.ended
			m.ended = true
		case 'c':
			err := f.Close()
			if m.aborted && err == nil {
				t.Fatal("Close of an aborted response succeeded")
			}
			m.ended = true
		}
		if s.Held == nil {
			held = false
		}
		check()
	}
	settled()
	lost := f.Close()
	check()
	if st := f.Stats(); lost == nil {
		if s.Body() != string(m.accepted) || st.Lost != 0 {
			t.Fatalf("closed, %d of %d bytes sent, %+v", len(s.Body()), len(m.accepted), st)
		}
	} else if st.Bytes+st.Lost != int64(len(m.accepted)) {
		t.Fatalf("%d accepted, %+v", len(m.accepted), st)
	}
	if f.Stats().Pushes > f.Stats().Flushes {
		t.Fatalf("%+v", f.Stats())
	}
}
