module github.com/fa492104/flush/e2e

go 1.26.0

require (
	github.com/creack/pty v1.1.24
	github.com/fa492104/flush v0.0.0
	golang.org/x/sys v0.49.0
)

replace github.com/fa492104/flush => ../
