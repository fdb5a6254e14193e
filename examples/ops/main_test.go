package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A logBuffer keeps what the service logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const bound = 30 * time.Second

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(bound); !ok(); <-poll.C {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(b)
}

// 200 clients listen, one of which does not read. The service is scraped, looked
// at and told to end: each of the others has its goodbye and a clean end.
func TestService(t *testing.T) {
	log := new(logBuffer)
	ctx, terminate := context.WithCancel(t.Context())
	defer terminate()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, "127.0.0.1:0", "127.0.0.1:0", slog.New(slog.NewTextHandler(log, nil)))
	}()
	address := func(internal bool) (url string) {
		eventually(t, "address", func() bool {
			m := regexp.MustCompile(fmt.Sprintf(`address=(\S+) internal=%v`, internal)).FindStringSubmatch(log.String())
			if m != nil {
				url = m[1]
			}
			return m != nil
		})
		return url
	}
	public, inside := address(false), address(true)

	const clients = 200
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	got := make(chan string, clients)
	var first sync.WaitGroup
	for range clients {
		resp, err := client.Get(public + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first.Add(1)
		go func() {
			r := bufio.NewReader(resp.Body)
			var all strings.Builder
			seen := sync.OnceFunc(first.Done)
			defer seen()
			for {
				line, err := r.ReadString('\n')
				if all.WriteString(line); strings.HasPrefix(line, "data:") {
					seen()
				}
				if err != nil {
					fmt.Fprintf(&all, "(%v)", err)
					got <- all.String()
					return
				}
			}
		}()
	}
	leaver, err := net.Dial("tcp", strings.TrimPrefix(public, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(leaver, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	leaver.Read(make([]byte, 1))
	leaver.Close()
	first.Wait() // everybody has had an event

	var lacks, scraped string
	defer func() {
		if t.Failed() {
			t.Logf("the metrics did not say %q last:\n%s", lacks, scraped)
		}
	}()
	// Between two events nothing is held.
	eventually(t, "the metrics of 200 clients that have everything, and of one that left", func() bool {
		scraped = get(t, inside+"/metrics")
		for _, lacks = range []string{
			`flush_responses_ended_total{reason="client gone"} 1`, "flush_responses 200\n", "flush_held_bytes 0\n",
			"flush_broadcast_missed_total 0\n", "flush_behind_seconds ", "flush_budget_aborted_total 0\n",
		} {
			if !strings.Contains(scraped, lacks) {
				return false
			}
		}
		return true
	})
	if page := get(t, inside+"/debug/flush"); !strings.Contains(page, "200 responses") || !strings.Contains(page, "GET /events") {
		t.Errorf("the page says\n%s", page)
	}
	var live struct {
		Live      int
		Responses []json.RawMessage
	}
	if err := json.Unmarshal([]byte(get(t, inside+"/debug/flush?format=json")), &live); err != nil || live.Live != clients || len(live.Responses) != clients {
		t.Errorf("%d live, %d listed, %v", live.Live, len(live.Responses), err)
	}
	http.DefaultClient.CloseIdleConnections()

	terminate()
	for range clients {
		if all := <-got; !strings.HasSuffix(all, "event: goodbye\ndata: this server goes down\n\n(EOF)") {
			t.Fatalf("a client got %q", all)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "ended=shutdown"); n != clients {
		t.Errorf("%d responses are logged as ended by the shutdown, want %d", n, clients)
	}
}
