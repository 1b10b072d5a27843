package guest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
)

// TestCopyFewFilesManyLinks: a file that waits for its batch is acknowledged with
// it, and with it all that came after. The sender, which has only so much under way
// that is not acknowledged, must not wait for a batch that what it may still send
// cannot fill.
func TestCopyFewFilesManyLinks(t *testing.T) {
	const links = 9000
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "a"), []byte("contents"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range links {
		if err := os.Symlink("a", filepath.Join(src, fmt.Sprintf("b%05d", i))); err != nil {
			t.Fatal(err)
		}
	}
	g := dialAgent(t, startAgent(t))
	for name, copy := range map[string]func(dst string) (*guest.CopyResult, error){
		"to": func(dst string) (*guest.CopyResult, error) {
			return g.Files().CopyTo(t.Context(), []string{src}, dst, nil)
		},
		"from": func(dst string) (*guest.CopyResult, error) {
			return g.Files().CopyFrom(t.Context(), []string{src}, dst, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := copy(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if r.Files != links+1 || r.Failed != 0 {
				t.Errorf("made %d files, want %d; %d failed", r.Files, links+1, r.Failed)
			}
		})
	}
}
