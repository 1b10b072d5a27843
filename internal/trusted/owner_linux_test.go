package trusted

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestAsOwner: root makes files in a user's directory as that user would, and follows no
// link there further than the user could.
func TestAsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("acts as another user: needs root")
	}
	const user = 65534
	base, err := os.MkdirTemp("", "owner") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	home, secret := filepath.Join(base, "home"), filepath.Join(base, "secret")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, user, user), os.WriteFile(secret, []byte("root's"), 0o600),
		os.Symlink(secret, filepath.Join(home, "link"))); err != nil {
		t.Fatal(err)
	}
	write := func(path string) func() error {
		return func() error {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("x"), 0o644)
		}
	}
	for path, want := range map[string]uint32{
		filepath.Join(home, "file"):        user,
		filepath.Join(home, "a/b/c/file"):  user,
		filepath.Join(base, "file"):        0,
		filepath.Join(base, "dir/of/root"): 0,
	} {
		if err := AsOwner(path, write(path)); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		for p := path; p != home && p != base; p = filepath.Dir(p) {
			fi, err := os.Stat(p)
			if err != nil || fi.Sys().(*syscall.Stat_t).Uid != want {
				t.Errorf("%s is of another user than %d: %v, %v", p, want, fi, err)
			}
		}
	}
	link := filepath.Join(home, "link")
	if err := AsOwner(link, write(link)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("through a link to a file of root: %v", err)
	}
	if data, err := os.ReadFile(secret); string(data) != "root's" {
		t.Errorf("the file of root is %q now, %v", data, err)
	}
	// This goroutine is still root's.
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Error(err)
	}
}
