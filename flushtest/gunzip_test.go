package flushtest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// members returns text compressed, flushed after each line if flushes, and in
// as many members.
func members(t testing.TB, text string, flushes bool, n int) []byte {
	var b bytes.Buffer
	for range n {
		z := gzip.NewWriter(&b)
		z.Name = "a name"
		for line := range strings.Lines(text) {
			if _, err := io.WriteString(z, line); err != nil {
				t.Fatal(err)
			}
			if flushes {
				z.Flush()
			}
		}
		z.Close()
	}
	return b.Bytes()
}

// However a body is cut into parts, it decodes to what was compressed.
func TestGunzipInParts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var noise strings.Builder
	for range 500 {
		noise.WriteString(strings.Repeat("a line that comes again; ", rnd.IntN(3)))
		noise.WriteByte(byte(rnd.IntN(256)))
		if rnd.IntN(4) == 0 {
			noise.WriteByte('\n')
		}
	}
	for _, flushes := range []bool{false, true} {
		for _, n := range []int{1, 3} {
			whole := members(t, noise.String(), flushes, n)
			want := strings.Repeat(noise.String(), n)
			for _, size := range []int{7, 1000, len(whole)} {
				var got bytes.Buffer
				var g gunzip
				for rest := whole; len(rest) > 0; {
					p := rest[:min(len(rest), 1+rnd.IntN(size))]
					rest = rest[len(p):]
					if err := g.feed(p, &got); err != nil && !errors.Is(err, errTooMuch) {
						t.Fatal(err)
					} else if err != nil {
						want = want[:got.Len()]
						break
					}
				}
				if got.String() != want {
					t.Errorf("flushes %t, %d members, parts of %d: %d bytes, want %d", flushes, n, size, got.Len(), len(want))
				}
				want = strings.Repeat(noise.String(), n)
			}
		}
	}
}

// What a flush sent can be read at once, and takes as little work as it is: a
// long stream of short lines is decoded once.
func TestGunzipFollowsFlushes(t *testing.T) {
	var wire, got bytes.Buffer
	z := gzip.NewWriter(&wire)
	var g gunzip
	sent := 0
	for i := range 1000 {
		line := strings.Repeat("x", i%100) + "\n"
		io.WriteString(z, line)
		z.Flush()
		sent += len(line)
		if err := g.feed(wire.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		wire.Reset()
		if got.Len() != sent {
			t.Fatalf("line %d: %d bytes, want %d", i, got.Len(), sent)
		}
	}
	if g.work > 3*sent || len(g.in) > 0 {
		t.Errorf("%d bytes of work for %d, %d bytes kept", g.work, sent, len(g.in))
	}
}

// What never ends, or never begins, or is not what it says, costs no more than
// the bound.
func TestGunzipIsBounded(t *testing.T) {
	var bomb bytes.Buffer
	z, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	z.Write(make([]byte, mostWork+mostWork/4))
	z.Close()
	header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}
	named := []byte{0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0}
	for name, test := range map[string]struct {
		first, next []byte
		want        error
	}{
		"a bomb":                     {bomb.Bytes(), nil, errTooMuch},
		"half a bomb":                {nil, bomb.Bytes()[:bomb.Len()/2], errTooMuch},
		"a header without end":       {named, bytes.Repeat([]byte("n"), 1000), gzip.ErrHeader},
		"blocks that are empty":      {append(header, 0), bytes.Repeat([]byte{0, 0, 0xff, 0xff, 0}, 5000), errTooMuch},
		"not gzip":                   {nil, []byte("not compressed at all"), gzip.ErrHeader},
		"nothing but the flush mark": {nil, syncMark, gzip.ErrHeader},
	} {
		t.Run(name, func(t *testing.T) {
			var g gunzip
			err := g.feed(test.first, io.Discard)
			for range 10_000 {
				if err != nil {
					break
				}
				err = g.feed(test.next, io.Discard)
			}
			if !errors.Is(err, test.want) || g.work > mostWork+mostKept+64<<10 || len(g.in) > mostKept+64<<10 {
				t.Errorf("%v, want %v; %d bytes of work, %d kept", err, test.want, g.work, len(g.in))
			}
		})
	}
}

// A body without flushes is decoded again with each part, but not for ever.
func TestGunzipWithoutFlushes(t *testing.T) {
	var g gunzip
	var err error
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	whole := members(t, string(random), false, 1)
	parts := 0
	for rest := whole; len(rest) > 0 && err == nil; parts++ {
		n := min(len(rest), 1000)
		err = g.feed(rest[:n], io.Discard)
		rest = rest[n:]
	}
	if !errors.Is(err, errTooMuch) || g.work > mostWork+mostKept+64<<10 {
		t.Errorf("%v after %d parts, %d bytes of work", err, parts, g.work)
	}
}

func FuzzGunzip(f *testing.F) {
	f.Add(members(f, "one\ntwo\nthree\n", true, 2), uint8(3))
	f.Add(members(f, "one\ntwo\nthree\n", false, 1), uint8(1))
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		var want, got bytes.Buffer
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			_, err = io.Copy(&want, io.LimitReader(z, 1<<20))
		}
		var g gunzip
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 1+int(size))
			if g.feed(rest[:n], &got) != nil {
				break
			}
			rest = rest[n:]
		}
		if g.work > mostWork+mostKept+64<<10 {
			t.Errorf("%d bytes of work", g.work)
		}
		if err == nil && got.Len() < 1<<20 && g.work < mostWork && got.String() != want.String() {
			t.Errorf("%q, want %q", &got, &want)
		}
	})
}
