package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The generated pages are those of this program: make docs writes them.
func TestDocsAreUpToDate(t *testing.T) {
	for _, p := range Pages() {
		var page bytes.Buffer
		if err := p.Write(&page); err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Join("..", "..", "docs", p.Name))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(string(have), page.String()); diff != "" {
			t.Errorf("docs/%s: run make docs (-have +want):\n%s", p.Name, diff)
		}
	}
}
