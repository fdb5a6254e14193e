package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// behind is a server in front of another.
func behind(backend *lazy[string], needs []string, start func(backend string) ([]string, error)) *lazy[[]string] {
	return &lazy[[]string]{needs: needs, start: func() ([]string, error) {
		addr, err := backend.ensure()
		if err != nil {
			return nil, err
		}
		return start(addr)
	}}
}

// The servers that are in docs/servers.md beside nginx, Apache and HAProxy.
var (
	lighttpd = behind(httpBackend, []string{"lighttpd"}, func(app string) ([]string, error) { return startLighttpd("lighttpd", app) })
	varnish  = behind(httpBackend, []string{"varnishd"}, func(app string) ([]string, error) { return startVarnish("varnish", app, "") })
	caddy    = behind(httpBackend, []string{"caddy"}, func(app string) ([]string, error) { return startCaddy("caddy", "reverse_proxy "+app) })
	squid    = behind(httpBackend, []string{"squid"}, func(app string) ([]string, error) { return startSquid("squid", app) })
	node     = behind(httpBackend, nodeNeeds, func(app string) ([]string, error) { return startNode("node", app) })
)

func onPort(t *testing.T, server *lazy[[]string], port int) web {
	return web{server.get(t)[port], "/"}
}

// startLighttpd starts one with a port for each value of
// server.stream-response-body.
func startLighttpd(name, backend string) ([]string, error) {
	host, port, err := net.SplitHostPort(backend)
	if err != nil {
		return nil, err
	}
	return launchLighttpd(name, 3, func(addrs []string) string {
		return fmt.Sprintf(`
server.modules += ("mod_proxy")
$SERVER["socket"] == %[1]q { server.stream-response-body = 1 }
$SERVER["socket"] == %[2]q { server.stream-response-body = 2 }
proxy.server = ("" => (("host" => %[3]q, "port" => %[4]s)))
`, addrs[1], addrs[2], host, port)
	})
}

// launchLighttpd starts one on the first of its ports. conf is what it is told
// besides.
func launchLighttpd(name string, ports int, conf func(addrs []string) string) ([]string, error) {
	_, addrs, err := onPorts(ports, func(addrs []string) (*process, error) {
		_, own, err := net.SplitHostPort(addrs[0])
		if err != nil {
			return nil, err
		}
		path, err := file(name+"/lighttpd.conf", fmt.Appendf(nil, `
server.modules = ()
server.document-root = %[1]q
server.upload-dirs = (%[1]q)
server.bind = "127.0.0.1"
server.port = %[2]s
%[3]s
`, filepath.Join(dir, name), own, conf(addrs)), 0o644)
		if err != nil {
			return nil, err
		}
		return launch(name, exec.Command(program("lighttpd"), "-D", "-f", path), syscall.SIGTERM)
	})
	return addrs, err
}

// startVarnish starts one for each of ways, which are lines of
// vcl_backend_response.
func startVarnish(name, backend string, ways ...string) (all []string, err error) {
	host, port, err := net.SplitHostPort(backend)
	if err != nil {
		return nil, err
	}
	for i, way := range ways {
		_, addrs, err := onPorts(1, func(addrs []string) (*process, error) {
			name := fmt.Sprint(name, i)
			conf, err := file(name+".vcl", fmt.Appendf(nil, `
vcl 4.1;
backend default { .host = %q; .port = %q; }
sub vcl_recv { return (pass); }
sub vcl_backend_response { %s }
`, host, port, way), 0o644)
			if err != nil {
				return nil, err
			}
			// Its jail is another user, who need not get in.
			return launch(name, exec.Command(program("varnishd"), "-j", "none", "-F", "-n", filepath.Join(dir, name), "-f", conf,
				"-a", addrs[0], "-T", "none", "-s", "malloc,16m", "-p", "thread_pool_min=10"), syscall.SIGTERM)
		})
		if err != nil {
			return nil, err
		}
		all = append(all, addrs[0])
	}
	return all, nil
}

