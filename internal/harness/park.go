package harness

import (
	"testing"
	"time"
)

// A Park holds a handler at marked places until the test lets it go on.
type Park struct {
	t       *testing.T
	arrived chan struct{}
	release chan struct{}
}

func NewPark(t *testing.T) *Park {
	return &Park{t, make(chan struct{}), make(chan struct{})}
}

// Here is for the handler: it waits for the test to come to wait and to resume.
// It returns when the test is over, too.
func (p *Park) Here() {
	select {
	case p.arrived <- struct{}{}:
	case <-p.t.Context().Done():
		return
	}
	select {
	case <-p.release:
	case <-p.t.Context().Done():
	}
}

// Wait returns once the handler has come to its next here.
func (p *Park) Wait() {
	p.t.Helper()
	timer := time.NewTimer(Patience())
	defer timer.Stop()
	select {
	case <-p.arrived:
	case <-timer.C:
		p.t.Fatal("the handler has not come to its next stop")
	}
}

// Resume lets the handler go on from where wait found it.
func (p *Park) Resume() {
	p.t.Helper()
	timer := time.NewTimer(Patience())
	defer timer.Stop()
	select {
	case p.release <- struct{}{}:
	case <-timer.C:
		p.t.Fatal("the handler is not parked")
	}
}

// Next is wait and resume: the handler passes its next stop.
func (p *Park) Next() {
	p.t.Helper()
	p.Wait()
	p.Resume()
}
