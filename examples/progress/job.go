package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
)

// A job hashes files and shows each step.
type job struct {
	fsys    fs.FS
	show    func(part string, data any)
	Files   []file
	Hashed  int
	Total   int64 // bytes to hash
	Done    int64 // of them behind us
	Percent int   // as shown last
	Tenth   bool  // which began another tenth
}

type file struct {
	Name string
	Size int64 // when it was listed
	Sum  [sha256.Size]byte
}

func (j *job) run(ctx context.Context) error {
	if err := j.list(ctx); err != nil {
		return err
	}
	j.move(0)
	for _, f := range j.Files {
		end := j.Done + f.Size
		err := j.hash(ctx, &f)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		j.move(end)
		if err != nil {
			j.show("fail", err)
			continue
		}
		j.Hashed++
		j.show("file", f)
	}
	return context.Cause(ctx)
}

// list finds the regular files. A folder that cannot be read is shown and left out.
func (j *job) list(ctx context.Context) error {
	return fs.WalkDir(j.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				j.Files = append(j.Files, file{Name: name, Size: info.Size()})
				j.Total += info.Size()
			}
		}
		if err != nil {
			j.show("fail", err)
		}
		return nil
	})
}

// hash fills in f.Sum. The bar moves on the way, but not past the size that
// was listed: the file may have grown.
func (j *job) hash(ctx context.Context, f *file) error {
	r, err := j.fsys.Open(f.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	end := j.Done + f.Size
	for ctx.Err() == nil {
		n, err := io.CopyN(h, r, 256<<10)
		j.move(min(j.Done+n, end))
		if err == io.EOF {
			h.Sum(f.Sum[:0])
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// move says that the first done bytes are behind us. It shows the bar when
// the whole percentage has changed, so a page has at most 101 of them.
func (j *job) move(done int64) {
	j.Done = done
	percent := 100
	if j.Total > 0 {
		percent = int(100 * done / j.Total)
	}
	if percent != j.Percent {
		j.Tenth = j.Percent < 0 || percent/10 != j.Percent/10
		j.Percent = percent
		j.show("bar", j)
	}
}

// size spells a number of bytes for people.
func size(n int64) string {
	if n == 1 {
		return "1 byte"
	}
	if n < 1000 {
		return fmt.Sprintf("%d bytes", n)
	}
	units := "kMGTPE"
	v := float64(n) / 1000
	for v >= 999.95 { // which would be spelt 1000.0
		v /= 1000
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %cB", v, units[0])
}
