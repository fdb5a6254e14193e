package main

import "testing"

// The proxies that are this command stream bursts and tokens. (Caddy takes minutes
// to be built, and is measured by the whole run alone.)
func TestStandalones(t *testing.T) {
	for _, s := range standalones {
		if s.name == "Caddy" {
			continue
		}
		r, err := s.run()
		if err != nil {
			t.Fatal(err)
		}
		r.round()
		if r.burst[0] <= 0 || r.event[0] <= 0 || r.token[0] <= 0 {
			t.Errorf("%s: burst %v, event %v, token %v", s.name, r.burst, r.event, r.token)
		}
		r.stop()
	}
}
