package flush

import (
	"iter"
	"net/http"
	"net/http/fcgi"
	"os"
	"reflect"
	"sync/atomic"
	"time"
)

// maxLayers ends the walk down a chain of writers whose Unwrap goes round in a
// circle (golang/go#66350). No real chain is as deep.
const maxLayers = 64

// layers walks from w down through Unwrap.
func layers(w http.ResponseWriter) iter.Seq[http.ResponseWriter] {
	return func(yield func(http.ResponseWriter) bool) {
		for range maxLayers {
			if w == nil || !yield(w) {
				return
			}
			u, ok := w.(interface{ Unwrap() http.ResponseWriter })
			if !ok {
				return
			}
			w = u.Unwrap()
		}
	}
}

// find returns the first layer from w down that is a T.
func find[T any](w http.ResponseWriter) (t T, ok bool) {
	for layer := range layers(w) {
		if t, ok = layer.(T); ok {
			return t, true
		}
	}
	return t, false
}

type flushErrorer interface{ FlushError() error }

func canFlush(w http.ResponseWriter) bool {
	switch w.(type) {
	case flushErrorer, http.Flusher:
		return true
	}
	return false
}

// flushLayer flushes one layer, in the order of http.ResponseController.
func flushLayer(w http.ResponseWriter) error {
	switch t := w.(type) {
	case flushErrorer:
		return t.FlushError()
	case http.Flusher:
		t.Flush()
		return nil
	}
	return errCannotFlush
}

// onlyFlush is a layer whose Flush returns no error.
type onlyFlush struct{ http.Flusher }

func (o onlyFlush) FlushError() error {
	o.Flush()
	return nil
}

type readDeadliner interface{ SetReadDeadline(time.Time) error }

type writeDeadliner interface{ SetWriteDeadline(time.Time) error }

// server is what a Flusher knows about the writer below it. It is looked up
// once, so that a flush costs no walk and no guess.
type server struct {
	w          floor1
	flushes    bool // else w.FlushError must not be called
	deadlines  bool // else w.SetWriteDeadline must not be
	direct     bool // w is a server's own writer: nothing stands between
	untold     bool // it may end a response that has failed as a whole one: see broken
	oneProcess bool // a panic that comes down to the server ends the process
	netHTTP    bool // the request came through an http.Server
	takesInfo  bool // a 1xx reaches the client as such
	fixesEmpty bool // an empty write fixes the headers there; elsewhere, as in PHP, it does nothing
	ownHeader  bool // it reads its header map only inside WriteHeader: see headerLocked
	onFlusher  bool // the deadlines go to another Flusher: it bounds by itself what it is handed, and passes none on beside its Hijack
	keeps      bool // up to serverMeasures bytes, until it is flushed: and none but us fills it: see ahead. Changed by New and serverWriter
}

// serverMeasures is the size up to which net/http finds the length of a whole
// response by itself.
const serverMeasures = 2048

// serverMeasuresHTTP2 is the same on HTTP/2.
const serverMeasuresHTTP2 = 4096

// A floor1 is the writer below with what flushes it and sets its deadlines: itself,
// if it does both, or else a layered.
type floor1 interface {
	http.ResponseWriter
	flushErrorer
	writeDeadliner
}

// A layered is a writer that other layers flush, or set deadlines for. nil: none does.
type layered struct {
	http.ResponseWriter
	flushErrorer
	writeDeadliner
}

func (l *layered) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// writer is the writer that w stands for.
func (s *server) writer() http.ResponseWriter {
	if l, ok := s.w.(*layered); ok {
		return l.ResponseWriter
	}
	return s.w
}

// flushTells reports whether a flush says what it has met.
func (s *server) flushTells() bool {
	l, ok := s.w.(*layered)
	if !ok {
		return true
	}
	_, silent := l.flushErrorer.(onlyFlush)
	return !silent
}

// ownWriter is the type of net/http's own writer of HTTP/1, once newServer has
// met it: what it can do need be looked up only once.
var ownWriter atomic.Pointer[reflect.Type]

