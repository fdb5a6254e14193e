// Package flush flushes HTTP responses.
package flush
