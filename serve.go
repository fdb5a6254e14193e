package flush

import (
	"context"
	"net/http"
	"net/http/cgi"
	"net/url"
	"os"
	"runtime"

	"github.com/fa492104/flush/internal/process"
)

// Serve runs h in whatever this process was started as, so that one binary is
// a FastCGI server, a CGI program and a command. It chooses as php-cgi does:
//
//   - standard input is a listening socket, or LISTEN_FDS hands this process
//     some (systemd): FastCGI, one goroutine for each request, until a socket
//     fails or ctx ends;
//   - GATEWAY_INTERFACE is set: CGI, one request;
//   - otherwise: one GET of the first argument (default "/"), with the output
//     on standard output. An argument without a leading slash gets one.
//
// The handler is wrapped as by [NewHandler]. A zero opts.SAPI becomes
// [FastCGI], [CGI] or [CLI].
//
// When ctx ends, Serve accepts no more, ends the responses under way as
// [Group.Shutdown] does that of opts, or one of its own, waits for them, 10 s at
// most, and returns nil: a deploy cuts no response short. What ends ctx is the
// caller's affair; for a service it is
//
//	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
//
// nil is a context that never ends.
//
// A broken pipe does not end the process, as it otherwise does when standard
// output is one: the handler gets [ErrClientGone], and Serve returns an error.
func Serve(ctx context.Context, h http.Handler, opts *Options) error {
	if ctx == nil {
		ctx = context.Background()
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Group == nil {
		o.Group = new(Group)
	}
	zero := o.SAPI == SAPI{}
	sockets, err := process.Listeners()
	if err != nil {
		return err
	}
	if len(sockets) > 0 {
		if zero {
			o.SAPI = FastCGI()
		}
		return serveFastCGI(ctx, sockets, NewHandler(h, &o), o.Group)
	}

	defer process.CatchBrokenPipe()()
	if os.Getenv("GATEWAY_INTERFACE") != "" {
		if zero {
			o.SAPI = CGI()
		}
		return runUntil(ctx, o.Group, func() error { return cgi.Serve(NewHandler(h, &o)) })
	}
	if zero {
		o.SAPI = CLI()
	}
	target := "/"
	if len(os.Args) > 1 {
		target = os.Args[1]
	}
	return runUntil(ctx, o.Group, func() error { return serveOnce(h, &o, target) })
}

// runUntil runs one response. If ctx ends meanwhile it has that end, and returns
// nil.
func runUntil(ctx context.Context, g *Group, run func() error) error {
	if ctx.Done() == nil {
		return run()
	}
	type outcome struct {
		err      error
		returned bool
		panicked any // nil, and not returned: it called Goexit
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if !o.returned {
				o.panicked = recover()
			}
			done <- o
		}()
		o.err = run()
		o.returned = true
	}()
	end := func(o outcome) error {
		switch {
		case o.panicked != nil:
			panic(o.panicked)
		case !o.returned:
			runtime.Goexit()
		}
		return o.err
	}
	select {
	case o := <-done:
		return end(o)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), serveGrace)
	defer cancel()
	g.Shutdown(grace)
	select {
	case o := <-done:
		if o.panicked != http.ErrAbortHandler {
			end(o)
		}
	case <-grace.Done():
	}
	return nil
}

// serveOnce runs h for one GET of target with the output on standard output.
func serveOnce(h http.Handler, o *Options, target string) (err error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		if u, err = url.ParseRequestURI("/" + target); err != nil {
			return err
		}
	}
	r, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	r.RequestURI = u.RequestURI()
	if r.Host == "" {
		r.Host = "localhost"
	}

	done := o.OnClose
	o.OnClose = func(r *http.Request, s Stats, failure error) {
		err = failure
		if done != nil {
			done(r, s, failure)
		}
	}
	NewHandler(h, o).ServeHTTP(newOutput(os.Stdout), r)
	return err
}
