package compat_test

import (
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
			return c.Errors.Last()
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
		begun := false
		c.Stream(func(w io.Writer) bool {
			if begun {
				done <- err
			}
			text, ok := <-calls
			if !ok {
				return false
			}
			begun = true
			_, err = io.WriteString(w, text)
			return true
		})
		for range calls {
			done <- io.ErrClosedPipe
		}
		<-over
	}
	gz := ginRow("gin with `gin-contrib/gzip`", []gin.HandlerFunc{ginzip.Gzip(ginzip.DefaultCompression)}, written, cells{})
	gz.gzip = true
	return []subject{
		ginRow("gin `Writer.Flush`", nil, written, cells{}),
		ginRow("gin `SSEvent`", nil, event, cells{}),
		ginRow("gin `Stream`", nil, stream, cells{}),
		gz,
	}
}
