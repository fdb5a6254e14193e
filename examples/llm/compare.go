package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fa492104/flush"
)

const (
	lump     = 4 << 10                // what a proxy that buffers waits for; nginx has 4 or 8 KiB
	slowRate = 3 << 10                // bytes a second that a slow reader takes
	slack    = 100 * time.Millisecond // for so long its line takes more, as kernels do
)

//go:embed page.html
var page []byte

func showPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(page)
}

// A comparison has the proxy's answers carried in one of several ways, for the
// page, and tells at the end of each what it has cost:
//
//	flush  through package flush
//	each   each token by itself: the proxy as it is
//	lumps  a proxy that buffers
type comparison struct {
	proxy http.Handler
	opts  *flush.Options
}

func (c *comparison) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := new(account)
	bottom := &line{ResponseWriter: w, account: a}
	if r.URL.Query().Get("reader") == "slow" {
		bottom.rate = slowRate
	}
	top := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.proxy.ServeHTTP(&meter{ResponseWriter: w, account: a}, r)
	})
	way := r.PathValue("way")
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawQuery = "/v1/chat/completions", ""
	switch way {
	case "flush":
		flush.NewHandler(top, c.opts).ServeHTTP(bottom, r)
	case "each":
		top.ServeHTTP(bottom, r)
	case "lumps":
		h := &holder{ResponseWriter: bottom}
		top.ServeHTTP(h, r)
		h.pass() // an error is the next write's, too
	default:
		http.NotFound(w, r)
		return
	}
	if strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		fmt.Fprintf(w, "event: costs\ndata: %s\n\n", a.costs())
	}
}

// An account is what an answer costs. The proxy writes it above, and whoever
// carries the answer below.
type account struct {
	asked    atomic.Int64 // flushes, by the proxy
	done     atomic.Int64 // of them on the line
	accepted atomic.Int64 // bytes, from the proxy
	sent     atomic.Int64 // of them on the line
	held     atomic.Int64 // most that were between the two
	deaf     atomic.Int64 // nanoseconds in which the proxy did not listen to the model
}

func (a *account) costs() []byte {
	b, err := json.Marshal(map[string]int64{
		"asked": a.asked.Load(),
		"done":  a.done.Load(),
		"held":  a.held.Load(),
		"deaf":  time.Duration(a.deaf.Load()).Milliseconds(),
	})
	if err != nil {
		panic(err) // numbers always have a spelling
	}
	return b
}

// A meter is the writer that the proxy sees. It keeps the account's upper half.
type meter struct {
	http.ResponseWriter
	account *account
}

func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *meter) Write(p []byte) (int, error) {
	begin := time.Now()
	n, err := m.ResponseWriter.Write(p)
	m.account.deaf.Add(int64(time.Since(begin)))
	accepted := m.account.accepted.Add(int64(n))
	m.account.held.Store(max(m.account.held.Load(), accepted-m.account.sent.Load()))
	return n, err
}

func (m *meter) FlushError() error {
	begin := time.Now()
	err := http.NewResponseController(m.ResponseWriter).Flush()
	m.account.asked.Add(1)
	m.account.deaf.Add(int64(time.Since(begin)))
	return err
}

// A line is the writer below, on the way to the client. It keeps the account's
// lower half. With a rate it is as slow as the line of a slow reader: Write
// takes its time, as it does when the kernel's buffers are full.
type line struct {
	http.ResponseWriter
	account *account
	rate    int       // bytes a second; 0: all there are
	free    time.Time // when the line will have taken what it has
}

func (l *line) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *line) Write(p []byte) (n int, err error) {
	if l.rate == 0 {
		n, err = l.ResponseWriter.Write(p)
		l.account.sent.Add(int64(n))
		return n, err
	}
	for piece := range slices.Chunk(p, 64) {
		m, err := l.ResponseWriter.Write(piece)
		n += m
		l.account.sent.Add(int64(m))
		if err == nil {
			err = http.NewResponseController(l.ResponseWriter).Flush()
		}
		if err != nil {
			return n, err
		}
		if now := time.Now(); l.free.Before(now) {
			l.free = now
		}
		l.free = l.free.Add(time.Duration(m) * time.Second / time.Duration(l.rate))
		time.Sleep(time.Until(l.free) - slack)
	}
	return n, nil
}

func (l *line) FlushError() error {
	l.account.done.Add(1)
	return http.NewResponseController(l.ResponseWriter).Flush()
}

// A holder stands for a proxy that buffers: flushes are nothing to it, and what
// it gets goes on when there is a lump of it. nginx does so without
// proxy_buffering off, and so do most compressors.
type holder struct {
	http.ResponseWriter
	held []byte
}

func (h *holder) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *holder) FlushError() error { return nil }

func (h *holder) Write(p []byte) (int, error) {
	h.held = append(h.held, p...)
	if len(h.held) < lump {
		return len(p), nil
	}
	return len(p), h.pass()
}

func (h *holder) pass() error {
	_, err := h.ResponseWriter.Write(h.held)
	h.held = h.held[:0]
	if err != nil {
		return err
	}
	return http.NewResponseController(h.ResponseWriter).Flush()
}
