package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// fetch runs h in a bubble over every protocol and hands check the response,
// read to its end.
func fetch(t *testing.T, method string, opts *flush.Options, h http.HandlerFunc, check func(t *testing.T, p harness.Proto, s *harness.Stream, body string, end harness.Ending)) {
	t.Helper()
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		srv := harness.ServeMemory(t, p, harness.Wrapped(opts, h), 1<<20)
		s := harness.Open(t, srv, method, "/", nil)
		s.Response()
		body, _, end := s.Rest()
		check(t, p, s, body, end)
	})
}

// Headers are fixed by WriteHeader or the first byte, long before they go out:
// what is changed between is not sent.
func TestHeaderFixedIsNotSent(t *testing.T) {
	for _, test := range []struct {
		name string
		fix  func(w http.ResponseWriter)
		sent bool // once fixed
		late string
	}{
		{"nothing", func(http.ResponseWriter) {}, false, "late"},
		{"empty write", func(w http.ResponseWriter) { w.Write(nil) }, false, "early"},
		{"WriteHeader", func(w http.ResponseWriter) { w.WriteHeader(200) }, false, "early"},
		{"write", func(w http.ResponseWriter) { io.WriteString(w, "x") }, false, "early"},
		{"flush", func(w http.ResponseWriter) { flush.Flush(w, true) }, true, "early"},
		{"FlushAsync", func(w http.ResponseWriter) { flush.Flush(w, false); synctest.Wait() }, true, "early"},
		{"SendHeaders", func(w http.ResponseWriter) { harness.Flusher(w).SendHeaders() }, true, "early"},
		{"large write", func(w http.ResponseWriter) { w.Write(make([]byte, 5000)) }, true, "early"},
		{"early hints", func(w http.ResponseWriter) { w.WriteHeader(103) }, false, "late"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
				h := w.Header()
				h["X-Set"] = []string{"early"}
				h.Set("X-Add", "early")
				test.fix(w)
				if sent := harness.Flusher(w).HeadersSent(); sent != test.sent {
					t.Error("HeadersSent:", sent)
				}
				h["X-Set"][0] = "late" // in the slice itself
				h.Add("X-Add", "late")
				h.Set("X-New", "late")
				w.Header().Del("Date")
				io.WriteString(w, "end")
			}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, end harness.Ending) {
				h := s.Header()
				isLate := h.Get("X-New") == "late" && h.Get("X-Set") == "late" && len(h["X-Add"]) == 2
				isEarly := h["X-New"] == nil && h.Get("X-Set") == "early" && slices.Equal(h["X-Add"], []string{"early"})
				if test.late == "late" && !isLate || test.late == "early" && !isEarly {
					t.Errorf("got %v, want %s", h, test.late)
				}
			})
		})
	}
}

// The first WriteHeader wins. A 1xx is not one, and an impossible code panics
// as in net/http.
func TestWriteHeader(t *testing.T) {
	for _, test := range []struct {
		codes []int
		want  int
	}{
		{nil, 200}, {[]int{404}, 404}, {[]int{404, 200}, 404}, {[]int{103, 404}, 404}, {[]int{418, 103}, 418}, {[]int{999}, 999},
	} {
		fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
			for _, code := range test.codes {
				w.WriteHeader(code)
			}
			io.WriteString(w, "x")
			w.WriteHeader(500)
		}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, end harness.Ending) {
			if got := s.Response().StatusCode; got != test.want || body != "x" {
				t.Errorf("%v: got %d %q, want %d", test.codes, got, body, test.want)
			}
		})
	}
	for _, code := range []int{-1, 0, 99, 1000} {
		f := flush.New(harness.NewPlain(), nil, nil)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d: no panic", code)
				}
			}()
			f.WriteHeader(code)
		}()
		f.Abort(nil)
	}
}

// Mistakes that net/http logs are logged with the handler's own line.
func TestWriteHeaderTwiceIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			w.WriteHeader(201)
		}), 0)
		harness.Open(t, srv, "GET", "/", nil).ExpectEnd("")
		if got := srv.Logged(); !strings.Contains(got, "superfluous response.WriteHeader call") || !strings.Contains(got, "headers_test.go:") {
			t.Errorf("logged %q", got)
		}
	})
}

