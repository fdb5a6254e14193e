package compat_test

import (
	"errors"
	"io"
	"net/http"
	"testing"

	ginzip "github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"

	"github.com/fa492104/flush"
)

// ginRow is gin as our handler, with its own way to send.
func ginRow(name string, m []gin.HandlerFunc, do func(c *gin.Context, run func(*session)), want cells) subject {
	return subject{name: name, place: handler, want: want, serve: func(_ *testing.T, opts *flush.Options, run func(*session)) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		e := gin.New()
		e.Use(m...)
		e.GET("/", func(c *gin.Context) { do(c, run) })
		return flush.NewHandler(e, opts)
	}}
}

// errStreamEnded stands for the return of gin's Stream: by its own look at
// CloseNotify, or because a write failed.
var errStreamEnded = errors.New("stream ended")

func ginRows() []subject {
	// What a gin handler has: an http.Flusher, whose errors are in c.Request's context.
	written := func(c *gin.Context, run func(*session)) {
		run(&session{c.Request.Context(), c.Writer, func(text string) error {
			_, err := c.Writer.WriteString(text)
			c.Writer.Flush()
			return err
		}})
	}
	event := func(c *gin.Context, run func(*session)) {
		run(&session{c.Request.Context(), c.Writer, func(text string) error {
			c.SSEvent("message", text)
			c.Writer.Flush()
			if e := c.Errors.Last(); e != nil {
				return e
			}
			return nil
		}})
	}
	// Stream calls its function, flushes after it, and ends when the client has gone.
	stream := func(c *gin.Context, run func(*session)) {
		calls, done := make(chan string), make(chan error)
		over := make(chan struct{})
		go func() {
			defer close(over)
			defer close(calls)
			run(&session{c.Request.Context(), c.Writer, func(text string) error {
				calls <- text
				return <-done
			}})
		}()
		var err error
		flushed := func() {}
		c.Stream(func(w io.Writer) bool {
			flushed()
			text, ok := <-calls
			if !ok {
				flushed = func() {}
				return false
			}
			flushed = func() { done <- err }
			if _, werr := io.WriteString(w, text); werr != nil {
				err = errStreamEnded
			}
			return err == nil
		})
		flushed()
		for range calls {
			done <- errStreamEnded
		}
		<-over
	}
	gz := ginRow("gin with `gin-contrib/gzip`", []gin.HandlerFunc{ginzip.Gzip(ginzip.DefaultCompression)}, written, cells{yes, waits, yes, yes, goneBoth, laterWrite, byCtx, refused, yes})
	gz.gzip = true
	return []subject{
		ginRow("gin `Writer.Flush`", nil, written, cells{yes, yes, yes, yes, goneBoth, laterWrite, yes, yes, yes}),
		ginRow("gin `SSEvent`", nil, event, cells{yes, yes, yes, yes, goneCtx, onClose, yes, yes, yes}),
		ginRow("gin `Stream`", nil, stream, cells{yes, yes, yes, yes, streamEnds, streamEnds, yes, yes, yes}),
		gz,
	}
}
