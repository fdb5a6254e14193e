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

// phpFiles are the script and an ini file without Debian's output_buffering.
var phpFiles = &lazy[phpSetup]{start: func() (s phpSetup, err error) {
	s.docroot = filepath.Join(dir, "php")
	if s.script, err = file("php/steps.php", steps.PHP, 0o644); err != nil {
		return s, err
	}
	s.ini, err = file("php/php.ini", []byte(strings.Join([]string{
		"output_buffering = 0",
		"zlib.output_compression = 0",
		"display_errors = 0",
		"default_socket_timeout = 60",
		"opcache.enable = 0",
		"",
	}, "\n")), 0o644)
	return s, err
}}

type phpSetup struct{ docroot, script, ini string }

// fpm is PHP-FPM on a socket in the run's folder.
var fpm = &lazy[string]{
	needs: []string{"/usr/sbin/php-fpm*"},
	start: func() (string, error) {
		php, err := phpFiles.ensure()
		if err != nil {
			return "", err
		}
		sock := filepath.Join(dir, "fpm.sock")
		conf, err := file("fpm.conf", fmt.Appendf(nil, `
[global]
error_log = /dev/stderr
daemonize = no
log_limit = 8192
[www]
%slisten = %s
listen.mode = 0666
pm = static
pm.max_children = 6
catch_workers_output = yes
`, ofRoot("user = root\ngroup = root\n"), sock), 0o644)
		if err != nil {
			return "", err
		}
		p, err := launch("php-fpm", exec.Command(program("/usr/sbin/php-fpm*"), "-F", "-R", "-c", php.ini, "-y", conf), syscall.SIGTERM)
		if err != nil {
			return "", err
		}
		return sock, p.ready("unix", sock)
	},
}

// phpCLI is PHP on the command line.
func phpCLI(t *testing.T, tty bool) cli {
	need(t, "php")
	php := phpFiles.get(t)
	return cli{[]string{program("php"), "-c", php.ini, "-d", "implicit_flush=1", php.script}, nil, tty}
}

// phpVersion is as in "8.2.1".
func phpVersion() string {
	if program("php") == "" {
		return ""
	}
	out, _ := exec.Command(program("php"), "-n", "-r", "echo PHP_VERSION;").Output()
	return string(out)
}
