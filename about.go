package flush

import "github.com/fa492104/flush/internal/peek"

// An about is what is told of a response's request while it lives: method, path
// and client, in one string of their own, as theirs may be parts of long ones.
type about struct {
	text       string
	path, addr uint8 // where they begin
}

// The most that an about keeps of each, in bytes.
const (
	mostMethod = 16
	mostPath   = 96
	mostClient = 48
)

func newAbout(method, path, client string) about {
	method, path, client = clip(method, mostMethod), clip(path, mostPath), clip(client, mostClient)
	return about{method + path + client, uint8(len(method)), uint8(len(method) + len(path))}
}

// strings returns what newAbout was given.
func (a *about) strings() (method, path, client string) {
	return a.text[:a.path], a.text[a.path:a.addr], a.text[a.addr:]
}

// clip returns s, or its beginning if it is longer than most.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most-len("…")] + "…"
}

func init() {
	peek.Look = func(flusher any) peek.Response {
		f := flusher.(*Flusher)
		f.mu.Lock()
		defer f.mu.Unlock()
		var r peek.Response
		if f.groups != nil {
			r.Method, r.Path, r.Client = f.groups.about.strings()
		}
		if f.cfg.Budget != nil {
			r.Budget = f.cfg.Budget
		}
		if f.conn != nil {
			r.Conn = f.conn
		}
		return r
	}
}
