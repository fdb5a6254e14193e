package compat_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/fa492104/flush"
)

// patience bounds every wait on a real socket: for broken runs only.
const patience = 30 * time.Second

// serveQUIC serves h over HTTP/3 on loopback and returns a client for it.
func serveQUIC(t *testing.T, h http.Handler) (*http.Client, string) {
	t.Helper()
	t.Cleanup(func() { noneLeft(t) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, x, x, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http3.Server{Handler: h, QUICConfig: &quic.Config{HandshakeIdleTimeout: patience}, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(socket) }()
	tr := &http3.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		QUICConfig:         &quic.Config{InitialStreamReceiveWindow: 16 << 10, MaxStreamReceiveWindow: 16 << 10, HandshakeIdleTimeout: patience},
		DisableCompression: true,
	}
	t.Cleanup(func() {
		tr.Close()
		srv.Close()
		<-served
		socket.Close()
	})
	return &http.Client{Transport: tr}, "https://" + socket.LocalAddr().String() + "/"
}

// noneLeft fails the test unless every goroutine of ours and of quic-go ends.
func noneLeft(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	p := make([]byte, 1<<20)
	for limit := time.Now().Add(patience); ; <-tick.C {
		stacks := p[:runtime.Stack(p, true)]
		if !bytes.Contains(stacks, []byte("fa492104/flush.")) && !bytes.Contains(stacks, []byte("quic-go/http3.")) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("left behind:\n%s", stacks)
		}
	}
}

// within fails the test if nothing comes from c.
func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// getQUIC asks for url; the caller may cancel.
func getQUIC(t *testing.T, c *http.Client, url string) (*http.Response, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp, cancel
}

// Each step arrives while the handler waits for the client to have read it.
func TestHTTP3Steps(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(map[bool]string{true: "wait", false: "async"}[wait], func(t *testing.T) {
			next := make(chan struct{})
			closed := make(chan error, 1)
			c, url := serveQUIC(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for _, text := range texts {
					io.WriteString(w, text)
					if err := flush.Flush(w, wait); err != nil {
						t.Error(err)
					}
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			}), &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}))
			resp, _ := getQUIC(t, c, url)
			for _, text := range texts {
				p := make([]byte, len(text))
				if _, err := io.ReadFull(resp.Body, p); err != nil || string(p) != text {
					t.Fatalf("got %q, %v", p, err)
				}
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
				t.Errorf("then %q, %v", rest, err)
			}
			if err := within(t, closed); err != nil {
				t.Errorf("OnClose: %v", err)
			}
		})
	}
}

// A client that leaves is ErrClientGone, for calls and as the cause.
func TestHTTP3ClientGone(t *testing.T) {
	result := make(chan error, 2)
	c, url := serveQUIC(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush.Flush(w, true)
		<-r.Context().Done()
		result <- flush.Cause(r.Context())
		var err error
		for range 64 {
			io.WriteString(w, noise(6<<10))
			if err = flush.Flush(w, true); err != nil {
				break
			}
		}
		result <- err
	}), nil))
	_, leave := getQUIC(t, c, url)
	leave()
	if cause := within(t, result); !errors.Is(cause, flush.ErrClientGone) {
		t.Errorf("the cause is %v", cause)
	}
	if err := within(t, result); !errors.Is(err, flush.ErrClientGone) {
		t.Errorf("the flush got %v", err)
	}
}

// A client that does not read ends the flush after SendTimeout, and must not
// take what it has for the whole.
func TestHTTP3SendTimeout(t *testing.T) {
	result, closed, headed := make(chan error, 1), make(chan error, 1), make(chan struct{})
	opts := &flush.Options{SendTimeout: 500 * time.Millisecond, OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}
	c, url := serveQUIC(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := flush.Flush(w, true)
		select {
		case <-headed: // a reset that comes first takes the headers with it
		case <-r.Context().Done():
		}
		for i := 0; i < 64 && err == nil; i++ {
			io.WriteString(w, noise(6<<10))
			err = flush.Flush(w, true)
		}
		result <- err
	}), opts))
	resp, _ := getQUIC(t, c, url)
	close(headed)
	if err := within(t, result); !errors.Is(err, flush.ErrTimeout) {
		t.Errorf("the flush got %v", err)
	}
	if err := within(t, closed); !errors.Is(err, flush.ErrTimeout) {
		t.Errorf("OnClose: %v", err)
	}
	if p, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the client takes %d bytes for the whole", len(p))
	}
}

// Nor is it the whole where the call that was too slow has taken all its bytes: the
// stream could go on, but its handler has heard of a failure.
func TestHTTP3SendTimeoutOfABriefCall(t *testing.T) {
	result := make(chan error, 1)
	c, url := serveQUIC(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		for err == nil && r.Context().Err() == nil {
			io.WriteString(w, "x")
			err = flush.Flush(w, true)
		}
		result <- err
	}), &flush.Options{SendTimeout: time.Nanosecond}))
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		var p []byte
		resp, err := c.Do(req)
		if err == nil {
			p, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		cancel()
		if failure := within(t, result); !errors.Is(failure, flush.ErrTimeout) {
			t.Fatalf("the flush got %v", failure)
		}
		if err == nil {
			t.Fatalf("the client takes %d bytes for the whole", len(p))
		}
	}
}

// Abort cuts the stream.
func TestHTTP3Abort(t *testing.T) {
	seen := make(chan struct{})
	c, url := serveQUIC(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, texts[0])
		flush.Flush(w, true)
		select {
		case <-seen:
		case <-r.Context().Done():
		}
		f, _ := flush.From(w)
		f.Abort(nil)
	}), nil))
	resp, _ := getQUIC(t, c, url)
	close(seen)
	if p, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the client takes %q for the whole", p)
	}
}

// A response that was never flushed has its length; trailers arrive.
func TestHTTP3Whole(t *testing.T) {
	c, url := serveQUIC(t, flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Write(bytes.Repeat([]byte("x"), 10000))
		w.Header().Set("X-Sum", "10000")
	}), nil))
	resp, _ := getQUIC(t, c, url)
	p, err := io.ReadAll(resp.Body)
	if err != nil || len(p) != 10000 || resp.Trailer.Get("X-Sum") != "10000" {
		t.Errorf("%d bytes, trailer %v, %v", len(p), resp.Trailer, err)
	}
}
