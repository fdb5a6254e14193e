package docs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// The functions on top of this file are what the documents show, word for word.
// Below they are tried with events around and far above MaxPending.

func liveEvents(w http.ResponseWriter, r *http.Request) {
	f, _ := flush.From(w) // not nil: Install has wrapped this handler
	w.Header().Set("Content-Type", "text/event-stream")
	f.FlushAsync() // the headers: the browser knows that it is connected
	messages := news(r.Context())
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	for {
		event := ": still here\n\n"
		select {
		case <-r.Context().Done(): // the client has left, or the server stops: a recipe says goodbye
			return
		case <-beat.C:
		case m := <-messages:
			event = "data: " + m + "\n\n"
		}
		if err := f.TryWrite([]byte(event)); err != nil {
			f.Abort(err) // too far behind: it comes back, with Last-Event-ID
			return
		}
		f.FlushAsync()
	}
}

// news is where the events come from.
var news func(context.Context) <-chan string

// miss is what docs/slow-clients.md does with an event.
func miss(f *flush.Flusher, event []byte, replaceable bool) {
	switch err := f.TryWrite(event); {
	case errors.Is(err, flush.ErrNoRoom) && replaceable:
		// this client misses it
	case err != nil:
		f.Abort(err)
		return
	}
	f.FlushAsync()
}

// errorPage is from docs/headers.md.
func errorPage(w http.ResponseWriter, render func(http.ResponseWriter) error) {
	f, _ := flush.From(w) // not nil: NewHandler is around this handler
	if err := render(w); err != nil {
		if f.Clean() != nil { // a part has gone: it must not be taken for the whole
			f.Abort(err)
			return
		}
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
	}
}

// shout is from docs/buffers.md, with its text.
func shout(w http.ResponseWriter) {
	f, _ := flush.From(w) // nil and false: no NewHandler around this
	b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
		return bytes.ToUpper(p), nil
	}})
	fmt.Fprintln(w, "shouted")
	if err := b.Close(); err != nil { // through the filter and down one level
		log.Print(err)
	}
}

// gzipAll is from docs/buffers.md.
func gzipAll() *flush.Options {
	opts := &flush.Options{OnStart: func(f *flush.Flusher, r *http.Request) {
		f.StartBuffer(&flush.BufferOptions{Filter: flush.Gzip(f, r, -1), ChunkSize: 4096, FollowFlush: true})
	}}
	return opts
}

// shownCode are the pieces of the documents that stand above: from where on, and
// up to which line.
var shownCode = []struct{ doc, from, to string }{
	{"README.md", "func liveEvents(", "\n}\n"},
	{"docs/slow-clients.md", "switch err := f.TryWrite", "```"},
	{"docs/headers.md", "f, _ := flush.From(w)", "```"},
	{"docs/buffers.md", "f, _ := flush.From(w)", "```"},
	{"docs/buffers.md", "opts := &flush.Options", "```"},
	{"docs/proxies-and-browsers.md", "opts := &flush.Options", "```"},
}

// What the documents show is what is tried here.
func TestDocumentCodeIsTried(t *testing.T) {
	indent := regexp.MustCompile(`(?m)^\t+`)
	source, err := os.ReadFile("internal/suite/docs/code_test.go")
	if err != nil {
		t.Fatal(err)
	}
	texts := documents(t)
	for _, s := range shownCode {
		_, code, ok := strings.Cut(texts[s.doc], s.from)
		code, _, ends := strings.Cut(code, s.to)
		if !ok || !ends {
			t.Errorf("%s does not show %q", s.doc, s.from)
			continue
		}
		if code = s.from + code; !strings.Contains(indent.ReplaceAllString(string(source), ""), indent.ReplaceAllString(code, "")) {
			t.Errorf("%s shows what is not tried:\n%s", s.doc, code)
		}
	}
}

const pending = 64 << 10 // Options.MaxPending, unless set

// hostileSizes are lengths of events.
var hostileSizes = []int{9, 4096, pending, pending + 1, 10 * pending}

// An event of any size reaches a client that has taken everything before it.
func TestReadmeEventsReachAClientThatKeepsUp(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		messages := make(chan string)
		news = func(context.Context) <-chan string { return messages }
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, liveEvents), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		if got := s.Header().Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("Content-Type %q", got)
		}
		for _, size := range hostileSizes {
			m := strings.Repeat("x", size-len("data: \n\n"))
			messages <- m
			s.Expect("data: " + m + "\n\n")
			synctest.Wait()
		}
		at := time.Now()
		s.Expect(": still here\n\n")
		if d := time.Since(at); d != 15*time.Second {
			t.Errorf("the heartbeat comes after %v", d)
		}
		s.Leave()
	})
}

