// Package peek lets package flushdebug see of a response what package flush does
// not export.
package peek

// A Response is what is told of one while it lives.
type Response struct {
	Method, Path, Client string // of its request, shortened; "": none, or not known
	Budget               any    // its *flush.Budget; nil: none
	Conn                 any    // its connection: equal for those that share one; nil: not known
}

// Look looks at a response, a *flush.Flusher. Package flush sets it.
var Look func(flusher any) Response
