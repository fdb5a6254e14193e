package flush_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/deadline"
	"github.com/fa492104/flush/internal/harness"
)

// What TestHammer has found, as small as it gets.

// A funcServer is a server's writer made of functions. It has neither deadlines
// nor a flush.
type funcServer struct {
	header http.Header
	write  func(p []byte) (int, error)
}

func newFuncServer(write func(p []byte) (int, error)) *funcServer {
	return &funcServer{make(http.Header), write}
}

func (s *funcServer) Header() http.Header         { return s.header }
func (s *funcServer) WriteHeader(int)             {}
func (s *funcServer) Write(p []byte) (int, error) { return s.write(p) }

type flushingServer struct {
	*funcServer
	flush func() error
}

func (s flushingServer) FlushError() error { return s.flush() }

type deadlineServer struct{ flushingServer }

func (s deadlineServer) SetWriteDeadline(time.Time) error { return nil }

type hijackServer struct {
	deadlineServer
	hijack func()
}

func (s hijackServer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.hijack()
	a, b := net.Pipe()
	b.Close()
	return a, nil, nil
}

// Each wait gets the result of its own flush, not of the round that follows it.
func TestFlushWaitReturnsItsOwnResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flush.New(newFuncServer(func(p []byte) (int, error) {
			time.Sleep(time.Millisecond)
			return len(p), nil
		}), nil, nil)
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				f.Write([]byte("event"))
				errs <- f.FlushWait(harness.NoContext)
			}()
			synctest.Wait()
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("a server that cannot flush: %v", err)
			}
		}
		harness.Must(t, f.Close())
	})
}

// A Close that waited for a Hijack leaves the connection to its new owner.
func TestCloseLeavesHijackedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hijacked := false
		touch := func() {
			if hijacked {
				t.Error("the server is called after Hijack")
			}
			time.Sleep(time.Millisecond)
		}
		f := flush.New(hijackServer{deadlineServer{flushingServer{
			newFuncServer(func(p []byte) (int, error) { touch(); return len(p), nil }),
			func() error { touch(); return nil },
		}}, func() { time.Sleep(time.Millisecond); hijacked = true }}, nil, nil)
		f.Write([]byte("before"))
		harness.Must(t, f.FlushAsync())
		go func() {
			conn, _, err := f.Hijack()
			if err == nil {
				conn.Close()
			}
		}()
		time.Sleep(3 * time.Millisecond) // Hijack is in its flush
		f.Write([]byte("beside"))
		f.Close()
	})
}

// A flush whose filter would have to wait for a Hijack that began in the filter
// before it leaves that to others: FlushWait ends with its context, and FlushAsync
// at once.
func TestFlushThroughFiltersBesideHijack(t *testing.T) {
	for _, wait := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := flush.New(hijackServer{deadlineServer{flushingServer{
				newFuncServer(func(p []byte) (int, error) { return len(p), nil }), func() error { return nil },
			}}, func() { time.Sleep(time.Minute) }}, nil, nil)
			harness.MustWrite(t, f, "first")
			harness.Must(t, f.FlushWait(harness.NoContext))
			ran := 0
			for range 2 {
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
					ran++
					time.Sleep(time.Second)
					return p, nil
				}})
			}
			harness.MustWrite(t, f, "second")
			hijacked := harness.Go(func() error { time.Sleep(time.Second / 2); _, _, err := f.Hijack(); return err })
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			began, err := time.Now(), error(nil)
			want, at := context.DeadlineExceeded, 2*time.Second
			if wait {
				err = f.FlushWait(ctx)
			} else {
				err = f.FlushAsync()
				want, at = nil, time.Second // its filter's, which is the caller's
			}
			if took := time.Since(began); !errors.Is(err, want) || took != at || ran != 1 {
				t.Errorf("wait %t: %v after %v, %d filters have run", wait, err, took, ran)
			}
			harness.Must(t, <-hijacked)
			if err := f.FlushWait(harness.NoContext); !errors.Is(err, http.ErrHijacked) {
				t.Error(err)
			}
		})
	}
}

// A Write beside Hijack is on the wire, or has been refused.
func TestWriteWhileHijackIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		f := flush.New(hijackServer{deadlineServer{flushingServer{
			newFuncServer(got.Write), func() error { return nil },
		}}, func() { time.Sleep(time.Millisecond) }}, nil, nil)
		go f.Hijack()
		synctest.Wait() // it is in the server's Hijack
		n, err := f.Write([]byte("beside"))
		time.Sleep(time.Second)
		cerr := f.Close()
		if n > 0 && got.Len() == 0 && err == nil && cerr == nil {
			t.Errorf("%d bytes accepted and gone; Close: %v, %+v", n, cerr, f.Stats())
		}
	})
}

type sendfileServer struct {
	deadlineServer
	readFrom func(io.Reader) (int64, error)
}

func (s sendfileServer) ReadFrom(r io.Reader) (int64, error) { return s.readFrom(r) }

// What the server's Write complains of without failing is the error of a Write that moves
// its own bytes down.
func TestWriteTellsRefusal(t *testing.T) {
	f := flush.New(deadlineServer{flushingServer{
		newFuncServer(func(p []byte) (int, error) { return 400, http.ErrContentLength }), func() error { return nil },
	}}, nil, nil)
	if n, err := f.Write(make([]byte, 8000)); n != 400 || !errors.Is(err, http.ErrContentLength) {
		t.Errorf("%d of 8000, %v", n, err)
	}
	f.Close()
}

