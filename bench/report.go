package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// A run is all that one run of the command has measured.
type run struct {
	promises []result           // beside net/http
	others   []result           // contenders
	crowds   []crowdResult      // gatherings
	proxies  []standaloneResult // proxies in processes of their own
}

// writeReport puts the tables between their marks in the file.
func writeReport(name string, all run) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	out := string(text)
	for mark, table := range map[string]string{
		"made by bench":          promisesTable(all.promises),
		"made by bench, others":  othersTable(all.others),
		"made by bench, crowds":  crowdsTable(all.crowds),
		"made by bench, proxies": proxiesTable(all.proxies),
	} {
		if out, err = between(out, mark, table); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return os.WriteFile(name, []byte(out), 0o666)
}

// between replaces what is between the marks of that name.
func between(text, mark, table string) (string, error) {
	begin, end := "<!-- "+mark+": begin -->\n", "<!-- "+mark+": end -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("no marks %q", mark)
	}
	return before + begin + table + end + after, nil
}

func machine() string { return fmt.Sprintf("Made by `cd bench && go run .`: %s.", where()) }

// where says when and on what this runs.
func where() string {
	return fmt.Sprintf("%s, %s on %s/%s, %d CPUs%s", time.Now().UTC().Format("2 January 2006"), runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processorName())
}

// promisesTable has a line for each comparison with net/http.
func promisesTable(results []result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", machine())
	b.WriteString("| | | net/http | flush | flush ÷ net/http | quartiles | promised | pairs |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range results {
		promised := ""
		if r.limit != 0 {
			promised = r.bound(r.limit)
			switch {
			case !r.beyond(r.limit):
				promised += ": kept"
			case r.why == "":
				promised += ": **missed**"
			default:
				promised += ": **missed**: " + r.why
			}
		}
		what := r.what
		if r.comparison.allocs {
			promised = strings.TrimPrefix(promised+", 0 allocations", ", ")
			what += fmt.Sprintf(" (%.2f allocations)", r.allocs)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s … %s | %s | %d |\n", r.name, what, r.value(r.bare), r.value(r.ours),
			r.figure(r.ratio), r.figure(r.low), r.figure(r.high), promised, r.pairs)
	}
	return b.String()
}

// othersTable has a row for each contender and a column for each kind of work,
// and says below how each was used.
func othersTable(others []result) string {
	cells := make(map[string]result)
	for _, r := range others {
		cells[r.name] = r
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s.\n\n|", machine(), strings.Join(versions(), ", "))
	for _, col := range columns {
		fmt.Fprintf(&b, " | %s", col.head)
	}
	fmt.Fprintf(&b, " |\n| --- |%s\n", strings.Repeat(" --- |", len(columns)))
	for _, c := range contenders {
		fmt.Fprintf(&b, "| %s", c.name)
		for _, col := range columns {
			r, ok := cells[cellName(col.name, c)]
			cell := "–"
			switch {
			case ok && r.delta:
				cell = r.short()
			case ok:
				cell = fmt.Sprintf("%s (%s)", r.short(), r.figure(r.ratio))
			}
			fmt.Fprintf(&b, " | %s", cell)
		}
		b.WriteString(" |\n")
	}
	b.WriteString("\nHow each sends an event, and what stands out:\n\n")
	for _, c := range contenders {
		fmt.Fprintf(&b, "- **%s**: %s.", c.name, c.how)
		if c.gzip != "" {
			fmt.Fprintf(&b, " Gzip: %s.", c.gzip)
		} else {
			b.WriteString(" It has no gzip of its own.")
		}
		if c.note != "" {
			fmt.Fprintf(&b, " %s", c.note)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// crowdsTable has a row for each gathering.
func crowdsTable(crowds []crowdResult) string {
	if len(crowds) == 0 {
		return "Not measured in this run.\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d streams over sockets.\n\n", machine(), idleCrowd+warmStreams)
	b.WriteString("| | idle stream, resident | of that heap | of that stacks | goroutines | an event to all, to the last client | processor time for each | memory more meanwhile | goroutines more |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	bytes, time := &comparison{unit: "B"}, &comparison{unit: "ns"}
	for _, r := range crowds {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.0f | %s | %s | %.1f MiB | %.0f |\n", r.name, bytes.value(r.idle.Resident), bytes.value(r.idle.Heap), bytes.value(r.idle.Stacks),
			r.idle.Goroutines, time.value(r.time), time.value(r.cpu), r.peak.Memory/(1<<20), r.peak.Goroutines)
	}
	b.WriteString("\nHow each does it:\n\n")
	for _, r := range crowds {
		fmt.Fprintf(&b, "- **%s**: %s.\n", r.name, r.how)
	}
	return b.String()
}

// proxiesTable has a row for each proxy in a process of its own.
func proxiesTable(proxies []standaloneResult) string {
	if len(proxies) == 0 {
		return "Not measured in this run.\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s Caddy is %s.\n\n", machine(), caddyVersion())
	fmt.Fprintf(&b, "| | burst of %d events | processor time for each | %d streams of a token every %d ms, processor time for each |\n| --- | --- | --- | --- |\n", burstEvents, tokenStreams, tokenInterval.Milliseconds())
	rate, time := &comparison{unit: "events/s"}, &comparison{unit: "ns"}
	for _, s := range standalones {
		cells := []string{"–", "–", "–"}
		for _, r := range proxies {
			if r.name == s.name {
				cells = []string{rate.value(r.burst), time.value(r.event), time.value(r.token)}
			}
		}
		fmt.Fprintf(&b, "| %s | %s |\n", s.name, strings.Join(cells, " | "))
	}
	b.WriteString("\nHow each is run:\n\n")
	for _, s := range standalones {
		fmt.Fprintf(&b, "- **%s**: %s.\n", s.name, s.how)
	}
	return b.String()
}

// caddyVersion is the one that its module requires.
func caddyVersion() string {
	text, err := os.ReadFile(filepath.Join(caddyDir, "go.mod"))
	if err != nil {
		return "unknown"
	}
	if m := regexp.MustCompile(`caddyserver/caddy/v2 (v\S+)`).FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return "unknown"
}

// versions are those of the modules that the contenders come from.
func versions() []string {
	named := regexp.MustCompile(`/(gin|echo|chi|fasthttp|go-sse|compress|nbio)(/v\d+)?$|/(gin-contrib/gzip)$`)
	var all []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if named.MatchString(m.Path) {
				all = append(all, strings.TrimPrefix(m.Path, "github.com/")+" "+m.Version)
			}
		}
	}
	return all
}

// value writes a median with its unit.
func (c *comparison) value(v float64) string {
	switch {
	case c.unit == "events/s" && v >= 1e6:
		return fmt.Sprintf("%.3g M/s", v/1e6)
	case c.unit == "events/s":
		return fmt.Sprintf("%.3g k/s", v/1e3)
	case c.unit == "B":
		return fmt.Sprintf("%.0f B", v)
	case c.unit != "ns":
		return fmt.Sprintf("%.2g", v)
	case v >= 1e9:
		return fmt.Sprintf("%.3g s", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.3g ms", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.3g µs", v/1e3)
	}
	return fmt.Sprintf("%.3g ns", v)
}

// short is the value of ours for a narrow place.
func (r *result) short() string {
	if r.unit == "B" {
		return fmt.Sprintf("%.1f KiB", r.ours/1024)
	}
	return r.value(r.ours)
}

// figure writes a ratio, or a difference.
func (r *result) figure(v float64) string {
	switch {
	case r.alone:
		return r.value(v)
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