// newServer looks at the layers of w. by is what the request says of the
// http.Server that it came through.
func newServer(w http.ResponseWriter, r *http.Request, by any) server {
	if own := ownWriter.Load(); own != nil && by != nil && reflect.TypeOf(w) == *own {
		return server{
			w: w.(floor1), flushes: true, deadlines: true,
			direct: true, netHTTP: true, takesInfo: true, fixesEmpty: true, ownHeader: true, keeps: true,
		}
	}
	l, onFlusher := layered{ResponseWriter: w}, false
	for layer := range layers(w) {
		flushes, hasDeadlines := true, true
		if below, ok := flusherOf(layer); ok && below != nil {
			flushes, hasDeadlines = below.serverCan()
		}
		if l.flushErrorer == nil && flushes {
			switch t := layer.(type) {
			case flushErrorer:
				l.flushErrorer = t
			case http.Flusher:
				l.flushErrorer = onlyFlush{t}
			}
		}
		if l.writeDeadliner == nil && hasDeadlines {
			if l.writeDeadliner, hasDeadlines = layer.(writeDeadliner); hasDeadlines {
				onFlusher = flusherIn(layer) != nil
			}
		}
		if l.flushErrorer != nil && l.writeDeadliner != nil {
			break
		}
	}
	s := server{flushes: l.flushErrorer != nil, deadlines: l.writeDeadliner != nil, onFlusher: onFlusher}
	var ok bool
	if s.w, ok = w.(floor1); !ok || !s.flushes || !s.deadlines {
		held := l // l itself stays on the stack
		s.w = &held
	}
	if r != nil {
		s.netHTTP = by != nil
		s.fixesEmpty = s.netHTTP || r.Context().Value(http.LocalAddrContextKey) != nil
	}
	if t := reflect.TypeOf(w); t != nil {
		switch t.String() {
		case "*http.response":
			s.direct = true
			s.ownHeader = r != nil && t.Elem().PkgPath() == "net/http"
			if s.ownHeader {
				s.keeps = true
				own := t
				ownWriter.Store(&own)
			}
		case "*http.http2responseWriter", "*http2.responseWriter", "*cgi.response", "*fcgi.response", "*flush.output", "*flush.deadlineOutput":
			s.direct = true
		case "*http3.responseWriter":
			s.direct, s.untold = true, true
		}
	}
	s.oneProcess = !s.netHTTP && onFastCGI(w, r)
	s.takesInfo = s.netHTTP || !s.oneProcess && !gateway(w, r)
	return s
}

// serverCan says what a Flusher below another, with middleware between, has from its
// own server: it has the methods in any case.
func (f *Flusher) serverCan() (flush, deadlines bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.srv.flushes, f.srv.deadlines
}

// gateway reports whether what is below takes a 1xx for the final status, as
// FastCGI does: CGI, which may be hidden by a writer without Unwrap, and recorders.
func gateway(w http.ResponseWriter, r *http.Request) bool {
	for layer := range layers(w) {
		switch reflect.TypeOf(layer).String() {
		case "*cgi.response", "*httptest.ResponseRecorder":
			return true
		}
	}
	return r != nil && os.Getenv("GATEWAY_INTERFACE") != ""
}

// onFastCGI reports whether it is net/http/fcgi that answers r, whatever writers
// stand between.
func onFastCGI(w http.ResponseWriter, r *http.Request) bool {
	for layer := range layers(w) {
		if reflect.TypeOf(layer).String() == "*fcgi.response" {
			return true
		}
	}
	return r != nil && fcgi.ProcessEnv(r) != nil
}

// flusherOf returns the Flusher that w is, or is a face of. It may be nil.
func flusherOf(w http.ResponseWriter) (*Flusher, bool) {
	switch w := w.(type) {
	case *Flusher:
		return w, true
	case http1Writer:
		return w.f, true
	case http2Writer:
		return w.f, true
	case plainWriter:
		return w.f, true
	}
	return nil, false
}

// flusherIn returns the first Flusher from w down, or nil.
func flusherIn(w http.ResponseWriter) *Flusher {
	for layer := range layers(w) {
		if f, ok := flusherOf(layer); ok {
			return f
		}
	}
	return nil
}