// A ReadFrom that stands in line behind a Write as the response closes has read nothing
// of its file: all of that is refused.
func TestReadFromInLineAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(hintServer{harness.DeadlineSink{Sink: s}}, nil, &flush.Options{Flush: flush.Async, BufferSize: 1000, MaxPending: 1000})
		s.Hold(0)
		wrote := harness.Go(func() error { _, err := f.Write(make([]byte, 2000)); return err })
		synctest.Wait()
		left := bytes.NewReader(make([]byte, 5000))
		copied := harness.Go(func() error {
			n, err := f.ReadFrom(hammerFile{left})
			if n != 0 {
				t.Errorf("%d bytes were copied", n)
			}
			return err
		})
		synctest.Wait()
		closed := harness.Go(f.Close)
		synctest.Wait()
		if err := <-copied; !errors.Is(err, flush.ErrClosed) || left.Len() != 5000 {
			t.Errorf("%v, and %d of 5000 bytes are left in the file", err, left.Len())
		}
		s.Release()
		harness.Must(t, <-wrote)
		harness.Must(t, <-closed)
	})
}

// What the server's ReadFrom complains of without failing is the copy's error:
// the file has been read further than the server took.
func TestReadFromTellsRefusal(t *testing.T) {
	f := flush.New(sendfileServer{deadlineServer{flushingServer{
		newFuncServer(func(p []byte) (int, error) { return len(p), nil }), func() error { return nil },
	}}, func(r io.Reader) (int64, error) {
		io.ReadFull(r, make([]byte, 1000))
		return 400, http.ErrContentLength
	}}, nil, nil)
	if n, err := f.ReadFrom(hammerFile{bytes.NewReader(make([]byte, 2000))}); err == nil && n < 2000 {
		t.Errorf("%d of 2000 and no error", n)
	}
	f.Close()
}

// What is owed while somebody works on the buffers is paid once he has ended,
// whoever called the server last.
func TestOwedBehindTheOneWhoWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
		b := f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
		s.Hold(0)
		harness.MustWrite(t, f, "first")
		go b.Flush() // calls the server itself, as nothing is asynchronous
		synctest.Wait()
		harness.MustWrite(t, f, strings.Repeat("w", 20_000))
		go b.Flush()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- f.FlushWait(ctx) }()
		synctest.Wait()
		s.Release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		harness.Must(t, f.Close())
	})
}

// A call that fails after it took more than the first block of what it was given
// is counted to the byte.
func TestFailureInTheMiddleOfACopy(t *testing.T) {
	for _, took := range []int{0, 100, 4064, 5000, 65536} {
		f := flush.New(deadlineServer{flushingServer{newFuncServer(func(p []byte) (int, error) {
			return min(took, len(p)), errHammerFault
		}), func() error { return nil }}}, nil, &flush.Options{BufferSize: 1 << 20, MaxPending: 1 << 20})
		const size = 100_000
		f.Write(make([]byte, size))
		if err := f.FlushWait(harness.NoContext); !errors.Is(err, flush.ErrClientGone) {
			t.Errorf("%d taken: %v", took, err)
		}
		f.Close()
		if st := f.Stats(); st.Bytes > int64(took) || st.Bytes+st.Lost != size || f.Buffered() != 0 {
			t.Errorf("%d taken: %+v, %d held", took, st, f.Buffered())
		}
	}
}

// On a server without deadlines the wait for headers ends, too.
func TestSendHeadersEndsWithoutDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flush.New(flushingServer{
			newFuncServer(func(p []byte) (int, error) { return len(p), nil }),
			func() error { time.Sleep(time.Minute); return nil },
		}, nil, &flush.Options{SendTimeout: time.Second})
		began := time.Now()
		err := f.SendHeaders()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v: %v", took, err)
		}
		f.Close()
	})
}

// A response that fails while its hand-over waits for a Read of the handler's
// leaves the server alone: the Read goes on, and the hand-over would drain beside it.
func TestFailureWhileHeadersWaitForRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reading := false
		body, upload := io.Pipe()
		srv := deadlineServer{flushingServer{
			newFuncServer(func(p []byte) (int, error) { return len(p), nil }),
			func() error {
				if reading {
					t.Error("the server flushes while the body is being read")
				}
				return nil
			},
		}}
		ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{})
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "/", body)
		req.ContentLength = 10
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("ServeHTTP: %v", v)
			}
		}()
		flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, _ := flush.From(w)
			read := make(chan struct{})
			go func() {
				defer close(read)
				reading = true
				r.Body.Read(make([]byte, 10))
				reading = false
			}()
			synctest.Wait() // it is in its Read
			harness.MustWrite(t, f, "event")
			flushed := make(chan error)
			go func() { flushed <- f.FlushWait(harness.NoContext) }()
			synctest.Wait() // it waits for the Read
			go f.Abort(errHammerAbort)
			if err := <-flushed; !errors.Is(err, errHammerAbort) {
				t.Errorf("FlushWait: %v", err)
			}
			upload.Close()
			<-read
		}), nil).ServeHTTP(srv, req)
	})
}

