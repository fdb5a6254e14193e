package docs_test

import (
	"fmt"
	"os"
	"testing"
)

// The documents, and what they are compared with, are named from the root.
func TestMain(m *testing.M) {
	if err := os.Chdir("../../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
