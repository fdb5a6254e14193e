package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/flushdebug"
)

const debugPicture = "../docs/flushdebug.png"

// A stalled writer takes nothing until the test is over.
type stalled struct {
	*httptest.ResponseRecorder
	over <-chan struct{}
}

func (s stalled) Write(p []byte) (int, error) {
	<-s.over
	return len(p), nil
}

// debugSite is the page of flushdebug over responses as a busy service has them.
func debugSite(t *testing.T) string {
	t.Helper()
	over := make(chan struct{})
	group := new(flush.Group)
	opts := &flush.Options{Group: group, Budget: flush.NewBudget(8<<20, 16<<20), SendTimeout: -1}
	var all []*flush.Flusher
	for i, r := range []struct {
		path       string
		sent, held int
	}{
		{"/events", 48_200, 0}, {"/v1/chat/completions", 9_100, 0}, {"/events", 51_700, 41_300}, {"/export/orders-of-the-last-quarter.csv", 8_400_000, 63_000},
		{"/events", 47_900, 0}, {"/events", 12_000, 700}, {"/build/4711/log", 310_000, 0}, {"/events", 3_100, 0},
	} {
		req := httptest.NewRequest("GET", r.path, nil)
		req.RemoteAddr = fmt.Sprintf("203.0.113.%d:%d", 7+31*i, 40_000+977*i)
		w := http.ResponseWriter(httptest.NewRecorder())
		if r.held > 0 {
			w = stalled{httptest.NewRecorder(), over}
		}
		f := flush.New(w, req, opts)
		if r.held > 0 {
			f.TryWrite(make([]byte, r.held))
			f.FlushAsync()
		} else {
			f.Write(make([]byte, r.sent))
			f.FlushWait(t.Context())
		}
		all = append(all, f)
	}
	srv := httptest.NewServer(flushdebug.Handler(group))
	t.Cleanup(func() {
		srv.Close()
		close(over)
		for _, f := range all {
			f.Close()
		}
	})
	return srv.URL
}

// TestDebugPage looks at the page of flushdebug at a desk and on a phone, in the
// light and in the dark. It needs no script.
func TestDebugPage(t *testing.T) {
	address := debugSite(t)
	ctx := browser(t)
	for _, width := range []int64{1024, 390} {
		for _, scheme := range []string{"light", "dark"} {
			look(t, ctx, width, 844, scheme)
			open(t, ctx, address, `document.readyState == "complete" && document.title == "8 responses"`)
			found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](faults))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				t.Errorf("%d wide, %s: %s", width, scheme, f)
			}
			scripts, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.scripts.length`))
			if err != nil || scripts > 0 {
				t.Errorf("%d scripts, %v", scripts, err)
			}
		}
	}
	if *update {
		time.Sleep(3 * time.Second) // so that somebody is behind
		open(t, ctx, address, `document.readyState == "complete"`)
		shoot(t, ctx, debugPicture)
	}
}
