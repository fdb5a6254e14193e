package flush

import (
	"net/http"
	"slices"
	"strings"
)

// A filterView is what a filter has before it when fixed headers can still be
// changed by it, but no more by the handler: those that are fixed. What the
// handler has set too late is put aside meanwhile.
type filterView struct {
	shown http.Header
	late  http.Header // nil: nothing was late
}

// showHeaderLocked makes the handler's map what a filter is to see.
func (f *Flusher) showHeaderLocked(v *filterView) {
	if !f.fixed || f.header == nil {
		return
	}
	if f.readNoteLocked(); sameHeader(f.header, f.below) {
		return
	}
	v.late, v.shown = make(http.Header), make(http.Header)
	copyHeader(v.late, f.header)
	copyHeader(v.shown, f.below)
	for k, vv := range v.late {
		if strings.HasPrefix(k, http.TrailerPrefix) {
			v.shown[k] = vv // never too late
		}
	}
	copyHeader(f.header, v.shown)
}

// hideHeaderLocked carries what the filter has set into the fixed headers, and
// brings back what the handler had set too late, but for what the filter has
// set itself.
func (f *Flusher) hideHeaderLocked(v *filterView) {
	if f.fixed && !f.headersSent {
		f.freezeLocked()
	}
	if v.late == nil {
		return
	}
	untouched := func(k string) bool {
		now, ok := f.header[k]
		then, was := v.shown[k]
		return ok == was && slices.Equal(now, then)
	}
	for k := range v.shown {
		if _, ok := v.late[k]; !ok && untouched(k) {
			delete(f.header, k)
		}
	}
	for k, vv := range v.late {
		if untouched(k) {
			f.header[k] = vv
		}
	}
	*v = filterView{}
}
