// Package flush flushes HTTP responses: at once, in the background, after every
// write, and through user-level output buffers.
//
//	func handler(w http.ResponseWriter, r *http.Request) {
//		fmt.Fprintln(w, "one moment")
//		if err := flush.Flush(w, true); err != nil {
//			return // the client has gone, or has stopped reading
//		}
//		fmt.Fprintln(w, work(r.Context()))
//	}
//
//	http.Handle("/", flush.NewHandler(http.HandlerFunc(handler), nil))
//
// # Three floors
//
// One response is one ordered stream of bytes that goes down three floors.
// Every operation says which floor it moves.
//
//	handler ── Write ──►  3  user-level buffers  a stack; Buffer.Flush moves it
//	                      2  the Flusher         accepted, in order, bounded
//	                      1  the server          ResponseWriter, kernel, client
//
// A flush of the response moves floor 2 down. [Flusher.FlushWait] returns when
// that is done, [Flusher.FlushAsync] at once. Neither touches floor 3, save for
// buffers that ask for it. Floor 2 moves down by itself, without a flush, at
// [Options.BufferSize].
//
// # What a flush promises
//
// After a waiting flush every byte before it is in the kernel's send buffer:
// sent as far as a program can tell, not received. On HTTP/2 it is with the
// server's frame writer. On CGI and FastCGI it is in the pipe or socket to the
// web server, and errors of that are lost. A proxy in between may hold it;
// [Options.NoProxyBuffering] asks it not to.
//
// An asynchronous flush is carried by a goroutine that exists only while there
// is something to carry. Floor 2 holds at most [Options.MaxPending] bytes, then
// Write waits, and [Flusher.TryWrite] takes nothing. What is asked for during one
// slow write becomes one flush.
//
// # Fixed is not sent
//
// Headers are fixed by WriteHeader or by the first byte on floor 2, as in
// net/http. They are sent later: with the first byte that leaves floor 2, by a
// flush if the profile says headers first, or by [Flusher.SendHeaders]. In
// between a change to Header counts only for trailers, and [Flusher.Clean] can
// still take everything back. A response that ends before anything went out has
// its exact Content-Length.
//
// # Profiles
//
// A [SAPI] says what a flush does about headers on a kind of server.
//
//	profile                          headers            content type              implicit  HTTP/1.0 buffer
//	NetHTTP                          HeadersFirst       -                         Off       0
//	Apache2Handler, CGI, FastCGI,    HeadersFirst       text/html; charset=UTF-8  Off       0
//	FPM
//	OpenResty                        HeadersWithOutput  text/plain                Off       1 MiB
//	CLI, Embed                       OutputOnly         -                         Wait      0
//
// # Time
//
// [Options.SendTimeout] is the longest time without progress while bytes are
// outstanding. It is not a bound on the response and an idle stream never meets
// it. Progress is a call of the server that returns: a Write and the flush behind
// it are one. Of a large body it is given slices of 32 KiB, which grow to 1 MiB
// while the client has never been slow; of a file slices of 1 to 8 MiB on Linux,
// where its position shows progress, too. The kernel wakes a blocked writer when
// about a third of its send buffer is free, so the slowest client that survives
// reads a third of that buffer per SendTimeout.
//
// # Concurrency
//
// Any goroutine may write and flush at any time: one Write is never torn apart
// by another, and they enter first come first served. Finish the headers before
// another goroutine writes or flushes, as in net/http. Nothing of a Flusher
// outlives the response: background work is joined before [NewHandler] returns
// to the server, also after a panic, and later calls return [ErrClosed]. Why a
// response ended, [Cause] says.
//
// On HTTP/1 the server drains an unread request body when headers go out. So
// until the handler has read the body to its end, or has called
// [Flusher.EnableFullDuplex], a Write, a flush that waits, SendHeaders and Close
// may wait for the upload, as in net/http. Asynchronous flushes and timers do not:
// the background does, for at most SendTimeout without progress. Meanwhile a Read
// of the handler's waits. With [New], which does not see the body read, headers
// leave only on the goroutine of a call then.
//
// # Many responses
//
// A [Group] is told the same by one call, which waits for no client, and ends
// its streams with the server. A [Budget] bounds what all responses hold together.
// [Install] sets a server up with both.
//
// # Sources
//
// The semantics are those of ngx.flush in lua-nginx-module, with its
// send_timeout and lua_http10_buffering, and of PHP's flush, ob_implicit_flush
// and ob_* functions.
package flush
