// Package flushtest tests what a flush does: in memory, on a connection that
// misbehaves on cue, and on a real server wherever it stands.
//
//   - A [Recorder] is a writer for a handler. It keeps a timeline of headers,
//     bytes and flushes.
//   - [Serve] starts a real [http.Server], HTTP/1.1 or HTTP/2, on a network in
//     memory. It works in a [testing/synctest] bubble, where an hour takes no
//     time.
//   - A [Conn] and a [Listener] follow a [Script]: few bytes at a time, a stall,
//     a failure, a slow or a long line.
//   - [Probe] fetches a stream and says what it went through on its way: whether
//     it was held, which proxy or compressor is likely to have done it, and the
//     cure. The command flushprobe does the same for people.
package flushtest
