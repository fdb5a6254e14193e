package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

// routesNginx has a folder for each way to put nginx in front of the
// application, and the last of its ports speaks HTTP/2 over TLS.
var routesNginx = &lazy[[]string]{
	needs: []string{"nginx", "/usr/sbin/php-fpm*"},
	start: func() ([]string, error) {
		app, err := appHTTP.ensure()
		if err != nil {
			return nil, err
		}
		appFast, err := appFCGI.ensure()
		if err != nil {
			return nil, err
		}
		lighttpd, err := routesLighttpd.ensure()
		if err != nil {
			return nil, err
		}
		fpmSock, err := fpm.ensure()
		if err != nil {
			return nil, err
		}
		php, err := file("php/lines.php", []byte(phpLines), 0o644)
		if err != nil {
			return nil, err
		}
		cert, err := certificate()
		if err != nil {
			return nil, err
		}
		proxy := "proxy_pass http://" + app + "/;"
		const (
			off      = ` proxy_buffering off;`
			http11   = ` proxy_http_version 1.1; proxy_set_header Connection "";`
			compress = ` gzip on; gzip_proxied any; gzip_types text/plain;`
			fast     = ` fastcgi_param REQUEST_METHOD GET; fastcgi_param SERVER_PROTOCOL HTTP/1.1; fastcgi_param REQUEST_URI $uri$is_args$args;` +
				` fastcgi_param HTTP_ACCEPT_ENCODING $http_accept_encoding;`
		)
		var inner, outer strings.Builder
		folder := func(b *strings.Builder, name, format string, args ...any) {
			fmt.Fprintf(b, "location /%s/ { %s }\n", name, fmt.Sprintf(format, args...))
		}
		folder(&inner, "default", "%s", proxy)
		folder(&inner, "off", "%s", proxy+off)
		folder(&inner, "http11", "%s", proxy+http11)
		folder(&inner, "gzip", "%s", proxy+compress)
		folder(&inner, "gzip-off", "%s", proxy+compress+off)
		folder(&inner, "gzip-http11", "%s", proxy+compress+http11)
		folder(&inner, "sub", "%s sub_filter_types *; sub_filter fox dog;", proxy+off)
		folder(&inner, "fcgi", "fastcgi_pass %s; %s", appFast, fast)
		folder(&inner, "fcgi-off", "fastcgi_pass %s; fastcgi_buffering off; %s", appFast, fast)
		folder(&inner, "lighttpd", "proxy_pass http://%s/; %s", lighttpd[0], off)
		for _, how := range []string{"flush", "ob", "zlib"} {
			folder(&inner, "php-"+how, "fastcgi_pass unix:%s; fastcgi_buffering off; fastcgi_param SCRIPT_FILENAME %s; fastcgi_param QUERY_STRING %s; %s", fpmSock, php, how, fast)
		}
		return startNginx("routes-nginx", nil, 3, func(addrs []string) string {
			outer.Reset()
			folder(&outer, "hold-hold", "proxy_pass http://%s/default/;", addrs[0])
			folder(&outer, "off-hold", "proxy_pass http://%s/default/; %s", addrs[0], off)
			folder(&outer, "hold-off", "proxy_pass http://%s/off/;", addrs[0])
			folder(&outer, "off-off", "proxy_pass http://%s/off/; %s", addrs[0], off)
			return fmt.Sprintf(`
server { listen %[1]s; %[2]s }
server { listen %[3]s; %[4]s }
server { listen %[5]s ssl http2; ssl_certificate %[6]s; ssl_certificate_key %[6]s; %[2]s }
`, addrs[0], &inner, addrs[1], &outer, addrs[2], cert)
		})
	},
}

const phpLines = `<?php
header('Content-Type: text/plain; charset=utf-8');
$how = $_SERVER['QUERY_STRING'];
if ($how == 'ob') ob_start();
if ($how == 'zlib') ini_set('zlib.output_compression', 1);
$start = microtime(true);
for ($i = 0; $i < 6; $i++) {
	if ($i) usleep(300000);
	printf("flushprobe %d %.6f ................................\n", $i, microtime(true) - $start);
	flush();
}
`

// secure has a certificate and a client that trusts it.
var secure = func() *httptest.Server {
	s := httptest.NewUnstartedServer(nil)
	s.EnableHTTP2 = true
	s.StartTLS()
	s.Close()
	return s
}()

func secureClient() *http.Client { return secure.Client() }

// certificate writes the certificate and its key into a file.
func certificate() (path string, err error) {
	var c tls.Certificate = secure.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return file("routes-nginx/cert.pem", text, 0o644)
}