// FlushAll(false) tells of a buffer that does not allow it, whether the client
// keeps up or not.
func TestFlushAllTellsOfNoFlushBehindSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{BufferSize: -1, MaxPending: 100, Implicit: flush.Async})
		f.StartBuffer(&flush.BufferOptions{NoFlush: true})
		if err := f.FlushAll(false); !errors.Is(err, flush.ErrForbidden) {
			t.Errorf("nothing is held: %v", err)
		}
		harness.Must(t, f.Top().Close())
		s.Hold(0)
		harness.MustWrite(t, f, strings.Repeat("w", 100)) // floor 2 is full
		synctest.Wait()
		b := f.StartBuffer(&flush.BufferOptions{NoFlush: true})
		harness.MustWrite(t, f, "kept")
		if err := f.FlushAll(false); !errors.Is(err, flush.ErrForbidden) {
			t.Errorf("the client is behind: %v", err)
		}
		s.Release()
		synctest.Wait()
		if b.Len() != len("kept") {
			t.Errorf("the buffer holds %d bytes", b.Len())
		}
		harness.Must(t, f.Close()) // it has been said
	})
}

// What is owed where only a caller may call the server is paid by the next who
// waits for it: no carrier may come.
func TestOwedWhereOnlyCallerMayPay(t *testing.T) {
	for _, by := range []string{"Write", "FlushAsync", "FlushAll", "FlushWait"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := flush.NewBudget(0, 1)
				other := flush.New(harness.NewSink(t), nil, &flush.Options{Budget: budget})
				harness.MustWrite(t, other, "all that the budget has")
				body, upload := io.Pipe()
				defer upload.Close()
				ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{})
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "/", body)
				req.ContentLength = 10
				s := harness.NewSink(t)
				f := flush.New(harness.DeadlineSink{Sink: s}, req, &flush.Options{Budget: budget, SAPI: flush.OpenResty()})
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
				harness.MustWrite(t, f, "held,")
				harness.Must(t, f.FlushAsync()) // the budget has no room
				switch by {
				case "Write":
					harness.MustWrite(t, f, "more,")
				case "FlushAsync":
					harness.Must(t, f.FlushAsync())
				case "FlushAll":
					harness.Must(t, f.FlushAll(false))
				case "FlushWait":
					harness.Must(t, f.FlushWait(harness.NoContext))
				}
				if n := f.Top().Len(); n >= len("held,more,") || by != "Write" && n > 0 {
					t.Errorf("the buffer still holds %d bytes", n)
				}
				harness.Must(t, f.FlushWait(harness.NoContext))
				if got := s.Body(); !strings.HasPrefix(got, "held,") {
					t.Errorf("the server has %q", got)
				}
				harness.Must(t, f.Close())
				harness.Must(t, other.Close())
			})
		})
	}
}

// A Broadcast waits for nobody, not even where only a caller may call the server:
// an implicit flush, and what a filter asks for, are left to the next who may wait.
func TestBroadcastLeavesServerToCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, upload := io.Pipe()
		defer upload.Close()
		ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{})
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "/", body)
		req.ContentLength = 10
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, req, &flush.Options{Implicit: flush.Async})
		var g flush.Group
		harness.Must(t, g.Add(f))
		s.Hold(0)
		began := time.Now()
		g.Broadcast([]byte("bare,"))
		f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			f.FlushAsync()
			return p, nil
		}})
		g.Broadcast([]byte("filtered,"))
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
		s.Release()
		harness.Must(t, f.FlushWait(harness.NoContext))
		if got := s.Body(); got != "bare,filtered," {
			t.Errorf("the server has %q", got)
		}
		harness.Must(t, f.Close())
	})
}

// A handler that panics while another goroutine ends the response asks why the
// client may have gone: the two do not race.
func TestPanicBesideAbort(t *testing.T) {
	for range 100 {
		var wg sync.WaitGroup
		func() {
			defer func() {
				if v := recover(); v != hammerPanic("handler") {
					t.Errorf("ServeHTTP: %v", v)
				}
			}()
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			flush.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, _ := flush.From(w)
				wg.Go(func() { f.Abort(errHammerAbort) })
				runtime.Gosched()
				panic(hammerPanic("handler"))
			}), nil).ServeHTTP(harness.NewSink(t), req)
		}()
		wg.Wait()
	}
}

// On a server without deadlines the end of a response waits for the server, but
// not for memory that others hold: what a buffer still has is handed over without.
func TestCloseDoesNotWaitForBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := flush.NewBudget(0, flush.BlockMemory)
		other := flush.New(harness.NewSink(t), nil, &flush.Options{Budget: budget})
		harness.MustWrite(t, other, "all that the budget has, and its handler idles")
		time.AfterFunc(time.Hour, func() { other.Close() })
		s := harness.NewSink(t)
		f := flush.New(s, nil, &flush.Options{Budget: budget, Flush: flush.Async, SendTimeout: time.Second})
		f.StartBuffer(nil)
		harness.MustWrite(t, f, strings.Repeat("w", 5000))
		began := time.Now()
		harness.Must(t, f.Close())
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := len(s.Body()); n != 5000 {
			t.Errorf("the server has %d bytes", n)
		}
		time.Sleep(2 * time.Hour)
		if n := budget.Stats().Held; n != 0 {
			t.Errorf("%d bytes are held", n)
		}
	})
}

