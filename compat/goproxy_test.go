package compat_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/elazarl/goproxy"

	"github.com/fa492104/flush"
)

// newProxy returns a goproxy that asks upstreams by tr.
func newProxy(tr *http.Transport) *goproxy.ProxyHttpServer {
	p := goproxy.NewProxyHttpServer()
	p.Logger = log.New(io.Discard, "", 0)
	p.Tr = tr
	p.ConnectDial = nil
	return p
}

func goproxyRows() []subject {
	return []subject{{name: "goproxy, plain requests", place: handler, want: cells{none, none, yes, yes, cutOff, cutOff, never, none, none}, serve: func(t *testing.T, opts *flush.Options, run func(*session)) http.Handler {
		s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream") // which goproxy flushes
			c := plain(w, r)
			c.w = nil
			run(c)
		}), http1)
		p := newProxy(s.client.Transport.(*http.Transport))
		return flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Scheme, r.URL.Host = "http", "upstream" // as a client says that knows of its proxy
			p.ServeHTTP(w, r)
		}), opts)
	}}}
}

// goproxy asks its writer whether it is an http.Hijacker, and tunnels over the
// connection or over the stream accordingly. Behind NewHandler as bare, over
// HTTP/1.1 and over HTTP/2, bytes pass both ways while the tunnel is open, and a
// plain request goes through the same proxy.
func TestGoproxyTunnel(t *testing.T) {
	wraps := map[string]func(http.Handler) http.Handler{
		"bare":             func(h http.Handler) http.Handler { return h },
		"NewHandler":       func(h http.Handler) http.Handler { return flush.NewHandler(h, nil) },
		"NewHandler async": func(h http.Handler) http.Handler { return flush.NewHandler(h, &flush.Options{Flush: flush.Async}) },
	}
	for name, wrap := range wraps {
		for _, p := range []proto{http1, http2} {
			t.Run(name+"/"+p.String(), func(t *testing.T) {
				echo := listenEcho(t)
				upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "plain") }))
				defer upstream.Close()
				tr := new(http.Transport)
				defer tr.CloseIdleConnections()
				front := httptest.NewUnstartedServer(wrap(newProxy(tr)))
				front.Config.ErrorLog = log.New(io.Discard, "", 0)
				front.Config.Protocols = new(http.Protocols)
				front.Config.Protocols.SetHTTP1(p == http1)
				front.Config.Protocols.SetUnencryptedHTTP2(p == http2)
				front.Start()
				defer front.Close()

				tunnel := http1Tunnel
				if p == http2 {
					tunnel = http2Tunnel
				}
				in, out := tunnel(t, front, echo)
				defer out.Close()
				br := bufio.NewReader(in)
				for _, text := range texts {
					if _, err := io.WriteString(out, text+"\n"); err != nil {
						t.Fatal(err)
					}
					if got, err := br.ReadString('\n'); got != text+"\n" {
						t.Fatalf("got %q, %v", got, err)
					}
				}

				if p == http2 {
					return // no client asks a proxy for a plain request that way
				}
				proxied := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(front.URL) }}
				defer proxied.CloseIdleConnections()
				resp, err := (&http.Client{Transport: proxied}).Get(upstream.URL)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); string(got) != "plain" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
	}
}

// listenEcho returns the address of a server that sends back what it gets.
func listenEcho(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

func http1Tunnel(t *testing.T, front *httptest.Server, target string) (io.Reader, io.WriteCloser) {
	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	return br, c
}

func http2Tunnel(t *testing.T, front *httptest.Server, target string) (io.Reader, io.WriteCloser) {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", front.Listener.Addr().String())
	}
	t.Cleanup(tr.CloseIdleConnections)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "http://"+target, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = target
	resp, err := tr.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Fatal(resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp.Body, w
}
