package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fa492104/flush/e2e/steps"
)

const (
	nginxModules = "/usr/lib/nginx/modules/"
	luaModule    = "ngx_http_lua_module.so"
)

// nginx is one nginx with one worker and a location for each arrangement.
var nginx = &lazy[string]{
	needs: []string{"nginx", nginxModules + luaModule, "/usr/sbin/php-fpm*"},
	start: func() (string, error) {
		var upstream struct{ http, httpUnbuffered, fcgi, fcgiUnbuffered, fpm, sapi string }
		for _, u := range []struct {
			to   *string
			from *lazy[string]
		}{
			{&upstream.http, httpBackend},
			{&upstream.httpUnbuffered, httpUnbuffered},
			{&upstream.fcgi, fcgiBackend},
			{&upstream.fcgiUnbuffered, fcgiUnbuffered},
			{&upstream.sapi, sapiBackend},
			{&upstream.fpm, fpm},
		} {
			var err error
			if *u.to, err = u.from.ensure(); err != nil {
				return "", err
			}
		}
		php, err := phpFiles.ensure()
		if err != nil {
			return "", err
		}
		lua, err := file("nginx/steps.lua", steps.Lua, 0o644)
		if err != nil {
			return "", err
		}
		params := `
fastcgi_param REQUEST_METHOD $request_method;
fastcgi_param REQUEST_URI $request_uri;
fastcgi_param QUERY_STRING $query_string;
fastcgi_param SERVER_PROTOCOL $server_protocol;
fastcgi_param GATEWAY_INTERFACE CGI/1.1;
fastcgi_param HTTP_HOST $http_host;
fastcgi_param SCRIPT_FILENAME ` + php.script + `;
`
		const http11 = `proxy_http_version 1.1; proxy_set_header Connection "";`
		location := func(path, format string, args ...any) string {
			return fmt.Sprintf("location = %s { %s }\n", path, fmt.Sprintf(format, args...))
		}
		locations := strings.Join([]string{
			location("/proxy10", "proxy_pass http://%s;", upstream.http),
			location("/proxy10-option", "proxy_pass http://%s;", upstream.httpUnbuffered),
			location("/proxy10-off", "proxy_pass http://%s; proxy_buffering off;", upstream.http),
			location("/proxy11", "proxy_pass http://%s; %s", upstream.http, http11),
			location("/proxy11-option", "proxy_pass http://%s; %s", upstream.httpUnbuffered, http11),
			location("/proxy11-off", "proxy_pass http://%s; %s proxy_buffering off;", upstream.http, http11),
			location("/fcgi", "fastcgi_pass %s;", upstream.fcgi),
			location("/fcgi-option", "fastcgi_pass %s;", upstream.fcgiUnbuffered),
			location("/fcgi-off", "fastcgi_pass %s; fastcgi_buffering off;", upstream.fcgi),
			location("/fpm", "fastcgi_pass unix:%s; fastcgi_buffering off;", upstream.fpm),
			location("/sapi", "fastcgi_pass %s;", upstream.sapi),
			location("/lua", "content_by_lua_file %s;", lua),
			location("/lua-timeout", "content_by_lua_file %s; send_timeout 3s;", lua),
			location("/lua-http10-off", "content_by_lua_file %s; lua_http10_buffering off;", lua),
		}, "")
		_, addrs, err := onPorts(1, func(addrs []string) (*process, error) {
			tmp := filepath.Join(dir, "nginx")
			conf, err := file("nginx/nginx.conf", fmt.Appendf(nil, `
load_module %s;
load_module %s;
%s
daemon off;
worker_processes 1;
error_log stderr notice;
pid %[4]s/pid;
events { worker_connections 128; }
http {
	access_log off;
	default_type text/plain;
	client_body_temp_path %[4]s/body;
	proxy_temp_path %[4]s/proxy;
	fastcgi_temp_path %[4]s/fastcgi;
	uwsgi_temp_path %[4]s/uwsgi;
	scgi_temp_path %[4]s/scgi;
	lua_package_path "/usr/share/lua/5.1/?.lua;;";
	server {
		listen %[5]s;
		%[6]s
		%[7]s
	}
}
`, nginxModules+"ndk_http_module.so", nginxModules+luaModule, ofRoot("user root;"), tmp, addrs[0], params, locations), 0o644)
			if err != nil {
				return nil, err
			}
			return launch("nginx", exec.Command(program("nginx"), "-c", conf, "-e", "stderr"), syscall.SIGTERM)
		})
		if err != nil {
			return "", err
		}
		return addrs[0], nil
	},
}

func onNginx(t *testing.T, path string) web { return web{nginx.get(t), path} }
