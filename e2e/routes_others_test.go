package e2e

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
)

var (
	routesLighttpd = behind(appHTTP, []string{"lighttpd"}, func(app string) ([]string, error) { return startLighttpd("routes-lighttpd", app) })
	routesVarnish  = behind(appHTTP, []string{"varnishd"}, func(app string) ([]string, error) {
		return startVarnish("routes-varnish", app, "", "set beresp.do_stream = false;", "set beresp.do_gzip = true;")
	})
	routesSquid = behind(appHTTP, []string{"squid"}, func(app string) ([]string, error) { return startSquid("routes-squid", app) })
	routesNode  = behind(appHTTP, nodeNeeds, func(app string) ([]string, error) { return startNode("routes-node", app) })
)

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
		return startCaddy("routes-caddy",
			"reverse_proxy "+app,
			"encode gzip\n\treverse_proxy "+app+" {\n\t\tflush_interval -1\n\t}",
			"reverse_proxy "+nginx[0],
		)
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