// A 1xx goes straight through, each with the headers of its moment, whatever
// is done to them afterwards; but not to HTTP/1.0.
func TestInformational(t *testing.T) {
	park := func(t *testing.T, p harness.Proto) (*harness.Stream, *harness.Park) {
		park := harness.NewPark(t)
		srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Step", "one")
			w.WriteHeader(103)
			w.Header().Set("X-Step", "two")
			w.WriteHeader(102)
			w.Header().Set("X-Step", "three")
			if harness.Flusher(w).HeadersSent() {
				t.Error("a 1xx counts as the headers")
			}
			park.Here()
			io.WriteString(w, "end")
			w.WriteHeader(103) // too late
		}), 0)
		return harness.Open(t, srv, "GET", "/", nil), park
	}
	harness.Bubble(t, func(t *testing.T, p harness.Proto) {
		s, park := park(t, p)
		park.Wait()
		s.ExpectNothing() // of the final head
		if p == harness.HTTP1 && strings.Count(s.Raw.String(), "\r\n\r\n") != 2 {
			t.Errorf("while the handler is blocked: %q", s.Raw)
		}
		park.Resume()
		h := s.Header()
		s.ExpectEnd("end")
		var got []string
		for _, i := range s.Interim {
			got = append(got, fmt.Sprint(i.Code, i.Header.Get("X-Step")))
		}
		want := []string{"103one", "102two"}
		if p == harness.HTTP10 {
			want = nil
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || h.Get("X-Step") != "three" {
			t.Errorf("got %q, want %q, then %v", got, want, h)
		}
	})
}

// Any writer below gets a 1xx, known or not, unless it takes one for the final
// status.
func TestInformationalWhereItIsTaken(t *testing.T) {
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, nil)
	f.WriteHeader(103)
	f.WriteHeader(404)
	f.Close()
	if p.String() != "103 404" {
		t.Errorf("server saw %q", p)
	}
	rec := httptest.NewRecorder()
	f = flush.New(harness.Unwrapper{ResponseWriter: rec}, httptest.NewRequest("GET", "/", nil), nil)
	f.WriteHeader(103)
	f.WriteHeader(404)
	f.Close()
	if rec.Code != 404 {
		t.Errorf("recorder has %d", rec.Code)
	}
	t.Setenv("GATEWAY_INTERFACE", "CGI/1.1")
	p = harness.NewPlain()
	f = flush.New(harness.Flushable{Plain: p}, httptest.NewRequest("GET", "/", nil), nil)
	f.WriteHeader(103)
	f.WriteHeader(404)
	f.Close()
	if p.String() != "404" {
		t.Errorf("CGI, behind a writer without Unwrap, saw %q", p)
	}
}

// An output without headers has no place for a 1xx either.
func TestInformationalWhereThereAreNoHeaders(t *testing.T) {
	p := harness.NewPlain()
	f := flush.New(harness.Flushable{Plain: p}, nil, &flush.Options{SAPI: flush.CLI()})
	f.WriteHeader(103)
	harness.MustWrite(t, f, "text")
	harness.Must(t, f.Close())
	if got := p.String(); got != "text flush" {
		t.Errorf("the output got %q", got)
	}
}

// 101 is final, and ends what may be written.
func TestSwitchingProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := harness.ServeMemory(t, harness.HTTP1, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Upgrade", "x")
			w.WriteHeader(101)
			if _, err := io.WriteString(w, "x"); err != http.ErrBodyNotAllowed {
				t.Error(err)
			}
		}), 0)
		s := harness.Open(t, srv, "GET", "/", nil)
		if r := s.Response(); r.StatusCode != 101 || r.Header.Get("Upgrade") != "x" {
			t.Error(r)
		}
	})
}