// What a wait has left of a buffer's bytes is counted as lost if it does not get
// down at the end, even if a filter panics there.
func TestLostBehindPanicOfFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		f := flush.New(flushingServer{newFuncServer(func(p []byte) (int, error) {
			<-stuck
			return 0, errHammerFault
		}), func() error { return nil }}, nil, &flush.Options{BufferSize: -1, MaxPending: 100, SendTimeout: time.Second})
		b := f.StartBuffer(nil)
		harness.MustWrite(t, f, strings.Repeat("w", 5000))
		if err := b.Flush(); !errors.Is(err, flush.ErrTimeout) {
			t.Errorf("Flush: %v", err)
		}
		f.StartBuffer(&flush.BufferOptions{Filter: func([]byte, flush.Phase) ([]byte, error) { panic(hammerPanic("filter")) }})
		time.AfterFunc(time.Hour, func() { close(stuck) })
		func() {
			defer func() {
				if v := recover(); v != hammerPanic("filter") {
					t.Errorf("Close: %v", v)
				}
			}()
			f.Close()
		}()
		if st := f.Stats(); st.Bytes+st.Lost != 5000 {
			t.Errorf("%d sent, %d lost of 5000", st.Bytes, st.Lost)
		}
	})
}

// What a Broadcast cannot tell is told at the end.
func TestCloseTellsWhatBroadcastCannot(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*flush.Flusher)
		err     error
	}{
		"length": {func(f *flush.Flusher) { f.Header().Set("Content-Length", "5") }, http.ErrContentLength},
		"filter": {func(f *flush.Flusher) {
			f.StartBuffer(&flush.BufferOptions{ChunkSize: 1, Filter: func([]byte, flush.Phase) ([]byte, error) { return nil, errHammerFalse }})
		}, errHammerFalse},
		"nothing": {func(f *flush.Flusher) {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, nil)
			c.prepare(f)
			var g flush.Group
			harness.Must(t, g.Add(f))
			for range 3 {
				if missed := g.Broadcast([]byte("event")); len(missed) > 0 {
					t.Error("it has room")
				}
			}
			if err := f.Close(); !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// A filter that is still running when the response ends does not make the
// response take what is written.
func TestWriteAfterEndBesideFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flush.New(harness.NewSink(t), nil, nil)
		hold := make(chan struct{})
		b := f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
			<-hold
			return p, nil
		}})
		harness.MustWrite(t, f, "held")
		go b.Flush()
		synctest.Wait()
		f.Abort(errHammerAbort)
		lost := f.Stats().Lost
		if n, err := f.Write([]byte("late")); n != 0 || !errors.Is(err, flush.ErrClosed) {
			t.Errorf("Write: %d, %v", n, err)
		}
		if err := f.TryWrite([]byte("late")); !errors.Is(err, flush.ErrClosed) || !errors.Is(err, errHammerAbort) {
			t.Errorf("TryWrite: %v", err)
		}
		close(hold)
		synctest.Wait()
		if st := f.Stats(); st.Bytes+st.Lost != int64(len("held")) {
			t.Errorf("%d bytes lost at the end, later %+v", lost, st)
		}
	})
}

// What a filter's Abort drops is dropped once: the Clean that it is part of does
// not go on with the buffers below.
func TestAbortInFilterOfClean(t *testing.T) {
	f := flush.New(harness.NewSink(t), nil, nil)
	f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		t.Errorf("the filter of a buffer that was dropped gets %q, %d", p, phase)
		return p, nil
	}})
	harness.MustWrite(t, f, "below")
	f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		f.Abort(errHammerAbort)
		return p, nil
	}})
	harness.MustWrite(t, f, "above")
	if err := f.Clean(); !errors.Is(err, errHammerAbort) {
		t.Errorf("Clean: %v", err)
	}
	if err := f.Close(); !errors.Is(err, errHammerAbort) {
		t.Errorf("Close: %v", err)
	}
	if st := f.Stats(); st.Lost != int64(len("below")) {
		t.Errorf("%d bytes lost: what is above was taken back, what is below is lost", st.Lost)
	}
}

// A laggard takes a millisecond for each call.
type laggard struct{ harness.DeadlineSink }

func (l laggard) Write(p []byte) (int, error) {
	defer time.Sleep(time.Millisecond)
	return l.DeadlineSink.Write(p)
}

func (l laggard) FlushError() error {
	defer time.Sleep(time.Millisecond)
	return l.DeadlineSink.FlushError()
}

