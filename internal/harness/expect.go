package harness

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/fa492104/flush"
)

// NoContext is the nil that FlushWait takes for no context.
var NoContext context.Context

// Must fails the test if err is not nil.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// MustWrite fails the test unless w takes all of s.
func MustWrite(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if n, err := io.WriteString(w, s); n != len(s) || err != nil {
		t.Fatalf("write of %d bytes: %d, %v", len(s), n, err)
	}
}

// EndedWait is a FlushWait whose context has ended already.
func EndedWait(f *flush.Flusher) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.FlushWait(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Next waits for what came.
func Next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(Patience())
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatal("nothing came")
		panic("not reached")
	}
}

// WaitFor waits until ok says so.
func WaitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience()); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to be")
		}
	}
}

// Go calls f on a goroutine of its own and returns a channel on which its
// error comes.
func Go(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}