// startCaddy starts one with a port for each of ways.
func startCaddy(name string, ways ...string) ([]string, error) {
	_, addrs, err := onPorts(len(ways), func(addrs []string) (*process, error) {
		var b strings.Builder
		b.WriteString("{\n\tadmin off\n\tauto_https off\n}\n")
		for i, way := range ways {
			// With a host it would answer for that alone.
			host, port, err := net.SplitHostPort(addrs[i])
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "http://:%s {\n\tbind %s\n\t%s\n}\n", port, host, way)
		}
		conf, err := file(name+"/Caddyfile", []byte(b.String()), 0o644)
		if err != nil {
			return nil, err
		}
		home := filepath.Dir(conf)
		cmd := exec.Command(program("caddy"), "run", "--config", conf, "--adapter", "caddyfile")
		cmd.Env = append(cmd.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
		return launch(name, cmd, syscall.SIGTERM)
	})
	return addrs, err
}

// startSquid starts one as an accelerator.
func startSquid(name, backend string) ([]string, error) {
	host, port, err := net.SplitHostPort(backend)
	if err != nil {
		return nil, err
	}
	_, addrs, err := onPorts(1, func(addrs []string) (*process, error) {
		conf, err := file(name+"/squid.conf", fmt.Appendf(nil, `
http_port %s accel defaultsite=e2e.test no-vhost
cache_peer %s parent %s 0 no-query originserver
http_access allow all
cache deny all
%s
access_log none
cache_log /dev/null
pid_filename none
pinger_enable off
shutdown_lifetime 0 seconds
coredump_dir %s
`, addrs[0], host, port, ofRoot("cache_effective_user proxy\ncache_effective_group root"), filepath.Join(dir, name)), 0o644)
		if err != nil {
			return nil, err
		}
		return launch(name, exec.Command(program("squid"), "-N", "-d", "1", "-f", conf), syscall.SIGTERM)
	})
	return addrs, err
}

var nodeNeeds = []string{"node", nodeModules + "http-proxy", nodeModules + "express", nodeModules + "compression"}

const (
	nodeModules = "/usr/share/nodejs/"

	// nodeProxies are http-proxy alone, and behind Express with its compression,
	// which does not and does say that it is there. The last has a stream of its
	// own, too.
	nodeProxies = `
const [backend, alone, hidden, shown] = process.argv.slice(2);
const proxy = require('http-proxy').createProxyServer({target: 'http://' + backend});
proxy.on('error', (err, req, res) => res.headersSent ? res.destroy() : res.writeHead(502).end());
const listen = (app, at) => require('http').createServer(app).listen(at.split(':')[1], at.split(':')[0]);
listen((req, res) => proxy.web(req, res), alone);
const express = () => require('express')().use(require('compression')());
listen(express().disable('x-powered-by').use((req, res) => proxy.web(req, res)), hidden);
const own = (req, res) => {
	res.type('text/plain');
	let n = 0;
	const start = Date.now();
	const line = () => {
		res.write('flushprobe ' + n + ' ' + ((Date.now() - start) / 1000).toFixed(6) + ' ................................\n');
		if ('flush' in req.query) res.flush();
		if (++n < 6) return setTimeout(line, 300);
		res.end();
	};
	line();
};
listen(express().get('/own', own).use((req, res) => proxy.web(req, res)), shown);
`
)

// startNode starts one with a port for each of nodeProxies.
func startNode(name, backend string) ([]string, error) {
	script, err := file(name+".js", []byte(nodeProxies), 0o644)
	if err != nil {
		return nil, err
	}
	_, addrs, err := onPorts(3, func(addrs []string) (*process, error) {
		cmd := exec.Command(program("node"), append([]string{script, backend}, addrs...)...)
		cmd.Env = append(cmd.Environ(), "NODE_PATH="+nodeModules)
		return launch(name, cmd, syscall.SIGTERM)
	})
	return addrs, err
}
