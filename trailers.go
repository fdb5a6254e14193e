package flush

import (
	"iter"
	"net/http"
	"net/textproto"
	"strings"
)

// trailerNames yields what the values of a Trailer header announce. A name may be
// empty, or none that the server sends as a trailer.
func trailerNames(values []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range values {
			for k := range strings.SplitSeq(v, ",") {
				if !yield(http.CanonicalHeaderKey(textproto.TrimString(k))) {
					return
				}
			}
		}
	}
}

// hasTrailersLocked reports whether the handler has set or declared trailers.
func (f *Flusher) hasTrailersLocked() bool {
	return len(f.below["Trailer"]) > 0 || f.hasPrefixedTrailersLocked()
}

func (f *Flusher) hasPrefixedTrailersLocked() bool {
	for k := range f.header {
		if strings.HasPrefix(k, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// carryTrailersLocked copies trailers to where the server looks for them:
// those that were declared, and those with the prefix. It runs after the last
// byte, as HTTP/2 reads the map during every write.
func (f *Flusher) carryTrailersLocked() {
	if f.header == nil || f.below == nil || !f.fixed || f.shared {
		return
	}
	carry := func(k string) {
		if vv, ok := f.header[k]; ok {
			f.below[k] = vv
		} else if f.srv.direct { // else it may be one that a writer between has set
			delete(f.below, k)
		}
	}
	for k := range trailerNames(f.below["Trailer"]) {
		if k != "Trailer" && k != "Content-Length" && k != "Transfer-Encoding" {
			carry(k)
		}
	}
	for k := range f.header {
		if strings.HasPrefix(k, http.TrailerPrefix) {
			carry(k)
		}
	}
}

// trailersLocked are the trailers that the handler's map has, as net/http sends
// them.
func (f *Flusher) trailersLocked(declared []string) http.Header {
	trailer := make(http.Header)
	for k, vv := range f.header {
		if k, ok := strings.CutPrefix(k, http.TrailerPrefix); ok {
			trailer[k] = vv
		}
	}
	for _, k := range declared {
		trailer[k] = append(trailer[k], f.header[k]...)
	}
	return trailer
}
