package flushtest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"
)

// stopped begins Finding.Err where the probe ended before the stream.
const stopped = "the probe stopped: "

var (
	errHalfTime = errors.New("the other half of the time is for a request without compression")
	errEnough   = errors.New("it has seen enough")
)

// mostArrivals bounds what is kept of a stream: it is minutes.
const mostArrivals = 1 << 14

// A trip is one request on its way, and what has come back.
type trip struct {
	Finding
	mu      sync.Mutex
	start   time.Time
	sent    bool
	connect time.Duration // how long the connection took: once to its other end and back
	dialed  map[string]time.Time

	read     *text
	lateness lateness
	waited   time.Duration // how long the body waited for the probe, at most
}

func (t *trip) elapsed() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.start)
}

// trace notes when the request was sent, and how far away the other end is.
func (t *trip) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		ConnectStart: func(_, address string) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.dialed[address] = time.Now()
		},
		ConnectDone: func(_, address string, err error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			if at, ok := t.dialed[address]; ok && err == nil {
				t.connect = min(time.Since(at), time.Second)
			}
		},
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.start, t.sent = time.Now(), i.Err == nil
		},
	}
}

// fetch makes one request and judges what comes back.
func (p *Prober) fetch(ctx context.Context, client *http.Client, url, encoding string) (*Finding, error) {
	t := &trip{Finding: Finding{URL: url}, start: time.Now(), dialed: make(map[string]time.Time)}
	whole := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, t.trace()), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	p.setHeader(req, encoding)
	t.Proxy = proxyOf(client, req)
	resp, err := client.Do(req)
	if err != nil {
		t.mu.Lock()
		sent := t.sent
		t.mu.Unlock()
		if sent && (whole.Err() != nil || errors.Is(err, context.DeadlineExceeded)) && t.elapsed() >= longWait {
			// A proxy that holds an endless stream shows nothing at all.
			t.End = t.elapsed()
			t.Head, t.Err = t.End, stopped+cause(whole, err).Error()
			t.judge()
			return &t.Finding, nil
		}
		return nil, err
	}
	defer resp.Body.Close()
	t.Head = t.elapsed()
	t.Proto, t.Status, t.Header = resp.Proto, resp.StatusCode, resp.Header
	t.Proxy = proxyOf(client, resp.Request)
	t.read = newText(ctx, resp.Header)
	p.body(ctx, cancel, t, resp)
	t.judge()
	return &t.Finding, nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// setHeader fills the request's header. Of Host, net/http takes no notice
// there.
func (p *Prober) setHeader(req *http.Request, encoding string) {
	req.Header.Set("User-Agent", "flushprobe")
	req.Header.Set("Accept", "*/*")
	for name, values := range p.Header {
		if name = http.CanonicalHeaderKey(name); name == "Host" {
			req.Host = strings.Join(values, ", ")
			continue
		}
		req.Header[name] = values
	}
	req.Header.Set("Accept-Encoding", encoding)
}

// proxyOf returns the proxy that a request of client goes through, without the
// password that may be in its address.
func proxyOf(client *http.Client, req *http.Request) string {
	tr, _ := client.Transport.(*http.Transport)
	if client.Transport == nil {
		tr, _ = http.DefaultTransport.(*http.Transport)
	}
	if tr == nil || tr.Proxy == nil {
		return ""
	}
	u, err := tr.Proxy(req)
	if err != nil || u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}

// body takes the body as it comes, to its end or that of ctx.
func (p *Prober) body(ctx context.Context, cancel context.CancelCauseFunc, t *trip, resp *http.Response) {
	in := t.receive(ctx, resp)
	half := p.halfTime(ctx, t)
	if half != nil {
		defer half.Stop()
	}
	for open := true; open; {
		select {
		case _, open = <-in.ready:
		case <-ticks(half):
			half = nil
			t.End, t.Err = t.elapsed(), stopped+errHalfTime.Error()
			if t.judge(); t.Held() || t.coarse() || t.undecoded() {
				cancel(errHalfTime)
			}
			t.Err = ""
			continue
		}
		// What comes in one go should be in hand as a whole.
		time.Sleep(time.Millisecond)
		for _, c := range in.take() {
			a := t.arrive(c)
			if p.OnArrival != nil {
				p.OnArrival(a)
			}
		}
		if len(t.Arrivals) >= mostArrivals {
			cancel(errEnough)
		}
	}
	t.End, t.waited = in.end, in.waited
	switch {
	case in.err == io.EOF:
	case ctx.Err() != nil:
		t.Err = stopped + context.Cause(ctx).Error()
	default:
		t.Err = in.err.Error()
	}
}

// halfTime returns a timer for the middle of the time that there is, if what
// comes is compressed: a compressor that holds an endless stream shows only
// beside a response that is not compressed.
func (p *Prober) halfTime(ctx context.Context, t *trip) *time.Timer {
	end, ok := ctx.Deadline()
	if !ok || p.again || !encoded(t.Header) {
		return nil
	}
	return time.NewTimer(time.Until(end) / 2)
}

func ticks(t *time.Timer) <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

// together is how close two parts are that came in one go.
const together = 20 * time.Millisecond

// arrive notes a part of the body.
func (t *trip) arrive(c chunk) Arrival {
	t.mu.Lock()
	t.lateness.connect = t.connect
	t.mu.Unlock()
	a := Arrival{At: c.at, Until: c.until, Size: len(c.p)}
	a.Plain, a.Lines, a.Cut = t.read.feed(c.p, func(line string) {
		if written, ok := parseMark(line); ok {
			t.lateness.note(written, c.at)
		}
	})
	if n := len(t.Arrivals); n > 0 && c.at-t.Arrivals[n-1].Until < together {
		last := &t.Arrivals[n-1]
		last.Until = c.until
		last.Size += a.Size
		last.Plain += a.Plain
		last.Lines += a.Lines
		last.Cut = a.Cut
	} else {
		t.Arrivals = append(t.Arrivals, a)
	}
	return a
}
