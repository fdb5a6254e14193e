package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

const (
	noDelay = "option http-no-delay"
	zips    = "compression algo gzip\n\tcompression type text/plain"
)

// routesHAProxy has a port for each way to put HAProxy in front of the
// application.
var routesHAProxy = &lazy[[]string]{
	needs: []string{"haproxy"},
	start: func() ([]string, error) {
		app, err := appHTTP.ensure()
		if err != nil {
			return nil, err
		}
		return startHAProxy("routes-haproxy", app, []string{"", noDelay, zips, noDelay + "\n\t" + zips})
	},
}

// beforeApache, beforeNginx and beforeVarnish have a port without an option and
// one without delay.
var (
	beforeApache = haproxyBefore("apache", func() (string, error) { return routesApache.ensure() })
	beforeNginx  = haproxyBefore("nginx", func() (string, error) {
		addrs, err := routesNginx.ensure()
		return append(addrs, "")[0], err
	})
	beforeVarnish = haproxyBefore("varnish", func() (string, error) {
		addrs, err := routesVarnish.ensure()
		return append(addrs, "", "")[1], err
	})
)

func haproxyBefore(name string, backend func() (string, error)) *lazy[[]string] {
	return &lazy[[]string]{
		needs: []string{"haproxy"},
		start: func() ([]string, error) {
			addr, err := backend()
			if err != nil {
				return nil, err
			}
			return startHAProxy("haproxy-before-"+name, addr, []string{"", noDelay})
		},
	}
}

// startHAProxy starts one with a port for each of ways.
func startHAProxy(name, backend string, ways []string) ([]string, error) {
	_, addrs, err := onPorts(len(ways), func(addrs []string) (*process, error) {
		var b strings.Builder
		b.WriteString("global\n\tnbthread 1\ndefaults\n\tmode http\n\ttimeout connect 10s\n\ttimeout client 60s\n\ttimeout server 60s\n")
		for i, way := range ways {
			fmt.Fprintf(&b, "listen way%d\n\tbind %s\n\t%s\n\tserver s %s\n", i, addrs[i], way, backend)
		}
		conf, err := file(name+".conf", []byte(b.String()), 0o644)
		if err != nil {
			return nil, err
		}
		return launch(name, exec.Command(program("haproxy"), "-db", "-f", conf), syscall.SIGTERM)
	})
	return addrs, err
}
