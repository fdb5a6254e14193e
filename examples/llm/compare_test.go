package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// costs is what the page is told at the end.
type costs struct{ Asked, Done, Held, Deaf int64 }

// listen asks for an answer as the page does, and reads all of it: when each token came, and its costs.
func (p *program) listen(t *testing.T, path string) (came []time.Duration, cost costs) {
	t.Helper()
	begin := time.Now()
	c := p.request(t, "POST", path, nil)
	var got strings.Builder
	for {
		token, ok := c.token(t)
		if !ok {
			break
		}
		got.WriteString(token)
		came = append(came, time.Since(begin))
	}
	if got.String() != text {
		t.Errorf("got %q", got.String())
	}
	rest, err := io.ReadAll(c)
	data, ok := strings.CutPrefix(string(rest), "event: costs\ndata: ")
	if !ok || err != nil {
		t.Fatalf("%q, %v behind the answer", rest, err)
	}
	if err := json.Unmarshal([]byte(data), &cost); err != nil {
		t.Fatal(err)
	}
	return came, cost
}

// All ways carry the same stream. Through flush, and through a proxy that
// flushes, each token is there as it is said.
func TestCompareKeepingUp(t *testing.T) {
	for _, way := range []string{"flush", "each"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				came, cost := startFake(t).listen(t, "/compare/"+way)
				for i, at := range came {
					if want := time.Duration(i+1) * pace; at != want {
						t.Fatalf("token %d came after %v, want %v", i+1, at, want)
					}
				}
				if n := int64(len(tokens)); cost.Done < n || cost.Held > 200 || cost.Deaf != 0 {
					t.Errorf("it costs %+v", cost)
				}
			})
		})
	}
}

// Through a proxy that buffers nothing comes until there is a lump of it.
func TestCompareLumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		first := 0
		for said.Len() < lump {
			if err := sendToken(&said, tokens[first]); err != nil {
				t.Fatal(err)
			}
			first++
		}
		came, cost := startFake(t).listen(t, "/compare/lumps")
		if want := time.Duration(first) * pace; came[0] != want || came[first-1] != want || came[first] == want {
			t.Errorf("token 1 came after %v, %d after %v, %d after %v, want a lump after %v",
				came[0], first, came[first-1], first+1, came[first], want)
		}
		if cost.Asked < int64(len(tokens)) || cost.Done > 10 || cost.Held < lump/2 || cost.Held > lump {
			t.Errorf("it costs %+v", cost)
		}
	})
}

// A slow reader makes a proxy that waits deaf to the model for all the time
// that it takes. Through flush it costs memory instead, and few flushes.
func TestCompareSlowReader(t *testing.T) {
	costs := make(map[string]costs)
	for _, way := range []string{"flush", "each"} {
		synctest.Test(t, func(t *testing.T) {
			came, cost := startFake(t).listen(t, "/compare/"+way+"?reader=slow")
			if came[0] > 2*pace {
				t.Errorf("%s: the first token came after %v", way, came[0])
			}
			if last, said := came[len(came)-1], time.Duration(len(came))*pace; last < said*5/4 {
				t.Errorf("%s: the last token came after %v: that is not slow, it was said after %v", way, last, said)
			}
			costs[way] = cost
		})
	}
	if c := costs["flush"]; c.Deaf != 0 || c.Held < 1<<10 || c.Held > 16<<10 || c.Done > c.Asked/10 {
		t.Errorf("flush costs %+v", c)
	}
	if c := costs["each"]; c.Deaf < 8000 || c.Held != 0 {
		t.Errorf("each costs %+v", c)
	}
}

// A slow reader that leaves stops the model, in the middle of a write too.
func TestCompareReaderLeaves(t *testing.T) {
	for _, way := range []string{"flush", "each", "lumps"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startFake(t)
				c := p.request(t, "POST", "/compare/"+way+"?reader=slow", nil)
				for range 10 {
					c.token(t)
				}
				c.leave()
				synctest.Wait()
				if got, want := p.out.String(), "upstream: stopped after "; !strings.Contains(got, want) {
					t.Errorf("no %q in:\n%s", want, got)
				}
			})
		})
	}
}

func TestOtherRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "the model")
		}), new(output))
		crossSite := http.Header{"Sec-Fetch-Site": {"cross-site"}}
		for _, tt := range []struct {
			method, path string
			header       http.Header
			status       int
			want         string // is in the body
		}{
			{"GET", "/", nil, 200, `<meta name="viewport" content="width=device-width`},
			{"POST", "/compare/nothing", nil, 404, "404 page not found"},
			{"POST", "/compare/flush", nil, 200, "the model"},
			{"POST", "/compare/flush", crossSite, 403, "cross-origin"},
			{"POST", "/v1/chat/completions", crossSite, 403, "cross-origin"},
			{"POST", "/v1/chat/completions", nil, 200, "the model"},
			{"GET", "/v1/models", crossSite, 200, "the model"},
		} {
			c := p.request(t, tt.method, tt.path, tt.header)
			body, err := io.ReadAll(c)
			if got := string(body); c.resp.StatusCode != tt.status || err != nil || !strings.Contains(got, tt.want) || strings.Contains(got, "costs\ndata") {
				t.Errorf("%s %s %v: %d %q, %v, want %d and %q", tt.method, tt.path, tt.header, c.resp.StatusCode, got, err, tt.status, tt.want)
			}
		}
	})
}
