package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The pictures are as wide as a phone shows without making them smaller, and take
// the light or the dark from the reader's system. Everything lies on a ground of
// its own, so that a page of the other kind does not hide it.
const (
	pictureWidth = 440
	margin       = 14
	nameWidth    = 204 // of a row's name, before the bar
	barWidth     = 102 // of the longest bar; its label follows
	rowHeight    = 20
)

const pictureStyle = `<style>
.ground { fill: #ffffff } .text { fill: #1f2328 } .faint { fill: #59636e } .strong { fill: #1f2328; font-weight: 600 }
.worse { fill: #bc4c00 } .better { fill: #1a7f37 } .other { fill: #8c959f } .ours { fill: #0969da } .band { fill: #eef4fb }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .text { fill: #e6edf3 } .faint { fill: #9198a1 } .strong { fill: #e6edf3; font-weight: 600 }
.worse { fill: #f0883e } .better { fill: #3fb950 } .other { fill: #7d8590 } .ours { fill: #4493f8 } .band { fill: #16233a }
}
</style>
`

// A canvas is a picture that grows downwards.
type canvas struct {
	b strings.Builder
	y int
}

func (c *canvas) text(x float64, class, s string) {
	fmt.Fprintf(&c.b, `<text x="%.1f" y="%d" class="%s">%s</text>`+"\n", x, c.y, class, html.EscapeString(s))
}

// head is a headline with what is to be known of it.
func (c *canvas) head(s string, faint ...string) {
	c.y += 30
	c.text(margin, "strong", s)
	for _, f := range faint {
		c.y += 17
		c.text(margin, "faint", f)
	}
	c.y += 6
}

// row is a name, a bar of that part of the longest, and a label.
func (c *canvas) row(class, name string, part float64, label string) {
	c.y += rowHeight
	if class == "ours" {
		fmt.Fprintf(&c.b, `<rect x="0" y="%d" width="%d" height="%d" class="band"/>`+"\n", c.y-15, pictureWidth, rowHeight)
	}
	c.text(margin, "text", name)
	size := max(part*barWidth, 1.5)
	fmt.Fprintf(&c.b, `<rect x="%d" y="%d" width="%.1f" height="12" rx="2" class="%s"/>`+"\n", nameWidth+margin, c.y-10, size, class)
	c.text(nameWidth+margin+size+6, "text", label)
}

// svg is the whole picture.
func (c *canvas) svg(title string) []byte {
	height := c.y + 16
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="system-ui, sans-serif" font-size="13">`+"\n", pictureWidth, height, pictureWidth, height)
	fmt.Fprintf(&b, "<title>%s</title>\n%s", html.EscapeString(title), pictureStyle)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" class="ground"/>`+"\n", pictureWidth, height)
	b.WriteString(c.b.String())
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// made is when and on what, in lines that fit.
func made() (lines []string) {
	line := ""
	for part := range strings.SplitSeq(where(), ", ") {
		if line != "" && len(line)+len(part) > 56 {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += ", "
		}
		line += part
	}
	return append(lines, line)
}

// cost is what a row costs, in parts of what net/http does.
func (r *result) cost() float64 {
	switch {
	case r.rate:
		return 1 / r.ratio
	case r.delta || r.alone:
		if r.ours <= 0 && r.bare <= 0 {
			return 1
		}
		return r.ours / r.bare
	}
	return r.ratio
}

// even is how far from 1 a cost is nothing.
const even = 0.02

// promisesPicture shows the first table: what costs more than without this
// library, as large as what costs less.
func promisesPicture(results []result) []byte {
	var worse, same, better []result
	for _, r := range results {
		switch cost := r.cost(); {
		case math.IsNaN(cost) || math.IsInf(cost, 0):
		case cost > 1+even:
			worse = append(worse, r)
		case cost < 1-even:
			better = append(better, r)
		default:
			same = append(same, r)
		}
	}
	byCost := func(a, b result) int {
		if a.cost() > b.cost() {
			return -1
		}
		return 1
	}
	slices.SortStableFunc(worse, byCost)
	slices.SortStableFunc(better, byCost)
	slices.Reverse(better)
	var c canvas
	c.head("What flush costs beside the same without it", made()...)
	if len(worse) > 0 {
		c.head("Costs more", "by how much; ✗ is more than was promised")
		most := worse[0].cost() - 1
		for _, r := range worse {
			c.row("worse", r.name, (r.cost()-1)/most, r.pictureLabel())
		}
	}
	if len(better) > 0 {
		c.head("Costs less", "how many times; the scale is logarithmic; ✗ as above")
		most := math.Log(1 / better[0].cost())
		for _, r := range better {
			c.row("better", r.name, math.Log(1/r.cost())/most, r.pictureLabel())
		}
	}
	if len(same) > 0 {
		c.head("Costs the same", fmt.Sprintf("within %.0f %%", even*100))
		for _, r := range same {
			c.y += rowHeight
			c.text(margin, "text", r.name)
		}
	}
	return c.svg("What this library costs beside plain net/http")
}