// A response that ends before anything went out has its exact length, however
// many writes; one that streamed has none.
func TestContentLengthOfWholeResponses(t *testing.T) {
	none := func(w http.ResponseWriter) {}
	for _, test := range []struct {
		name  string
		opts  *flush.Options
		first func(w http.ResponseWriter)
		size  int
		want  string
	}{
		{"empty", nil, none, 0, "0"},
		{"small", nil, none, 300, "300"},
		{"beyond the server's own", nil, none, 3000, "3000"},
		{"largest held", nil, none, 4095, "4095"},
		{"streamed", nil, none, 10_000, ""},
		{"large buffer", &flush.Options{BufferSize: 1 << 20}, none, 500_000, "500000"},
		{"asynchronous", &flush.Options{Flush: flush.Async}, none, 4095, "4095"},
		{"interval", &flush.Options{FlushInterval: time.Hour}, none, 4095, "4095"},
		{"switched off", nil, func(w http.ResponseWriter) { w.Header()["Content-Length"] = nil }, 3000, ""},
		{"switched off, small", nil, func(w http.ResponseWriter) { w.Header()["Content-Length"] = nil }, 300, ""},
		{"declared", nil, func(w http.ResponseWriter) { w.Header().Set("Content-Length", "5000") }, 5000, "5000"},
		{"flushed", nil, func(w http.ResponseWriter) { flush.Flush(w, true) }, 300, ""},
		{"flushed after some", nil, func(w http.ResponseWriter) { io.WriteString(w, ""); flush.Flush(w, true) }, 3000, ""},
		{"headers sent", nil, func(w http.ResponseWriter) { harness.Flusher(w).SendHeaders() }, 300, ""},
		{"trailers", nil, func(w http.ResponseWriter) { w.Header().Set("Trailer", "X-T") }, 3000, "trailers"},
		{"status", nil, func(w http.ResponseWriter) { w.WriteHeader(500) }, 3000, "3000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fetch(t, "GET", test.opts, func(w http.ResponseWriter, _ *http.Request) {
				test.first(w)
				for n := range test.size {
					if _, err := w.Write([]byte{byte('a' + n%26)}); err != nil {
						t.Fatal(err)
					}
				}
			}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, end harness.Ending) {
				want := test.want
				if want == "trailers" {
					// HTTP/2 has both; an HTTP/1.0 client gets no trailers.
					if want = "3000"; p == harness.HTTP1 {
						want = ""
					}
				}
				if test.name == "switched off, small" || test.name == "switched off" {
					if p == harness.HTTP2 {
						want = s.Header().Get("Content-Length") // the HTTP/2 server measures all the same
					}
				}
				if got := s.Header().Get("Content-Length"); got != want || len(body) != test.size {
					t.Errorf("got length %q, %d bytes, want %q", got, len(body), want)
				}
			})
		})
	}
}

