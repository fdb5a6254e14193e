package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"
)

// A crowd is many streams of a gathering: the server is a process of its own,
// whose memory is nobody else's, and their clients are another.
type crowd struct {
	server, clients *process
	streams         int
}

// gather starts the server of a gathering, with no streams yet.
func gather(g gathering) *crowd {
	s := startServer("-gather", g.name)
	return &crowd{server: s, clients: startReader("-hold", s.hearAddr())}
}

func (c *crowd) stop() {
	c.clients.stop()
	c.server.stop()
}

// grow opens so many streams more, and waits until each has had its first event.
func (c *crowd) grow(n int) {
	c.clients.tell(strconv.Itoa(n))
	c.arrived()
	c.streams += n
}

// arrived waits until every client has what was sent.
func (c *crowd) arrived() {
	var ok bool
	c.clients.hear(&ok)
}

// broadcast sends all streams an event and waits until all clients have it.
func (c *crowd) broadcast() {
	c.clients.tell("0")
	c.server.tell("tell")
	c.arrived()
}

// A state is what a process holds.
type state struct {
	Resident, Heap, Stacks float64 // in bytes
	Goroutines             float64
}

func (s state) minus(t state) state {
	return state{s.Resident - t.Resident, s.Heap - t.Heap, s.Stacks - t.Stacks, s.Goroutines - t.Goroutines}
}

func (s state) over(n float64) state {
	return state{s.Resident / n, s.Heap / n, s.Stacks / n, s.Goroutines / n}
}

// look asks the server what it holds, without garbage.
func (c *crowd) look() (s state) {
	c.server.tell("look")
	c.server.hear(&s)
	return s
}

// idleEach is what one idle stream of n adds to the server. What the first ones
// need does not count: the runtime is still growing then.
func idleEach(g gathering, n int) state {
	c := gather(g)
	defer c.stop()
	c.grow(warmStreams)
	before := c.look()
	c.grow(n)
	return c.look().minus(before).over(float64(n))
}

const warmStreams = 1000

// A peak is the most that a broadcast has added to a server for a while.
type peak struct {
	Memory     float64 // resident, in bytes
	Goroutines float64
	Procs      float64 // GOMAXPROCS there
}

// watched is a broadcast at which the server looks at itself.
func (c *crowd) watched() (p peak) {
	c.server.tell("watch")
	var ready bool
	c.server.hear(&ready)
	c.broadcast()
	c.server.tell("watched")
	c.server.hear(&p)
	return p
}

// serveGathering is the server of a crowd. It does what the lines of its standard
// input say.
func serveGathering(name string) {
	var g gathering
	for _, g = range gatherings {
		if g.name == name {
			break
		}
	}
	s, tell := g.open()
	addr, _ := listen(s, nil)
	out := json.NewEncoder(os.Stdout)
	check(out.Encode(addr))
	var watch *selfWatch
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "tell":
			tell(event)
		case "cpu":
			check(out.Encode(float64(cpuTime())))
		case "look":
			check(out.Encode(lookAtSelf()))
		case "watch":
			watch = startSelfWatch()
			check(out.Encode(true))
		case "watched":
			check(out.Encode(watch.end()))
		}
	}
}

func lookAtSelf() state {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return state{float64(resident()), float64(m.HeapAlloc), float64(m.StackInuse), float64(runtime.NumGoroutine())}
}

// A selfWatch looks at its own process again and again.
type selfWatch struct {
	stop  chan struct{}
	most  chan peak
	began float64 // resident
}

func startSelfWatch() *selfWatch {
	debug.FreeOSMemory()
	w := &selfWatch{make(chan struct{}), make(chan peak, 1), 0}
	ready := make(chan struct{})
	go func() {
		goroutines, most := runtime.NumGoroutine(), peak{Procs: float64(runtime.GOMAXPROCS(0))}
		forgetPeak()
		w.began = float64(resident())
		close(ready)
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for {
			most.Goroutines = max(most.Goroutines, float64(runtime.NumGoroutine()-goroutines))
			most.Memory = max(most.Memory, float64(resident())-w.began)
			select {
			case <-tick.C:
			case <-w.stop:
				w.most <- most
				return
			}
		}
	}()
	<-ready
	return w
}

func (w *selfWatch) end() peak {
	most := float64(peakResident()) - w.began
	close(w.stop)
	p := <-w.most
	p.Memory = max(p.Memory, most)
	return p
}

// holdStreams is the clients of a crowd: at each line of standard input it opens
// so many streams more, and says so when every one that it has, has had an event
// since.
func holdStreams(addr string) {
	var want, got atomic.Int64 // line feeds of events; an event has two
	done := make(chan struct{}, 1)
	read := func(c net.Conn) {
		p := make([]byte, 512)
		last := byte(0)
		for {
			n, err := c.Read(p)
			if err != nil {
				return
			}
			feeds := int64(0)
			for _, b := range p[:n] {
				if b == '\n' && last != '\r' { // else it is HTTP's
					feeds++
				}
				last = b
			}
			if got.Add(feeds) >= want.Load() {
				select {
				case done <- struct{}{}:
				default:
				}
			}
		}
	}
	out := json.NewEncoder(os.Stdout)
	streams := int64(0)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.ParseInt(lines.Text(), 10, 64)
		check(err)
		if n == 0 {
			want.Add(2 * streams)
		} else {
			want.Add(2 * n)
		}
		streams += n
		for range n {
			c, err := net.Dial("tcp", addr)
			check(err)
			check(c.(*net.TCPConn).SetLinger(0)) // nothing of it stays in the system
			_, err = io.WriteString(c, requestText)
			check(err)
			go read(c)
		}
		for got.Load() < want.Load() {
			<-done
		}
		check(out.Encode(true))
	}
}