// A Write into a buffer with FollowFlush that waits, for what is owed or for floor 2,
// while the response ends is whole on the wire or refused: the end does not wait for
// it, and once dropped what came behind its last look.
func TestWriteIntoABufferAtTheEnd(t *testing.T) {
	for _, size := range []int{1, 10, 40, 55, 90, 5000} {
		for _, buffered := range []int{50, 3000} {
			synctest.Test(t, func(t *testing.T) {
				s := harness.NewSink(t)
				f := flush.New(laggard{harness.DeadlineSink{Sink: s}}, nil, &flush.Options{BufferSize: 50, MaxPending: 1})
				harness.MustWrite(t, f, "begin")
				harness.Must(t, f.FlushWait(harness.NoContext))
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true})
				harness.MustWrite(t, f, strings.Repeat("b", buffered))
				s.Hold(0)
				for range min(2, buffered/50) {
					harness.Must(t, f.FlushAsync())
					synctest.Wait()
				}
				type result struct {
					n   int
					err error
				}
				wrote := make(chan result, 3)
				for range cap(wrote) {
					go func() {
						n, err := f.WriteString(strings.Repeat("w", size))
						wrote <- result{n, err}
					}()
					synctest.Wait()
				}
				closed := harness.Go(f.Close)
				synctest.Wait()
				s.Release()
				harness.Must(t, <-closed)
				want := int64(5 + buffered)
				for range cap(wrote) {
					r := <-wrote
					want += int64(r.n)
					if r.n < size && !errors.Is(r.err, flush.ErrClosed) {
						t.Errorf("%d of %d, %v", r.n, size, r.err)
					}
				}
				if st := f.Stats(); st.Bytes != want || st.Lost != 0 {
					t.Errorf("%d of %d bytes, %d lost", st.Bytes, want, st.Lost)
				}
			})
		}
	}
}

// keepsTheOrder has a large Write come behind what held brings in meanwhile, while the
// server is being called, and all of it go on.
func keepsTheOrder(t *testing.T, held func(write func(string), flush func())) {
	synctest.Test(t, func(t *testing.T) {
		s := harness.NewSink(t)
		f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{BufferSize: 20_000, MaxPending: 20_000})
		s.Hold(0)
		want := ""
		write := func(p string) { want += p; harness.MustWrite(t, f, p) }
		write("begin")
		harness.Must(t, f.FlushAsync())
		synctest.Wait()
		var flushed []<-chan error
		held(write, func() {
			flushed = append(flushed, harness.Go(func() error { return f.FlushWait(harness.NoContext) }))
			synctest.Wait()
		})
		large := strings.Repeat("c", 100_000)
		wrote := harness.Go(func() error { _, err := f.WriteString(large); return err })
		synctest.Wait()
		s.Release()
		for _, done := range flushed {
			harness.Must(t, <-done)
		}
		harness.Must(t, <-wrote)
		harness.Must(t, f.Close())
		if got := s.Body(); got != want+large {
			t.Errorf("other bytes: %s", harness.Runs(got))
		}
	})
}

// A large Write passes by floor 2 only behind all that was accepted before it, though
// somebody waits for a flush of the first of that.
func TestLargeWriteKeepsTheOrder(t *testing.T) {
	keepsTheOrder(t, func(write func(string), flush func()) {
		for _, c := range []string{"1", "2", "3"} {
			write(strings.Repeat(c, 100))
			flush()
			write(strings.Repeat(c, 5000))
		}
	})
}

// So it does though several wait for flushes of the same bytes: the round for the
// second of these hands nothing down.
func TestLargeWriteKeepsTheOrderBehindTwoFlushes(t *testing.T) {
	keepsTheOrder(t, func(write func(string), flush func()) {
		flush()
		flush()
		write(strings.Repeat("b", 6000))
	})
}

// A hintServer is a server's writer of HTTP/1 in which a 103 takes a second.
type hintServer struct{ harness.DeadlineSink }

func (i hintServer) WriteHeader(code int) {
	if code == http.StatusEarlyHints {
		time.Sleep(time.Second)
	}
	i.DeadlineSink.WriteHeader(code)
}

func (i hintServer) ReadFrom(r io.Reader) (int64, error) {
	all, _ := io.ReadAll(r)
	n, err := i.Write(all)
	return int64(n), err
}

func (i hintServer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a, b := net.Pipe()
	b.Close()
	return a, nil, nil
}

// Where only a caller may hand the headers over, the baton is free though flushes are
// due, for which others wait. Whoever has it then hands down all that was accepted
// before what he brings himself, and nothing that was accepted behind that.
func TestNothingPassesByWhatIsDue(t *testing.T) {
	const p, q, b, o = 100, 19_000, 2000, 30_000
	for _, c := range []struct {
		name string
		want string // as Runs has it
		do   func(t *testing.T, f *flush.Flusher)
	}{
		{"Write", "p×100 q×19000 b×2000 o×30000 ", func(t *testing.T, f *flush.Flusher) { harness.MustWrite(t, f, strings.Repeat("b", b)) }},
		{"ReadFrom", "p×100 q×19000 b×2000 o×30000 ", func(t *testing.T, f *flush.Flusher) {
			if n, err := f.ReadFrom(hammerFile{bytes.NewReader(bytes.Repeat([]byte("b"), b))}); n != b || err != nil {
				t.Errorf("%d of %d, %v", n, b, err)
			}
		}},
		{"Hijack", "p×100 q×19000 ", func(t *testing.T, f *flush.Flusher) {
			conn, _, err := f.Hijack()
			harness.Must(t, err)
			conn.Close()
		}},
		{"Abort", "p×100 q×19000 o×30000 ", func(t *testing.T, f *flush.Flusher) { f.Abort(errHammerAbort) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			passed := false
			for tries := 0; !passed && tries < 1000; tries++ { // who has the baton first is the scheduler's to say
				synctest.Test(t, func(t *testing.T) {
					s := harness.NewSink(t)
					r, _ := http.NewRequestWithContext(context.WithValue(t.Context(), http.ServerContextKey, &http.Server{}), "POST", "/", strings.NewReader("body"))
					f := flush.New(hintServer{harness.DeadlineSink{Sink: s}}, r, &flush.Options{BufferSize: 20_000, MaxPending: 60_000})
					s.Fault = func(_ []byte, at int) (int, error) {
						if at == 0 {
							passed = !bytes.Contains(debug.Stack(), []byte("FlushWait"))
						}
						return -1, nil
					}
					flushes := 0
					s.OnFlush = func() error {
						if flushes++; flushes == 1 {
							go f.Write(bytes.Repeat([]byte("o"), o))
							time.Sleep(time.Second / 2)
						}
						return nil
					}
					done := harness.Go(func() error {
						f.WriteHeader(http.StatusEarlyHints)
						c.do(t, f) // mostly before who waits has woken
						return nil
					})
					synctest.Wait()
					harness.MustWrite(t, f, strings.Repeat("p", p))
					for range 2 {
						go f.FlushWait(harness.NoContext)
						synctest.Wait()
					}
					harness.MustWrite(t, f, strings.Repeat("q", q))
					harness.Must(t, f.FlushAsync())
					<-done
					time.Sleep(time.Second) // others have written
					f.Close()
					if got := harness.Runs(s.Body()); passed && got != c.want {
						t.Errorf("%snot %s", got, c.want)
					}
				})
			}
			if !passed {
				t.Error("who waits was always first")
			}
		})
	}
}