// The type is detected from the first 512 bytes held, however many writes and
// whatever sends the headers, unless the handler has said something.
func TestContentTypeFromHeldBytes(t *testing.T) {
	const html, png = "<!DOCTYPE HTML>text", "\x89PNG\x0d\x0a\x1a\x0a"
	for _, test := range []struct {
		name   string
		method string
		h      http.HandlerFunc
		want   string
	}{
		{"byte by byte", "GET", func(w http.ResponseWriter, _ *http.Request) {
			for _, c := range html {
				io.WriteString(w, string(c))
			}
		}, "text/html; charset=utf-8"},
		{"flushed", "GET", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, html[:5])
			io.WriteString(w, html[5:])
			flush.Flush(w, true)
		}, "text/html; charset=utf-8"},
		{"SendHeaders", "GET", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, png)
			harness.Flusher(w).SendHeaders()
		}, "image/png"},
		{"spaces, then a tag", "GET", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.Repeat(" ", 500))
			io.WriteString(w, html)
		}, "text/plain; charset=utf-8"},
		{"HEAD", "HEAD", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, html) }, "text/html; charset=utf-8"},
		{"HEAD of much", "HEAD", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, html+strings.Repeat(" ", 9999)) }, "text/html; charset=utf-8"},
		{"HEAD, flushed", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, html)
			flush.Flush(w, true)
		}, "text/html; charset=utf-8"},
		{"the handler's", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/x-own")
			io.WriteString(w, html)
		}, "text/x-own"},
		{"switched off", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			io.WriteString(w, html)
			harness.Flusher(w).SendHeaders()
		}, ""},
		{"encoded", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "own")
			io.WriteString(w, html)
			harness.Flusher(w).SendHeaders()
		}, ""},
		{"nothing held", "GET", func(w http.ResponseWriter, _ *http.Request) {
			flush.Flush(w, true)
			io.WriteString(w, html)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			fetch(t, test.method, nil, test.h, func(t *testing.T, p harness.Proto, s *harness.Stream, _ string, _ harness.Ending) {
				if got := s.Header().Get("Content-Type"); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}

// SendHeaders sends the headers and not a byte of the body.
func TestSendHeaders(t *testing.T) {
	for _, sapi := range []flush.SAPI{flush.NetHTTP(), flush.OpenResty()} {
		for _, held := range []string{"", "held"} {
			t.Run(sapi.Name+held, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					park := harness.NewPark(t)
					srv := harness.ServeMemory(t, p, harness.Wrapped(&flush.Options{SAPI: sapi}, func(w http.ResponseWriter, _ *http.Request) {
						f := harness.Flusher(w)
						w.Header().Set("X-A", "1")
						w.WriteHeader(202)
						io.WriteString(w, held)
						for range 2 {
							if err := f.SendHeaders(); err != nil || !f.HeadersSent() {
								t.Error(err, f.HeadersSent())
							}
						}
						if got := f.Buffered(); got != len(held) {
							t.Errorf("%d bytes held", got)
						}
						if st := f.Stats(); st.Status != 202 || st.Bytes != 0 || st.Pushes > st.Flushes {
							t.Errorf("%+v", st)
						}
						park.Here()
					}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					park.Wait()
					wantType := ""
					if held != "" {
						wantType = "text/plain; charset=utf-8"
					} else if sapi.ContentType != "" {
						wantType = sapi.ContentType
					}
					if r := s.Response(); r.StatusCode != 202 || r.Header.Get("X-A") != "1" || r.Header.Get("Content-Type") != wantType {
						t.Error(r)
					}
					s.ExpectNothing()
					park.Resume()
					s.ExpectEnd(held)
				})
			})
		}
	}
}

// HEAD, 204 and 304 have headers only: a flush sends them and succeeds, and
// nothing that is written comes out as a body or harms the connection.
// Where the server has no deadlines a carrier sends the headers: with the status
// that was set, if one was.
func TestSendHeadersWithoutDeadlines(t *testing.T) {
	for _, status := range []int{0, 404} {
		s := harness.NewSink(t)
		f := flush.New(s, nil, &flush.Options{SendTimeout: time.Hour})
		f.Header().Set("X-Test", "1")
		want := http.StatusOK
		if status != 0 {
			f.WriteHeader(status)
			want = status
		}
		harness.Must(t, f.SendHeaders())
		f.Header().Set("X-Late", "1")
		if s.Status != want || s.Sent.Get("X-Test") != "1" || s.Sent.Get("X-Late") != "" {
			t.Errorf("%d: sent %d, %v", status, s.Status, s.Sent)
		}
		harness.Must(t, f.Close())
	}
}

// Headers alone have the profile's type, unless the handler has set its own.
func TestSendHeadersType(t *testing.T) {
	profile := flush.SAPI{Name: "own", ContentType: "text/x-profile"}
	for _, c := range []struct {
		name, own, held, want string
	}{
		{"the profile's", "", "", "text/x-profile"},
		{"the handler's", "text/x-own", "", "text/x-own"},
		{"of what is held", "", "<html>", "text/html; charset=utf-8"},
		{"the handler's, with bytes", "text/x-own", "<html>", "text/x-own"},
	} {
		for _, fixed := range []bool{false, true} {
			s := harness.NewSink(t)
			f := flush.New(harness.DeadlineSink{Sink: s}, nil, &flush.Options{SAPI: profile})
			if c.own != "" {
				f.Header().Set("Content-Type", c.own)
			}
			if fixed {
				f.WriteHeader(200)
			}
			f.WriteString(c.held)
			harness.Must(t, f.SendHeaders())
			if got := s.Sent.Get("Content-Type"); got != c.want {
				t.Errorf("%s, fixed %v: %q, want %q", c.name, fixed, got, c.want)
			}
			harness.Must(t, f.Close())
		}
	}
}

func TestHeadersOnly(t *testing.T) {
	for _, test := range []struct {
		method string
		code   int
	}{{"HEAD", 200}, {"HEAD", 404}, {"GET", 204}, {"GET", 304}} {
		for _, wait := range []bool{true, false} {
			t.Run(fmt.Sprint(test.method, test.code, wait), func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					park := harness.NewPark(t)
					closed := make(chan error, 2)
					opts := &flush.Options{SAPI: flush.Apache2Handler(), OnClose: func(_ *http.Request, _ flush.Stats, err error) { closed <- err }}
					srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/next" {
							io.WriteString(w, "next")
							return
						}
						w.WriteHeader(test.code)
						for _, n := range []int{100, 3000, 10_000} {
							m, err := w.Write(make([]byte, n))
							if test.method == "HEAD" && (m != n || err != nil) || test.method == "GET" && (m != 0 || err != http.ErrBodyNotAllowed) {
								t.Errorf("write of %d: %d, %v", n, m, err)
							}
							if err := flush.Flush(w, wait); err != nil {
								t.Error("flush:", err)
							}
						}
						park.Here()
						if err := flush.Cause(r.Context()); err != nil && err != flush.ErrClosed {
							t.Error("the client counts as gone:", err) // HTTP/2 ends the context of a HEAD, bare too
						}
					}), 0)
					s := harness.Open(t, srv, test.method, "/", nil)
					park.Wait()
					r := s.Response()
					if r.StatusCode != test.code {
						t.Error(r)
					}
					if _, has := r.Header["Content-Type"]; has != (test.method == "HEAD") {
						t.Error("Content-Type", r.Header["Content-Type"])
					}
					park.Resume()
					if body, _, end := s.Rest(); body != "" || end == harness.Cut {
						t.Errorf("body %q, %s", body, end)
					}
					if p != harness.HTTP10 {
						s.Again("GET", "/next", nil).ExpectEnd("next")
					}
					if err := <-closed; err != nil {
						t.Error("OnClose:", err)
					}
				})
			})
		}
	}
}

