package e2e

import (
	"fmt"
	"strings"
)

// routesApache has a folder for each way to put Apache in front of the
// application or of another server.
var routesApache = &lazy[string]{
	needs: []string{"apache2"},
	start: func() (string, error) {
		app, err := appHTTP.ensure()
		if err != nil {
			return "", err
		}
		appFast, err := appFCGI.ensure()
		if err != nil {
			return "", err
		}
		nginx, err := routesNginx.ensure()
		if err != nil {
			return "", err
		}
		haproxy, err := routesHAProxy.ensure()
		if err != nil {
			return "", err
		}
		modules := []string{"filter", "deflate", "buffer", "substitute", "ratelimit", "env", "proxy", "proxy_http", "proxy_fcgi"}
		var b strings.Builder
		folder := func(name, to, filter string) {
			fmt.Fprintf(&b, "ProxyPass /%[1]s/ %[2]s\n", name, to)
			if filter != "" {
				fmt.Fprintf(&b, "<Location /%[1]s/>\n%[2]s\n</Location>\n", name, filter)
			}
		}
		// The settings of a worker hold for all that have its name.
		fastFlush := strings.Replace(appFast, "127.0.0.1", "localhost", 1)
		folder("http", "http://"+app+"/", "")
		folder("deflate", "http://"+app+"/", "SetOutputFilter DEFLATE")
		folder("buffer", "http://"+app+"/", "SetOutputFilter BUFFER")
		folder("substitute", "http://"+app+"/", "AddOutputFilterByType SUBSTITUTE text/plain\nSubstitute s/fox/dog/n")
		folder("ratelimit", "http://"+app+"/", "SetOutputFilter RATE_LIMIT\nSetEnv rate-limit 1")
		folder("fcgi", "fcgi://"+appFast+"/", "")
		folder("fcgi-deflate", "fcgi://"+appFast+"/", "SetOutputFilter DEFLATE")
		folder("fcgi-flush", "fcgi://"+fastFlush+"/ flushpackets=on", "")
		folder("fcgi-flush-deflate", "fcgi://"+fastFlush+"/ flushpackets=on", "SetOutputFilter DEFLATE")
		folder("nginx", "http://"+nginx[0]+"/default/", "")
		folder("nginx-off", "http://"+nginx[0]+"/off/", "")
		folder("haproxy", "http://"+haproxy[0]+"/", "")
		return startApache("routes-apache", "mpm_event", modules, oneChild(64)+b.String())
	},
}
