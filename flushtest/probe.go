package flushtest

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Prober has the settings of a probe. The zero Prober is that of [Probe]. It
// may be used by several goroutines, which then call OnArrival, and must not be
// changed meanwhile.
type Prober struct {
	// Client makes the requests. Nil means one of the probe's own, that goes
	// through the proxy that the environment names, as http.ProxyFromEnvironment.
	Client *http.Client

	// Header has more headers for the requests. Host is the name that is asked
	// for. Accept-Encoding is the probe's own.
	Header http.Header

	// OnArrival is called for each part of the first response as it comes,
	// before it is known what belongs to it. The body goes on meanwhile, up to
	// 1 MiB of it, and the probe ends when it has returned.
	OnArrival func(Arrival)

	again bool // the first request has been made
}

// Probe fetches a stream and says what it went through on its way to here. It
// goes by when the parts arrived, their sizes, and the headers, and by what most
// of them say; what it says of layers is likely, not certain. A stream that is
// worth a probe lasts a second and sends something several times. The lines of
// an [Endpoint] make the answer more exact.
//
// The request accepts gzip, as that of a browser does. If a compressor seems to
// hold the stream, it is fetched again without, and again with. If the lines of
// an Endpoint are late, it is fetched once more, and if it is held, once or twice
// more with other content types.
//
// The end of ctx ends all of it, and an endless stream is judged by what had
// come; half of the time to its deadline is kept for a stream that is compressed
// and held. What a server sends is not kept but for its size, its headers and
// 1 MiB at most, and no more than 16 MiB of it are decompressed. The error is
// that of the request, if there was no answer to judge.
func Probe(ctx context.Context, url string) (*Finding, error) {
	return new(Prober).Probe(ctx, url)
}

// Probe is the function [Probe] with the settings of p.
func (p *Prober) Probe(ctx context.Context, url string) (*Finding, error) {
	client := p.Client
	if client == nil {
		tr := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 256 << 10}
		defer tr.CloseIdleConnections()
		client = &http.Client{Transport: tr}
	}
	f, err := p.fetch(ctx, client, url, "gzip")
	if err != nil {
		return nil, err
	}
	quiet := &Prober{Header: p.Header, again: true}
	compressor := quiet.compare(ctx, client, f)
	quiet.confirm(ctx, client, f)
	f.otherType = quiet.retype(ctx, client, f)
	f.blame(compressor)
	return f, nil
}

func encoded(h http.Header) bool {
	e := h.Get("Content-Encoding")
	return e != "" && e != "identity"
}

// compare fetches a stream that is compressed and held once more, without
// compression, and says whether the compressor holds it. It returns how much of
// the Delay is the compressor's, if it is not all.
func (p *Prober) compare(ctx context.Context, client *http.Client, f *Finding) (compressor time.Duration) {
	suspicious := func(f *Finding) bool { return f.Held() || f.coarse() || f.undecoded() }
	if !encoded(f.Header) || !suspicious(f) || ctx.Err() != nil {
		return 0
	}
	if f.begun() {
		f.compressorHolds()
		return 0
	}
	plain, err := p.fetchPlain(ctx, client, f)
	switch {
	case err != nil || encoded(plain.Header) || plain.Verdict != Streamed && plain.Verdict != Delayed:
		f.doubt(plain)
		return 0
	case f.Verdict == Delayed && plain.Verdict == Delayed:
		if d := f.Delay - plain.Delay; d >= tooLate {
			return d
		}
		return 0
	case f.Verdict == Streamed && len(plain.Arrivals) < 3*len(f.Arrivals):
		return 0
	}
	// The way may have been busy the first time, or there was nothing to send.
	again, err := p.fetch(ctx, client, f.URL, "gzip")
	switch {
	case err == nil && again.Verdict == Streamed && !again.coarse():
		f.unclear("it was held once, compressed, and not the next time")
	case len(f.readable()) == 0 && (err != nil || !plain.soon(again.End/2)):
		f.unclear("nothing of it could be read when it was compressed, and it sends too little to tell why")
	default:
		f.compressorHolds()
	}
	return 0
}