// Trailers: declared ones and those with the prefix, set at any time, arrive
// where the protocol has them, and only as trailers.
func TestTrailers(t *testing.T) {
	for _, test := range []struct {
		name string
		h    func(w http.ResponseWriter)
	}{
		{"held", func(w http.ResponseWriter) { io.WriteString(w, "body") }},
		{"flushed", func(w http.ResponseWriter) { io.WriteString(w, "body"); flush.Flush(w, true) }},
		{"asynchronous", func(w http.ResponseWriter) { io.WriteString(w, "body"); flush.Flush(w, false) }},
		{"WriteHeader", func(w http.ResponseWriter) { w.WriteHeader(200); io.WriteString(w, "body") }},
		{"headers first", func(w http.ResponseWriter) { flush.Flush(w, true); io.WriteString(w, "body") }},
	} {
		for _, way := range []string{"declared", "prefix", "both"} {
			t.Run(test.name+" "+way, func(t *testing.T) {
				harness.Bubble(t, func(t *testing.T, p harness.Proto) {
					srv := harness.ServeMemory(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
						h := w.Header()
						h.Set("X-Undeclared", "early")
						if way != "prefix" {
							h.Set("Trailer", "X-One, x-two")
							h.Add("Trailer", "X-Unset")
							h.Set("X-Unset", "early")
						}
						test.h(w)
						if way != "prefix" {
							h.Del("X-Unset")
							h.Set("X-One", "1")
							h.Set("X-Two", "2")
						}
						if way != "declared" {
							h.Set(http.TrailerPrefix+"X-Three", "3")
						}
						h.Set("X-Undeclared", "late")
					}), 0)
					s := harness.Open(t, srv, "GET", "/", nil)
					h := s.Header().Clone()
					body, trailer, end := s.Rest()
					want := map[string]string{}
					if way != "prefix" {
						want["X-One"], want["X-Two"] = "1", "2"
					}
					if way != "declared" {
						want["X-Three"] = "3"
					}
					wantEnd := harness.Complete
					if p == harness.HTTP10 {
						want = map[string]string{}
						if h.Get("Content-Length") == "" {
							wantEnd = harness.Closed
						}
					}
					got := map[string]string{}
					for k := range trailer {
						if v := trailer.Get(k); v != "" {
							got[k] = v
						}
					}
					if body != "body" || end != wantEnd || fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%q, %s, trailers %v, want %v", body, end, got, want)
					}
					for _, k := range []string{"X-One", "X-Two", "X-Three", http.TrailerPrefix + "X-Three"} {
						if h.Get(k) != "" {
							t.Errorf("%s came as a header", k)
						}
					}
					if h.Get("X-Undeclared") != "early" {
						t.Errorf("X-Undeclared %q", h["X-Undeclared"])
					}
				})
			})
		}
	}
}

