package compat_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"github.com/fa492104/flush"
)

// hijacked runs a handler that upgrades, under our wrapper, and a client; and
// checks what must be true afterwards.
func hijacked(t *testing.T, serve func(w http.ResponseWriter, r *http.Request), client func(t *testing.T, s *server)) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan error, 1)
		over := make(chan struct{})
		opts := &flush.Options{SendTimeout: sendTimeout, Flush: flush.Async, OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}
		h := flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			serve(w, r)
			if _, err := w.Write([]byte("x")); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("Write after Hijack: %v", err)
			}
			if err := flush.Flush(w, true); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("Flush after Hijack: %v", err)
			}
		}), opts)
		client(t, start(t, h, http1))
		<-over
		if err := <-closed; err != nil {
			t.Errorf("OnClose: %v", err)
		}
	})
}

// gorilla/websocket asserts http.Hijacker. Messages pass both ways, and the
// connection outlives SendTimeout when it is idle.
func TestGorillaWebsocket(t *testing.T) {
	hijacked(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := new(gorilla.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for {
			kind, p, err := c.ReadMessage()
			if err != nil {
				return
			}
			if err := c.WriteMessage(kind, p); err != nil {
				t.Error(err)
				return
			}
		}
	}, func(t *testing.T, s *server) {
		d := gorilla.Dialer{NetDialContext: s.Dial}
		c, _, err := d.DialContext(t.Context(), "ws://server/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, text := range texts {
			if err := c.WriteMessage(gorilla.TextMessage, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if _, p, err := c.ReadMessage(); err != nil || string(p) != text {
				t.Fatalf("got %q, %v", p, err)
			}
			time.Sleep(2 * sendTimeout)
		}
	})
}

// coder/websocket finds the Hijacker through Unwrap.
func TestCoderWebsocket(t *testing.T) {
	hijacked(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := coder.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		// The context of the request ends with the handler, not with Hijack.
		for {
			kind, p, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, p); err != nil {
				t.Error(err)
				return
			}
		}
	}, func(t *testing.T, s *server) {
		c, _, err := coder.Dial(t.Context(), "ws://server/", &coder.DialOptions{HTTPClient: s.client})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		for _, text := range texts {
			if err := c.Write(context.Background(), coder.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if _, p, err := c.Read(context.Background()); err != nil || string(p) != text {
				t.Fatalf("got %q, %v", p, err)
			}
			time.Sleep(2 * sendTimeout)
		}
		c.Close(coder.StatusNormalClosure, "")
	})
}
