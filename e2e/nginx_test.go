package e2e

import (
	"fmt"
	"os"
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
		modules := []string{nginxModules + "ndk_http_module.so", nginxModules + luaModule}
		addrs, err := startNginx("nginx", modules, 1, func(addrs []string) string {
			return fmt.Sprintf(`
default_type text/plain;
lua_package_path "/usr/share/lua/5.1/?.lua;;";
server {
	listen %s;
	%s
	%s
}
`, addrs[0], params, locations)
		})
		if err != nil {
			return "", err
		}
		return addrs[0], nil
	},
}

// startNginx starts one with a worker. conf is what is in its http block, for
// the ports that it is given.
func startNginx(name string, modules []string, ports int, conf func(addrs []string) string) ([]string, error) {
	var load strings.Builder
	for _, m := range modules {
		fmt.Fprintf(&load, "load_module %s;\n", m)
	}
	// A configuration may include it.
	params, err := os.ReadFile("/etc/nginx/fastcgi_params")
	if err == nil {
		_, err = file(name+"/fastcgi_params", params, 0o644)
	}
	if err != nil {
		return nil, err
	}
	_, addrs, err := onPorts(ports, func(addrs []string) (*process, error) {
		path, err := file(name+"/nginx.conf", fmt.Appendf(nil, `
%[1]s
%[2]s
daemon off;
worker_processes 1;
error_log stderr notice;
pid %[3]s/pid;
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path %[3]s/body;
	proxy_temp_path %[3]s/proxy;
	fastcgi_temp_path %[3]s/fastcgi;
	uwsgi_temp_path %[3]s/uwsgi;
	scgi_temp_path %[3]s/scgi;
	%[4]s
}
`, &load, ofRoot("user root;"), filepath.Join(dir, name), conf(addrs)), 0o644)
		if err != nil {
			return nil, err
		}
		return launch(name, exec.Command(program("nginx"), "-c", path, "-e", "stderr"), syscall.SIGTERM)
	})
	return addrs, err
}

func onNginx(t *testing.T, path string) web { return web{nginx.get(t), path} }
