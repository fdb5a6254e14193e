package flush

import "net/http"

// A SAPI is the profile of a kind of server: what PHP calls its server API.
// It says what a flush does about headers, and some defaults. It is a plain
// value; make one of your own for a server that is not listed here.
type SAPI struct {
	// Name is the profile's name as php_sapi_name reports it.
	Name string

	// Headers says what a flush does about headers that have not been sent.
	Headers HeaderOrder

	// ContentType is sent when headers go out before there is a body to
	// detect a type from and the handler has set none. Empty: nothing is sent.
	ContentType string

	// Implicit is the default of [Options.Implicit]; zero means [Off].
	Implicit Mode

	// HTTP10Buffer is the default of [Options.HTTP10Buffer]; zero means that
	// responses to HTTP/1.0 are not held back.
	HTTP10Buffer int
}

// A HeaderOrder says what a flush does about headers.
type HeaderOrder uint8

const (
	// HeadersFirst: a flush sends the headers, then the output, even if there
	// is none.
	HeadersFirst HeaderOrder = iota

	// HeadersWithOutput: the headers leave with the first output. Flushing
	// nothing succeeds and leaves them open. This is how ngx.flush works.
	HeadersWithOutput

	// OutputOnly: there are no headers on this wire. They are kept and never
	// written. This is how PHP's command line works.
	OutputOnly
)

// String returns the constant's name.
func (o HeaderOrder) String() string {
	switch o {
	case HeadersFirst:
		return "HeadersFirst"
	case HeadersWithOutput:
		return "HeadersWithOutput"
	case OutputOnly:
		return "OutputOnly"
	}
	return "HeaderOrder(unknown)"
}

const phpContentType = "text/html; charset=UTF-8"

// NetHTTP is the profile of Go's own server, and the default.
func NetHTTP() SAPI { return SAPI{Name: "net/http"} }

// Apache2Handler is the profile of mod_php.
func Apache2Handler() SAPI { return SAPI{Name: "apache2handler", ContentType: phpContentType} }

// CGI is the profile of a CGI child. Its flush sends the headers first even
// with no output, which a plain Flush on [net/http/cgi] does not.
func CGI() SAPI { return SAPI{Name: "cgi-fcgi", ContentType: phpContentType} }

// FastCGI is the profile of a FastCGI child. PHP's own sends headers on a
// flush before any output since 8.4 only.
func FastCGI() SAPI { return SAPI{Name: "cgi-fcgi", ContentType: phpContentType} }

// FPM is the profile of php-fpm.
func FPM() SAPI { return SAPI{Name: "fpm-fcgi", ContentType: phpContentType} }

// OpenResty is the profile of ngx_lua's ngx.flush: headers leave with the
// first output, and HTTP/1.0 responses of up to 1 MiB are held for a
// Content-Length (lua_http10_buffering).
func OpenResty() SAPI {
	return SAPI{Name: "openresty", Headers: HeadersWithOutput, ContentType: "text/plain", HTTP10Buffer: 1 << 20}
}

// CLI is the profile of PHP's command line: output only, implicit flush on.
func CLI() SAPI { return SAPI{Name: "cli", Headers: OutputOnly, Implicit: Wait} }

// Embed is the profile of PHP's embed SAPI: as [CLI], but headers count as
// sent from the start.
func Embed() SAPI { return SAPI{Name: embedName, Headers: OutputOnly, Implicit: Wait} }

const embedName = "embed"

// bornSent reports whether headers count as sent before any output.
func (s *SAPI) bornSent() bool { return s.Headers == OutputOnly && s.Name == embedName }

// bodyAllowed reports whether a response with this status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
