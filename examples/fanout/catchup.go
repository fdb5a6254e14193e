package main

import (
	"context"
	"errors"

	"github.com/fa492104/flush"
	"github.com/nats-io/nats.go/jetstream"
)

// catchUp sends a client the events after cursor from the store and makes its
// stream a live one. Here a slow client may take its time: only its handler
// waits.
//
// When a machine dies, all its clients come back to the others at once. So the
// store is read for at most [readers] of them at a time, one event by one, in
// the order in which they ask. Nobody keeps a turn while a client reads.
func (in *instance) catchUp(ctx context.Context, f *flush.Flusher, cursor uint64) error {
	if cursor > in.hub.count().Last { // ahead of us, or an id of another store
		info, err := turn(ctx, in, func() (*jetstream.StreamInfo, error) { return in.events.Info(ctx) })
		if err != nil {
			return err
		}
		if last := info.State.LastSeq; cursor > last {
			cursor = last
			if err := send(f, gap); err != nil {
				return err
			}
		}
	}
	for {
		if joined, err := in.hub.join(f, cursor); joined || err != nil {
			return err
		}
		m, err := turn(ctx, in, func() (*jetstream.RawStreamMsg, error) {
			return in.events.GetMsg(ctx, cursor+1, jetstream.WithGetMsgSubject(subject)) // that one or the next there is
		})
		text := gap
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound): // all of them are forgotten
			cursor = in.hub.count().Last
		case err != nil:
			return err
		default:
			text, cursor = format(cursor, m.Sequence, m.Data), m.Sequence
		}
		if err := send(f, text); err != nil {
			return err
		}
	}
}

func send(f *flush.Flusher, text string) error {
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.FlushAsync()
}

// turn waits for a turn at the store and reads.
func turn[T any](ctx context.Context, in *instance, read func() (T, error)) (T, error) {
	select {
	case in.turns <- struct{}{}:
		defer func() { <-in.turns }()
		return read()
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
