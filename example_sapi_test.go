package flush_test

import (
	"fmt"
	"net/http/httptest"
	"os"

	"github.com/fa492104/flush"
)

// headerOf returns the Content-Type that an empty flush sends under a profile.
func headerOf(sapi flush.SAPI) string {
	rec := httptest.NewRecorder()
	f := flush.New(rec, nil, &flush.Options{SAPI: sapi})
	defer f.Close()
	flush.Flush(f, true)
	return fmt.Sprintf("%s: sent %t, %q", sapi.Name, f.HeadersSent(), rec.Header().Get("Content-Type"))
}

func ExampleNetHTTP() {
	fmt.Println(headerOf(flush.NetHTTP()))
	// Output: net/http: sent true, ""
}

func ExampleApache2Handler() {
	fmt.Println(headerOf(flush.Apache2Handler()))
	// Output: apache2handler: sent true, "text/html; charset=UTF-8"
}

func ExampleCGI() {
	fmt.Println(headerOf(flush.CGI()))
	// Output: cgi-fcgi: sent true, "text/html; charset=UTF-8"
}

func ExampleFastCGI() {
	fmt.Println(headerOf(flush.FastCGI()))
	// Output: cgi-fcgi: sent true, "text/html; charset=UTF-8"
}

func ExampleFPM() {
	fmt.Println(headerOf(flush.FPM()))
	// Output: fpm-fcgi: sent true, "text/html; charset=UTF-8"
}

// Under OpenResty the headers wait for the first output.
func ExampleOpenResty() {
	fmt.Println(headerOf(flush.OpenResty()))
	// Output: openresty: sent false, ""
}

// On a command line each write is flushed, and there are no headers.
func ExampleCLI() {
	f := flush.NewOutput(os.Stdout, &flush.Options{SAPI: flush.CLI()})
	defer f.Close()
	f.Header().Set("X-Nobody", "sees this")
	fmt.Println(f.HeadersSent())
	fmt.Fprintln(f, "output")
	fmt.Println(f.HeadersSent())
	// Output:
	// false
	// output
	// true
}

// Embedded, headers count as sent from the start.
func ExampleEmbed() {
	f := flush.NewOutput(os.Stdout, &flush.Options{SAPI: flush.Embed()})
	defer f.Close()
	fmt.Println(f.HeadersSent(), f.Clean())
	// Output: true flush: headers have been sent
}
