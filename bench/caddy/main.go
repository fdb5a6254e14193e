// Command caddy is Caddy as a proxy in front of one server, for the module above,
// which builds and runs it: it says its address, and answers each line with the
// processor time that it has used, in nanoseconds. It is a module of its own, as
// nothing else is to need all of Caddy's.
//
//	go run . 127.0.0.1:8080
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/sys/unix"
)

// config has a proxy that flushes what it gets at once, as Caddy does with event
// streams by itself, and nothing else.
const config = `{
	"admin": {"disabled": true, "config": {"persist": false}},
	"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
	"apps": {"http": {"servers": {"proxy": {
		"listen": [%q],
		"protocols": ["h1"],
		"automatic_https": {"disable": true},
		"routes": [{"handle": [{"handler": "reverse_proxy", "flush_interval": -1, "upstreams": [{"dial": %q}]}]}]
	}}}}
}`

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: caddy ADDRESS")
	}
	addr, err := freeAddr()
	check(err)
	check(caddy.Load(fmt.Appendf(nil, config, addr, os.Args[1]), true))
	out := json.NewEncoder(os.Stdout)
	check(out.Encode(addr))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		check(out.Encode(float64(cpuTime())))
	}
	check(caddy.Stop())
}

// freeAddr is a port that the system gives and that nobody has: Caddy does not
// tell which one it was given.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func cpuTime() time.Duration {
	var use unix.Rusage
	check(unix.Getrusage(unix.RUSAGE_SELF, &use))
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