// A muteServer is a server's writer of which two calls do not say what they have met,
// WriteHeader and Flush. From one of them on its calls take a while, or until the
// deadline.
type muteServer struct {
	sink  *harness.Sink
	until deadline.Deadline
	slow  string
	took  time.Duration
	late  bool
}

func (m *muteServer) enter(call string) {
	if m.late = m.late || call == m.slow; m.late {
		select {
		case <-time.After(m.took):
		case <-m.until.Passed():
		}
	}
}

func (m *muteServer) Header() http.Header                { return m.sink.Header() }
func (m *muteServer) SetWriteDeadline(t time.Time) error { m.until.Set(t); return nil }
func (m *muteServer) WriteHeader(code int)               { m.enter("WriteHeader"); m.sink.WriteHeader(code) }
func (m *muteServer) Flush()                             { m.enter("Flush"); m.sink.FlushError() }

func (m *muteServer) Write(p []byte) (int, error) {
	m.enter("Write")
	if deadline.Closed(m.until.Passed()) {
		return 0, os.ErrDeadlineExceeded
	}
	return m.sink.Write(p)
}

// The end of a response waits for SendTimeout without progress once: a call that the
// deadline has ended is none, though it cannot say so. One that returns before is.
func TestCloseBehindMuteCalls(t *testing.T) {
	for _, slow := range []string{"WriteHeader", "Flush"} {
		for _, stalls := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				m := &muteServer{sink: harness.NewSink(t), slow: slow, took: time.Minute - time.Millisecond}
				if stalls {
					m.took = time.Hour
				}
				r, _ := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
				defer func() {
					if v := recover(); (v != nil) != stalls {
						t.Errorf("%s, stalls %t: %v", slow, stalls, v)
					}
				}()
				harness.Wrapped(&flush.Options{SendTimeout: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
					harness.MustWrite(t, w, "all")
					began := time.Now()
					err := harness.Flusher(w).Close()
					switch took := time.Since(began); {
					case stalls && (!errors.Is(err, flush.ErrTimeout) || took != time.Minute):
						t.Errorf("%s stalls: %v after %v", slow, err, took)
					case !stalls && (err != nil || m.sink.Body() != "all"):
						t.Errorf("%s is slow: %v after %v, with %q", slow, err, took, m.sink.Body())
					}
				}).ServeHTTP(m, r)
			})
		}
	}
}

