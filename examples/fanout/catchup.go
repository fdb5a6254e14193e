package main

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// catchUp brings the client up to date from the store and makes the stream a
// live one. Here a slow client may take its time: only its handler waits.
//
// When a machine dies, all its clients come back to the others at once. So the
// store is read for at most [readers] of them at a time, one event by one, in
// the order in which they ask. Nobody keeps a turn while a client reads.
func (in *instance) catchUp(ctx context.Context, s *stream) error {
	if s.cursor > in.hub.count().Last { // ahead of us, or an id of another store
		info, err := turn(ctx, in, func() (*jetstream.StreamInfo, error) { return in.events.Info(ctx) })
		if err != nil {
			return err
		}
		if last := info.State.LastSeq; s.cursor > last {
			s.skipTo(last)
		}
	}
	for !in.hub.join(s) {
		m, err := turn(ctx, in, func() (*jetstream.RawStreamMsg, error) {
			return in.events.GetMsg(ctx, s.cursor+1, jetstream.WithGetMsgSubject(subject)) // that one or the next there is
		})
		if errors.Is(err, jetstream.ErrMsgNotFound) { // all of them are forgotten
			s.skipTo(in.hub.count().Last)
			continue
		}
		if err != nil {
			return err
		}
		if _, err := s.f.WriteString(s.format(m.Sequence, m.Data)); err != nil {
			return err
		}
		if err := s.f.FlushAsync(); err != nil {
			return err
		}
		s.cursor = m.Sequence
	}
	return nil
}

// skipTo says that the events up to last cannot be had.
func (s *stream) skipTo(last uint64) {
	s.f.WriteString(gap)
	s.f.FlushAsync()
	s.cursor = last
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
