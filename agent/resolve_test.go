//go:build linux

package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vsockrpc/vsockrpc/internal/hostile"
)

// TestResolve: links are followed as far as the path exists, as the kernel does.
func TestResolve(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o700),
		os.WriteFile(filepath.Join(dir, "a/file"), nil, 0o600),
		os.Symlink("a", filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(dir, "link/b"), filepath.Join(dir, "abs")),
		os.Symlink("../../link", filepath.Join(dir, "a/b/up")),
		os.Symlink("a/nothing", filepath.Join(dir, "dangling")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		path, want string
		err        error
	}{
		{"", "", nil},
		{"a/b", "a/b", nil},
		{"link/b", "a/b", nil},
		{"abs", "a/b", nil},
		{"abs/up/b/new/file", "a/b/new/file", nil},
		{"a/nothing/more", "a/nothing/more", nil},
		{"dangling", "a/nothing", nil},
		{"dangling/x", "a/nothing/x", nil},
		{"loop", "", syscall.ELOOP},
		{"a/file/x", "", syscall.ENOTDIR},
		{strings.Repeat("a/", 3000), "", syscall.ENAMETOOLONG},
	} {
		want := filepath.Join(dir, tt.want)
		if tt.err != nil {
			want = ""
		}
		if got, err := resolve(t.Context(), "/", filepath.Join(dir, tt.path)); got != want || !errors.Is(err, tt.err) {
			t.Errorf("%.40q: %q, %v; want %q, %v", tt.path, got, err, want, tt.err)
		}
	}
	if got, err := resolve(t.Context(), "/", "/"); got != "/" || err != nil {
		t.Errorf("/: %q, %v", got, err)
	}
}

// TestResolveHangs: a file system that does not answer delays the decision about a
// call that leads there, for some seconds.
func TestResolveHangs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	hung, err := hostile.MountHung(dir, 54321, 54321, true)
	if err != nil {
		t.Skip(err)
	}
	defer hung.Close()
	if _, err := resolve(t.Context(), "/", dir+"/x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
