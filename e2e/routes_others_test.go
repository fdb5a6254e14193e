package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// routesLighttpd has a port for each value of server.stream-response-body.
var routesLighttpd = &lazy[[]string]{
	needs: []string{"lighttpd"},
	start: func() ([]string, error) {
		app, err := appHTTP.ensure()
		if err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(app)
		if err != nil {
			return nil, err
		}
		_, addrs, err := onPorts(3, func(addrs []string) (*process, error) {
			_, own, err := net.SplitHostPort(addrs[0])
			if err != nil {
				return nil, err
			}
			conf, err := file("lighttpd.conf", fmt.Appendf(nil, `
server.modules = ("mod_proxy")
server.document-root = %q
server.bind = "127.0.0.1"
server.port = %s
$SERVER["socket"] == %q { server.stream-response-body = 1 }
$SERVER["socket"] == %q { server.stream-response-body = 2 }
proxy.server = ("" => (("host" => %q, "port" => %s)))
`, dir, own, addrs[1], addrs[2], host, port), 0o644)
			if err != nil {
				return nil, err
			}
			return launch("lighttpd", exec.Command(program("lighttpd"), "-D", "-f", conf), syscall.SIGTERM)
		})
		return addrs, err
	},
}

// routesVarnish has one for each way.
var routesVarnish = &lazy[[]string]{
	needs: []string{"varnishd"},
	start: func() (all []string, err error) {
		app, err := appHTTP.ensure()
		if err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(app)
		if err != nil {
			return nil, err
		}
		for i, way := range []string{"", "set beresp.do_stream = false;", "set beresp.do_gzip = true;"} {
			_, addrs, err := onPorts(1, func(addrs []string) (*process, error) {
				name := fmt.Sprint("varnish", i)
				conf, err := file(name+".vcl", fmt.Appendf(nil, `
vcl 4.1;
backend default { .host = %q; .port = %q; }
sub vcl_recv { return (pass); }
sub vcl_backend_response { %s }
`, host, port, way), 0o644)
				if err != nil {
					return nil, err
				}
				return launch(name, exec.Command(program("varnishd"), "-j", "none", "-F", "-n", filepath.Join(dir, name), "-f", conf,
					"-a", addrs[0], "-T", "none", "-s", "malloc,16m", "-p", "thread_pool_min=10"), syscall.SIGTERM)
			})
			if err != nil {
				return nil, err
			}
			all = append(all, addrs[0])
		}
		return all, nil
	},
}

// routesCaddy has a port for each way.
var routesCaddy = &lazy[[]string]{
	needs: []string{"caddy"},
	start: func() ([]string, error) {
		app, err := appHTTP.ensure()
		if err != nil {
			return nil, err
		}
		nginx, err := routesNginx.ensure()
		if err != nil {
			return nil, err
		}
		ways := []string{
			"reverse_proxy " + app,
			"encode gzip\n\treverse_proxy " + app + " {\n\t\tflush_interval -1\n\t}",
			"reverse_proxy " + nginx[0],
		}
		_, addrs, err := onPorts(len(ways), func(addrs []string) (*process, error) {
			var b strings.Builder
			b.WriteString("{\n\tadmin off\n\tauto_https off\n}\n")
			for i, way := range ways {
				fmt.Fprintf(&b, "http://%s {\n\t%s\n}\n", addrs[i], way)
			}
			conf, err := file("Caddyfile", []byte(b.String()), 0o644)
			if err != nil {
				return nil, err
			}
			cmd := exec.Command(program("caddy"), "run", "--config", conf, "--adapter", "caddyfile")
			cmd.Env = append(cmd.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
			return launch("caddy", cmd, syscall.SIGTERM)
		})
		return addrs, err
	},
}

// routesGo is httputil.ReverseProxy in front of nginx.
var routesGo = &lazy[string]{start: func() (string, error) {
	nginx, err := routesNginx.ensure()
	if err != nil {
		return "", err
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: nginx[0]})
	return listening(func(l net.Listener) error { return http.Serve(l, proxy) }).ensure()
}}