// Clean serves the error page after half a page.
func TestClean(t *testing.T) {
	for _, test := range []struct {
		name string
		half func(w http.ResponseWriter)
	}{
		{"nothing", func(w http.ResponseWriter) {}},
		{"status", func(w http.ResponseWriter) { w.WriteHeader(202) }},
		{"bytes", func(w http.ResponseWriter) { io.WriteString(w, "<html>half a page") }},
		{"status without a body", func(w http.ResponseWriter) { w.WriteHeader(204) }},
		{"declared length", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "3"); io.WriteString(w, "abc") }},
		{"length overrun", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "3"); io.WriteString(w, "abcd") }},
		{"trailers", func(w http.ResponseWriter) { w.Header().Set("Trailer", "X-T"); io.WriteString(w, "abc") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
				f, h := harness.Flusher(w), w.Header()
				describing := []string{"Content-Encoding", "Content-Range", "ETag", "Last-Modified"}
				for _, k := range describing {
					h.Set(k, "half")
				}
				h.Set("X-Kept", "1")
				h.Add("Set-Cookie", "a=b")
				test.half(w)
				h.Set("X-Late", "1")
				if err := f.Clean(); err != nil {
					t.Error(err)
				}
				for _, k := range append(describing, "Content-Length", "Trailer") {
					if v, ok := h[http.CanonicalHeaderKey(k)]; ok {
						t.Errorf("%s: %q is still there", k, v)
					}
				}
				if f.Buffered() != 0 || f.Available() != 64<<10 || f.HeadersSent() {
					t.Errorf("%d held, %d available, sent %t", f.Buffered(), f.Available(), f.HeadersSent())
				}
				h.Set("X-After", "1")
				w.WriteHeader(500)
				if n, err := io.WriteString(w, "sorry"); n != 5 || err != nil {
					t.Error(n, err)
				}
			}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, end harness.Ending) {
				r := s.Response()
				h := r.Header
				if r.StatusCode != 500 || body != "sorry" || end != harness.Complete || h.Get("Content-Length") != "5" || h.Get("Content-Type") != "text/plain; charset=utf-8" {
					t.Errorf("%d %q, %s, %v", r.StatusCode, body, end, h)
				}
				if h.Get("X-Kept") != "1" || h.Get("Set-Cookie") != "a=b" || h.Get("X-Late") != "1" || h.Get("X-After") != "1" {
					t.Errorf("headers %v", h)
				}
				for _, k := range []string{"Content-Encoding", "Content-Range", "ETag", "Last-Modified", "Trailer"} {
					if h.Get(k) != "" {
						t.Errorf("%s came", k)
					}
				}
			})
		})
	}
}

// Once the headers have been sent nothing can be taken back.
func TestCleanTooLate(t *testing.T) {
	fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "one")
		flush.Flush(w, true)
		io.WriteString(w, "two")
		if err := harness.Flusher(w).Clean(); !errors.Is(err, flush.ErrHeadersSent) {
			t.Error(err)
		}
		if got := harness.Flusher(w).Buffered(); got != 3 {
			t.Errorf("%d bytes held", got)
		}
	}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, _ harness.Ending) {
		if body != "onetwo" {
			t.Errorf("%q", body)
		}
	})
	f := flush.New(harness.NewPlain(), nil, nil)
	f.Close()
	if err := f.Clean(); err == nil {
		t.Error("cleaned after the end")
	}
}