// A filter's panic is all that the caller gets. What else went wrong in the same
// operation, bytes that found no place among them, is told at the end.
func TestCloseTellsWhatAPanicHides(t *testing.T) {
	ops := map[string]func(f *flush.Flusher, b *flush.Buffer) error{
		"FlushWait": func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushWait(harness.NoContext) },
		"FlushWait(ctx)": func(f *flush.Flusher, _ *flush.Buffer) error {
			ctx, cancel := context.WithTimeout(t.Context(), harness.Patience())
			defer cancel()
			return f.FlushWait(ctx)
		},
		"FlushAsync":      func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushAsync() },
		"FlushAll(true)":  func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushAll(true) },
		"FlushAll(false)": func(f *flush.Flusher, _ *flush.Buffer) error { return f.FlushAll(false) },
		"Buffer.Flush":    func(_ *flush.Flusher, b *flush.Buffer) error { return b.Flush() },
		"Buffer.Close":    func(_ *flush.Flusher, b *flush.Buffer) error { return b.Close() },
		"Write":           func(f *flush.Flusher, _ *flush.Buffer) error { _, err := f.Write(make([]byte, 100)); return err },
		"TryWrite":        func(f *flush.Flusher, _ *flush.Buffer) error { return f.TryWrite(make([]byte, 100)) },
	}
	for name, op := range ops {
		for _, c := range []struct {
			name   string
			length string // declared, or none
			throw  func() ([]byte, error)
			hidden bool
		}{
			{"panic", "5", func() ([]byte, error) { panic(hammerPanic("filter")) }, true},
			{"Goexit", "5", func() ([]byte, error) { runtime.Goexit(); return nil, nil }, true},
			{"twin: all fits", "", func() ([]byte, error) { panic(hammerPanic("filter")) }, false},
			{"twin: it fails", "5", func() ([]byte, error) { return nil, errHammerFalse }, false},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				s, told := harness.NewSink(t), error(nil)
				f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{OnClose: func(_ *http.Request, _ flush.Stats, err error) { told = err }})
				if c.length != "" {
					f.Header().Set("Content-Length", c.length)
				}
				b := f.StartBuffer(&flush.BufferOptions{ChunkSize: 100, FollowFlush: true, Filter: func([]byte, flush.Phase) ([]byte, error) {
					return c.throw()
				}})
				harness.MustWrite(t, f, "content")
				threw := make(chan bool)
				go func() {
					defer close(threw)
					returned := false
					defer func() {
						recover()
						threw <- !returned
					}()
					err := op(f, b)
					if returned = true; !errors.Is(err, errHammerFalse) || !errors.Is(err, http.ErrContentLength) {
						t.Errorf("it returned %v", err)
					}
				}()
				if fails := c.name == "twin: it fails"; <-threw == fails {
					t.Errorf("it returned: %t", fails)
				}
				err := f.Close()
				if c.hidden != errors.Is(err, http.ErrContentLength) || !c.hidden && err != nil {
					t.Errorf("Close: %v", err)
				}
				if err != told {
					t.Errorf("OnClose was told %v, Close %v", told, err)
				}
				if whole := c.length == ""; whole == (s.Body() == "conte") || whole == (f.Stats().Lost > 0) {
					t.Errorf("%q came, %d bytes are lost", s.Body(), f.Stats().Lost)
				}
			})
		}
	}
}

// What an operation was told before a filter's panic is no loss by that alone: a
// buffer with NoFlush has kept what it holds.
func TestPanicHidesNothingThatIsNotLost(t *testing.T) {
	f := flush.New(harness.NewSink(t), nil, nil)
	f.StartBuffer(&flush.BufferOptions{Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
		if phase&flush.PhaseFlush != 0 {
			panic(hammerPanic("filter"))
		}
		return p, nil
	}})
	f.StartBuffer(&flush.BufferOptions{NoFlush: true})
	harness.MustWrite(t, f, "content")
	func() {
		defer func() { recover() }()
		f.FlushAll(true)
		t.Error("it did not panic")
	}()
	harness.Must(t, f.Close())
}

// A breaking sink does what throw does in one of its calls.
type breakingSink struct {
	harness.DeadlineSink
	in    string
	throw func()
}

func (s breakingSink) at(call string) {
	if s.in == call {
		s.throw()
	}
}

func (s breakingSink) WriteHeader(code int) {
	s.at("WriteHeader")
	s.DeadlineSink.WriteHeader(code)
}

func (s breakingSink) Write(p []byte) (int, error) {
	s.at("Write")
	return s.DeadlineSink.Write(p)
}

func (s breakingSink) FlushError() error {
	s.at("Flush")
	return s.DeadlineSink.FlushError()
}

// A server's writer that panics while an Abort shows what was flushed, or ends the
// goroutine that calls it, leaves no lock behind. The end goes on, and whoever ends the
// response meets the panic, be it a carrier that has called the writer or, where only a
// caller may hand over headers, the one who aborts.
func TestServerPanicsWhileAnAbortShows(t *testing.T) {
	cause := errors.New("cause")
	const none = "none, a twin"
	for _, in := range []string{"WriteHeader", "Write", "Flush", none} {
		for _, exits := range []bool{false, true} {
			for _, unread := range []bool{false, true} { // a request body, which only a caller may have the server drain
				for _, filter := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%t/%t/%t", in, exits, unread, filter), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							s := breakingSink{harness.DeadlineSink{Sink: harness.NewSink(t)}, in, func() { panic(hammerPanic("server")) }}
							if exits {
								s.throw = runtime.Goexit
							}
							ctx := context.WithValue(t.Context(), http.ServerContextKey, new(http.Server))
							var body io.Reader
							if unread {
								body = strings.NewReader("unread")
							}
							closed := 0
							f := flush.New(s, httptest.NewRequestWithContext(ctx, "POST", "/", body), &flush.Options{
								FlushInterval: time.Second, SendTimeout: time.Minute, OnClose: func(*http.Request, flush.Stats, error) { closed++ },
							})
							aborted := false
							thrown := make(chan any, 1)
							go func() {
								defer func() { thrown <- recover() }()
								defer f.Close()
								harness.MustWrite(t, f, "page")
								if !filter {
									if unread {
										time.Sleep(2 * time.Second) // it is due, and waits for a caller
									}
									f.Abort(cause)
									aborted = true
									return
								}
								f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
									if !aborted {
										harness.Must(t, f.FlushAsync())
										f.Abort(cause)
										aborted = true
									}
									return p, nil
								}})
								f.FlushAsync()
							}()
							got := <-thrown
							shows := filter || unread
							breaks := in != none && shows
							switch {
							case !breaks:
								if got != nil || !errors.Is(f.Err(), cause) || (s.Body() == "page") != shows {
									t.Errorf("it panicked with %v, %q came, Err is %v", got, s.Body(), f.Err())
								}
							case exits && unread: // its goroutine is gone
								if got != nil || aborted {
									t.Errorf("it panicked with %v, Abort has returned: %t", got, aborted)
								}
							case got == nil || !exits && got != any(hammerPanic("server")) || !aborted:
								t.Errorf("it panicked with %v, Abort has returned: %t", got, aborted)
							}
							if f.Err() == nil || closed != 1 {
								t.Errorf("Err is %v, OnClose ran %d times", f.Err(), closed)
							}
						})
					})
				}
			}
		}
	}
}