// confirm fetches lines again that came late and were not compressed: a busy
// machine keeps lines as well. What it adds to a delay is not the way's, so the
// smaller counts.
func (p *Prober) confirm(ctx context.Context, client *http.Client, f *Finding) {
	if f.Verdict != Delayed || f.Lines == 0 || encoded(f.Header) || ctx.Err() != nil {
		return
	}
	again, err := p.fetch(ctx, client, f.URL, "gzip")
	switch {
	case err != nil || again.Lines == 0:
	case again.Verdict == Streamed:
		f.unclear("its lines came late once, and not the next time: the way may have been busy")
	case again.Verdict == Delayed:
		f.Delay = min(f.Delay, again.Delay)
		f.corked = (f.corked || again.corked) && f.Delay >= tooLate
	}
}

// fetchPlain fetches the stream without compression. Where it takes all the time
// that there is, half of what is left is for one more request with.
func (p *Prober) fetchPlain(ctx context.Context, client *http.Client, f *Finding) (*Finding, error) {
	if end, ok := ctx.Deadline(); ok && f.Err == stopped+errHalfTime.Error() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	return p.fetch(ctx, client, f.URL, "identity")
}

// doubt takes back that nothing came, if that was said after half of the time
// and something came in the other.
func (f *Finding) doubt(plain *Finding) {
	if plain != nil && f.Verdict == Held && f.Err == stopped+errHalfTime.Error() && plain.Verdict != Held {
		f.unclear("nothing came in the first half of the time, and something in the other")
	}
}

func (f *Finding) compressorHolds() {
	f.unclear("")
	f.Verdict = CompressorHolds
}

// readable returns the parts that could be decoded.
func (f *Finding) readable() []Arrival {
	return slices.DeleteFunc(slices.Clone(f.Arrivals), func(a Arrival) bool { return a.Plain == 0 })
}

// undecoded reports whether something came, and nothing of it can be read.
func (f *Finding) undecoded() bool {
	return len(f.Arrivals) > 0 && len(f.readable()) == 0 && f.End >= longWait
}

// soon reports whether several parts had come by then.
func (f *Finding) soon(by time.Duration) bool { return len(f.Arrivals) >= 3 && f.Arrivals[2].At <= by }

// begun reports whether the body was held though its beginning, of which nothing
// can be read, was not: what sent the first bytes of a compressed body would
// have sent more if the compressor had let go of more.
func (f *Finding) begun() bool {
	return f.Verdict == Held && len(f.Arrivals) > 1 && f.Arrivals[0].Plain == 0 && f.Arrivals[0].At*2 < f.End
}

// coarse reports whether parts are so few and large that the compressor may
// hand out only what it has no room for.
func (f *Finding) coarse() bool {
	n, plain := len(f.Arrivals), 0
	for _, a := range f.Arrivals {
		plain += a.Plain
	}
	return n > 0 && plain >= n*4096 && f.End >= time.Duration(n)*100*time.Millisecond
}

// retype fetches an Endpoint that is held as another content type, and returns
// one that is not held: some proxies look into what they take for text.
func (p *Prober) retype(ctx context.Context, client *http.Client, f *Finding) string {
	u, err := url.Parse(f.URL)
	if err != nil || f.Lines == 0 || f.Verdict != Held && f.Verdict != Stepped {
		return ""
	}
	now := f.Header.Get("Content-Type")
	tried := 0
	for _, other := range []string{"text/event-stream", "application/octet-stream", "text/plain"} {
		if strings.HasPrefix(now, other) || tried == 2 || ctx.Err() != nil {
			continue
		}
		tried++
		q := u.Query()
		q.Set("type", other)
		u.RawQuery = q.Encode()
		g, err := p.fetch(ctx, client, u.String(), "gzip")
		if err == nil && g.Verdict == Streamed && g.Lines > 0 && strings.HasPrefix(g.Header.Get("Content-Type"), other) {
			return other
		}
	}
	return ""
}
