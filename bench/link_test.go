package main

import (
	"net/http"
	"testing"
	"time"
)

// A response over the link takes what its round trips take, and is whole. Where
// there can be none, nothing is measured as if there were.
func TestLink(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	link, err := openLink(roundTrip)
	if why := linkPossible(); why != nil {
		if err == nil {
			link.close()
			t.Errorf("a link, though it is told: %v", why)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer link.close()
	for name, h := range map[string]http.HandlerFunc{"4 KB": ofSize(4 << 10), "320 KB": ofSize(320 << 10), "gzip": inGzip} {
		bare, stop := link.answers(&http.Server{Handler: h})
		took := time.Duration(bare(1))
		if trips := took / roundTrip; trips < 1 || name != "4 KB" && trips < 2 {
			t.Errorf("%s took %v, over a link of %v", name, took, roundTrip)
		}
		t.Logf("%s took %v", name, took)
		stop()
	}
}
