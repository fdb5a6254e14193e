package e2e

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

const (
	ageEvent    = 1 << 10              // bytes of an event
	ageEvery    = 5 * time.Millisecond // 200 a second are made
	ageRate     = 64 << 10             // bytes a second that the client reads
	agePending  = 8 << 10              // MaxPending
	ageBegin    = "<!-- age: begin -->\n"
	ageEnd      = "<!-- age: end -->\n"
	ageLowWater = 16 << 10
)

// An ages is one run.
type ages struct {
	NotSentLowat int
	Lasts        time.Duration
	Addr         string // to the client: of the server

	Events               int // result: how many arrived in the second half
	Median, P90, Longest time.Duration
}

// serveAges makes more events than the client reads, drops the oldest of what
// does not fit, and lets a process of its own be the client.
func serveAges(a ages) (ages, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return a, err
	}
	opts := &flush.Options{Flush: flush.Async, MaxPending: agePending}
	srv := &http.Server{
		Handler:     flush.NewHandler(http.HandlerFunc(writeAges), opts),
		ConnContext: flush.ConnOptions{NotSentLowat: a.NotSentLowat}.ConnContext,
	}
	go srv.Serve(l)
	defer srv.Close()
	a.Addr = l.Addr().String()
	cmd, err := another("ages", a)
	if err != nil {
		return a, err
	}
	out, err := cmd.Output()
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}

func writeAges(w http.ResponseWriter, r *http.Request) {
	f, _ := flush.From(w)
	tick := time.NewTicker(ageEvery)
	defer tick.Stop()
	var waiting [][]byte
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
		event := make([]byte, ageEvent)
		binary.BigEndian.PutUint64(event, uint64(time.Now().UnixNano()))
		if waiting = append(waiting, event); len(waiting) > 4 {
			waiting = waiting[1:]
		}
		for len(waiting) > 0 && f.Available() >= ageEvent {
			f.Write(waiting[0])
			waiting = waiting[1:]
		}
		if f.FlushAsync() != nil {
			return
		}
	}
}

// readAges is the client.
func readAges(a ages) (ages, error) {
	c, err := net.Dial("tcp", a.Addr)
	if err != nil {
		return a, err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return a, err
	}
	for end := []byte("\r\n\r\n"); len(end) > 0; {
		var b [1]byte
		if _, err := c.Read(b[:]); err != nil {
			return a, err
		}
		if b[0] == end[0] {
			end = end[1:]
		} else {
			end = []byte("\r\n\r\n")
		}
	}
	var all []time.Duration
	begin := time.Now()
	event := make([]byte, ageEvent)
	tick := time.NewTicker(time.Second * ageEvent / ageRate)
	defer tick.Stop()
	for time.Since(begin) < a.Lasts {
		<-tick.C
		if _, err := io.ReadFull(c, event); err != nil {
			return a, err
		}
		if time.Since(begin) > a.Lasts/2 {
			all = append(all, time.Duration(time.Now().UnixNano()-int64(binary.BigEndian.Uint64(event))))
		}
	}
	if a.Events = len(all); a.Events == 0 {
		return a, errors.New("no event has arrived")
	}
	slices.Sort(all)
	a.Median, a.P90, a.Longest = all[len(all)/2], all[len(all)*9/10], all[len(all)-1]
	return a, nil
}

// TestAge measures how old events are when a client that reads too slowly has
// them. It fails only if NotSentLowat makes them older.
func TestAge(t *testing.T) {
	t.Parallel()
	lasts := 10 * time.Second
	if *update {
		lasts = time.Minute
	}
	runs := []ages{{Lasts: lasts}, {Lasts: lasts, NotSentLowat: ageLowWater}}
	t.Run("runs", func(t *testing.T) {
		for i := range runs {
			t.Run(fmt.Sprint("NotSentLowat ", runs[i].NotSentLowat), func(t *testing.T) {
				t.Parallel()
				inLink(t, "age", runs[i], &runs[i])
			})
		}
	})
	if t.Failed() {
		return
	}
	var b strings.Builder
	b.WriteString("| NotSentLowat | median age | 90th percentile | oldest | events |\n| --- | ---: | ---: | ---: | ---: |\n")
	for _, a := range runs {
		name := "the system's default"
		if a.NotSentLowat > 0 {
			name = fmt.Sprintf("%d KiB", a.NotSentLowat>>10)
		}
		s := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d |\n", name, s(a.Median), s(a.P90), s(a.Longest), a.Events)
	}
	t.Log("\n" + b.String())
	if runs[1].Median > runs[0].Median {
		t.Error("NotSentLowat makes events older")
	}
	if *update {
		replaceSection(t, "How fresh a slow client's events are", ageBegin, ageEnd, fmt.Sprintf(`Made by `+"`e2e/run -update -run Age`"+`: %d events of 1 KiB a second, a client that reads 64 KiB/s in a process of its
own, packets of 1500 bytes, default kernel buffers, MaxPending %d KiB. What does not fit into Available is dropped, the oldest
first. The age is from the making of an event to its reading; the second half of %v counts.

`, time.Second/ageEvery, agePending>>10, lasts)+b.String())
	}
}
