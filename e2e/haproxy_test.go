package e2e

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"
)

// haproxy has two frontends: as it comes, and with option http-no-delay.
var haproxy = &lazy[[]string]{
	needs: []string{"haproxy"},
	start: func() ([]string, error) {
		backend, err := httpBackend.ensure()
		if err != nil {
			return nil, err
		}
		_, addrs, err := onPorts(2, func(addrs []string) (*process, error) {
			conf, err := file("haproxy.conf", fmt.Appendf(nil, `
global
	nbthread 1
defaults
	mode http
	timeout connect 10s
	timeout client 60s
	timeout server 60s
listen plain
	bind %[1]s
	server s %[3]s
listen nodelay
	bind %[2]s
	option http-no-delay
	server s %[3]s
`, addrs[0], addrs[1], backend), 0o644)
			if err != nil {
				return nil, err
			}
			return launch("haproxy", exec.Command(program("haproxy"), "-db", "-f", conf), syscall.SIGTERM)
		})
		if err != nil {
			return nil, err
		}
		return addrs, nil
	},
}

func onHAProxy(t *testing.T, noDelay bool) web {
	addrs := haproxy.get(t)
	if noDelay {
		return web{addrs[1], "/"}
	}
	return web{addrs[0], "/"}
}
