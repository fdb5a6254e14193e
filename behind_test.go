package flush_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
)

// Behind is how long the oldest byte has waited, and Began when it all began.
func TestBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := newSink(t)
		f := flush.New(deadlineSink{s}, nil, &flush.Options{SendTimeout: time.Hour, MaxPending: 1 << 20})
		expect := func(least, most time.Duration) {
			t.Helper()
			synctest.Wait()
			if got := f.Stats().Behind; got < least || got > most {
				t.Errorf("behind for %v, want %v to %v", got, least, most)
			}
		}
		expect(0, 0)
		f.WriteString("a") // held for a flush
		time.Sleep(time.Minute)
		expect(time.Minute, time.Minute)
		must(t, f.FlushWait(t.Context()))
		expect(0, 0)
		s.hold(1 + blockBytes)
		f.Write(make([]byte, blockBytes)) // a block, in flight
		f.FlushAsync()
		expect(0, 0)
		s.hold(0)
		f.Write(make([]byte, 3*blockBytes)) // three more
		f.FlushAsync()
		time.Sleep(time.Minute)
		f.Write(make([]byte, blockBytes))
		f.FlushAsync()
		expect(time.Minute, time.Minute)
		s.hold(1 + 4*blockBytes) // all but the last
		expect(0, time.Minute)
		time.Sleep(time.Minute)
		expect(time.Minute, 2*time.Minute)
		s.release()
		expect(0, 0)
		must(t, f.Close())
		if st := f.Stats(); !st.Began.Equal(began) || st.Behind != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A client that takes each event a second after it was written is behind for that
// long, and no longer, though there is always something in the block.
func TestBehindDoesNotGrow(t *testing.T) {
	for _, timeout := range []time.Duration{time.Hour, -1} {
		synctest.Test(t, func(t *testing.T) {
			s := newSink(t)
			f := flush.New(deadlineSink{s}, nil, &flush.Options{SendTimeout: timeout, MaxPending: 1 << 20})
			taken := 0
			s.hold(0)
			for range 1000 {
				f.WriteString("event ")
				f.FlushAsync()
				time.Sleep(time.Second)
				f.WriteString("another ")
				f.FlushAsync()
				synctest.Wait()
				if got := f.Stats().Behind; got < time.Second || got > 3*time.Second {
					t.Fatalf("behind for %v", got)
				}
				taken += len("event another ")
				s.hold(taken - len("another "))
				synctest.Wait()
			}
			s.release()
			must(t, f.Close())
		})
	}
}