// What is written after a Clean moves and flushes as ever: by a call, at the
// size, by time.
func TestCleanThenFlush(t *testing.T) {
	for name, opts := range map[string]*flush.Options{
		"call": nil, "async": {Flush: flush.Async}, "implicit": {Implicit: flush.Wait}, "interval": {FlushInterval: time.Minute}, "size": {BufferSize: 3},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, func(t *testing.T, p harness.Proto) {
				park := harness.NewPark(t)
				srv := harness.ServeMemory(t, p, harness.Wrapped(opts, func(w http.ResponseWriter, _ *http.Request) {
					f := harness.Flusher(w)
					f.SetImplicit(flush.Off)
					io.WriteString(w, "no")
					if err := f.Clean(); err != nil {
						t.Error(err)
					}
					<-time.After(time.Hour)
					f.SetImplicit(0)
					io.WriteString(w, "yes")
					if name == "call" || name == "async" {
						f.Flush()
					}
					if name == "size" {
						f.SendHeaders() // the server holds the bytes; they come at the end
					}
					park.Here()
				}), 0)
				s := harness.Open(t, srv, "GET", "/", nil)
				park.Wait()
				if name != "size" {
					s.Expect("yes")
				}
				park.Resume()
				_, _, end := s.Rest()
				if end == harness.Cut {
					t.Error("cut")
				}
			})
		})
	}
}

func TestNoProxyBuffering(t *testing.T) {
	own := func(k, v string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.Header().Set(k, v) }
	}
	for _, test := range []struct {
		name     string
		opts     flush.Options
		first    func(w http.ResponseWriter)
		flush    func(f *flush.Flusher) error
		accel    string
		cacheing string
	}{
		{"flush", flush.Options{}, nil, func(f *flush.Flusher) error { return f.FlushWait(context.Background()) }, "no", "no-transform"},
		{"ask", flush.Options{}, nil, (*flush.Flusher).FlushAsync, "no", "no-transform"},
		{"SendHeaders", flush.Options{}, nil, (*flush.Flusher).SendHeaders, "no", "no-transform"},
		{"implicit", flush.Options{Implicit: flush.Wait}, nil, nil, "no", "no-transform"},
		{"interval", flush.Options{FlushInterval: time.Second}, nil, func(*flush.Flusher) error { <-time.After(time.Minute); return nil }, "no", "no-transform"},
		{"whole", flush.Options{}, nil, nil, "", ""},
		{"only large", flush.Options{BufferSize: -1}, nil, nil, "", ""},
		{"own cache control", flush.Options{}, own("Cache-Control", "max-age=3, public"), (*flush.Flusher).FlushAsync, "no", "max-age=3, public, no-transform"},
		{"own no-transform", flush.Options{}, own("Cache-Control", "public, No-Transform"), (*flush.Flusher).FlushAsync, "no", "public, No-Transform"},
		{"own accel", flush.Options{}, own("X-Accel-Buffering", "yes"), (*flush.Flusher).FlushAsync, "yes", "no-transform"},
		{"two lines", flush.Options{}, func(w http.ResponseWriter) { w.Header()["Cache-Control"] = []string{"public", "max-age=3"} }, (*flush.Flusher).FlushAsync, "no", "public, max-age=3, no-transform"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, on := range []bool{true, false} {
				opts := test.opts
				opts.NoProxyBuffering = on
				fetch(t, "GET", &opts, func(w http.ResponseWriter, _ *http.Request) {
					if test.first != nil {
						test.first(w)
					}
					io.WriteString(w, "x")
					if test.flush != nil {
						if err := test.flush(harness.Flusher(w)); err != nil {
							t.Error(err)
						}
					}
				}, func(t *testing.T, p harness.Proto, s *harness.Stream, _ string, _ harness.Ending) {
					h := s.Header()
					if on && (h.Get("X-Accel-Buffering") != test.accel || h.Get("Cache-Control") != test.cacheing || len(h["Cache-Control"]) > 1) {
						t.Errorf("got %v", h)
					}
					if !on && (h.Get("X-Accel-Buffering") == "no" || strings.Contains(h.Get("Cache-Control"), "no-t")) {
						t.Errorf("switched off, got %v", h)
					}
				})
			}
		})
	}
}

