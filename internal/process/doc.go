// Package process is what a process was started with: sockets to serve, and an
// output that may be a pipe.
package process
