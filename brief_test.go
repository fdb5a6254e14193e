package flush_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// nearlyBrief are handlers of which most take the short way at the end of a
// response. The others are almost like them.
var nearlyBrief = map[string]http.HandlerFunc{
	"a write":    func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") },
	"two writes": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello"); io.WriteString(w, "you") },
	"nothing":    func(w http.ResponseWriter, r *http.Request) {},
	"headers": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-A", "1")
		io.WriteString(w, "hello")
	},
	"a status": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "hello")
	},
	"no body allowed": func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotModified)
		io.WriteString(w, "hello")
	},
	"a header of two values": func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-A"] = []string{"1", "2"}
		io.WriteString(w, "hello")
	},
	"a header switched off": func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		io.WriteString(w, "hello")
	},
	"many headers": func(w http.ResponseWriter, r *http.Request) {
		for i := range 12 {
			w.Header().Set(fmt.Sprint("X-", i), "1")
		}
		io.WriteString(w, "hello")
	},
	"as many headers as are noted": func(w http.ResponseWriter, r *http.Request) {
		for i := range 8 {
			w.Header().Set(fmt.Sprint("X-", i), "1")
		}
		io.WriteString(w, "hello")
		w.Header().Set("X-0", "2")
	},
	"a header set too late": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		io.WriteString(w, "hello")
		w.Header().Set("X-B", "2")
	},
	"a header changed too late": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		io.WriteString(w, "hello")
		w.Header()["X-A"][0] = "2"
	},
	"a header exchanged too late": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		io.WriteString(w, "hello")
		w.Header().Del("X-A")
		w.Header().Set("X-B", "1")
	},
	"a length": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "hello")
	},
	"no length": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "five")
		io.WriteString(w, "hello")
	},
	"the end of the connection": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "hello")
	},
	"identity": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Transfer-Encoding", "identity")
		io.WriteString(w, "hello")
	},
	"a declared trailer": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-End")
		io.WriteString(w, "hello")
		w.Header().Set("X-End", "1")
	},
	"a late trailer": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		io.WriteString(w, "hello")
		w.Header().Set(http.TrailerPrefix+"X-End", "1")
	},
	"an early trailer": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(http.TrailerPrefix+"X-End", "1")
		io.WriteString(w, "hello")
	},
	"as much as net/http measures": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		io.WriteString(w, strings.Repeat("x", 2048))
	},
	"the body read": func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		io.WriteString(w, "hello")
	},
}

var dateHeader = regexp.MustCompile(`Date: [^\r]*\r\n`)

// The short way sends what the long way sends, and what is told of the response is
// the same on both. An interval is one of the things that end the short way.
func TestBriefResponses(t *testing.T) {
	requests := map[string]string{
		"HTTP/1.1": "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"HTTP/1.0": "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"HEAD":     "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST":     "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	}
	for name, h := range nearlyBrief {
		for kind, request := range requests {
			t.Run(name+" "+kind, func(t *testing.T) {
				short, told := answered(t, h, request, &flush.Options{})
				long, toldLong := answered(t, h, request, &flush.Options{FlushInterval: time.Hour})
				if short != long {
					t.Errorf("the short way sends\n%q\nthe long way\n%q", short, long)
				}
				if told != toldLong {
					t.Errorf("the short way tells\n%s\nthe long way\n%s", told, toldLong)
				}
			})
		}
	}
}

// answer returns what a server sends for request, twice on one connection.
func answer(t *testing.T, h http.Handler, request string) string {
	s := harness.ServeMemory(t, harness.HTTP1, h, 1<<20)
	c, err := s.Dial(t.Context())
	harness.Must(t, err)
	harness.MustWrite(t, c, request+strings.Replace(request, "\r\n", "\r\nConnection: close\r\n", 1))
	p, err := io.ReadAll(c)
	harness.Must(t, err)
	return dateHeader.ReplaceAllString(string(p), "")
}

// answered is answer with this package, and what is told of the first response:
// to OnClose, by the context, and to who still writes after the end.
func answered(t *testing.T, h http.HandlerFunc, request string, opts *flush.Options) (sent, told string) {
	var b strings.Builder
	responses := 0
	var kept struct {
		w   http.ResponseWriter
		f   *flush.Flusher
		ctx context.Context
	}
	opts.OnClose = func(r *http.Request, s flush.Stats, err error) {
		if responses++; responses > 1 {
			return
		}
		s.Began = time.Time{}
		fmt.Fprintln(&b, s, err, flush.Cause(r.Context()), r.Context().Err())
	}
	wrapped := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kept.w == nil {
			kept.w, kept.ctx = w, r.Context()
			kept.f, _ = flush.From(w)
		}
		h(w, r)
	}), opts)
	first := true
	sent = answer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wrapped.ServeHTTP(w, r)
		if !first {
			return
		}
		first = false
		_, werr := io.WriteString(kept.w, "late")
		_, found := flush.FromContext(kept.ctx)
		fmt.Fprintln(&b, werr, kept.f.FlushAsync(), kept.f.Close(), kept.f.Err(), kept.f.HeadersSent(), kept.f.Buffered())
		fmt.Fprintln(&b, found, flush.Cause(kept.ctx), kept.ctx.Err(), context.Cause(kept.ctx))
		kept.w.Header().Set("X-Late", "1")
	}), request)
	return sent, b.String()
}
