package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"time"
)

// sampleTime is how long a sample takes to read, on any machine.
const sampleTime = 10 * time.Second

// A sample is a folder that is only made up, on a disk that is made slow: a
// job that shows itself wherever the program is run. It holds noise.
type sample struct {
	files []fs.FileInfo
	total int64
}

func newSample() *sample {
	s := new(sample)
	for i := range 40 {
		info := sampleInfo{
			name: fmt.Sprintf("photo-%02d.raw", i+1),
			size: 1_200_000 + int64(i*7%40)*70_000, // in no order
		}
		s.files = append(s.files, info)
		s.total += info.size
	}
	return s
}

// Open opens a file, or the folder itself, of which only the kind can be asked.
func (s *sample) Open(name string) (fs.File, error) {
	if name == "." {
		return &sampleFile{sampleInfo: sampleInfo{name: name, dir: true}}, nil
	}
	for _, info := range s.files {
		if info.Name() == name {
			return &sampleFile{
				sampleInfo: info.(sampleInfo),
				noise:      rand.NewChaCha8(sha256.Sum256([]byte(name))),
				left:       info.Size(),
				rate:       s.total / int64(sampleTime/time.Second),
			}, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadDir lists the folder.
func (s *sample) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var entries []fs.DirEntry
	for _, info := range s.files {
		entries = append(entries, fs.FileInfoToDirEntry(info))
	}
	return entries, nil
}

type sampleInfo struct {
	name string
	size int64
	dir  bool
}

func (i sampleInfo) Name() string       { return i.name }
func (i sampleInfo) Size() int64        { return i.size }
func (i sampleInfo) ModTime() time.Time { return time.Time{} }
func (i sampleInfo) IsDir() bool        { return i.dir }
func (i sampleInfo) Sys() any           { return nil }

func (i sampleInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

type sampleFile struct {
	sampleInfo
	noise *rand.ChaCha8
	left  int64
	rate  int64 // bytes a second
}

func (f *sampleFile) Stat() (fs.FileInfo, error) { return f.sampleInfo, nil }
func (f *sampleFile) Close() error               { return nil }

// Read takes as long as the disk does.
func (f *sampleFile) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.left)]
	f.left -= int64(len(p))
	time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(f.rate))
	return f.noise.Read(p)
}