// Flush has no result: what a buffer met in it, bytes that found no place among it, is
// told at the end. Twins: an error that was returned is not told again, and what costs
// nothing is not told.
func TestCloseTellsWhatFlushCannot(t *testing.T) {
	fails := func([]byte, flush.Phase) ([]byte, error) { return nil, errHammerFalse }
	passes := func(p []byte, _ flush.Phase) ([]byte, error) { return p, nil }
	mute := func(s *harness.Sink) http.ResponseWriter { return noFlush{s} }
	bare := func(s *harness.Sink) http.ResponseWriter { return s }
	for name, c := range map[string]struct {
		filter   flush.Filter
		declared string
		refuses  bool // the server, after a part
		stalls   bool // the client, for longer than the send timeout
		over     func(s *harness.Sink) http.ResponseWriter
		want     error
	}{
		"a filter fails":                  {filter: fails, want: errHammerFalse},
		"more than was declared":          {filter: passes, declared: "5", want: http.ErrContentLength},
		"the server refuses":              {filter: passes, refuses: true, want: http.ErrContentLength},
		"a filter fails, and no flush":    {filter: fails, over: mute, want: errHammerFalse},
		"twin: all goes well":             {filter: passes},
		"twin: the server has no flush":   {filter: passes, over: mute},
		"twin: nothing but a plain flush": {},
		"twin: a wait ends":               {stalls: true, over: bare},
		"a filter fails, and a wait ends": {filter: fails, stalls: true, over: bare, want: errHammerFalse},
	} {
		for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
			for _, returns := range []bool{false, true} { // FlushError
				t.Run(fmt.Sprintf("%s/%v/returns=%t", name, mode, returns), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s, told := harness.NewSink(t), error(nil)
						var w http.ResponseWriter = harness.DeadlineSink{Sink: s}
						if c.over != nil {
							w = c.over(s)
						}
						f := flush.New(w, nil, &flush.Options{Flush: mode, OnClose: func(_ *http.Request, _ flush.Stats, err error) { told = err }})
						if c.declared != "" {
							f.Header().Set("Content-Length", c.declared)
						}
						if c.refuses {
							s.Fault = func(p []byte, at int) (int, error) { return max(5000-at, 0), http.ErrContentLength }
						}
						if c.filter != nil {
							f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: c.filter})
						}
						size := 20_000
						if c.stalls {
							size = 2000
							s.Hold(0)
							time.AfterFunc(2*time.Minute, s.Release)
						}
						harness.MustWrite(t, f, harness.Numbered(size))
						if !returns {
							f.Flush()
						} else if err := f.FlushError(); c.want != nil && !errors.Is(err, c.want) && !c.refuses { // a carrier may meet it
							t.Errorf("FlushError returned %v, want %v", err, c.want)
						}
						synctest.Wait()
						if f.Err() != nil {
							t.Fatalf("%v sticks: the test shows nothing", f.Err())
						}
						err := f.Close()
						if silent := c.want == nil || returns && !c.refuses; silent != (err == nil) || !silent && !errors.Is(err, c.want) {
							t.Errorf("Close: %v", err)
						}
						if err != told {
							t.Errorf("OnClose was told %v, Close %v", told, err)
						}
					})
				})
			}
		}
	}
}

// That a response is held for HTTP/1.0 is no reason for FlushError to keep silent about
// a filter.
func TestFlushErrorBesideBuffering(t *testing.T) {
	for _, mode := range []flush.Mode{flush.Wait, flush.Async} {
		for _, fails := range []bool{true, false} {
			call := func(flushes func(f *flush.Flusher) error) error {
				r := requestOf(t.Context(), 0)
				r.ProtoMinor = 0
				f := flush.New(harness.NewSink(t), r, &flush.Options{Flush: mode, HTTP10Buffer: 1 << 20})
				f.StartBuffer(&flush.BufferOptions{FollowFlush: true, Filter: func(p []byte, _ flush.Phase) ([]byte, error) {
					if fails {
						return nil, errHammerFalse
					}
					return p, nil
				}})
				harness.MustWrite(t, f, "page")
				defer f.Close()
				return flushes(f)
			}
			err := call(func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) })
			if !errors.Is(err, flush.ErrBuffering) || errors.Is(err, errHammerFalse) != fails {
				t.Errorf("%v, fails=%t: FlushWait: %v", mode, fails, err)
			}
			err = call((*flush.Flusher).FlushError)
			if errors.Is(err, flush.ErrBuffering) || errors.Is(err, errHammerFalse) != fails || !fails && err != nil {
				t.Errorf("%v, fails=%t: FlushError: %v", mode, fails, err)
			}
		}
	}
}