// A client that is too far behind is dropped at once, and sees a cut. The twin
// beside it has everything.
func TestReadmeEventsDropAClientThatIsBehind(t *testing.T) {
	for _, size := range hostileSizes[1:] {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				perRequest := make(chan chan string, 1)
				news = func(context.Context) <-chan string { return <-perRequest }
				opts, told := harness.TellClosing(flush.Options{})
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, liveEvents), 4<<10)
				var messages [2]chan string
				var streams [2]*harness.Stream
				for i := range messages {
					messages[i] = make(chan string)
					perRequest <- messages[i]
					streams[i] = harness.Open(t, srv, "GET", "/", nil)
					streams[i].Header()
				}
				began := time.Now()
				m := strings.Repeat("x", size-len("data: \n\n"))
				for sent, dropped := 0, false; !dropped; sent++ {
					if sent > 1000 {
						t.Fatal("a client that reads nothing is not dropped")
					}
					select {
					case messages[0] <- m:
						messages[1] <- m
						streams[1].Expect("data: " + m + "\n\n")
						synctest.Wait()
					case c := <-told:
						dropped = true
						if !errors.Is(c.Err, flush.ErrNoRoom) {
							t.Errorf("OnClose says %v", c.Err)
						}
					}
				}
				if d := time.Since(began); d != 0 {
					t.Errorf("it took %v", d)
				}
				if _, _, end := streams[0].Rest(); end == harness.Complete {
					t.Error("the client that was dropped sees a whole response")
				}
				streams[1].Leave()
			})
		})
	}
}

// The stream ends when the client leaves.
func TestReadmeEventsEndWithTheClient(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		news = func(context.Context) <-chan string { return nil }
		opts, told := harness.TellClosing(flush.Options{})
		s := harness.Open(t, harness.ServeMemory(t, p, harness.Wrapped(opts, liveEvents), 0), "GET", "/", nil)
		s.Header()
		began := time.Now()
		s.Leave()
		if c := <-told; time.Since(began) != 0 || c.Lost != 0 {
			t.Errorf("after %v: %+v", time.Since(began), c)
		}
	})
}

// A client that is behind misses whole events, and is held up by none.
func TestSlowClientMissesWholeEvents(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		sizes := []int{3000, pending + 1, 500, 10 * pending, 20}
		event := func(i int) string {
			return fmt.Sprintf("%03d%s\n", i, strings.Repeat("x", sizes[i%len(sizes)]))
		}
		done := make(chan struct{})
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			began := time.Now()
			f := harness.Flusher(w)
			for i := range 100 {
				miss(f, []byte(event(i)), true)
				synctest.Wait()
			}
			if d := time.Since(began); d != 0 {
				t.Errorf("the handler was held for %v", d)
			}
			close(done)
		}), 4<<10)
		s := harness.Open(t, srv, "GET", "/", nil)
		<-done
		body, _, end := s.Rest()
		if end == harness.Cut {
			t.Error("the response is cut")
		}
		last := -1
		for line := range strings.Lines(body) {
			var i int
			fmt.Sscanf(line[:3], "%d", &i)
			if line != event(i) || i <= last {
				t.Fatalf("event %d is torn, or comes after %d", i, last)
			}
			last = i
		}
		if n := strings.Count(body, "\n"); n == 0 || n == 100 {
			t.Errorf("%d events of 100 came", n)
		}
	})
}

// An error page is whole, or the response is cut.
func TestErrorPageOrCut(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		for _, opts := range []*flush.Options{nil, {Flush: flush.Async}, {BufferSize: 20 * pending}} {
			for _, size := range hostileSizes {
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					errorPage(w, func(w http.ResponseWriter) error {
						w.Write(make([]byte, size))
						return io.ErrNoProgress
					})
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				body, _, end := s.Rest()
				if size >= 4096 && (opts == nil || opts.BufferSize == 0) {
					if end == harness.Complete {
						t.Errorf("%d bytes of a page that failed look whole", size)
					}
					continue
				}
				if status := s.Response().StatusCode; status != 500 || body != "the page could not be made\n" || end == harness.Cut {
					t.Errorf("%d bytes: status %d, %q, %s", size, status, harness.Clip([]byte(body)), end)
				}
			}
		}
	})
}

func TestShout(t *testing.T) {
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		harness.Open(t, harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) { shout(w) }), 0), "GET", "/", nil).
			ExpectEnd("SHOUTED\n")
	})
}

// What a flush sends through Gzip can be decoded at once, whatever its size.
func TestGzipOfEveryResponseDecodesAtEachFlush(t *testing.T) {
	for _, wait := range []bool{true, false} {
		harness.Bubble(t, func(t *testing.T, p harness.Proto) {
			goOn := make(chan struct{})
			var noise []string
			for _, size := range hostileSizes {
				b := make([]byte, size)
				for i := range b {
					b[i] = byte('a' + rand.IntN(26))
				}
				noise = append(noise, string(b))
			}
			srv := harness.ServeMemory(t, p, harness.Wrapped(gzipAll(), func(w http.ResponseWriter, _ *http.Request) {
				for _, event := range noise {
					if _, err := io.WriteString(w, event); err != nil {
						t.Error(err)
					}
					if err := flush.Flush(w, wait); err != nil {
						t.Error(err)
					}
					<-goOn
				}
			}), 0)
			s := harness.Open(t, srv, "GET", "/", nil, "Accept-Encoding: gzip")
			if got := s.Header().Get("Content-Encoding"); got != "gzip" {
				t.Fatalf("Content-Encoding %q", got)
			}
			z, err := gzip.NewReader(harness.BodyReader{S: s})
			if err != nil {
				t.Fatal(err)
			}
			for _, event := range noise {
				got := make([]byte, len(event))
				if _, err := io.ReadFull(z, got); err != nil || string(got) != event {
					t.Fatalf("of %d bytes: %q, %v", len(event), harness.Clip(got), err)
				}
				goOn <- struct{}{}
			}
		})
	}
}
