package pinned

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestOpen: links are followed only where nobody but root, or who runs this, can
// have put them.
func TestOpen(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, err := range []error{
		os.MkdirAll(dir+"/safe/real/sub", 0o755),
		os.MkdirAll(dir+"/open/real", 0o755),
		os.WriteFile(dir+"/safe/real/file", []byte("x"), 0o600),
		os.Symlink("real", dir+"/safe/link"),
		os.Symlink("/safe/real", dir+"/safe/absolute"),
		os.Symlink("../safe/real", dir+"/open/link"),
		os.Symlink("loop", dir+"/safe/loop"),
		os.Symlink("../open/link", dir+"/safe/double"),
		os.Symlink("../../../../../../../../etc", dir+"/safe/up"),
		os.Chmod(dir, 0o755),
		os.Chmod(dir+"/open", 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name            string
		trusted, strict error
		real            string
	}{
		{"/safe/real/file", nil, nil, "/safe/real/file"},
		{"/", nil, nil, ""},
		{"/safe/link/sub", nil, syscall.ELOOP, "/safe/real/sub"},
		{"/safe/link", nil, syscall.ELOOP, "/safe/real"},
		{"/safe/absolute/file", nil, syscall.ELOOP, "/safe/real/file"},
		{"/open/real", nil, nil, "/open/real"},
		{"/open/link", syscall.ELOOP, syscall.ELOOP, ""},
		{"/open/link/file", syscall.ELOOP, syscall.ELOOP, ""},
		{"/safe/double/file", syscall.ELOOP, syscall.ELOOP, ""},
		{"/safe/loop", syscall.ELOOP, syscall.ELOOP, ""},
		{"/safe/up/hostname", syscall.ENOENT, syscall.ELOOP, ""}, // beneath the root
		{"/safe/nothing", syscall.ENOENT, syscall.ENOENT, ""},
		{"/safe/real/file/x", syscall.ENOTDIR, syscall.ENOTDIR, ""},
	} {
		for trusted, want := range map[bool]error{true: tt.trusted, false: tt.strict} {
			f, err := Open(root, tt.name, trusted)
			if !errors.Is(err, want) {
				t.Errorf("%s, trusted %t: %v, want %v", tt.name, trusted, err, want)
			}
			if err != nil {
				continue
			}
			if got, err := Path(f); err != nil || got != dir+tt.real {
				t.Errorf("%s: is at %s, %v", tt.name, got, err)
			}
			f.Close()
		}
	}
	if f, err := Open(nil, dir+"/safe/real/file", false); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	f, err := os.Create(dir + "/gone")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Remove(dir + "/gone")
	if name, err := Path(f); err == nil {
		t.Errorf("a file without a name is at %s", name)
	}
}
