package php_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/fa492104/flush"
	"github.com/fa492104/flush/internal/harness"
)

// fuzzOps are the steps that FuzzBuffers makes, the likelier the more often
// they are here. Those that PHP does not have are in doMore.
var fuzzOps = []string{
	"write", "write", "write", "write", "write", "write", "ob_start", "ob_start", "ob_start", "ob_start",
	"flush_top", "flush_top", "clean_top", "close_top", "close_top", "discard_top", "flush_lowest",
	"ob_get_contents", "ob_get_level", "ob_get_status", "headers_sent", "flush", "flush_all", "clean_all",
	"implicit_flush", "header", "status", "disconnect", "header_late",
}

var fuzzHandlers = []string{
	"", "", "", "upper", "bracket", "count", "flags", "zero", "empty", "false", "false1",
	"noisy", "noisyfalse", "peek", "flusher", "header", "reenter", "reread", "throw",
}

// fuzzCase makes a case of a fuzzer's input: an op and its argument by turns.
func fuzzCase(input []byte, handlers []string) phpCase {
	c := phpCase{SAPI: "web"}
	var buffers int
	for pair := range slices.Chunk(input, 2) {
		if len(pair) < 2 || len(c.Steps) == 40 {
			break
		}
		arg := int(pair[1])
		step := phpStep{Op: fuzzOps[int(pair[0])%len(fuzzOps)]}
		switch step.Op {
		case "write":
			step.Data = "abcdefgh"[:arg%9]
		case "ob_start":
			if buffers++; buffers > 8 {
				continue
			}
			step.Handler = handlers[arg%len(handlers)]
			step.Chunk = int(pair[0]) % 5 * (arg % 3)
			step.follow = arg&1 != 0
			flags := []string{}
			for i, name := range []string{"cleanable", "flushable", "removable"} {
				if arg>>5&(1<<i) == 0 || arg&16 != 0 {
					flags = append(flags, name)
				}
			}
			step.Flags = &flags
		case "ob_get_status":
			step.Full = true
		case "implicit_flush":
			step.On = arg&1 != 0
		case "header":
			step.Name, step.Value = "X-A", string(rune('a'+arg%26))
		case "header_late": // what the filter of that name sets, too
			step.Op, step.Name, step.Value = "header", "X-Handler", []string{"START", "START|FLUSH", "FINAL"}[arg%3]
		case "status":
			step.Code = []int{http.StatusOK, http.StatusNotFound, http.StatusNoContent}[arg%3]
		case "disconnect":
			if arg > 16 {
				continue
			}
		}
		c.Steps = append(c.Steps, step)
	}
	return c
}

// doMore runs the steps that cases of PHP do not have. They return the errors.
func (s *phpRun) doMore(step phpStep) (result any, ok bool) {
	var err error
	top := s.Top()
	if top == nil {
		top = s.StartBuffer(&flush.BufferOptions{})
		s.open = append(s.open, top)
	}
	switch step.Op {
	case "write":
		var n int
		p := []byte(step.Data.(string))
		if n, err = s.Write(p); err == nil && n != len(p) {
			s.t.Errorf("Write returned %d of %d and no error", n, len(p))
		}
	case "flush_top":
		err = top.Flush()
	case "clean_top":
		err = top.Clean()
	case "close_top":
		err = top.Close()
	case "discard_top":
		err = top.Discard()
	case "flush_lowest":
		err = s.buffers()[0].Flush()
	case "flush_all":
		err = s.FlushAll(true)
	case "clean_all":
		err = s.Clean()
	default:
		return nil, false
	}
	return errorKinds(err), true
}

// errorKinds names the errors that err matches.
func errorKinds(err error) string {
	var kinds []string
	for _, known := range []error{
		harness.ErrFilter, flush.ErrForbidden, flush.ErrNotTop, flush.ErrBufferClosed, flush.ErrReentrant,
		flush.ErrHeadersSent, flush.ErrClientGone, flush.ErrClosed, http.ErrBodyNotAllowed,
	} {
		if errors.Is(err, known) {
			kinds = append(kinds, known.Error())
		}
	}
	if err != nil && kinds == nil {
		return err.Error()
	}
	return strings.Join(kinds, "; ")
}

// FuzzBuffers runs random steps on a Flusher and on the model.
func FuzzBuffers(f *testing.F) {
	op := func(name string) byte { return byte(slices.Index(fuzzOps, name)) }
	with := func(handler string) byte { return byte(slices.Index(fuzzHandlers, handler)) }
	f.Add([]byte{op("ob_start"), with("bracket"), op("write"), 3, op("flush_top"), 0, op("write"), 2, op("flush_all"), 0})
	f.Add([]byte{op("ob_start"), with("noisy"), op("ob_start"), with("upper"), op("write"), 8, op("close_top"), 0, op("write"), 1})
	f.Add([]byte{op("ob_start"), with("throw"), op("ob_start"), with("flusher"), op("write"), 8, op("flush_all"), 0, op("clean_all"), 0})
	f.Add([]byte{op("status"), 1, op("ob_start"), with("header"), op("write"), 5, op("flush"), 0, op("header"), 3, op("write"), 4})
	f.Add([]byte{op("ob_start"), with("count"), op("disconnect"), 0, op("write"), 7, op("flush_top"), 0, op("flush"), 0, op("write"), 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		c := fuzzCase(input, fuzzHandlers)
		diffOutcomes(t, "model", runCase(t, c, true), runCase(t, c, false))
		if t.Failed() {
			for i, s := range c.Steps {
				t.Logf("%d: %+v", i, s)
			}
		}
	})
}
