package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const apacheModules = "/usr/lib/apache2/modules/"

// apache is Apache with its event module: CGI and proxying.
var apache = &lazy[string]{
	needs: []string{"apache2", "php-cgi", "/usr/sbin/php-fpm*"},
	start: func() (string, error) {
		bin, err := stepsProgram.ensure()
		if err != nil {
			return "", err
		}
		sapi, err := sapiProgram.ensure()
		if err != nil {
			return "", err
		}
		httpAddr, err := httpBackend.ensure()
		if err != nil {
			return "", err
		}
		fcgiAddr, err := fcgiBackend.ensure()
		if err != nil {
			return "", err
		}
		fpmSock, err := fpm.ensure()
		if err != nil {
			return "", err
		}
		php, err := phpFiles.ensure()
		if err != nil {
			return "", err
		}
		phpCGI, err := file("cgi-bin/php-cgi", fmt.Appendf(nil, "#!/bin/sh\nSCRIPT_FILENAME=%s exec %s -c %s\n", php.script, program("php-cgi"), php.ini), 0o755)
		if err != nil {
			return "", err
		}
		return startApache("apache", "mpm_event", []string{"cgid", "alias", "env", "proxy", "proxy_http", "proxy_fcgi"}, fmt.Sprintf(`%s
ScriptSock %s/cgid.sock
SetEnv %s %s
SetEnv REDIRECT_STATUS 200
ScriptAlias /cgi %s
ScriptAlias /sapi %s
ScriptAlias /php-cgi %s
ProxyPass /http http://%s/
ProxyPass /fcgi fcgi://%s/
ProxyPass /fcgi-flush fcgi://%s/ flushpackets=on
ProxyPass /fpm-flush unix:%s|fcgi://localhost%s flushpackets=on
`, oneChild(16), filepath.Join(dir, "apache"), "STEPS_SENDTIMEOUT", strings.TrimPrefix(sendTimeout, "STEPS_SENDTIMEOUT="),
			bin, sapi, phpCGI, httpAddr, fcgiAddr, strings.Replace(fcgiAddr, "127.0.0.1", "localhost", 1), fpmSock, php.script))
	},
}

// apacheFcgid and its brothers are Apache with mod_fcgid, which starts the program
// itself. The third does not say that it has it, as Debian sets it up.
var (
	apacheFcgid       = fcgid("apache-fcgid", "")
	apacheFcgidUnheld = fcgid("apache-fcgid-unheld", "FcgidOutputBufferSize 0")
	apacheFcgidTerse  = fcgid("apache-fcgid-terse", "ServerTokens OS")
)

func fcgid(name, setting string) *lazy[string] {
	return &lazy[string]{
		needs: []string{"apache2", apacheModules + "mod_fcgid.so"},
		start: func() (string, error) {
			bin, err := stepsProgram.ensure()
			if err != nil {
				return "", err
			}
			root := filepath.Join(dir, name)
			return startApache(name, "mpm_event", []string{"alias", "fcgid"}, fmt.Sprintf(`%[6]s
FcgidIPCDir %[1]s/sockets
FcgidProcessTableFile %[1]s/table
FcgidSpawnScoreUpLimit 1000
FcgidInitialEnv %[2]s %[3]s
%[4]s
Alias /fcgid %[5]s
<Location /fcgid>
	SetHandler fcgid-script
</Location>
`, root, "STEPS_SENDTIMEOUT", strings.TrimPrefix(sendTimeout, "STEPS_SENDTIMEOUT="), setting, bin, oneChild(16)))
		},
	}
}

func onFcgid(t *testing.T, server *lazy[string]) web { return web{server.get(t), "/fcgid"} }

// apachePHP is Apache with PHP inside.
var apachePHP = &lazy[string]{
	needs: []string{"apache2", apacheModules + "libphp*.so"},
	start: func() (string, error) {
		php, err := phpFiles.ensure()
		if err != nil {
			return "", err
		}
		return startApache("apache-php", "mpm_prefork", []string{"alias", "mime"}, fmt.Sprintf(`
StartServers 2
LoadModule php_module %s
PHPIniDir %s
TypesConfig /dev/null
AddType application/x-httpd-php .php
Alias /php %s
`, program(apacheModules+"libphp*.so"), php.ini, php.script))
	},
}

// oneChild has the event module serve all with one process. Without a number of
// spare threads that it can have it reports an error a second after its start.
func oneChild(threads int) string {
	return fmt.Sprintf("StartServers 1\nServerLimit 1\nThreadsPerChild %[1]d\nMaxRequestWorkers %[1]d\nMinSpareThreads 1\n", threads)
}

func startApache(name, mpm string, modules []string, conf string) (string, error) {
	root := filepath.Join(dir, name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, m := range append([]string{mpm, "authz_core"}, modules...) {
		fmt.Fprintf(&b, "LoadModule %s_module %smod_%s.so\n", m, apacheModules, m)
	}
	_, addrs, err := onPorts(1, func(addrs []string) (*process, error) {
		path, err := file(name+"/apache.conf", fmt.Appendf(nil, `
ServerRoot %[1]s
DefaultRuntimeDir %[1]s
PidFile %[1]s/pid
Listen %[2]s
ServerName e2e.test
ErrorLog /dev/stderr
LogLevel warn
%[3]s
%[4]s
<Directory />
	Require all granted
	Options +ExecCGI
</Directory>
%[5]s
`, root, addrs[0], b.String(), ofRoot("User www-data\nGroup root"), conf), 0o644)
		if err != nil {
			return nil, err
		}
		return launch(name, exec.Command(program("apache2"), "-D", "FOREGROUND", "-f", path), syscall.SIGTERM)
	})
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

func onApache(t *testing.T, path string) web { return web{apache.get(t), path} }