// The handler goes on with its map while a carrier sends the headers, and what
// it does there is not sent.
func TestHeaderMapBesideTheCarrier(t *testing.T) {
	fetch(t, "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("X-Set", "early")
		flush.Flush(w, false)
		for range 100 {
			h.Set("X-Set", "late")
			h["X-Late"] = []string{"late"}
		}
		io.WriteString(w, "body")
		flush.Flush(w, false)
	}, func(t *testing.T, p harness.Proto, s *harness.Stream, body string, _ harness.Ending) {
		if h := s.Header(); h.Get("X-Set") != "early" || h.Get("X-Late") != "" || body != "body" {
			t.Errorf("%v, %q", h, body)
		}
	})
}

// The handler's map is its own: the server's is untouched until the headers
// are fixed, keeps what middleware has put there, and gets what is deleted.
func TestHeaderMap(t *testing.T) {
	rec := httptest.NewRecorder()
	rec.Header().Set("X-Above", "1")
	rec.Header().Set("X-Gone", "1")
	f := flush.New(rec, nil, nil)
	if f.Header().Get("X-Above") != "1" {
		t.Error("what was set before is missing")
	}
	f.Header().Del("X-Gone")
	f.Header().Set("X-Own", "1")
	if rec.Header().Get("X-Own") != "" || rec.Header().Get("X-Gone") != "1" {
		t.Errorf("the server's map already says %v", rec.Header())
	}
	f.WriteString("x")
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if h := rec.Result().Header; h.Get("X-Above") != "1" || h.Get("X-Own") != "1" || h["X-Gone"] != nil {
		t.Errorf("got %v", h)
	}
	f.Header().Set("X-Late", "1") // harmless
}

// What middleware outside has set is sent, though the handler never asks for the map.
func TestHeadersOfMiddlewareOutside(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{"NewHandler": harness.WrappedBy(nil), "New": harness.EndedNew} {
		for _, flushes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, flushes %t", name, flushes), func(t *testing.T) {
				harness.EachProto(t, func(t *testing.T, p harness.Proto) {
					own := wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						io.WriteString(w, "page")
						if flushes {
							harness.Must(t, flush.Flush(w, true))
						}
					}))
					srv := harness.Serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("X-Outside", "1")
						own.ServeHTTP(w, r)
					}))
					s := harness.Open(t, srv, "GET", "/", nil)
					if h := s.Header(); h.Get("X-Outside") != "1" {
						t.Errorf("got %v", h)
					}
					s.ExpectEnd("page")
				})
			})
		}
	}
}

// A writer that has no header map is one that sends no headers: what is set for it
// goes nowhere, as the handler's own would.
func TestWriterWithoutHeaderMap(t *testing.T) {
	for name, do := range map[string]func(f *flush.Flusher) error{
		"Close":       func(*flush.Flusher) error { return nil },
		"FlushWait":   func(f *flush.Flusher) error { return f.FlushWait(harness.NoContext) },
		"SendHeaders": (*flush.Flusher).SendHeaders,
		"Header":      func(f *flush.Flusher) error { f.Header().Set("X-Own", "1"); return f.FlushAsync() },
	} {
		t.Run(name, func(t *testing.T) {
			s := harness.NewSink(t)
			f := flush.New(noHeader{harness.DeadlineSink{Sink: s}}, nil, &flush.Options{NoProxyBuffering: true})
			harness.MustWrite(t, f, "page")
			if err := errors.Join(do(f), f.Close()); err != nil || s.Body() != "page" {
				t.Errorf("%q, %v", s.Body(), err)
			}
		})
	}
}

type noHeader struct{ harness.DeadlineSink }

func (noHeader) Header() http.Header { return nil }

// The header map that a handler has asked for is its own again once FlushAsync has
// returned: what a carrier sends was taken from it before. (The race detector sees more.)
func TestHeaderMapBehindFlushAsync(t *testing.T) {
	harness.EachProto(t, func(t *testing.T, p harness.Proto) {
		srv := harness.Serve(t, p, harness.Wrapped(nil, func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("X-Early", "1")
			io.WriteString(w, "x")
			harness.Must(t, harness.Flusher(w).FlushAsync())
			for i := range 1000 {
				h.Set("X-Late", strconv.Itoa(i))
			}
		}))
		for range 10 {
			s := harness.Open(t, srv, "GET", "/", nil)
			if h := s.Header(); h.Get("X-Early") != "1" || h.Get("X-Late") != "" {
				t.Errorf("got %v", h)
			}
			s.ExpectEnd("x")
		}
	})
}
