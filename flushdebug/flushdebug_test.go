package flushdebug_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushdebug"
	"github.com/fa492104/flush/flushtest"
)

func get(t *testing.T, g *flush.Group, method, target string) *httptest.ResponseRecorder {
	t.Helper()
	rec := httptest.NewRecorder()
	flushdebug.Handler(g).ServeHTTP(rec, httptest.NewRequest(method, target, nil))
	return rec
}

type answer struct {
	Live, Behind, Detached int
	Bytes, Held, Kernel    int64
	Budgets                []flush.BudgetStats
	Responses              []struct {
		Method, Path, Client string
		Age, Behind          float64
		Bytes, Held, Flushes int64
		Status               int
		Kernel               *int64
		Detached             bool
		Failure              string
	}
}

func ask(t *testing.T, g *flush.Group) (a answer) {
	t.Helper()
	rec := get(t, g, "GET", "/?format=json")
	if got := rec.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %s", got)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// One that reads and one that does not, over a real server with a clock of its
// own: who is behind, for how long, and with what.
func TestWhoIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flush.Group
		h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(make([]byte, 100))
			flush.Flush(w, true)
			<-r.Context().Done()
		}), &flush.Options{Group: &g, Budget: flush.NewBudget(0, 1<<20), SendTimeout: -1})
		srv := flushtest.Serve(t, h, &flushtest.ServeOptions{Capacity: 4096})
		client := srv.Client()
		var bodies []io.ReadCloser
		for _, path := range []string{"/reads?secret=1", "/stuck"} {
			resp, err := client.Get(srv.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			io.ReadFull(resp.Body, make([]byte, 100))
			bodies = append(bodies, resp.Body)
		}
		synctest.Wait()
		for i := range 20 {
			g.Broadcast(make([]byte, 3000))
			io.ReadFull(bodies[0], make([]byte, 3000))
			if i == 0 {
				time.Sleep(time.Minute)
			}
		}
		synctest.Wait()
		time.Sleep(time.Hour)
		a := ask(t, &g)
		if a.Live != 2 || a.Behind != 1 || len(a.Responses) != 2 || a.Held == 0 {
			t.Fatalf("%+v", a)
		}
		slow, quick := a.Responses[0], a.Responses[1]
		if slow.Path != "/stuck" || slow.Behind < 3600 || slow.Behind > 3660 || slow.Held != a.Held || slow.Age != 3660 {
			t.Errorf("the slow one: %+v", slow)
		}
		if quick.Path != "/reads" || quick.Behind != 0 || quick.Held != 0 || quick.Bytes != 60100 || quick.Method != "GET" || quick.Client == "" || quick.Status != 200 {
			t.Errorf("the quick one: %+v", quick)
		}
		if len(a.Budgets) != 1 || a.Budgets[0].Held < a.Held {
			t.Errorf("%+v", a.Budgets)
		}
		text := get(t, &g, "GET", "/").Body.String()
		for _, want := range []string{"2 responses, 1 behind", "GET /stuck", "GET /reads", "prefers-color-scheme: dark", "width=device-width"} {
			if !strings.Contains(text, want) {
				t.Errorf("the page does not say %q", want)
			}
		}
		if strings.Contains(text, "secret") || strings.Contains(text, "<script") {
			t.Error("the page shows a query, or has a script")
		}
		if at := strings.Index(text, "/stuck"); at > strings.Index(text, "/reads") {
			t.Error("the worst does not come first")
		}
		for _, b := range bodies {
			b.Close()
		}
		client.CloseIdleConnections()
	})
}

// 10,000 streams fit into a page of bounded size, with the worst of them.
func TestManyStreams(t *testing.T) {
	var g flush.Group
	const n = 10_000
	fs := make([]*flush.Flusher, n)
	for i := range fs {
		r := httptest.NewRequest("GET", fmt.Sprintf("/%d/%s", i, strings.Repeat("long/", 100)), nil)
		fs[i] = flush.New(httptest.NewRecorder(), r, nil)
		if err := g.Add(fs[i]); err != nil {
			t.Fatal(err)
		}
	}
	fs[7777].WriteString("held")
	page := get(t, &g, "GET", "/")
	if size := page.Body.Len(); size > 200<<10 {
		t.Errorf("the page has %d bytes", size)
	}
	for _, want := range []string{"10000 responses, 1 behind", "/7777/", "The 200 worst of 10000"} {
		if !strings.Contains(page.Body.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	a := ask(t, &g)
	if a.Live != n || a.Held != 4 || len(a.Responses) != 200 || !strings.HasPrefix(a.Responses[0].Path, "/7777/long/") || len(a.Responses[0].Path) > 96 {
		t.Errorf("%d live, %d held, %d listed, first %+v", a.Live, a.Held, len(a.Responses), a.Responses[0])
	}
	for _, f := range fs {
		f.Close()
	}
}

// What others put into a request cannot do anything to the page.
func TestHostileRequest(t *testing.T) {
	var g flush.Group
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path, r.RemoteAddr, r.Method = "/<script>alert(1)</script>\xff", `"><b>`, "<X>"
	f := flush.New(httptest.NewRecorder(), r, nil)
	defer f.Close()
	g.Add(f)
	text := get(t, &g, "GET", "/").Body.String()
	for _, bad := range []string{"<script", "<b>", "<X>"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	ask(t, &g)
}

func TestHandlerReadsOnly(t *testing.T) {
	for _, g := range []*flush.Group{nil, new(flush.Group)} {
		if rec := get(t, g, "GET", "/"); rec.Code != 200 || !strings.Contains(rec.Body.String(), "0 responses") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if a := ask(t, g); a.Live != 0 || a.Responses == nil {
			t.Errorf("%+v", a)
		}
		for _, method := range []string{"POST", "DELETE", "PUT"} {
			if rec := get(t, g, method, "/"); rec.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s: %d", method, rec.Code)
			}
		}
		if rec := get(t, g, "HEAD", "/"); rec.Code != 200 {
			t.Errorf("HEAD: %d", rec.Code)
		}
	}
}

// A response that has failed and has not ended says why; New's without a request
// and an output are listed, too.
func TestOtherResponses(t *testing.T) {
	var g flush.Group
	f := flush.NewOutput(failing{}, &flush.Options{Group: &g})
	f.WriteString("x")
	f.FlushWait(t.Context())
	defer f.Close()
	a := ask(t, &g)
	if len(a.Responses) != 1 || !strings.Contains(a.Responses[0].Failure, "broken") {
		t.Fatalf("%+v", a)
	}
	text := get(t, &g, "GET", "/").Body.String()
	if !strings.Contains(text, "broken") || !strings.Contains(text, "(no request)") {
		t.Error(text)
	}
	if !slices.Contains(strings.Fields(text), "–") && !strings.Contains(text, ">–") {
		t.Error("what is not known is not a dash")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, fmt.Errorf("broken") }

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1 << 62: "4.6 EB"} {
		if got := flushdebug.Size(n); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
	for s, want := range map[float64]string{0: "–", 1e-9: "1 ms", 0.25: "250 ms", 1: "1.0 s", 99.9: "99.9 s", 100: "0:01:40", 86_400: "24:00:00", 260_000: "3 d"} {
		if got := flushdebug.Span(s); got != want {
			t.Errorf("%v seconds: %s, want %s", s, got, want)
		}
	}
}
