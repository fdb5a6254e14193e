package main

import (
	"fmt"
	"html"
	"strings"
)

// The picture has a row for each contender and a panel of bars for some of the
// columns. Each panel has a scale of its own, from zero.
const (
	pictureWidth = 1000
	nameWidth    = 158
	rowHeight    = 26
	headHeight   = 74
	labelWidth   = 62 // for the figure at the end of the longest bar
)

var panels = []struct{ column, head, better string }{
	{"burst", "Burst of small events", "events/s, more is better"},
	{"paced, p50", "An event a millisecond", "latency, less is better"},
	{"slow client", "Slow client", "handler held, less is better"},
	{"idle heap", "Idle stream", "heap, less is better"},
	{"gzip", "Burst in gzip", "events/s, more is better"},
}

// picture draws the second table as SVG.
func picture(others []result) []byte {
	cells := make(map[string]result)
	for _, r := range others {
		cells[r.name] = r
	}
	height := headHeight + rowHeight*len(contenders) + 12
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="system-ui, sans-serif" font-size="12">`+"\n", pictureWidth, height, pictureWidth, height)
	b.WriteString("<title>This library beside other ways to stream events with Go</title>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", pictureWidth, height)
	text := func(x float64, y int, style, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" %s>%s</text>`+"\n", x, y, style, html.EscapeString(s))
	}
	const plain, bold, faint = `fill="#1f2328"`, `fill="#1f2328" font-weight="600"`, `fill="#59636e" font-size="11"`
	text(16, 24, bold+` font-size="15"`, "Ways to stream events with Go, in one run on one machine")
	for i, c := range contenders {
		y := headHeight + rowHeight*i
		if c.ours {
			fmt.Fprintf(&b, `<rect x="0" y="%d" width="%d" height="%d" fill="#f0f6fc"/>`+"\n", y, pictureWidth, rowHeight)
			text(16, y+17, bold, c.name)
		} else {
			text(16, y+17, plain, c.name)
		}
	}
	width := float64(pictureWidth-nameWidth-8) / float64(len(panels))
	for i, p := range panels {
		left := nameWidth + 16 + width*float64(i)
		text(left, 48, bold, p.head)
		text(left, 64, faint, p.better)
		most := 0.0
		for _, c := range contenders {
			most = max(most, cells[cellName(p.column, c)].ours)
		}
		for j, c := range contenders {
			y := headHeight + rowHeight*j
			r, ok := cells[cellName(p.column, c)]
			if !ok {
				text(left, y+17, faint, "–")
				continue
			}
			fill := "#8c959f"
			if c.ours {
				fill = "#0969da"
			}
			size := max(r.ours/most*(width-16-labelWidth), 1)
			fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="16" rx="2" fill="%s"/>`+"\n", left, y+5, size, fill)
			text(left+size+5, y+17, plain, strings.TrimSuffix(r.short(), "/s"))
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
