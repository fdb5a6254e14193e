package e2e

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

const screenshotFile = "../docs/progress.png"

// progressSite is examples/progress over a folder of files without content on
// the disk, large enough to be hashed for a second or more.
func progressSite(t *testing.T) (*process, string) {
	t.Helper()
	bin := progressProgram.get(t)
	parent := t.TempDir()
	folder := filepath.Join(parent, "holidays")
	for _, trip := range []string{"harbour", "lighthouse", "marsh", "ridge"} {
		if err := os.MkdirAll(filepath.Join(folder, trip), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 16 {
			f, err := os.Create(filepath.Join(folder, trip, fmt.Sprintf("photo-%02d.raw", i+1)))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(f, trip, i)
			if err := f.Truncate(int64(24+i) << 20); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	cmd := exec.Command(bin, "-addr", "127.0.0.1:0", "-dir", filepath.Base(folder)) // which the page shows
	cmd.Dir = parent
	return examplePage(t, "progress", cmd)
}

// examplePage starts an example and returns the address that it prints.
func examplePage(t *testing.T, name string, cmd *exec.Cmd) (*process, string) {
	t.Helper()
	p, err := launch(name, cmd, syscall.SIGINT)
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`http://\S+`)
	for deadline := time.Now().Add(bound); ; time.Sleep(5 * time.Millisecond) {
		if u := address.FindString(p.log.String()); u != "" {
			if err := p.ready("tcp"); err != nil {
				t.Fatal(err)
			}
			return p, u
		}
		if time.Now().After(deadline) {
			t.Fatalf("examples/%s does not say where it listens:\n%s", name, &p.log)
		}
	}
}

// browser starts a headless Chromium that ends with the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	need(t, "chromium")
	opts := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(program("chromium")),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(800, 600),
		chromedp.NoFirstRun,
		chromedp.Headless,
		chromedp.WSURLReadTimeout(2 * bound), // the program starts slowly on a busy machine
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		}),
	}
	for _, f := range []string{
		"no-sandbox", "disable-gpu", "disable-quic", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-dev-shm-usage",
	} {
		opts = append(opts, chromedp.Flag(f, true))
	}
	alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, stop := chromedp.NewContext(alloc)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	pid := chromedp.FromContext(ctx).Browser.Process().Pid
	remember(pid)
	ctx, cancel := context.WithTimeout(ctx, 4*bound) // each wait has its own bound
	t.Cleanup(func() {
		cancel()
		chromedp.Cancel(ctx)
		stop()
		stopAlloc()
		if err := gone(pid); err != nil {
			t.Error(err)
		}
	})
	return ctx
}

// progressPage is what the browser shows.
type progressPage struct {
	State   string  // loading: the response is still open
	Percent int     // that the bar says it is at
	Width   float64 // of the bar, of 1
	Lines   int     // in the log
}

const lookAtPage = `(() => {
	const bar = [...document.querySelectorAll("[role=progressbar]")].at(-1);
	if (!bar?.firstElementChild) return {State: document.readyState, Percent: -1, Width: 0, Lines: 0};
	return {
		State: document.readyState,
		Percent: Number(bar.ariaValueNow),
		Width: bar.firstElementChild.getBoundingClientRect().width / bar.getBoundingClientRect().width,
		Lines: document.querySelectorAll("[role=listitem]").length,
	};
})()`

// TestBrowser opens examples/progress in Chromium. The server is stopped
// (SIGSTOP) whenever the bar has moved, so that what the page shows is there
// while the response is open and its sender does nothing at all.
func TestBrowser(t *testing.T) {
	site, address := progressSite(t)
	ctx := browser(t)
	look := func() progressPage {
		t.Helper()
		p, err := chromedp.Run(ctx, chromedp.Evaluate[progressPage](lookAtPage))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	// until looks at the page until ok is content with it.
	until := func(what string, ok func(progressPage) bool) progressPage {
		t.Helper()
		for deadline := time.Now().Add(bound); ; time.Sleep(10 * time.Millisecond) {
			p := look()
			if ok(p) {
				return p
			}
			if time.Now().After(deadline) {
				t.Fatalf("no %s: %+v", what, p)
			}
		}
	}
	halt := func() { syscall.Kill(site.cmd.Process.Pid, syscall.SIGSTOP) }
	goOn := func() { syscall.Kill(site.cmd.Process.Pid, syscall.SIGCONT) }
	defer goOn()

	// Not chromedp.Navigate, which waits for the end of the response.
	if _, err := chromedp.Call(ctx, page.Navigate, page.NavigateParams{URL: address}); err != nil {
		t.Fatal(err)
	}
	halt()

	// advance has the server go on a moment at a time, and waits for the page in
	// between: on a busy machine the job would end before a browser has shown
	// anything of it. In a moment the server may send nothing.
	advance := func(ok func(progressPage) bool) {
		t.Helper()
		for deadline, p := time.Now().Add(bound), look(); !ok(p); {
			if time.Now().After(deadline) {
				t.Fatalf("no progress: %+v", p)
			}
			goOn()
			time.Sleep(20 * time.Millisecond)
			halt()
			shown := p
			for begin := time.Now(); p == shown && time.Since(begin) < 100*time.Millisecond; {
				p = look()
			}
		}
	}

	var seen []progressPage
	last := progressPage{}
	var shot []byte
	for len(seen) < 3 || shot == nil {
		advance(func(p progressPage) bool { return p.Percent >= last.Percent+15 && p.Lines > last.Lines })
		p := until("bar at its place", func(p progressPage) bool {
			return p.Width > float64(p.Percent)/100-0.01 && p.Width < float64(p.Percent)/100+0.01
		})
		if p.State != "loading" {
			t.Fatalf("the response has ended after %d values: %+v", len(seen), p)
		}
		if p.Percent <= last.Percent || p.Lines <= last.Lines || p.Width <= last.Width {
			t.Errorf("after %+v the page shows %+v", last, p)
		}
		seen, last = append(seen, p), p
		if shot == nil && p.Percent >= 40 {
			var err error
			if shot, err = chromedp.Run(ctx, chromedp.CaptureScreenshot()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("while the response was open: %+v", seen)
	if _, err := png.Decode(bytes.NewReader(shot)); err != nil {
		t.Error(err)
	}
	if *update {
		if err := os.WriteFile(screenshotFile, shot, 0o644); err != nil {
			t.Error(err)
		}
	}

	goOn()
	p := until("end", func(p progressPage) bool { return p.State == "complete" && p.Percent == 100 })
	if p.Lines != 64 {
		t.Errorf("the log has %d lines in the end, want one for each of the 64 files", p.Lines)
	}
	// What a screen reader meets: one bar, and the outcome in the live region.
	met, err := chromedp.Run(ctx, chromedp.Evaluate[string](`[
		[...document.querySelectorAll("[role=progressbar]")].filter((e) => e.checkVisibility()).map((e) => e.ariaValueText),
		document.querySelector(".end").assignedSlot.closest("[role=status][aria-live=polite]")?.role,
		document.querySelector(".end").textContent,
	].join("; ")`))
	if want := "100%, 2.1 GB of 2.1 GB; status; 64 of 64 files hashed"; met != want || err != nil {
		t.Errorf("a screen reader meets %q, %v, want %q", met, err, want)
	}
}
