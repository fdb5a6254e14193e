package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	beginMark = "<!-- made by bench: begin -->"
	endMark   = "<!-- made by bench: end -->"
)

// writeReport puts the table between the marks of the file, or at its end.
func writeReport(name string, results []result) error {
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(beginMark))
	var after []byte
	if ok {
		_, after, _ = bytes.Cut(rest, []byte(endMark))
	} else {
		after = []byte("\n")
	}
	var b strings.Builder
	b.Write(before)
	fmt.Fprintf(&b, "%s\n", beginMark)
	fmt.Fprintf(&b, "Made by `cd bench && go run .` with %s on %s/%s, %d CPUs.\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	b.WriteString("| | | net/http | flush | flush ÷ net/http | quartiles | promised | pairs |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range results {
		promised := ""
		if r.limit != 0 {
			promised = r.promise(r.limit)
		}
		what := r.what
		if r.comparison.allocs {
			promised = strings.TrimPrefix(promised+", 0 allocations", ", ")
			what += fmt.Sprintf(" (%.2f allocations)", r.allocs)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s … %s | %s | %d |\n", r.name, what, r.value(r.bare), r.value(r.ours),
			r.figure(r.ratio), r.figure(r.low), r.figure(r.high), promised, r.pairs)
	}
	b.WriteString(endMark)
	b.Write(after)
	return os.WriteFile(name, []byte(b.String()), 0o666)
}

// value writes a median with its unit.
func (r *result) value(v float64) string {
	switch {
	case r.unit != "ns":
		return strings.TrimSpace(fmt.Sprintf("%.4g %s", v, r.unit))
	case v >= 1e6:
		return fmt.Sprintf("%.3g ms", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.3g µs", v/1e3)
	}
	return fmt.Sprintf("%.3g ns", v)
}

// figure writes a ratio, or a difference.
func (r *result) figure(v float64) string {
	switch {
	case r.delta:
		return strings.TrimSpace(fmt.Sprintf("%+.4g %s", v, r.unit))
	case v >= 10:
		return fmt.Sprintf("%.0f×", v)
	case v < 0.1:
		return fmt.Sprintf("%.4f×", v)
	}
	return fmt.Sprintf("%.2f×", v)
}

// tidy rounds a difference that is nothing.
func (r *result) tidy() {
	for _, v := range []*float64{&r.ratio, &r.low, &r.high} {
		if r.delta && *v < 0.01 && *v > -0.01 {
			*v = 0
		}
	}
}

// writeFigures draws events per second and latency.
func writeFigures(dir string, results []result) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	rates := figure{title: "Small events flushed one by one, per second (more is better)", unit: func(v float64) string {
		if v >= 1e6 {
			return fmt.Sprintf("%.1f million", v/1e6)
		}
		return fmt.Sprintf("%.0f 000", v/1e3)
	}}
	waits := figure{title: "From the write of an event to the client, microseconds (less is better)", unit: func(v float64) string { return fmt.Sprintf("%.1f", v/1e3) }}
	for _, r := range results {
		switch {
		case r.rate:
			name := map[string]string{"burst": "HTTP/1.1", "HTTP/2 burst": "HTTP/2"}[r.name]
			rates.bars = append(rates.bars, bar{name + ", net/http: Write, Flush", r.bare, false}, bar{name + ", flush: Write, FlushAsync", r.ours, true})
		case strings.HasPrefix(r.name, "paced"):
			q := strings.TrimPrefix(r.name, "paced, ")
			waits.bars = append(waits.bars, bar{q + ", net/http: Flush", r.bare, false}, bar{q + ", flush: FlushAsync", r.ours, true})
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "bench-events.svg"), rates.svg(), 0o666),
		os.WriteFile(filepath.Join(dir, "bench-latency.svg"), waits.svg(), 0o666))
}

// A figure is a bar chart.
type figure struct {
	title string
	unit  func(float64) string
	bars  []bar
}

type bar struct {
	name  string
	value float64
	ours  bool
}

func (f *figure) svg() []byte {
	const width, left, right, line, top = 760, 250, 110, 30, 46
	most := 0.0
	for _, b := range f.bars {
		most = max(most, b.value)
	}
	var out bytes.Buffer
	height := top + line*len(f.bars) + 14
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="system-ui, sans-serif" font-size="14">`+"\n", width, height, width, height)
	fmt.Fprintf(&out, `<title>%s</title>`+"\n", f.title)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&out, `<text x="16" y="28" font-size="16" font-weight="600" fill="#1f2328">%s</text>`+"\n", f.title)
	for i, b := range f.bars {
		y := top + line*i
		fill := "#8c959f"
		if b.ours {
			fill = "#0969da"
		}
		size := b.value / most * (width - left - right)
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end" fill="#1f2328">%s</text>`+"\n", left-10, y+17, b.name)
		fmt.Fprintf(&out, `<rect x="%d" y="%d" width="%.1f" height="20" rx="3" fill="%s"/>`+"\n", left, y+2, max(size, 1), fill)
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" fill="#1f2328">%s</text>`+"\n", left+max(size, 1)+8, y+17, f.unit(b.value))
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}
