package flush

import (
	"net/http"
	"net/http/cgi"
	"net/http/fcgi"
	"net/url"
	"os"
)

// Serve runs h in whatever this process was started as, so that one binary is
// a FastCGI server, a CGI program and a command. It chooses as php-cgi does:
//
//   - standard input is a listening socket: FastCGI, one goroutine for each
//     request, until the socket fails;
//   - GATEWAY_INTERFACE is set: CGI, one request;
//   - otherwise: one GET of the first argument (default "/"), with the output
//     on standard output. An argument without a leading slash gets one.
//
// The handler is wrapped as by [NewHandler]. A zero opts.SAPI becomes
// [FastCGI], [CGI] or [CLI].
//
// A broken pipe does not end the process, as it otherwise does when standard
// output is one: the handler gets [ErrClientGone], and Serve returns an error.
func Serve(h http.Handler, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	zero := o.SAPI == SAPI{}

	if stdinListens() {
		if zero {
			o.SAPI = FastCGI()
		}
		return fcgi.Serve(nil, NewHandler(h, &o))
	}

	defer catchBrokenPipe()()
	if os.Getenv("GATEWAY_INTERFACE") != "" {
		if zero {
			o.SAPI = CGI()
		}
		return cgi.Serve(NewHandler(h, &o))
	}
	if zero {
		o.SAPI = CLI()
	}
	target := "/"
	if len(os.Args) > 1 {
		target = os.Args[1]
	}
	return serveOnce(h, &o, target)
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
