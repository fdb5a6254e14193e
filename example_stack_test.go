package flush_test

import (
	"bytes"
	"fmt"
	"os"

	"github.com/fa492104/flush"
)

// Flush lets out what a buffer holds, and the buffer goes on.
func ExampleBuffer_Flush() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprintln(f, "one")
	fmt.Println("held:", b.Len())
	b.Flush()
	fmt.Println("held:", b.Len())
	// Output:
	// held: 4
	// one
	// held: 0
}

func ExampleBuffer_Clean() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprintln(f, "a draft")
	b.Clean()
	fmt.Fprintln(f, "the real thing")
	b.Close()
	// Output: the real thing
}

func ExampleBuffer_Close() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(&flush.BufferOptions{
		Filter: func(p []byte, phase flush.Phase) ([]byte, error) {
			if phase&flush.PhaseFinal != 0 {
				p = append(bytes.Clone(p), "the end\n"...)
			}
			return p, nil
		},
	})
	fmt.Fprintln(f, "the beginning")
	fmt.Println(b.Close())
	fmt.Println(b.Close())
	// Output:
	// the beginning
	// the end
	// <nil>
	// flush: buffer has ended
}

func ExampleBuffer_Bytes() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprint(f, "for the cache")
	fmt.Printf("%q\n", b.Bytes())
	b.Discard()
	// Output: "for the cache"
}

func ExampleBuffer_Len() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(nil)
	fmt.Fprint(f, "1234567")
	fmt.Println(b.Len())
	b.Discard()
	// Output: 7
}

func ExampleBuffer_Status() {
	f := flush.NewOutput(os.Stdout, nil)
	defer f.Close()
	b := f.StartBuffer(&flush.BufferOptions{Name: "page", ChunkSize: 4096, NoClean: true})
	s := b.Status()
	fmt.Println(s.Name, s.Level, s.ChunkSize, s.Started, b.Clean())
	// Output: page 0 4096 false flush: buffer does not allow this
}

func ExampleHeaderOrder_String() {
	fmt.Println(flush.OpenResty().Headers, flush.CLI().Headers)
	// Output: HeadersWithOutput OutputOnly
}
