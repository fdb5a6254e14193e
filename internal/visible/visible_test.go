package visible_test

import (
	"encoding/json"
	"testing"

	"github.com/fa492104/flush/internal/visible"
)

func TestString(t *testing.T) {
	for s, want := range map[string]string{
		"":                    "",
		"two\nlines, größer":  "two\nlines, größer",
		"\x1b[2Jgone\a":       `\u001b[2Jgone\u0007`,
		"\u009b2J":            `\u009b2J`,
		"\x9b2J":              `\ufffd2J`,
		"a\rb":                `a\u000db`,
		"a\tb":                "a\tb",
		"right\u202eto left":  `right\u202eto left`,
		"a tag \U000e0041 \n": `a tag \udb40\udc41 ` + "\n",
	} {
		if got := visible.String(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What is escaped in JSON means what it meant.
func TestStringInJSON(t *testing.T) {
	s := "\x1b \u009b \u202e \U000e0041"
	out, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal([]byte(visible.String(string(out))), &back); err != nil || back != s {
		t.Errorf("%q, %v", back, err)
	}
}