// pictureLabel is the row's cost, and the promise if it is missed.
func (r *result) pictureLabel() string {
	s := ""
	switch cost := r.cost(); {
	case cost >= 2:
		s = fmt.Sprintf("%.1f×", cost)
	case cost > 1:
		s = fmt.Sprintf("+%.0f %%", (cost-1)*100)
	case cost > 0.5:
		s = fmt.Sprintf("−%.0f %%", (1-cost)*100)
	case cost > 0.105:
		s = fmt.Sprintf("%.1f×", 1/cost)
	default:
		s = fmt.Sprintf("%.0f×", 1/cost)
	}
	if !r.beyond(r.limit) {
		return s
	}
	switch {
	case r.delta && r.limit < 1:
		return s + " ✗"
	case r.delta, r.alone:
		return fmt.Sprintf("%s ✗ %s", s, r.figure(r.limit))
	case r.rate || r.limit == 1:
		return fmt.Sprintf("%s ✗ %.0f×", s, r.limit)
	}
	return fmt.Sprintf("%s ✗ +%.0f %%", s, (r.limit-1)*100)
}

// A bar is one of a panel's.
type bar struct {
	name  string
	ours  bool
	value float64
	label string
}

// panel is a headline and bars, the best first.
func (c *canvas) panel(head, faint string, more bool, bars []bar) {
	if len(bars) == 0 {
		return
	}
	c.head(head, faint)
	slices.SortStableFunc(bars, func(a, b bar) int {
		if (a.value < b.value) != more {
			return -1
		}
		return 1
	})
	most := 0.0
	for _, b := range bars {
		most = max(most, b.value)
	}
	for _, b := range bars {
		class := "other"
		if b.ours {
			class = "ours"
		}
		c.row(class, b.name, b.value/most, b.label)
	}
}

var panels = []struct {
	column, head, faint string
	more                bool
}{
	{"burst", "Burst of small events", "events a second: more is better", true},
	{"gzip", "Burst in gzip", "events a second: more is better", true},
	{"paced, p50", "An event a millisecond", "from the write to the client, median: less is better", false},
	{"slow client", "Slow client", "how long the handler is held: less is better", false},
}

// othersPicture shows the other tables. Each panel has a scale of its own, from
// zero, and the best comes first.
func othersPicture(all run) []byte {
	cells := make(map[string]result)
	for _, r := range all.others {
		cells[r.name] = r
	}
	var c canvas
	c.head("Ways to stream events with Go, in one run", made()...)
	for _, p := range panels {
		var bars []bar
		for _, from := range contenders {
			if r, ok := cells[cellName(p.column, from)]; ok {
				bars = append(bars, bar{from.name, from.ours, r.ours, strings.TrimSuffix(r.short(), "/s")})
			}
		}
		c.panel(p.head, p.faint, p.more, bars)
	}
	var resident, cpu, tokens []bar
	bytes, time := &result{comparison: comparison{unit: "B"}}, &result{comparison: comparison{unit: "ns"}}
	for _, r := range all.crowds {
		bytes.ours = r.idle.Resident
		resident = append(resident, bar{r.name, r.ours, r.idle.Resident, bytes.short()})
		cpu = append(cpu, bar{r.name, r.ours, r.cpu, time.value(r.cpu)})
	}
	for _, r := range all.proxies {
		tokens = append(tokens, bar{r.name, r.ours, r.token, time.value(r.token)})
	}
	c.panel("An idle stream", "memory of the server's process: less is better", false, resident)
	c.panel(fmt.Sprintf("An event to %d streams", idleCrowd+warmStreams), "processor time for each: less is better", false, cpu)
	c.panel("A proxy of token streams", "processor time for a token: less is better", false, tokens)
	if len(cells)+len(cpu)+len(tokens) == 0 {
		c.head("Not measured yet")
	}
	return c.svg("This library beside other ways to stream events with Go")
}
