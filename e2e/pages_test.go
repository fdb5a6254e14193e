package e2e

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

var shots = flag.String("shots", "", "folder for pictures of the examples' pages as TestExamplePages sees them")

const llmPicture = "../docs/llm.png"

// An examplesPage is a page of an example, and when it is to be looked at.
type examplesPage struct {
	name  string
	cmd   func(t *testing.T) *exec.Cmd
	ready string // JavaScript
}

var examplesPages = []examplesPage{
	{"progress", func(t *testing.T) *exec.Cmd {
		return exec.Command(progressProgram.get(t), "-addr", "127.0.0.1:0")
	}, `[...document.querySelectorAll("[role=progressbar]")].at(-1)?.ariaValueNow >= 15`},
	{"template", func(t *testing.T) *exec.Cmd {
		return exec.Command(templateProgram.get(t), "-addr", "127.0.0.1:0", "-dir", ".")
	}, `document.readyState == "complete"`},
	{"sse", func(t *testing.T) *exec.Cmd {
		cmd := exec.Command(sseProgram.get(t), "-addr", "127.0.0.1:0")
		lines, err := os.Open("browser_test.go")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lines.Close() })
		cmd.Stdin = lines
		return cmd
	}, `document.querySelectorAll("li").length > 100`},
	{"llm", func(t *testing.T) *exec.Cmd {
		return exec.Command(llmProgram.get(t), "-addr", "127.0.0.1:0")
	}, `document.querySelectorAll(".answer")[1]?.textContent.length > 400`},
}

// faults says what is wrong with a page for those who have a small screen, want
// a dark one, or do not see well: text that is hard to tell from its background
// (WCAG asks for a contrast of 4.5), and whatever makes the page wider than the
// window.
const faults = `(() => {
	const faults = [];
	if (document.documentElement.scrollWidth > document.documentElement.clientWidth) faults.push("wider than the window: " + document.documentElement.scrollWidth);
	const canvas = document.body.appendChild(document.createElement("div"));
	canvas.style.background = "Canvas";
	const white = getComputedStyle(canvas).backgroundColor;
	canvas.remove();
	const parse = (s) => { const [r, g, b, a = 1] = s.match(/[\d.]+/g).map(Number); return {c: [r, g, b], a} };
	const over = (top, a, c) => c.map((v, i) => top[i] * a + v * (1 - a));
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
	const texts = (root) => {
		const found = [];
		for (const e of root.querySelectorAll("body *")) {
			if ([...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim()) && e.checkVisibility() && getComputedStyle(e).clipPath == "none" && !e.matches("style, script, option")) found.push(e);
		}
		return found;
	};
	if (light(parse(white).c) < 0.5 != matchMedia("(prefers-color-scheme: dark)").matches) faults.push("not as dark as asked for");
	for (const e of texts(document)) {
		let opacity = 1, back = parse(white).c;
		const up = [];
		for (let a = e; a; a = a.assignedSlot || a.parentElement || a.getRootNode().host) up.unshift(a);
		for (const a of up) {
			const s = getComputedStyle(a), b = parse(s.backgroundColor);
			opacity *= s.opacity;
			back = over(b.c, b.a * opacity, back);
		}
		const ink = parse(getComputedStyle(e).color);
		const [x, y] = [light(over(ink.c, ink.a * opacity, back)), light(back)];
		const contrast = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
		if (contrast < 4.5) faults.push(e.tagName + " " + e.textContent.trim().slice(0, 20) + ": contrast " + contrast.toFixed(2));
	}
	return faults;
})()`

// TestExamplePages looks at the page of each example at a desk and on a phone,
// in the light and in the dark, while its response is open.
func TestExamplePages(t *testing.T) {
	for _, e := range examplesPages {
		t.Run(e.name, func(t *testing.T) {
			ctx := browser(t)
			_, address := examplePage(t, e.name, e.cmd(t))
			for _, size := range []struct {
				name          string
				width, height int64
			}{{"desk", 1024, 768}, {"phone", 390, 844}} {
				for _, scheme := range []string{"light", "dark"} {
					look(t, ctx, size.width, size.height, scheme)
					open(t, ctx, address, e.ready)
					found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](faults))
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range found {
						t.Errorf("%s, %s: %s", size.name, scheme, f)
					}
					if *shots != "" {
						shoot(t, ctx, filepath.Join(*shots, e.name+"-"+size.name+"-"+scheme+".png"))
					}
				}
			}
		})
	}
}

// look sets up the window.
func look(t *testing.T, ctx context.Context, width, height int64, scheme string) {
	t.Helper()
	if _, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		t.Fatal(err)
	}
}

// open goes to a page and waits until it is as ready as JavaScript can tell. It
// does not wait for the end of the response.
func open(t *testing.T, ctx context.Context, address, ready string) {
	t.Helper()
	if _, err := chromedp.Call(ctx, page.Navigate, page.NavigateParams{URL: address}); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, ready)
}

// until waits for a JavaScript condition. What it names may not be there yet.
func until(t *testing.T, ctx context.Context, condition string) {
	t.Helper()
	for deadline := time.Now().Add(bound); ; time.Sleep(10 * time.Millisecond) {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("(() => { try { return Boolean("+condition+") } catch { return false } })()"))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never true: %s", condition)
		}
	}
}

func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, shot, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLLMPage compares the two proxies as someone without a mouse does. The one
// that buffers is silent for longer than flush, which sends every token.
func TestLLMPage(t *testing.T) {
	ctx := browser(t)
	_, address := examplePage(t, "llm", exec.Command(llmProgram.get(t), "-addr", "127.0.0.1:0"))
	look(t, ctx, 1024, 768, "light")
	open(t, ctx, address, `state.textContent == "Both answers are here."`)
	// The rows: first word, longest silence, last word, flushes, held, deaf.
	silences, err := chromedp.Run(ctx, chromedp.Evaluate[[]float64](
		`[...document.querySelectorAll("tbody tr")][1].innerText.match(/[\d.]+(?= s)/g).map(Number)`))
	if err != nil {
		t.Fatal(err)
	}
	if len(silences) != 2 || silences[0] <= silences[1] {
		t.Errorf("longest silences %v: the first is to be the longer", silences)
	}
	texts, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll(".answer")].map((e) => e.textContent.trim())`))
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) != 2 || texts[0] != texts[1] || len(texts[0]) < 1000 {
		t.Errorf("the answers differ: %q", texts)
	}

	if *update {
		shoot(t, ctx, llmPicture)
	}

	// By Tab: the button, the choice, the switch, which Space turns.
	key := func(k string) {
		t.Helper()
		if err := chromedp.Do(ctx, chromedp.KeyEvent(k)); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []string{`matches("button")`, `id == "other"`, `id == "slow"`} {
		key(kb.Tab)
		until(t, ctx, `document.activeElement.`+at+` && getComputedStyle(document.activeElement).outlineStyle == "solid"`)
	}
	key(" ")
	until(t, ctx, `slow.checked && state.textContent == "The model speaks."`)
	for range 2 { // the answers can be scrolled
		key(kb.Tab)
		until(t, ctx, `document.activeElement.matches(".answer")`)
	}
}
