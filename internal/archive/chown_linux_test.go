package archive

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestChownLink: a link is given away, and no file that somebody has put in its place.
func TestChownLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := chownLink(root, "link", 1234, 1235); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"file", "other", "dir", "none"} {
		if err := chownLink(root, name, 1234, 1235); err == nil {
			t.Errorf("%s is given away", name)
		}
	}
	for name, want := range map[string]uint32{"link": 1234, "file": 0, "other": 0, "dir": 0} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, want %d", name, got, want)
		}
	}
}
